# SPDX-License-Identifier: Apache-2.0
"""Runs plans on a Windows node over WinRM: remote shells of cmd.exe, over TLS.

Variables and the working directory travel in the message that opens a shell, so a job's command
goes to cmd.exe as it is. The three steps of an end are Ctrl+C, Ctrl+Break and Terminate; they
are told as SIGINT, SIGTERM and SIGKILL, which is what they come to. After them the shell is
deleted, and Windows ends whatever still belongs to it. Trees travel as tar streams in pieces.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pypsrp.shell import SignalCode, WinRS
from pypsrp.wsman import WSMan

from ci.cancel import CancelToken, Deadline
from ci.errors import ConfigError, HypervouchError, NodeUnavailable, RunTimeout
from ci.layout import SecretRef
from ci.model.node import Endpoint
from ci.model.result import Grade
from ci.runners import stop, windows_words
from ci.runners.base import Sink
from ci.runners.scripts import family, left_behind
from ci.runners.stop import Grace, Step, Stopped, Tell
from ci.runners.windows_files import WindowsFiles
from ci.runners.winrm_shell import OPERATION_S, READ_S, TURN_S, Command, Link
from ci.settings import resolve_secret
from nodes import wsman
from nodes.hypervisors.base import Access

# A transfer without a deadline that stands still for this long is lost.
STALLED_S = 60.0
_CODES = {
    "SIGINT": SignalCode.CTRL_C,
    "SIGTERM": SignalCode.CTRL_BREAK,
    "SIGKILL": SignalCode.TERMINATE,
}
_KILLED = 137


class WinrmRunner:
    """Opens sessions over WinRM. Thread-safe: it holds no state."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = stop.quiet,
    ) -> "WinrmSession":
        """Log in with the password that the endpoint refers to; a wrong one is tried once.

        Raises:
            NodeUnavailable: Refused, unreachable, or another certificate.
            ConfigError: The endpoint names no password, or there is none; or it is our emulator
                and says not so.
        """
        if deadline.passed:
            raise deadline.error()
        link = _link(endpoint)
        session = WinrmSession(link, family(endpoint.workdir), grace, tell)
        try:
            _check_emulator(session.login(), endpoint)
            _check(deadline)
        except BaseException:
            session.end_quietly()
            raise
        return session


def _check_emulator(owner: str, endpoint: Endpoint) -> None:
    """Our emulator says whose its shells are; nothing that it shows may pass for a Windows."""
    if owner == wsman.EMULATOR and endpoint.grade is not Grade.EMULATOR:
        raise ConfigError(
            f"node {endpoint.host}:{endpoint.port} is our emulator of WinRM: no Windows runs there",
            hint="say grade: emulator, and emulator-may-vote: true, on its provider",
        )


def _link(endpoint: Endpoint) -> Link:
    login = endpoint.winrm
    where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
    if login is None:
        raise ConfigError(f"node {where} has no password", hint="set it on its provider")
    password = resolve_secret(
        SecretRef(from_env=login.password_env or None, from_file=login.password_file)
    )
    access = Access(
        work=Path(),
        password=password,
        ca_file=login.ca_file,
        certificate=login.certificate,
    )

    def made(operation_s: float) -> WSMan:
        return wsman.connect(
            endpoint.host,
            endpoint.port,
            endpoint.user,
            access,
            auth=login.auth,
            operation_s=operation_s,
            read_s=READ_S,
        )

    return Link(made(OPERATION_S), made(TURN_S), where)


