# SPDX-License-Identifier: Apache-2.0
"""Killed before or after any write of the whole flow, and started again: exactly one vote.

Each story goes from events to votes and notices in one process. At each of its writes, before
and after, a copy is kept of what a `kill -9` would leave there: the files, the engine's
records, the server. From every copy a new process starts, while the story goes on outside.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci import attempt
from ci.bell import Bell
from ci.checkout import MergedTree
from ci.clock import FakeClock
from ci.depends import Found
from ci.dispatcher import Dispatcher
from ci.gerrit.history import Standing
from ci.layout import ReporterConfig
from ci.listener import Listener
from ci.model.build import Claim
from ci.model.event import Event
from ci.model.facts import ChangeFacts
from ci.model.notice import Notice
from ci.model.review import Review
from ci.model.stack import Dependency
from ci.notifier import NoticeRelay
from ci.planner import Planner
from ci.relay import Relay
from ci.reporters.base import Outcome, Permit, anybody
from ci.reporters.dummy import DummyReporter
from ci.reporters.dummy_notifier import DummyNotifier, DummyNotifierOptions
from ci.store import events, outbox_actions, schema
from ci.store.database import Database
from tests.kit.core import (
    GERRIT,
    FakeCheckout,
    FakeHistory,
    FakeServer,
    Lab,
    ScriptedRunner,
    comment,
    event,
    facts,
    found,
    lab,
    layout,
    patchset,
    rows,
    vote,
)

pytestmark = pytest.mark.timeout(600)

GOOD = "write-junit r.xml pass=2"
BAD = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"
MOST_TURNS = 30
CHAINS = 4
KINDS = ["verdict", "held-vote", "dependency"]
ENDED = {"done", "canceled"}


@dataclass(kw_only=True)
class Outside:
    """What a process does not take with it: server, people, receivers, the engine's records."""

    at: datetime = field(default_factory=lambda: FakeClock().now())
    happened: int = 0
    engine: dict[Claim, str] = field(default_factory=dict)
    posted: list[Review] = field(default_factory=list)
    current: dict[int, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    standing: tuple[Standing, ...] = ()
    facts: ChangeFacts | None = None
    changes: dict[int, Found] = field(default_factory=dict)
    told: list[tuple[Notice, ...]] = field(default_factory=list)

    def copy(self) -> "Outside":
        """As it is now; what is in it never changes."""
        return Outside(**{one.name: copy(getattr(self, one.name)) for one in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One thing that others do.

    Attributes:
        when: `idle`, when we have nothing to do; `merge` and `post`, just before we do that.
        do: Does it; returns what the server tells of it.
        missed: The stream does not tell it: only a catch-up does.
    """

    when: str = "idle"
    do: "Callable[[Process], Sequence[Event]]"
    missed: bool = False


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens outside, and what has to come of it.

    Attributes:
        happenings: In their order.
        votes: (change, patch set, value) of every review that is to be posted.
        pipeline: Further keys of the pipeline.
        scripts: Commands by revision; every other patch set breaks a test.
        message: Commit message of every patch set.
        notices: Keys' first words, one for each notice.
        check: What else has to hold in the database.
    """

    happenings: tuple[Happening, ...]
    votes: tuple[tuple[int, int, int], ...]
    pipeline: dict[str, Any] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    message: str = "A change"
    notices: tuple[str, ...] = ("verdict",)
    check: Callable[[Database], None] = lambda _: None


class Patches(FakeCheckout):
    """Merges what a story's revisions do."""

    def __init__(self, story: Story) -> None:
        super().__init__([BAD], GOOD)
        self.text = story.message
        self._by_revision = story.scripts

    def _tree(self, script: str, revision: str, stack: Sequence[Dependency]) -> MergedTree:
        return super()._tree(self._by_revision.get(revision, script), revision, stack)


class Poster(DummyReporter):
    """Posts to what outlives us."""

    def __init__(self, outside: Outside, before: Callable[[], None]) -> None:
        super().__init__()
        self.posted, self.current, self._before = outside.posted, outside.current, before

    def deliver(self, review: Review, permit: Permit = anybody) -> Outcome:
        """Post it; others may be quicker."""
        self._before()
        return super().deliver(review, permit)


class Process:
    """One life of our process, on the files of a folder, in a story.

    Args:
        folder: Its state directory.
        story: What happens outside.
        outside: How far that has come.
        look: Called before and after every write, with the process.
    """

    def __init__(
        self, folder: Path, story: Story, outside: Outside, look: "Callable[..., None]"
    ) -> None:
        self.folder, self.story, self.outside, self.look = folder, story, outside, look
        self.clock = FakeClock(outside.at)
        self.clock.advance(90)
        checkout = Patches(story)
        checkout.before_merge = lambda: self.meanwhile("merge")
        plan = layout(state_dir=folder, **story.pipeline)
        self.lab: Lab = lab(folder, checkout, plan=plan)
        self.lab.pool._clock = self.lab.worker._clock = self.clock
        self.lab.lookup.changes = outside.changes
        self.database = self.lab.database
        self.history = FakeHistory(self.clock)
        self.server = FakeServer()
        self.listener = Listener(
            GERRIT,
            self.database,
            self.clock,
            lambda *_: pytest.fail("no stream here"),
            self.history,
            own_username="acme-ci",
            on_stored=lambda: None,
        )
        self.planner = Planner(
            self.database,
            self.clock,
            lambda: plan,
            {GERRIT: self.server},
            bell=Bell(),
            on_queued=lambda: None,
            on_cancel=self.lab.worker.cancel,
        )
        self.dispatcher = Dispatcher(
            self.database, self.clock, self, worker=self.lab.me.name, slots=4, bell=Bell()
        )
        poster = Poster(outside, lambda: self.meanwhile("post"))
        self.relay = Relay(GERRIT, self.database, self.clock, poster, bell=Bell())
        self.notifier = self._notifier()

    def _notifier(self) -> NoticeRelay:
        keys = {"name": "hook", "driver": "dummy", "notices": KINDS}
        receiver = DummyNotifier(DummyNotifierOptions(name="hook"))
        receiver.told = self.outside.told
        config = ReporterConfig.model_validate(keys)
        return NoticeRelay(config, self.database, self.clock, receiver, bell=Bell())

    def live(self) -> None:
        """From its start until nothing is left to do and nothing more happens."""
        try:
            self.notifier.register()
            self.lab.pool.clean()
            self.dispatcher.reconcile()
            self._catch_up()
            for _ in range(MOST_TURNS):
                self._work_off()
                queued = rows(self.database, schema.build, state="queued")
                if not self.meanwhile("idle") and not queued:
                    return
            raise AssertionError("it never came to its end")
        finally:
            self.outside.at = self.clock.now()
            self.database.close()

    def _work_off(self) -> None:
        self.server.current = self.outside.facts
        self.planner.plan_pending()
        self.dispatcher.dispatch()
        self._run_builds()
        with ThreadPoolExecutor(1) as threads:
            while self.relay.deliver_due(threads):
                self.clock.advance(301)
        while not self.notifier.deliver_due():
            pass

    def meanwhile(self, when: str) -> bool:
        """Let the next thing happen, if this is its time; returns whether it did."""
        if self.outside.happened == len(self.story.happenings):
            return False
        one = self.story.happenings[self.outside.happened]
        if one.when != when:
            return False
        self.clock.advance(5)
        told = one.do(self)
        self.outside.happened += 1
        self.outside.events.extend(told)
        if one.missed:
            self._catch_up()
        elif told:
            self.listener._store(told)
        self.server.current = self.outside.facts
        self.planner.plan_pending()
        return True

    def _catch_up(self) -> None:
        self.history.events, self.history.standing = self.outside.events, self.outside.standing
        self.listener.catch_up()

    # What the engine keeps on its own disk: builds, and the step each has come to.

    def submit(self, claim: Claim) -> None:
        """Start a build unless it was started."""
        with self._record():
            self.outside.engine.setdefault(claim, "check")

    def unknown(self, claims: Sequence[Claim]) -> tuple[Claim, ...]:
        """Claims that it knows nothing of."""
        return tuple(one for one in claims if one not in self.outside.engine)

    def forget(self, claims: Sequence[Claim]) -> None:
        """Drop its records."""
        for claim in claims:
            self.outside.engine.pop(claim, None)

    def _run_builds(self) -> None:
        steps = self.outside.engine
        for claim in list(steps):
            while steps[claim]:
                kind = self.lab.worker.attempt(*claim, steps[claim])
                with self._record():
                    steps[claim] = kind
            self.lab.worker.report(*claim)
            with self._record():
                del steps[claim]

    @contextmanager
    def _record(self) -> Iterator[None]:
        self.look(self, before=True)
        yield
        self.look(self, before=False)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a killed process leaves."""

    point: int
    folder: Path
    outside: Outside


class Camera:
    """Keeps what a kill would leave at each write, or at one of them.

    Args:
        into: Gets a folder for each copy.
        only: Number of the one point that is kept; 0 for all.
    """

    def __init__(self, into: Path, only: int = 0) -> None:
        self._into, self._only, self._points = into, only, 0
        self._last: object = None
        self.kept: list[Left] = []

    def __call__(self, process: Process, *, before: bool) -> None:
        """Keep it, unless nothing changed since the write before this one but the logs."""
        self._points += 1
        if self._only and self._points != self._only:
            return
        process.outside.at = process.clock.now()
        machines = sorted(str(one) for one in (process.folder / "nodes").rglob("*"))
        now = (machines, process.outside.copy())
        if before and now == self._last:
            return
        self._last = now
        folder = self._into / str(self._points)
        shutil.copytree(process.folder, folder, ignore=shutil.ignore_patterns("*-shm"))
        self.kept.append(Left(point=self._points, folder=folder, outside=now[1]))


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Process]:
    """Starts processes, all on one folder; every write is looked at.

    They share what compiles their SQL: that is most of the time, and no state of theirs.
    """
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    database = Database.in_directory(tmp_path / "state")
    monkeypatch.setattr(Database, "in_directory", lambda _: database)
    real, now = Database.write, []

    @contextmanager
    def write(self: Database) -> Iterator[sa.Connection]:
        for process in now:
            process.look(process, before=True)
        with real(self) as tx:
            yield tx
        for process in now:
            process.look(process, before=False)

    def start(folder: Path, story: Story, outside: Outside, look: Any = None) -> Process:
        now.clear()
        process = Process(folder, story, outside, look or (lambda *_, **__: None))
        now.append(process)
        return process

    monkeypatch.setattr(Database, "write", write)
    return start


def restored(left: Left, folder: Path) -> Path:
    """The folder with what a killed process left."""
    shutil.rmtree(folder)
    left.folder.rename(folder)
    return folder


def listened_before(folder: Path) -> Path:
    """The folder of an installation that has listened before: its watermark stands."""
    database = Database.in_directory(folder)
    database.create()
    events.advance_watermark(database, GERRIT, FakeClock().now())
    database.close()
    return folder


def pushed(number: int = 12, ps: int = 1, **more: Any) -> Happening:
    """A patch set is pushed."""

    def do(process: Process) -> list[Event]:
        process.outside.current[number] = ps
        one = replace(patchset(ps, of=number), revision=revision(number, ps))
        return [event(process.clock, number=number, ps=ps, patchset=one)]

    return Happening(do=do, **more)


def revision(number: int, ps: int) -> str:
    return f"{number:02d}{ps:02d}" * 10


def said(text: str, **more: Any) -> Happening:
    """Somebody comments on patch set 1 of change 12."""
    one = replace(patchset(), revision=revision(12, 1))
    return Happening(do=lambda p: [comment(p.clock, text, patchset=one)], **more)


def voted(value: int, by: str, **more: Any) -> Happening:
    """Another CI votes on patch set 1 of change 12."""

    def do(process: Process) -> list[Event]:
        given = vote("Verified", value, by, changed=True)
        process.outside.facts = _facts(given)
        one = replace(patchset(), revision=revision(12, 1))
        words = "Build succeeded" if value > 0 else "Build failed"
        author = given.by
        return [comment(process.clock, words, patchset=one, approvals=(given,), author=author)]

    return Happening(do=do, **more)


def _facts(*approvals: Any) -> ChangeFacts:
    known = facts(*approvals)
    return replace(known, patchset=replace(known.patchset, revision=revision(12, 1)))


def unvoted() -> Happening:
    """The vote of zuul is taken away; no event tells."""

    def do(process: Process) -> list[Event]:
        left = vote("Verified", -1, "jenkins")
        at = process.clock.now()
        process.outside.standing = (
            Standing(change_number=12, patchset=1, approvals=(left,), as_of=at),
        )
        return []

    return Happening(do=do, missed=True)


def released() -> Happening:
    """An operator lets go what is held back; who was cut off in it looks again."""

    def do(process: Process) -> list[Event]:
        for row in rows(process.database, schema.outbox, state="held"):
            outbox_actions.release(process.database, row.id, by="olga", at=process.clock.now())
        return []

    return Happening(do=do)


def moved_on() -> Happening:
    """What change 12 depends on gets another patch set."""

    def do(process: Process) -> list[Event]:
        old = process.outside.changes[13]
        newer = replace(old.patchset, patchset=2, revision="f" * 40)
        process.outside.changes[13] = replace(old, patchset=newer)
        return []

    return Happening(when="merge", do=do)


def other_votes_are_known(database: Database) -> None:
    known = {one.account: one.value for one in rows(database, schema.approval)}
    assert known == {"zuul": 0, "jenkins": -1}


def released_once(database: Database) -> None:
    assert [one.action for one in rows(database, schema.audit)] == ["outbox-release"]


def one_stack(database: Database) -> None:
    (mine,) = rows(database, schema.buildset)
    assert [one["revision"] for one in mine.depends] == [f"{13:040x}"]
    assert len({one.base_tree for one in rows(database, schema.attempt) if one.base_tree}) == 1


def superseded(database: Database) -> None:
    states = [(one.patchset, one.state) for one in rows(database, schema.buildset)]
    assert sorted(states) == [(1, "canceled"), (2, "done")]


ZUUL = {"approval": [{"label": "Verified", "value": 1, "by": ["zuul"]}]}
SECOND_IS_GOOD = {revision(12, 2): GOOD}
STORIES = {
    "told": Story(happenings=(pushed(),), votes=((12, 1, -1),)),
    "missed, with a recheck": Story(
        happenings=(
            pushed(missed=True),
            pushed(13, missed=True),
            said("recheck", missed=True),
        ),
        votes=((12, 1, -1), (12, 1, -1), (13, 1, 1)),
        scripts={revision(13, 1): GOOD},
        notices=("verdict",) * 3,
    ),
    "superseded in its run": Story(
        happenings=(pushed(), pushed(ps=2, when="merge")),
        votes=((12, 2, 1),),
        scripts=SECOND_IS_GOOD,
        check=superseded,
    ),
    "superseded on its way": Story(
        happenings=(pushed(), pushed(ps=2, when="post")),
        votes=((12, 2, 1),),
        scripts=SECOND_IS_GOOD,
        notices=("verdict",) * 2,
    ),
    "others vote": Story(
        happenings=(
            pushed(),
            voted(1, "zuul"),
            voted(-1, "jenkins", when="merge"),
            unvoted(),
        ),
        votes=((12, 1, -1),),
        pipeline={"require": ZUUL},
        check=other_votes_are_known,
    ),
    "held back": Story(
        happenings=(pushed(), released()),
        votes=((12, 1, -1),),
        pipeline={"policy": "plus-one-only"},
        notices=("held-vote", "verdict"),
        check=released_once,
    ),
    "stacked": Story(
        happenings=(pushed(), moved_on()),
        votes=((12, 1, -1),),
        message="A change\n\nDepends-On: https://review.example.org/c/acme/virt/+/13",
        check=one_stack,
    ),
}


def opening(story: Story) -> Outside:
    known = _facts() if "require" in story.pipeline else None
    return Outside(facts=known, changes={13: found(13)})


@pytest.mark.parametrize("name", STORIES)
def test_killed_at_every_write_there_is_exactly_one_vote(tmp_path, alive, name):
    story, outside = STORIES[name], opening(STORIES[name])
    camera, state = Camera(tmp_path / "left"), listened_before(tmp_path / "state")
    alive(state, story, outside, camera).live()
    check(state, story, outside, "without any kill")
    for left in camera.kept:
        alive(restored(left, state), story, left.outside).live()
        check(state, story, left.outside, f"killed at point {left.point}")
    assert len(camera.kept) > 30, "fewer points than the flow has steps: are they counted?"


@pytest.mark.parametrize("seed", range(CHAINS))
def test_killed_again_and_again(tmp_path, alive, seed):
    dice = random.Random(seed)
    story = STORIES[dice.choice(sorted(STORIES))]
    folder, outside = listened_before(tmp_path / "state"), opening(story)
    for life in range(8):
        camera = Camera(tmp_path / str(life), only=dice.randint(1, 14))
        alive(folder, story, outside, camera).live()
        if not camera.kept:
            break
        outside = camera.kept[0].outside
        restored(camera.kept[0], folder)
    alive(folder, story, outside).live()
    check(folder, story, outside, f"seed {seed}")


def check(folder: Path, story: Story, outside: Outside, when: str) -> None:
    """Every run has its one vote, everyone was told of it, and nothing is stuck."""
    assert outside.happened == len(story.happenings), when
    posted = [(one.change_number, one.patchset, one.value) for one in outside.posted]
    assert sorted(posted) == sorted(story.votes), when
    assert len({one.marker for one in outside.posted}) == len(posted), when
    assert not outside.engine, when
    database = Database.in_directory(folder)
    try:
        _nothing_is_stuck(database, when)
        _all_was_told(database, story, outside, when)
        story.check(database)
    finally:
        database.close()


def _nothing_is_stuck(database: Database, when: str) -> None:
    for table in (schema.buildset, schema.build):
        assert {one.state for one in rows(database, table)} <= ENDED, (when, table.name)
    assert {one.state for one in rows(database, schema.attempt)} == {"done"}, when
    assert {one.state for one in rows(database, schema.outbox)} <= {"delivered", "dropped"}, when
    assert all(one.processed_at for one in rows(database, schema.event)), when
    assert {one.holder for one in rows(database, schema.node)} == {None}, when


def _all_was_told(database: Database, story: Story, outside: Outside, when: str) -> None:
    """At least once, and what was told twice is word for word the same."""
    told: dict[str, Notice] = {}
    for one in (one for call in outside.told for one in call):
        assert told.setdefault(one.key, one) == one, when
    assert sorted(key.partition(":")[0] for key in told) == sorted(story.notices), when
    assert {one.key for one in rows(database, schema.notice)} == set(told), when
    assert {one.state for one in rows(database, schema.delivery)} == {"delivered"}, when
