# SPDX-License-Identifier: Apache-2.0
"""Killed before or after any write of the whole flow, and started again: exactly one vote.

One patch that breaks a test goes from the stream's event to the vote: check, baseline, repeat.
The process dies at the n-th write, for every n; what it had in memory is gone, what stands in
the database, in the engine's records and on the server stays.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from ci import attempt
from ci.bell import Bell
from ci.clock import FakeClock
from ci.dispatcher import Dispatcher
from ci.listener import Listener
from ci.planner import Planner
from ci.relay import Relay
from ci.reporters.dummy import DummyReporter
from ci.store import events, schema
from ci.store.database import Database
from tests.kit.core import (
    GERRIT,
    FakeCheckout,
    FakeHistory,
    FakeServer,
    ScriptedRunner,
    event,
    lab,
    layout,
    rows,
)

pytestmark = pytest.mark.timeout(300)

GOOD = "write-junit r.xml pass=2"
BAD = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"
MOST_STARTS = 30


class Crash(BaseException):
    """`kill -9`: nothing may catch it and go on."""


class Fuse:
    """Ends the process at its n-th point; `passed` counts them."""

    def __init__(self, at: int, mode: str) -> None:
        self.at, self.mode, self.passed = at, mode, 0

    def before(self) -> None:
        self.passed += 1
        if self.mode == "before":
            self._burn()

    def after(self) -> None:
        if self.mode == "after":
            self._burn()

    def _burn(self) -> None:
        if self.passed == self.at:
            self.at = 0
            raise Crash


class Records:
    """What the engine keeps on its own disk: builds, and the step each has come to."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self.next: dict[str, str] = {}

    def submit(self, build_id: str) -> None:
        with self._write():
            self.next.setdefault(build_id, "check")

    def unknown(self, build_ids) -> tuple[str, ...]:
        return tuple(i for i in build_ids if i not in self.next)

    def forget(self, build_ids) -> None:
        for build_id in build_ids:
            self.next.pop(build_id, None)

    def work(self, worker) -> None:
        for build_id in list(self.next):
            while self.next[build_id]:
                kind = worker.attempt(build_id, self.next[build_id])
                with self._write():
                    self.next[build_id] = kind
            worker.report(build_id)
            with self._write():
                del self.next[build_id]

    @contextmanager
    def _write(self) -> Iterator[None]:
        self.fuse.before()
        yield
        self.fuse.after()


class World:
    """What outlives a process: the disk, the engine's records, the server."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        self.folder, self.fuse = folder, fuse
        self.clock = FakeClock()
        self.records = Records(fuse)
        self.server = DummyReporter()
        self.history = FakeHistory(self.clock)

    def start(self) -> None:
        """One process, from its start until nothing is left to do."""
        self.clock.advance(90)
        made = lab(self.folder, FakeCheckout([BAD], GOOD), plan=layout(state_dir=self.folder))
        made.pool._clock = made.worker._clock = self.clock
        database, clock = made.database, self.clock
        listener = Listener(
            GERRIT,
            database,
            clock,
            lambda *_: pytest.fail("no stream here"),
            self.history,
            own_username="acme-ci",
            on_stored=lambda: None,
        )
        planner = Planner(
            database,
            clock,
            lambda: layout(state_dir=self.folder),
            {GERRIT: FakeServer()},
            bell=Bell(),
            on_queued=lambda: None,
            on_cancel=lambda *_: None,
        )
        dispatcher = Dispatcher(database, clock, self.records, slots=4, bell=Bell())
        relay = Relay(GERRIT, database, clock, self.server, bell=Bell())
        try:
            made.pool.clean()
            dispatcher.reconcile()
            listener.catch_up()
            self._hear(listener)
            planner.plan_pending()
            dispatcher.dispatch()
            self.records.work(made.worker)
            self._deliver(relay)
        finally:
            database.close()

    def _hear(self, listener: Listener) -> None:
        """The stream tells of the patch set once; whoever missed it has to ask."""
        if not self.history.events:
            told = event(self.clock, key="patchset-created:12:1")
            self.history.events = [told]
            listener._store(told)

    def _deliver(self, relay: Relay) -> None:
        with ThreadPoolExecutor(1) as threads:
            while relay.deliver_due(threads):
                self.clock.advance(301)

    def until_done(self) -> int:
        """Start again and again until the flow came to its end; how often it died."""
        for deaths in range(MOST_STARTS):
            try:
                self.start()
            except Crash:
                continue
            return deaths
        raise AssertionError("it never came to its end")


@pytest.fixture
def burn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fuse], None]:
    """Let every write of ours pass a fuse."""
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    real = Database.write
    fuse: list[Fuse] = []

    @contextmanager
    def write(self: Database) -> Iterator[sa.Connection]:
        fuse[-1].before()
        with real(self) as tx:
            yield tx
        fuse[-1].after()

    monkeypatch.setattr(Database, "write", write)
    return fuse.append


def first_start(world: World, *, quiet: Fuse) -> None:
    """An installation that has listened before: its watermark stands."""
    database = Database.in_directory(world.folder)
    database.create()
    events.advance_watermark(database, GERRIT, world.clock.now())
    database.close()
    assert quiet.passed


@pytest.mark.parametrize("mode", ["before", "after"])
def test_killed_at_every_write_there_is_exactly_one_vote(tmp_path, burn, mode):
    number, reached = 0, True
    while reached:
        number += 1
        quiet, fuse = Fuse(0, mode), Fuse(number, mode)
        world = World(tmp_path / str(number), fuse)
        burn(quiet)
        first_start(world, quiet=quiet)
        burn(fuse)
        deaths = world.until_done()
        reached = fuse.at == 0
        assert deaths == (1 if reached else 0)
        check(world, number)
    assert number > 25, "fewer writes than the flow has steps: are they counted?"


def test_killed_at_every_fifth_write_again_and_again(tmp_path, burn):
    fuse = Fuse(0, "after")
    world = World(tmp_path, fuse)
    burn(fuse)
    first_start(world, quiet=fuse)
    for _ in range(8):
        fuse.at, fuse.passed = 5, 0
        try:
            world.start()
        except Crash:
            continue
    fuse.at = 0
    world.until_done()
    check(world, 0)


def check(world: World, number: int) -> None:
    database = Database.in_directory(world.folder)
    assert [(r.label, r.value) for r in world.server.posted] == [("Verified", -1)], number
    assert [r.state for r in rows(database, schema.outbox)] == ["delivered"], number
    assert [s.state for s in rows(database, schema.buildset)] == ["done"], number
    assert [e.processed_at is None for e in rows(database, schema.event)] == [False], number
    assert {n.holder for n in rows(database, schema.node)} == {None}, number
    assert not world.records.next, number
    database.close()
