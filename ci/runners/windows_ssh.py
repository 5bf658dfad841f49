# SPDX-License-Identifier: Apache-2.0
"""Runs plans on a Windows node over its OpenSSH: lines of cmd.exe, a channel for each.

The server puts each line's cmd.exe into a job object that ends with it: a command that ended leaves
nothing behind. But nothing ends when the connection breaks (Win32-OpenSSH issue 1751). So each
line carries the mark of its session, and PowerShell finds by it what is to be ended, see
`ci.runners.windows_end`: what runs now, or what a holder before us left.

Source: PowerShell/openssh-portable, contrib/win32/win32compat/w32-doexec.c.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO

import paramiko

from ci.cancel import Deadline
from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import EMULATED_WINDOWS, Endpoint
from ci.model.result import Grade
from ci.runners import ssh_channel, ssh_link, stop, windows_end, windows_words
from ci.runners.scripts import family, left_behind
from ci.runners.ssh_channel import Incoming
from ci.runners.ssh_session import ChannelSession
from ci.runners.stop import Grace, Tell
from ci.runners.windows_files import WindowsFiles

NAME = "hypervouch-"
_WINDOWS = "Windows_NT"
PROBE_S = 20.0
# A large folder may be listed or removed for minutes; without a deadline this is the bound.
QUIET_S = 120.0


class WindowsSshRunner:
    """Opens sessions over OpenSSH on Windows. Thread-safe: it holds no state."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = stop.quiet,
    ) -> "WindowsSshSession":
        """Log in with the endpoint's key; its host key must be in `known_hosts`.

        Raises:
            NodeUnavailable: Refused, unreachable, an unknown host key, or no cmd.exe.
            ConfigError: The endpoint names no key or no known hosts; or it is our emulator and
                says not so.
        """
        link = ssh_link.login(endpoint, deadline)
        session = WindowsSshSession(link, family(endpoint.workdir), grace=grace, tell=tell)
        try:
            _check_shell(session.probe(deadline), endpoint, link.where)
        except BaseException:
            session.close()
            raise
        return session


def _check_shell(said: str, endpoint: Endpoint, where: str) -> None:
    """Go on with a cmd.exe of Windows, or with our emulator where the grade says so."""
    if said == NAME + EMULATED_WINDOWS:
        if endpoint.grade is not Grade.EMULATOR:
            raise ConfigError(
                f"node {where} is our emulator of Windows' OpenSSH: no Windows runs there",
                hint="say grade: emulator, and emulator-may-vote: true, on its provider",
            )
    elif said != NAME + _WINDOWS:
        heard = "".join(c if c.isprintable() else "?" for c in said)[:80]
        raise NodeUnavailable(
            f"node {where} runs commands in a shell that is not cmd.exe: it said {heard!r}",
            hint="remove DefaultShell from HKLM\\SOFTWARE\\OpenSSH there, or reach it over WinRM",
        )


class WindowsSshSession(WindowsFiles, ChannelSession):
    """One connection to a node. `kill` may be called from any thread."""

    def __init__(self, link: ssh_link.Link, family: str, *, grace: Grace, tell: Tell) -> None:
        super().__init__(link, grace=grace, tell=tell)
        self._family = NAME + family
        self._mark = f"{self._family}-{secrets.token_hex(16)}"

    @property
    def _where(self) -> str:
        return self._link.where

    @property
    def _confirm_s(self) -> float:
        return windows_end.START_S

    def probe(self, deadline: Deadline) -> str:
        """What the node's shell answers to PROBE: the last line of it.

        Raises:
            NodeUnavailable: It does not answer in time, or is gone.
        """
        _, said = self._ask(windows_words.PROBE, deadline, within_s=PROBE_S)
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _launch(
        self, command: str, directory: str, env: Mapping[str, str]
    ) -> tuple[paramiko.Channel, bytes]:
        where = windows_words.folder(directory)
        line = windows_words.job(command, directory=where, env=env, mark=self._mark)
        channel = self._link.open(line)
        # What the shells before the job's own complain of; the job's is merged by the line.
        channel.set_combine_stderr(True)
        return channel, b""

    def _ender(self, grace: Grace) -> tuple[str, bytes]:
        return windows_end.line(self._mark, grace), b""

    def _take_over(self) -> None:
        """End what sessions in this working directory left: their marks begin alike."""
        grace = stop.LEFTOVERS
        line = windows_end.line(self._family, grace)
        done = self._stopped(line, b"", grace.total_s + self._confirm_s, None)
        if not done.confirmed:
            raise left_behind(f"node {self._where}", "\n".join(done.left) or done.why)

    def _tool(
        self, line: str, deadline: Deadline | None, feed: IO[bytes] | None = None
    ) -> tuple[int, bytes]:
        made = windows_words.marked(line, self._mark)
        self._begun = True
        return self._ask(made, deadline, feed, within_s=QUIET_S if deadline is None else None)

    def _ask(
        self,
        line: str,
        deadline: Deadline | None,
        feed: IO[bytes] | None = None,
        *,
        within_s: float | None,
    ) -> tuple[int, bytes]:
        """Run a line; returns its status and what it said.

        Args:
            line: For cmd.exe.
            deadline: When to give up.
            feed: Standard input.
            within_s: How long it may take besides; None: as long as the deadline.
        """
        channel = self._link.open(line)
        heard = bytearray()
        began = time.monotonic()

        def watch() -> None:
            if deadline is not None:
                ssh_channel.check(deadline)
            if within_s is not None and time.monotonic() - began >= within_s:
                raise TimeoutError(f"it did not answer within {within_s:g} s")

        def take(chunk: bytes) -> None:
            heard.extend(chunk)
            self._check_size(len(heard))

        try:
            channel.set_combine_stderr(True)
            if feed is not None and deadline is not None:
                heard += b"".join(ssh_channel.send(channel, feed, deadline))
            channel.shutdown_write()
            return ssh_channel.read(channel, take, watch), bytes(heard)
        except ssh_channel.ON_THE_WAY as error:
            raise self._link.lost("while it was asked something", error) from error
        finally:
            channel.close()

    @contextmanager
    def _said_by(self, line: str, names: bytes, deadline: Deadline | None) -> Iterator[Incoming]:
        channel = self._link.open(windows_words.marked(line, self._mark))
        try:
            threading.Thread(target=_feed, args=(channel, names), daemon=True).start()
            yield Incoming(channel, deadline)
        except ssh_channel.ON_THE_WAY as error:
            raise self._link.lost("while files were fetched", error) from error
        finally:
            channel.close()


def _feed(channel: paramiko.Channel, names: bytes) -> None:
    """Send standard input beside what is read; ends with the channel at the latest."""
    left = memoryview(names)
    with suppress(*ssh_channel.ON_THE_WAY):
        while left and not channel.closed:
            with suppress(TimeoutError):
                left = left[channel.send(left) :]  # type: ignore[arg-type]
        channel.shutdown_write()
