# SPDX-License-Identifier: Apache-2.0
"""The sandbox with the accounts and the face that the kit gives to a real Gerrit."""

from pathlib import Path

from ci.sandbox import Sandbox
from ci.sandbox.account import ReviewServer
from ci.sandbox.real.site import make_key

ADMIN_USER, CI_USER, PASSWORD = "admin", "hypervouch-ci", "secret"


class SandboxHost:
    """A sandbox with an administrator and a CI account.

    Args:
        directory: Holds its state and the accounts' keys.
        events_log: Stand in for the events-log plugin.
    """

    def __init__(self, directory: Path, *, events_log: bool = False) -> None:
        self._keys = directory / "keys"
        self.sandbox = Sandbox(directory / "state", events_log=events_log)
        self._add(ADMIN_USER, "Administrator", admin=True)
        self._add(CI_USER, "Hypervouch CI", stream_events=True, vote=True)

    def _add(
        self,
        username: str,
        full_name: str,
        *,
        stream_events: bool = False,
        vote: bool = False,
        admin: bool = False,
    ) -> None:
        self.sandbox.add_account(
            username,
            full_name,
            key=make_key(self._keys / username),
            password=PASSWORD,
            stream_events=stream_events,
            vote=vote,
            admin=admin,
        )

    def start(self) -> None:
        """Start the servers."""
        self.sandbox.start()

    def stop(self) -> None:
        """Stop the servers."""
        self.sandbox.stop()

    def create_account(
        self, username: str, full_name: str, *, stream_events: bool, vote: bool
    ) -> ReviewServer:
        """Make an account with just these rights."""
        self._add(username, full_name, stream_events=stream_events, vote=vote)
        return self.connection(username)

    def create_project(self, name: str) -> None:
        """Make a project whose `master` holds one empty commit."""
        self.sandbox.create_project(name)

    @property
    def admin(self) -> ReviewServer:
        """The server as the administrator sees it."""
        return self.connection(ADMIN_USER)

    @property
    def ci(self) -> ReviewServer:
        """The server as the CI's account sees it."""
        return self.connection(CI_USER)

    def connection(self, username: str) -> ReviewServer:
        """The server as an account of ours sees it."""
        return ReviewServer(
            host=self.sandbox.host,
            ssh_port=self.sandbox.ssh_port,
            url=self.sandbox.url,
            user=username,
            key_file=self._keys / username,
            password=PASSWORD,
            known_hosts=self.sandbox.known_hosts,
        )
