# SPDX-License-Identifier: Apache-2.0
"""Several workers' processes on one database, and the means to hurt them."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.clock import SystemClock
from ci.store import schema
from ci.store.database import Database
from tests.kit.core import job, queue_buildset, rows

PATIENCE_S = 100.0
# What a child needs is imported once, by a process that has no threads and forks the others.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["tests.kit.worker_child"])


class Workers:
    """A folder, a database, and the processes that share them.

    Args:
        folder: For homes, nodes and logs.
        url: PostgreSQL with our tables, or `-` for SQLite in the folder.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.database = Database.in_directory(folder) if url == "-" else Database(url)
        self.database.create()
        self._children: list[ForkServerProcess] = []
        self._queued = 0

    def start(self, name: str, **environment: object) -> ForkServerProcess:
        """Start a process; `TERM_S=2` and the like steer it."""
        given = {key: str(value) for key, value in environment.items()}
        child = _FORK.Process(target=_child, args=(self.folder, self.url, name, given))
        child.start()
        self._children.append(child)
        return child

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def queue(self, run: str = "", *, seconds: float = 0.0, builds: int = 1) -> list[str]:
        """Queue builds of one change each; returns their ids."""
        command = run or f"sleep {seconds:g}; write-junit r.xml pass=2"
        made: list[str] = []
        for _ in range(builds):
            self._queued += 1
            now = SystemClock().now()
            number = 100 + self._queued
            made += queue_buildset(self.database, job(run=command), at=now, number=number)
        return made

    def build(self, build_id: str) -> sa.Row[Any]:
        """A build's row."""
        return rows(self.database, schema.build, id=build_id)[0]

    def attempts(self, build_id: str) -> list[tuple[str, str, int]]:
        """(result, worker, claim) of a build's attempts."""
        found = rows(self.database, schema.attempt, build_id=build_id)
        return [(r.result, r.worker, r.claim) for r in sorted(found, key=lambda r: int(r.number))]

    def votes(self) -> int:
        """Reviews that are owed."""
        return len(rows(self.database, schema.outbox))

    def until(self, done: Callable[[], object], what: str) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"{what}\n{self._logs()}"
            time.sleep(0.05)

    def until_running(self, build_id: str) -> str:
        """Wait until a build's suite is under way; returns its worker."""

        def suite() -> bool:
            found = rows(self.database, schema.attempt, build_id=build_id, state="running")
            return any(row.phase == "run" for row in found)

        self.until(suite, f"{build_id} never ran")
        return str(self.build(build_id).worker)

    def until_done(self, *build_ids: str) -> None:
        """Wait until builds are judged."""
        self.until(
            lambda: all(self.build(one).state in {"done", "canceled"} for one in build_ids),
            "not every build came to its end",
        )

    def close(self) -> None:
        """End every process."""
        for child in self._children:
            if child.pid and child.is_alive():
                os.kill(child.pid, signal.SIGCONT)
                child.kill()
            child.join()
        self.database.close()

    def _logs(self) -> str:
        return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log"))


def _child(folder: Path, url: str, name: str, given: dict[str, str]) -> None:
    """The body of a forked process."""
    from tests.kit.worker_child import main  # noqa: PLC0415 - imported in there already

    os.environ.update(given)
    with (folder / f"{name}.log").open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    sys.exit(main(folder, url, name))
