# SPDX-License-Identifier: Apache-2.0
"""The processes of lines: a job object that ends them, and the end by their mark, as POSIX does it.

Source for the job object: PowerShell/openssh-portable, contrib/win32/win32compat/w32-doexec.c.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ci import proc
from nodes.stand_ins.winssh.lines import End

MARK = "HYPERVOUCH_SESSION"
JOB = "WINSSH_JOB"
_CLOSE_S = 5.0
_EVERY_S = 0.05


def close(job: str, leader: int) -> None:
    """End all that a job object holds."""
    wanted = f"{JOB}={job}".encode()
    for _ in proc.wait_until(time.monotonic() + _CLOSE_S, every_s=0.02):
        found = _found(lambda entry: entry == wanted, {leader})
        if not found:
            return
        _send(found, signal.SIGKILL)


def end(asked: End, *, deaf: bool) -> int:
    """Step by step; says on standard output what `ci.runners.stop.read` understands."""
    left = _marked(asked.mark)
    for name, milliseconds in asked.steps:
        if not left:
            break
        began, count = time.monotonic(), len(left)
        signum = signal.Signals[f"SIG{name}"]
        if not deaf:
            _send(left, signum)
        for _ in proc.wait_until(began + milliseconds / 1000, every_s=_EVERY_S):
            left = _marked(asked.mark)
            if not left:
                break
            if name == "KILL" and not deaf:
                _send(left, signum)
        hundredths = round((time.monotonic() - began) * 100)
        print(f"={name} {count} {len(left)} {hundredths}", flush=True)  # noqa: T201
    for pid, command in sorted(left.items()):
        print(f"{pid} ({command})", flush=True)  # noqa: T201
    return int(bool(left))


def _marked(mark: str) -> dict[int, str]:
    start = f"{MARK}={mark}".encode()

    def ours(entry: bytes) -> bool:
        return entry.startswith(start)

    led = set()
    for pid in _found(ours, set()):
        with contextlib.suppress(OSError):
            led.add(os.getsid(pid))
    # A process that drops its environment stays in the Unix session of the line.
    return _found(ours, led)


def _found(ours: Callable[[bytes], bool], led: set[int]) -> dict[int, str]:
    """Processes, with their names, that have such a variable or are in one of these sessions."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            head, _, tail = (folder / "stat").read_text().rpartition(")")
            fields = tail.split()
            if fields[0] in "ZX":
                continue
            entries = (folder / "environ").read_bytes().split(b"\0")
            if int(fields[3]) in led or any(ours(entry) for entry in entries):
                found[int(folder.name)] = head.partition("(")[2]
    return found


def _send(found: dict[int, str], signum: signal.Signals) -> None:
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
