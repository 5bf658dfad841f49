# SPDX-License-Identifier: Apache-2.0
"""The shells behind the service: what cmd.exe would run, a POSIX shell runs in their folders.

Lines that begin with `@` are the few of cmd.exe's own that our runner sends; `words` models these.
A shell's processes carry its id in their environment, as a job object would hold them: they end
with it, wherever they went.
"""

import contextlib
import os
import queue
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ci import proc
from nodes.stand_ins.winrs import words

MARK = "WINRS_SHELL"
DRAIN_S = 0.25
_CHUNK = 64 * 1024
# A reader that is not asked stops here, as a full pipe would.
_BACKLOG = 4 << 20
_KILL_S = 5.0
_SIGNALS = {
    "ctrl_c": signal.SIGINT,
    "ctrl_break": signal.SIGTERM,
    "terminate": signal.SIGKILL,
}


@dataclass
class Command:
    """A command line that runs.

    Attributes:
        process: Of the POSIX shell; None where it needed none.
        feed: What standard input is still to get; None ends it.
        chunks: Output that nobody has asked for yet, with the name of its stream.
        open: Streams that have not ended.
        status: Exit status, once it has ended and its output has been read.
    """

    process: proc.Process | None
    feed: "queue.Queue[bytes | None]" = field(default_factory=queue.Queue)
    chunks: list[tuple[str, bytes]] = field(default_factory=list)
    open: int = 2
    status: int | None = None


class Shell:
    """One remote shell; every method may be called from any thread."""

    def __init__(self, name: str, folder: str, env: Mapping[str, str]) -> None:
        self.id = str(uuid.uuid4()).upper()
        self.name = name
        self.folder = folder
        self.asked_at = time.monotonic()
        base = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": folder}
        self._env = {**base, **env, MARK: self.id}
        self._commands: dict[str, Command] = {}
        self._changed = threading.Condition()

    def start(self, line: str) -> str:
        """Start a command line; returns its id."""
        number = str(uuid.uuid4()).upper()
        done = words.do(line) if line.startswith("@") else None
        if isinstance(done, words.Done):
            said = [("stdout", done.stdout), ("stderr", done.stderr)]
            chunks = [(name, chunk) for name, chunk in said if chunk]
            self._commands[number] = Command(None, chunks=chunks, status=done.status)
            return number
        process = proc.spawn(
            done or [shutil.which("sh") or "/bin/sh", "-c", line],
            stdin=proc.PIPE,
            stdout=proc.PIPE,
            stderr=proc.PIPE,
            cwd=Path(self.folder),
            env=self._env,
        )
        command = self._commands[number] = Command(process)
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            _beside(self._listen, command, name, stream)
        _beside(self._feed, command, process.stdin)
        _beside(self._await, command, process)
        return number

    def send(self, number: str, chunk: bytes, *, end: bool) -> None:
        """Take a piece of standard input.

        Raises:
            KeyError: There is no such command, or it has ended.
        """
        command = self._commands[number]
        if command.status is not None:
            raise KeyError(number)
        if chunk:
            command.feed.put(chunk)
        if end:
            command.feed.put(None)

    def receive(
        self, number: str, limit: int, within_s: float
    ) -> tuple[list[tuple[str, bytes]], int | None] | None:
        """Output and, at its end, the exit status; None when nothing came in time.

        Raises:
            KeyError: There is no such command.
        """
        command = self._commands[number]
        with self._changed:
            ready = self._changed.wait_for(
                lambda: command.chunks or command.status is not None, within_s
            )
            if not ready:
                return None
            taken: list[tuple[str, bytes]] = []
            while command.chunks and limit > 0:
                name, chunk = command.chunks.pop(0)
                if len(chunk) > limit:
                    command.chunks.insert(0, (name, chunk[limit:]))
                    chunk = chunk[:limit]
                limit -= len(chunk)
                taken.append((name, chunk))
            self._changed.notify_all()
            return taken, None if command.chunks else command.status

    def signal(self, number: str, code: str) -> None:
        """Send a signal to all that this shell started.

        Raises:
            KeyError: There is no such command, or signal.
        """
        self._commands[number]
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, _SIGNALS[code.rpartition("/")[2].lower()])

    def delete(self) -> None:
        """End all that this shell started."""
        for _ in proc.wait_until(time.monotonic() + _KILL_S, every_s=0.02):
            pids = self._pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return

    def _pids(self) -> list[int]:
        """Processes with our mark, and those of their sessions: `env -i` drops only the mark."""
        mark = f"{MARK}={self.id}".encode()
        started = [command.process for command in self._commands.values()]
        led = {process.pid for process in started if process is not None}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] in "ZX":
                    continue
                ours = int(fields[3]) in led
                if ours or mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def _listen(self, command: Command, name: str, stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), _CHUNK):
            with self._changed:
                self._changed.wait_for(lambda: sum(len(c) for _, c in command.chunks) < _BACKLOG)
                command.chunks.append((name, chunk))
                self._changed.notify_all()
        with self._changed:
            command.open -= 1
            self._changed.notify_all()

    def _feed(self, command: Command, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError):
            while (chunk := command.feed.get()) is not None:
                pipe.write(chunk)
                pipe.flush()
        with contextlib.suppress(OSError):
            pipe.close()

    def _await(self, command: Command, process: proc.Process) -> None:
        status = process.wait()
        command.feed.put(None)
        with self._changed:
            # A process that was left behind may hold the streams for ever.
            while not self._changed.wait_for(lambda: command.open == 0, DRAIN_S):
                if not command.chunks:
                    break
            command.status = status if status >= 0 else 128 - status
            self._changed.notify_all()


def _beside(work: Callable[..., None], *args: object) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()
