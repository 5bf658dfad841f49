# SPDX-License-Identifier: Apache-2.0
"""The two key pairs of one hand-out: the node's host key and the key we log in with."""

from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

SSH_PORT = 22


@dataclass(frozen=True, kw_only=True)
class HandOutKeys:
    """Keys that are used for one boot of one node and never again.

    Attributes:
        host_private: Host key as an OpenSSH private key file.
        host_public: `ssh-ed25519 BASE64`.
        client_private: Our key as an OpenSSH private key file.
        client_public: `ssh-ed25519 BASE64`.
    """

    host_private: bytes
    host_public: str
    client_private: bytes
    client_public: str

    def write(self, folder: Path, host: str, port: int) -> tuple[Path, Path]:
        """Write our key and a known_hosts file that pins the node's.

        Returns:
            Path of the key file, path of the known_hosts file.
        """
        key_file, known_hosts = folder / "client_key", folder / "known_hosts"
        key_file.unlink(missing_ok=True)
        key_file.touch(mode=0o600)
        key_file.write_bytes(self.client_private)
        # As SSH clients look it up: brackets only where the port is another than 22.
        name = host if port == SSH_PORT else f"[{host}]:{port}"
        known_hosts.write_text(f"{name} {self.host_public}\n")
        return key_file, known_hosts


def generate() -> HandOutKeys:
    """Make two fresh Ed25519 pairs."""
    host, client = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    return HandOutKeys(
        host_private=_private_file(host),
        host_public=_public_line(host),
        client_private=_private_file(client),
        client_public=_public_line(client),
    )


def with_client(fresh: HandOutKeys, client_private: bytes) -> HandOutKeys:
    """The same with a login key that another node has already.

    Raises:
        ValueError: It is no Ed25519 private key file of OpenSSH's.
    """
    client = load_ssh_private_key(client_private, None)
    if not isinstance(client, Ed25519PrivateKey):
        raise ValueError("no Ed25519 key")  # noqa: TRY004 - a wrong content, not a wrong type
    return replace(fresh, client_private=client_private, client_public=_public_line(client))


def _private_file(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _public_line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
