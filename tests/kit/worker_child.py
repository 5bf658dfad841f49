# SPDX-License-Identifier: Apache-2.0
"""A process that runs builds on pretended nodes, to be killed: see tests.kit.workers.

Its database is PostgreSQL with our tables, or `-` for SQLite in FOLDER. Several processes may
share FOLDER, each with a home of its own in it, and the nodes `lab-1`, `lab-2`, ... whose
journal is FOLDER/journal. It ends at SIGTERM, when its name was taken over (status 1), and when
it was drained and nothing is left to run.

Environment: TERM_S, seconds of lease and heartbeat; SLOTS; NODES; SKELETON, the engine's version.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable  # noqa: TC003 as elsewhere
from pathlib import Path

from ci import engine
from ci.attempt_rows import Stopping
from ci.bell import Bell
from ci.clock import SystemClock
from ci.collect import LogStore
from ci.dispatcher import Dispatcher
from ci.engine import Engine, EngineRecords
from ci.errors import HypervouchError
from ci.log import configure
from ci.presence import Presence
from ci.reaper import Reaper
from ci.stacking import Place, Stacking
from ci.store import queue
from ci.store.database import Database
from ci.worker import Worker
from nodes.pool import NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider
from tests.kit.core import GERRIT, FakeCheckout, FakeLookup, layout


class Child:
    """One worker's process, assembled as `ci.roles.work` does."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self.term_s = float(os.environ.get("TERM_S", "3"))
        slots = int(os.environ.get("SLOTS", "2"))
        home, shared = folder / name, url != "-"
        self.clock, self.ended, self.status = SystemClock(), threading.Event(), 0
        self._bell = Bell()
        self.database = Database(url) if shared else Database.in_directory(folder)
        self.presence = Presence(
            self.database,
            self.clock,
            home,
            roles=("work",),
            version=engine.APPLICATION_VERSION,
            slots=slots,
            term_s=self.term_s,
            name=name,
            on_replaced=self._replaced,
        )
        self.pool = self._pool(folder, name)
        self.engine = Engine(home, slots=slots, executor=name, url=url if shared else "")
        self.worker = self._worker(folder)
        self.dispatcher = Dispatcher(
            self.database,
            self.clock,
            self.engine,
            worker=name,
            slots=slots,
            bell=self._bell,
            halted=lambda: self.presence.draining or self.presence.fenced,
        )
        self.reaper = Reaper(
            self.database,
            self.clock,
            EngineRecords(home, url=url if shared else ""),
            term_s=self.term_s,
            on_queued=lambda: None,
        )

    def run(self) -> int:
        """From the start to the end; the exit status."""
        self.presence.hold()
        self.engine.hold()
        self.database.create()
        self.presence.register()
        self.presence.on_fenced = self.worker.fence
        self.pool.register()
        self.engine.start(self.worker)
        bodies = (self.presence.run, self.presence.watch, self.pool.keep_leases)
        for body in (*bodies, self.dispatcher.run, self._chores):
            threading.Thread(target=body, daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: self.ended.set())
        while not self.ended.wait(0.05):
            if self._drained():
                break
        self.dispatcher.stop()
        self.worker.stop()
        while self.worker.busy():
            time.sleep(0.02)
        self.presence.stop()
        self.engine.stop()
        return self.status

    def _chores(self) -> None:
        turns: tuple[Callable[[], object], ...] = (
            self.dispatcher.reconcile,
            self.reaper.run,
            self.dispatcher.forget,
            self.reaper.clean,
        )
        while not self.ended.wait(self.term_s / 8):
            for turn in turns:
                try:
                    turn()
                except HypervouchError as error:
                    sys.stderr.write(f"{error}\n")

    def _drained(self) -> bool:
        if not self.presence.draining or self.worker.busy():
            return False
        with self.database.read() as tx:
            return not queue.running(tx, self.presence.name)

    def _replaced(self) -> None:
        self.status = 1
        self.ended.set()

    def _pool(self, folder: Path, name: str) -> NodePool:
        options = DummyOptions(
            name="lab",
            slots=int(os.environ.get("NODES", "4")),
            shared_dir=folder / "nodes",
            journal=folder / "journal",
        )
        provider = DummyProvider(options, folder / "nodes")
        groups = {"lab": (provider,)}
        return NodePool(
            self.database, self.clock, groups, lambda _: {}, term_s=self.term_s, worker=name
        )

    def _worker(self, folder: Path) -> Worker:
        plan = layout(state_dir=folder)
        checkout = FakeCheckout(("patched",), "tip")
        bases = ("https://review.example.org/",)
        place = Place(server=FakeLookup(), checkout=checkout, bases=bases)  # type: ignore[arg-type]
        return Worker(
            self.database,
            self.clock,
            me=self.presence,
            layout=lambda: plan,
            checkouts={GERRIT: checkout},  # type: ignore[dict-item]
            stacking=Stacking(self.database, lambda: plan, {GERRIT: place}),
            pool=self.pool,
            logs=LogStore(folder / "logs", limit_bytes=1 << 20, free_bytes=1),
            secrets=[],
            on_verdict=lambda: None,
            on_free=self._bell.ring,
        )


def main(folder: Path, url: str, name: str) -> int:
    """Run one; 3 for an error of ours."""
    configure(level="INFO")
    engine.APPLICATION_VERSION = os.environ.get("SKELETON", engine.APPLICATION_VERSION)
    engine.BROKEN_S = 0.5
    try:
        return Child(folder, url, name).run()
    except HypervouchError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 3
    except Stopping:
        return 0
