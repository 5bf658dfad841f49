# SPDX-License-Identifier: Apache-2.0
"""Processes on this machine that carry a session's marks: found in /proc, and ended.

The same two marks and the same records as on a node; see `ci.runners.scripts`.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ci.runners import scripts
from ci.runners.stop import Grace, Step, Stopped

_LOOK_EVERY_S = 0.05


@dataclass(kw_only=True)
class Owned:
    """What a token, or all of a family, started here.

    Attributes:
        mark: The token or family.
        leaders: Unix sessions that are its own.
        born: Start tick of the first of its processes; what is older is not looked at.
    """

    mark: str
    leaders: set[int] = field(default_factory=set)
    born: int = 0

    def end(self, grace: Grace, pause: Callable[[float], None] | None = None) -> Stopped:
        """Interrupt, terminate, then kill them all, and forget.

        Args:
            grace: How long each signal has.
            pause: Waits so many seconds between two looks, and may take their last words; sleeps
                where none is given.
        """
        steps: list[Step] = []
        left: list[int] = self.alive()
        for signum, seconds in grace.steps:
            if not left:
                break
            began, sent = time.monotonic(), len(left)
            _signal(left, signum)
            while time.monotonic() < began + seconds:
                (pause or time.sleep)(_LOOK_EVERY_S)
                left = self.alive()
                if not left:
                    break
                if signum is signal.SIGKILL:
                    _signal(left, signum)
            took_s = time.monotonic() - began
            steps.append(Step(signal=signum.name, sent=sent, left=len(left), took_s=took_s))
        if left:
            names = tuple(described(left).splitlines())
            return Stopped(steps=tuple(steps), left=names, confirmed=False)
        for path in _records(self.mark):
            # Another user's file in a sticky directory stays; it was never believed.
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
        return Stopped(steps=tuple(steps))

    def alive(self) -> list[int]:
        """Processes in one of the Unix sessions, or with the mark in their environment."""
        mark = f"{scripts.MARK}={self.mark}".encode()
        return [
            int(entry)
            for entry in os.listdir("/proc")  # noqa: PTH208 it is hot
            if entry.isdigit() and self._has(entry, mark)
        ]

    def _has(self, pid: str, mark: bytes) -> bool:
        # One file tells of most processes that they are none: they are older than the session,
        # or, where its age is not known and it leads none, have no such environment.
        environ = f"/proc/{pid}/environ"
        try:
            if not self.leaders and mark not in _content(environ):
                return False
            fields = _stat(pid)
            if fields[0] in b"ZX" or int(fields[19]) < self.born:
                return False
            return int(fields[3]) in self.leaders or mark in _content(environ)
        except (OSError, IndexError):
            return False


def _signal(pids: Iterable[int], signum: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def note(token: str, number: int, pid: int) -> int:
    """Record the leader of a session's numbered command; returns its start tick.

    Raises:
        OSError: The record cannot be written, or the process is not there.
    """
    born = int(_stat(str(pid))[19])
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(scripts.record(token, number), flags, 0o600), "w") as file:
        file.write(f"{pid} {born} {_boot()}\n")
    return born


def forget(token: str, number: int, pid: int) -> None:
    """Drop the record of a command that has ended, unless others of its group go on."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        Path(scripts.record(token, number)).unlink(missing_ok=True)
    except PermissionError:
        return


def of_family(family: str) -> Owned:
    """What earlier sessions of a family left, whether or not their process still lives."""
    found = Owned(mark=family)
    for path in _records(family):
        leader = _leader(path)
        if leader:
            found.leaders.add(leader)
    return found


def described(pids: list[int]) -> str:
    """Process ids and names, one a line."""
    lines = []
    for pid in pids:
        try:
            name = _content(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()
        except OSError:
            name = "?"
        lines.append(f"{pid} ({name})")
    return "\n".join(lines)


def _records(mark: str) -> list[Path]:
    pattern = Path(scripts.record(mark, "*"))
    return list(pattern.parent.glob(pattern.name))


def _leader(path: Path) -> int:
    """The process id in a record; 0 where it is not ours or its process was another one."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return 0
            words = file.read(200).decode("ascii", "replace").split()
    except OSError:
        return 0
    if len(words) != 3 or not words[0].isdecimal() or words[2] != _boot():  # noqa: PLR2004
        return 0
    try:
        same = _stat(words[0])[19].decode() == words[1]
    except (OSError, IndexError):
        same = True  # It has ended; while others stay in its session, nobody gets its id.
    return int(words[0]) if same else 0


def _boot() -> str:
    return _content(scripts.BOOT_ID).decode().strip()


def _stat(pid: str) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on."""
    return _content(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 it is hot
        return file.read()
