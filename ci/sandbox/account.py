# SPDX-License-Identifier: Apache-2.0
"""How a Gerrit-like server is reached under one account, whichever server it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ci.sandbox.client import rest


@dataclass(frozen=True, kw_only=True)
class ReviewServer:
    """A review server seen by one account.

    Attributes:
        host: Address.
        ssh_port: Port of its SSH daemon.
        url: Base address of its REST interface, without a trailing slash.
        user: Account's username.
        key_file: The account's private key.
        password: The account's HTTP password.
        known_hosts: File with the server's host keys.
    """

    host: str
    ssh_port: int
    url: str
    user: str
    key_file: Path
    password: str
    known_hosts: Path

    @property
    def email(self) -> str:
        """The address that the account's commits carry."""
        return f"{self.user}@example.com"

    @property
    def auth(self) -> tuple[str, str]:
        """User and HTTP password."""
        return self.user, self.password

    def ssh_url(self, project: str) -> str:
        """Where git fetches and pushes this project over SSH."""
        return f"ssh://{self.user}@{self.host}:{self.ssh_port}/{project}"

    def http_url(self, project: str) -> str:
        """Where git fetches this project without an account."""
        return f"{self.url}/{project}"

    def but(self, *, key_file: Path | None = None, password: str | None = None) -> "ReviewServer":
        """The same account with another key or password."""
        return replace(self, key_file=key_file or self.key_file, password=password or self.password)

    def rest(self, method: str, path: str, body: object = None, *, ok: Sequence[int] = ()) -> Any:
        """Call the REST interface as this account; see `ci.sandbox.client.rest`."""
        return rest(self.url, method, path, body, auth=self.auth, ok=ok)
