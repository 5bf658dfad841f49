# SPDX-License-Identifier: Apache-2.0
"""What runners do with a channel of SSH: send, read, listen; every wait is bounded."""

import time
from collections.abc import Callable
from typing import IO

import paramiko

from ci.cancel import Deadline
from ci.errors import HypervouchError
from ci.runners.archive import MAX_FILES
from ci.runners.base import Sink

# A channel that does not open, or a transfer that stands still, for this long is lost.
CHANNEL_S = 10.0
STALLED_S = 30.0
# How long output is awaited after the command ended while a leftover holds its streams.
DRAIN_S = 0.25
POLL_S = 0.1
_TURN_S = 1.0
CHUNK = 128 * 1024

ON_THE_WAY = (OSError, EOFError, paramiko.SSHException)
"""What a connection that breaks raises."""


def opened(transport: paramiko.Transport, command: str) -> paramiko.Channel:
    """A channel on which the node runs a command; raises one of ON_THE_WAY."""
    channel = transport.open_session(timeout=CHANNEL_S)
    channel.settimeout(CHANNEL_S)
    channel.exec_command(command)
    return channel


def send(channel: paramiko.Channel, tar: IO[bytes], deadline: Deadline) -> list[bytes]:
    """Send a stream; returns what the other side said meanwhile."""
    channel.settimeout(POLL_S)
    channel.set_combine_stderr(True)
    said: list[bytes] = []
    while chunk := tar.read(CHUNK):
        left = memoryview(chunk)
        while left:
            check(deadline)
            if channel.recv_ready():
                said.append(channel.recv(CHUNK))
            try:
                sent = channel.send(left)  # type: ignore[arg-type]
            except TimeoutError:
                continue
            if not sent or channel.exit_status_ready():
                return said
            left = left[sent:]
    return said


def read(channel: paramiko.Channel, sink: Sink, watch: Callable[[], None]) -> int:
    """Pass output on until the command ended; returns its exit status."""
    channel.settimeout(POLL_S)
    watched = time.monotonic()
    quiet_since: float | None = None
    while True:
        try:
            chunk = channel.recv(CHUNK)
            if not chunk:
                break
            sink(chunk)
            quiet_since = None
        except TimeoutError:
            # A process left behind may hold the streams open for ever.
            if channel.exit_status_ready():
                quiet_since = quiet_since or time.monotonic()
                if time.monotonic() - quiet_since >= DRAIN_S:
                    break
        if time.monotonic() - watched >= POLL_S:
            watch()
            watched = time.monotonic()
    while not channel.status_event.wait(POLL_S):
        watch()
    return status(channel)


class Ear:
    """Takes what a command says while it is ended; a sink that fails hears no more."""

    def __init__(self, channel: paramiko.Channel, sink: Sink) -> None:
        self._channel = channel
        self._sink: Sink | None = sink

    def listen(self) -> None:
        """Take what is there; a full window would hold the command up."""
        while self._sink is not None and self._channel.recv_ready():
            self._pass_on(self._sink)

    def drain(self) -> None:
        """Take what still comes; bounded by a second."""
        ends = time.monotonic() + 1.0
        while self._sink is not None and time.monotonic() < ends:
            self._pass_on(self._sink)

    def _pass_on(self, sink: Sink) -> None:
        try:
            chunk = self._channel.recv(CHUNK)
            if chunk:
                sink(chunk)
        except (OSError, HypervouchError):
            chunk = b""
        if not chunk:
            self._sink = None


def rest(channel: paramiko.Channel) -> str:
    """What a script that has ended said; its channel's window holds far more."""
    said = bytearray()
    while len(said) < CHUNK and (chunk := channel.recv(CHUNK)):
        said += chunk
    return said.decode("utf-8", "replace")


def status(channel: paramiko.Channel) -> int:
    """The exit status of a command whose output has ended."""
    if not channel.status_event.wait(CHANNEL_S) or channel.exit_status < 0:
        raise EOFError("it ended without an exit status")
    return channel.exit_status


def check(deadline: Deadline) -> None:
    """Raise where a deadline has passed."""
    if deadline.passed:
        raise deadline.error()


class Incoming:
    """A channel as a file that tarfile can read; a standstill is an error."""

    def __init__(self, channel: paramiko.Channel, deadline: Deadline | None) -> None:
        self._channel = channel
        self._deadline = deadline
        self._buffer = bytearray()

    def names(self) -> list[str]:
        """The NUL-terminated names before the archive, up to an empty one."""
        names: list[str] = []
        while True:
            while (end := self._buffer.find(0)) < 0:
                if len(self._buffer) > CHUNK or not self._more():
                    return names
            name = bytes(self._buffer[:end]).decode("utf-8", "surrogateescape")
            del self._buffer[: end + 1]
            if not name:
                return names
            if len(names) < MAX_FILES:
                names.append(name)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        while len(self._buffer) < size and self._more():
            pass
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        return chunk

    def _more(self) -> bool:
        stalled = time.monotonic() + STALLED_S
        while True:
            left_s = STALLED_S if self._deadline is None else self._deadline.left_s
            if left_s <= 0 and self._deadline is not None:
                raise TimeoutError(self._deadline.error().message)
            # In turns: a deadline may be brought forward while nothing comes.
            self._channel.settimeout(max(0.01, min(_TURN_S, left_s)))
            if self._channel.recv_stderr_ready():  # unread it would fill the window
                self._channel.recv_stderr(CHUNK)
            try:
                chunk = self._channel.recv(CHUNK)
            except TimeoutError:
                if time.monotonic() >= stalled:
                    raise
                continue
            self._buffer += chunk
            return bool(chunk)
