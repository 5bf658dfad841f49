# SPDX-License-Identifier: Apache-2.0
"""The command line, ended by `kill -9` at a chosen write to its database.

`python -m tests.kit.die_at POINT MODE RECORD VERB ...`: the process ends right before or right
after (MODE) the commit of its write transaction number POINT; 0 never ends it. RECORD is a file
that gets one line per write, its number and who wrote, so that the points of a flow are counted
and not guessed. The engine's own database is left alone.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ci.cli import main
from ci.store.database import Database

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a process ends.

    Attributes:
        number: Of the write, from 1; 0 for nowhere.
        mode: `before` or `after` its commit.
    """

    number: int = 0
    mode: str = AFTER

    def __str__(self) -> str:
        """For messages of tests."""
        return f"{self.mode} write {self.number}"


class _Writes:
    """Counts commits; while one is being made, no other is: SQLite has one writer."""

    def __init__(self, point: Point, record: Path) -> None:
        self._point = point
        self._file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._count = 0

    def committing(self, who: str) -> int:
        """Note a write whose block is done; returns its number."""
        with self._lock:
            self._count += 1
            os.write(self._file, f"{self._count} {who}\n".encode())
            if self._point == Point(number=self._count, mode=BEFORE):
                os.kill(os.getpid(), signal.SIGKILL)
            return self._count

    def committed(self, number: int) -> None:
        """A write is done for good."""
        if self._point == Point(number=number, mode=AFTER):
            os.kill(os.getpid(), signal.SIGKILL)


def watch(point: Point, record: Path) -> None:
    """Count every write transaction of this process, and end it at a point."""
    writes, real = _Writes(point, record), Database.write

    @contextmanager
    def write(self: Database) -> Iterator[sa.Connection]:
        frame = sys._getframe(2)  # below the context manager's own frame
        who = f"{frame.f_globals['__name__']}:{frame.f_code.co_qualname}"
        with real(self) as tx:
            yield tx
            number = writes.committing(who)
        writes.committed(number)

    Database.write = write  # type: ignore[method-assign]


def recorded(record: Path) -> list[str]:
    """Who made each write that a process came to, in their order."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return [line.partition(" ")[2] for line in lines]


if __name__ == "__main__":
    number, mode, file = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
    watch(Point(number=int(number), mode=mode), Path(file))
    main()