class WinrmSession(WindowsFiles):
    """Shells on one node. `kill` may be called from any thread."""

    def __init__(self, link: Link, family: str, grace: Grace, tell: Tell) -> None:
        self._link = link
        self._family = family
        self._grace = grace
        self._tell = tell
        self._token = secrets.token_hex(8)
        self._shells: dict[tuple[str | None, tuple[tuple[str, str], ...]], WinRS] = {}
        self._running: Command | None = None
        self._broken = False
        self._ending = threading.Lock()

    @property
    def _where(self) -> str:
        return self._link.where

    def login(self) -> str:
        """Open the shell for our own commands: whoever is refused is refused here.

        Returns:
            Whose the shell is, as the node says it; nothing where it does not.

        Raises:
            NodeUnavailable: Refused, unreachable, or another certificate.
        """
        try:
            return cast("str | None", self._shell(None, {}).owner) or ""
        except NodeUnavailable as error:
            raise wsman_refusal(self._link, error) from error

    def end_quietly(self) -> None:
        """Give up what a login that failed may have opened."""
        self._delete_all()
        self._link.close()

    def run(
        self,
        command: str,
        *,
        directory: str,
        env: Mapping[str, str],
        sink: Sink,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> int:
        """Run a command line of cmd.exe; see the contract in `ci.runners.base`."""
        cancel.check()
        self._check_link()
        line = windows_words.command_line(command)
        shell = self._shell(windows_words.folder(directory), windows_words.variables(env))
        started = self._link.start(shell, line)
        self._running = started
        try:
            self._link.send(started, b"", end=True)
            return self._follow(started, sink, deadline, cancel)
        except NodeUnavailable:
            if started.ended.is_set():
                return started.status if started.status is not None else _KILLED
            self._end(self._grace, _Ear(self._link, started, None))
            self._broken = True
            raise
        except HypervouchError as cause:
            # What it says while it is ended still belongs to the log.
            heard = isinstance(cause, RunTimeout) or cause is cancel.cause
            gone = self._end(self._grace, _Ear(self._link, started, sink if heard else None))
            if not gone and isinstance(cause, RunTimeout):
                raise self._link.lost("and could not be told to stop", cause.message) from cause
            raise
        except BaseException:
            self._end(self._grace, _Ear(self._link, started, None))
            raise
        finally:
            self._running = None

    def kill(self, deadline: Deadline | None = None) -> bool:
        """End all that this session started; see the contract in `ci.runners.base`."""
        grace = self._grace if self._running else self._grace.for_leftovers
        return self._end(grace if deadline is None else grace.within(deadline.left_s), None)

    def close(self) -> None:
        """Delete the shells, and disconnect; repeatable."""
        if not self._broken:
            self._delete_all()
        self._link.close()

    def _check_link(self) -> None:
        if self._broken:
            raise self._link.lost("before", "it was given up")

    def _shell(self, directory: str | None, env: Mapping[str, str]) -> WinRS:
        """The shell of a folder and variables; opened when first asked for."""
        key = (directory, tuple(sorted(env.items())))
        if key not in self._shells:
            self._shells[key] = self._link.open(f"{self._family}-{self._token}", directory, env)
        return self._shells[key]

    def _take_over(self) -> None:
        """Delete the shells of all sessions in this working directory, ours among them."""
        self._check_link()
        self._shells.clear()
        try:
            self._link.delete_of(self._family)
        except NodeUnavailable as error:
            raise left_behind(f"node {self._link.where}", error.message) from error

    def _follow(self, command: Command, sink: Sink, deadline: Deadline, cancel: CancelToken) -> int:
        """Pass output on until the command has ended; returns its exit status."""
        while True:
            said = self._link.receive(command)
            for _, chunk in said.chunks:
                sink(chunk)
            if said.status is not None:
                return said.status
            cancel.check()
            _check(deadline)

    def _tool(
        self, line: str, deadline: Deadline | None, feed: IO[bytes] | None = None
    ) -> tuple[int, bytes]:
        """Run one of our own lines; returns its status and what it said."""
        self._check_link()
        command = self._link.start(self._shell(None, {}), line)
        try:
            self._feed(command, feed, deadline)
            heard = bytearray()
            for _, chunk in self._hear(command, deadline):
                heard += chunk
                self._check_size(len(heard))
        except BaseException:
            self._delete_all()
            raise
        return command.status or 0, bytes(heard)

    def _feed(self, command: Command, feed: IO[bytes] | None, deadline: Deadline | None) -> None:
        """Send standard input; a command that ends before it read all is no error here."""
        size = self._link.chunk_bytes
        while feed is not None and (chunk := feed.read(size)):
            if deadline is not None:
                _check(deadline)
            if not self._link.send(command, chunk):
                return
        self._link.send(command, b"", end=True)

    def _hear(self, command: Command, deadline: Deadline | None) -> "_Pieces":
        return _Pieces(self._link, command, deadline)

    @contextmanager
    def _said_by(self, line: str, names: bytes, deadline: Deadline | None) -> Iterator["_Incoming"]:
        command = self._link.start(self._shell(None, {}), line)
        try:
            size = self._link.chunk_bytes
            for start in range(0, len(names), size):
                self._link.send(command, names[start : start + size])
            self._link.send(command, b"", end=True)
            yield _Incoming(self._hear(command, deadline))
        except BaseException:
            self._delete_all()
            raise

    def _end(self, grace: Grace, ear: "_Ear | None") -> bool:
        """End what runs, then delete all shells."""
        with self._ending:
            done = self._stopped(grace, ear)
            if not done.confirmed:
                self._broken = True
        done.tell(self._tell)
        return done.confirmed

    def _stopped(self, grace: Grace, ear: "_Ear | None") -> Stopped:
        command = self._running
        steps: list[Step] = []
        if command is not None and not command.ended.is_set():
            try:
                for signum, seconds in grace.steps:
                    steps.append(self._step(command, signum.name, seconds, ear))
                    if command.ended.is_set():
                        break
            except NodeUnavailable as error:
                if not command.ended.is_set():
                    return Stopped(steps=tuple(steps), confirmed=False, why=error.message)
        if command is not None:
            # Before the shell goes: whoever listens then knows why nobody answers.
            command.ended.set()
        why = self._delete_all()
        return Stopped(steps=tuple(steps), confirmed=not why, why=why)

    def _step(self, command: Command, name: str, seconds: float, ear: "_Ear | None") -> Step:
        began = time.monotonic()
        self._link.signal(command, _CODES[name])
        while not command.ended.is_set() and (left := began + seconds - time.monotonic()) > 0:
            if ear is None:
                command.ended.wait(left)
            else:
                ear.turn()
        return Step(
            signal=name,
            sent=1,
            left=int(not command.ended.is_set()),
            took_s=time.monotonic() - began,
        )

    def _delete_all(self) -> str:
        """Delete our shells; returns why it is not certain that they are gone."""
        for key, shell in list(self._shells.items()):
            try:
                self._link.delete(shell)
            except NodeUnavailable as error:
                return error.message
            self._shells.pop(key, None)
        return ""


def wsman_refusal(link: Link, error: NodeUnavailable) -> NodeUnavailable:
    """The first refusal, told as one: its cause is what the library raised."""
    told = link.lost("at the login", error.__cause__ or error.message)
    return told if isinstance(told, NodeUnavailable) else error


class _Ear:
    """Takes what a command says while it is ended; a sink that fails hears no more."""

    def __init__(self, link: Link, command: Command, sink: Sink | None) -> None:
        self._link = link
        self._command = command
        self._sink = sink

    def turn(self) -> None:
        """Listen once; waits for at most TURN_S."""
        for _, chunk in self._link.receive(self._command).chunks:
            try:
                if self._sink is not None:
                    self._sink(chunk)
            except HypervouchError:
                self._sink = None


class _Pieces:
    """What one of our own commands says, piece by piece.

    A large tree may be removed or unpacked for minutes without a word: the deadline decides, and
    without one a standstill is an error. A server that does not answer at all is one sooner.
    """

    def __init__(self, link: Link, command: Command, deadline: Deadline | None) -> None:
        self._link = link
        self._command = command
        self._deadline = deadline

    def __iter__(self) -> "_Pieces":
        return self

    def __next__(self) -> tuple[str, bytes]:
        """Stream and bytes of what came next."""
        stalled = time.monotonic() + STALLED_S
        while not self._command.ended.is_set():
            if self._deadline is not None:
                _check(self._deadline)
            chunks = self._link.receive(self._command).chunks
            if chunks:
                name = "stdout" if any(kind == "stdout" for kind, _ in chunks) else "stderr"
                return name, b"".join(data for kind, data in chunks if kind == name)
            if self._deadline is None and time.monotonic() >= stalled:
                raise NodeUnavailable(f"node {self._link.where} stands still", retryable=True)
        raise StopIteration


class _Incoming:
    """Standard output as a file that tarfile can read."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        while len(self._buffer) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            if piece[0] == "stdout":
                self._buffer += piece[1]
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        return chunk


def _check(deadline: Deadline) -> None:
    if deadline.passed:
        raise deadline.error()
