# SPDX-License-Identifier: Apache-2.0
"""Whether a private key file is one that our SSH client can use unattended."""

import base64
import binascii
import shlex
from pathlib import Path

_SIZE_LIMIT_BYTES = 64 * 1024
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"
_PEM = tuple(f"-----BEGIN {kind} PRIVATE KEY-----" for kind in ("RSA", "EC", "DSA"))
_PKCS8 = ("-----BEGIN PRIVATE KEY-----", "-----BEGIN ENCRYPTED PRIVATE KEY-----")
_PUBLIC = ("ssh-", "ecdsa-", "sk-", "-----BEGIN PUBLIC KEY", "---- BEGIN SSH2 PUBLIC KEY")


def complaint(file: Path) -> str | None:
    """What is wrong with a key file, with the command that mends it; None for a good one.

    PKCS#8 is refused because paramiko reads only OpenSSH's format and the older PEM ones.
    """
    try:
        text = _head(file)
    except FileNotFoundError:
        return f"{file} does not exist; make it: {_make(file)}"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    start = text.lstrip()
    foreign = _foreign(file, start)
    if foreign is None and _has_passphrase(start):
        return (
            f"{file} has a passphrase, which nobody is there to type; remove it: {_rewrite(file)}"
        )
    return foreign


def _foreign(file: Path, start: str) -> str | None:
    quoted = shlex.quote(str(file))
    if start.startswith(_PKCS8):
        return f"{file} is a PKCS#8 key, which the SSH client cannot read; run: {_rewrite(file)}"
    if start.startswith("PuTTY-User-Key-File"):
        new = shlex.quote(f"{file}.openssh")
        return f"{file} is a PuTTY key; run: puttygen {quoted} -O private-openssh -o {new}"
    if start.startswith(_PUBLIC):
        return f"{file} is a public key; name the private one"
    if not start.startswith((_OPENSSH, *_PEM)):
        return f"{file} is not a private SSH key; make one: {_make(file)}"
    return None


def _rewrite(file: Path) -> str:
    return f"ssh-keygen -p -N '' -f {shlex.quote(str(file))}"


def _make(file: Path) -> str:
    return f"ssh-keygen -t ed25519 -N '' -f {shlex.quote(str(file))}"


def _head(file: Path) -> str:
    # A FIFO would hang; a missing file is open's to complain about.
    if file.exists() and not file.is_file():
        return ""
    with file.open("rb") as stream:
        return stream.read(_SIZE_LIMIT_BYTES).decode("ascii", errors="replace")


def _has_passphrase(text: str) -> bool:
    first, *lines = text.splitlines()
    if first.strip() != _OPENSSH:
        return any(line.startswith("Proc-Type:") and "ENCRYPTED" in line for line in lines)
    body = "".join(line.strip() for line in lines if not line.startswith("-----"))
    try:
        blob = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False
    # The magic is followed by the cipher's name as a 4-byte length and its letters.
    # Source: PROTOCOL.key in the OpenSSH sources.
    cipher = blob.removeprefix(_OPENSSH_MAGIC)
    length = int.from_bytes(cipher[:4], "big")
    return cipher[4 : 4 + length] != b"none"
