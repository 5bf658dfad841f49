# SPDX-License-Identifier: Apache-2.0
"""Sees to it that nothing of a demo is left, even where the demo was killed.

A process of its own waits until the demo is gone. What then still runs on the demo's behalf has
the demo's mark in its environment: it is ended, the lab's nodes are taken down by what they wrote
into their folders, and the folders are removed.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ci import proc
from ci.demo.lab_turn import SECOND
from ci.errors import HypervouchError
from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.hypervisors.table import connect
from nodes.lab import table

MARK = "HYPERVOUCH_DEMO"
EVERY_S = 0.5
GRACE_S = 60.0
_CHILD = "ci.cli"


@contextmanager
def guarded(directory: Path, lab: Path, *, keep: bool) -> Iterator[None]:
    """Mark what this process starts, and have it ended should this process be killed.

    Args:
        directory: Of the demo.
        lab: Of the lab's nodes.
        keep: Whether `directory` stays.
    """
    me = os.getpid()
    os.environ[MARK] = str(lab)
    argv = [sys.executable, "-m", __name__, str(me), proc.start_tick(me) or "", str(lab)]
    guard = proc.spawn(argv + ([] if keep else [str(directory)]))
    try:
        yield
    finally:
        del os.environ[MARK]
        proc.kill_group(guard.pid)
        guard.wait()


def watch(pid: int, born: str, lab: Path, others: list[Path]) -> None:
    """Wait until the demo is gone, then end and remove what it left."""
    while proc.is_running(pid, born):
        time.sleep(EVERY_S)
    sweep(lab)
    for folder in (lab, *others):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(lab: Path) -> None:
    """End whatever runs for the demo whose lab this is."""
    mark = f"{MARK}={lab}".encode()
    # Suites and bringings-up first, and gently: they know best what they have made.
    _end([one for one in _marked(mark) if _is_child(one[0])], signal.SIGINT, GRACE_S)
    for name, node in table.LAB.items():
        for folder in (lab / name, lab / SECOND / name):
            if not folder.is_dir():
                continue
            if name == "uml":
                _end_guests(lab / "work")
            with suppress(HypervouchError, OSError):
                node.down(folder)
    _end(list(_marked(mark)), signal.SIGKILL, 5.0)


def _end_guests(work: Path) -> None:
    """Those that are processes of their own: no daemon ends them."""
    with suppress(HypervouchError):
        left = connect("uml:///", Access(work=work, grade=Grade.BARE, timeout_s=GRACE_S))
        left.cleanup()
        left.close()


def _marked(mark: bytes) -> Iterator[tuple[int, str]]:
    """Processes of the demo but this one: pids with their start ticks."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            born = proc.start_tick(int(entry.name))
            if born and mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name), born


def _is_child(pid: int) -> bool:
    with suppress(OSError):
        return _CHILD.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def _end(found: list[tuple[int, str]], signum: signal.Signals, grace_s: float) -> None:
    until = time.monotonic() + grace_s
    for pid, born in found:
        if proc.is_running(pid, born):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signum)
    for pid, born in found:
        for _ in proc.wait_until(until, every_s=0.1):
            if not proc.is_running(pid, born):
                break


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), [Path(one) for one in sys.argv[4:]])
