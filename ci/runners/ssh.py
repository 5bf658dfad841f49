# SPDX-License-Identifier: Apache-2.0
"""Runs plans on a POSIX node over SSH: one connection, a channel per command, small scripts."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import paramiko

from ci.cancel import Deadline
from ci.errors import CollectError, NodeUnavailable
from ci.model.node import Endpoint
from ci.runners import scripts, ssh_channel, ssh_link, stop
from ci.runners.archive import Intake, unpack
from ci.runners.ssh_channel import Incoming
from ci.runners.ssh_session import ChannelSession
from ci.runners.stop import Grace, Tell


class SshRunner:
    """Opens sessions over SSH. Thread-safe: it holds no state."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = stop.quiet,
    ) -> "SshSession":
        """Log in with the endpoint's key; its host key must be in `known_hosts`.

        Raises:
            NodeUnavailable: Refused, unreachable, or an unknown host key.
            ConfigError: The endpoint names no key or no known hosts.
        """
        link = ssh_link.login(endpoint, deadline)
        return SshSession(link, scripts.family(endpoint.workdir), grace=grace, tell=tell)


class SshSession(ChannelSession):
    """One connection to a node. `kill` may be called from any thread."""

    def __init__(self, link: ssh_link.Link, family: str, *, grace: Grace, tell: Tell) -> None:
        super().__init__(link, grace=grace, tell=tell)
        self._family = family
        self._token = f"{family}-{secrets.token_hex(16)}"
        self._number = 0

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """End what an earlier holder left, then unpack a tar stream into `directory`."""
        script = scripts.put(directory, family=self._family, token=self._token).encode()
        channel = self._link.open(scripts.put_entry(len(script)))
        self._begun = True
        try:
            channel.sendall(script)
            said = ssh_channel.send(channel, tar, deadline)
            channel.shutdown_write()
            status = ssh_channel.read(channel, said.append, lambda: ssh_channel.check(deadline))
        except ssh_channel.ON_THE_WAY as error:
            raise self._link.lost("while the tree was sent", error) from error
        finally:
            channel.close()
        text = b"".join(said).decode("utf-8", "replace").strip()
        if status == scripts.LEFTOVERS:
            raise scripts.left_behind(f"node {self._link.where}", text)
        if status:
            raise NodeUnavailable(
                f"node {self._link.where} could not unpack the tree: "
                f"{''.join(text.splitlines()[-1:]) or status}",
                hint="check its free disk and that it has tar",
            )

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Bring home the files that match; see the contract in `ci.runners.base`."""
        intake = Intake(target, patterns, limit_bytes)
        try:
            channel = self._link.open(scripts.ENTRY)
        except NodeUnavailable as error:
            raise CollectError(error.message, hint=error.hint, retryable=True) from error
        try:
            channel.sendall(
                scripts.fetch(patterns, directory=directory, limit_bytes=limit_bytes).encode()
            )
            channel.shutdown_write()
            stream = Incoming(channel, deadline)
            for name in stream.names():
                path = name.removeprefix("./")
                if intake.wants(path):
                    intake.refuse(path, f"is larger than {limit_bytes} bytes")
            unpack(stream, intake)  # type: ignore[arg-type]
            if ssh_channel.status(channel) == scripts.NO_DIRECTORY:
                intake.refuse(directory, "is not there")
        except ssh_channel.ON_THE_WAY as error:
            raise CollectError(
                self._link.lost("while files were fetched", error).message, retryable=True
            ) from error
        finally:
            channel.close()
        return intake.finish()

    def _launch(
        self, command: str, directory: str, env: Mapping[str, str]
    ) -> tuple[paramiko.Channel, bytes]:
        self._number += 1
        script = scripts.run(
            command, directory=directory, env=env, token=self._token, number=self._number
        )
        return self._link.open(scripts.ENTRY), script.encode()

    def _ender(self, grace: Grace) -> tuple[str, bytes]:
        return scripts.ENTRY, scripts.end(self._token, grace).encode()
