# SPDX-License-Identifier: Apache-2.0
"""Key files: the good ones pass, each bad one says the command that mends it."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ci.ssh_keys import complaint

OPEN = NoEncryption()
LOCKED = BestAvailableEncryption(b"secret")
RSA = generate_private_key(65537, 2048)
ED25519 = Ed25519PrivateKey.generate()


def rsa(form: PrivateFormat, lock: KeySerializationEncryption) -> bytes:
    return RSA.private_bytes(Encoding.PEM, form, lock)


@pytest.mark.parametrize(
    "content",
    [
        ED25519.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, OPEN),
        rsa(PrivateFormat.OpenSSH, OPEN),
        rsa(PrivateFormat.TraditionalOpenSSL, OPEN),
        b"\n" + rsa(PrivateFormat.TraditionalOpenSSL, OPEN),
    ],
)
def test_usable_keys(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    assert complaint(file) is None


MAKE = "ssh-keygen -t ed25519 -N '' -f {file}"
REWRITE = "ssh-keygen -p -N '' -f {file}"
PKCS8 = "{file} is a PKCS#8 key, which the SSH client cannot read; run: " + REWRITE
PHRASE = "{file} has a passphrase, which nobody is there to type; remove it: " + REWRITE
NO_KEY = "{file} is not a private SSH key; make one: " + MAKE
PUBLIC = "{file} is a public key; name the private one"
PUTTY = "{file} is a PuTTY key; run: puttygen {file} -O private-openssh -o {file}.openssh"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (rsa(PrivateFormat.PKCS8, OPEN), PKCS8),
        (rsa(PrivateFormat.PKCS8, LOCKED), PKCS8),
        (rsa(PrivateFormat.TraditionalOpenSSL, LOCKED), PHRASE),
        (ED25519.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, LOCKED), PHRASE),
        (ED25519.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), PUBLIC),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", PUTTY),
        (b"", NO_KEY),
        (b"\xff\xfe\x00", NO_KEY),
    ],
)
def test_unusable_keys(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    assert complaint(file) == said.format(file=file)


def test_no_key_file(tmp_path: Path) -> None:
    missing = tmp_path / "my key"
    assert complaint(missing) == f"{missing} does not exist; make it: {MAKE}".format(
        file=f"'{missing}'"
    )
    assert complaint(tmp_path) == NO_KEY.format(file=tmp_path)


def test_a_damaged_body_is_left_to_the_ssh_client(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nA\n-----END OPENSSH PRIVATE KEY-----\n")
    assert complaint(file) is None
