# SPDX-License-Identifier: Apache-2.0
"""A new patch set arrives in each phase of the old one's build: an end, its reason, no vote."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci import attempt
from ci.cancel import CancelToken
from ci.errors import LeaseLost, ReviewServerError
from ci.judge import INTERRUPTION_LIMIT
from ci.runners import dummy
from ci.runners.dummy import DummySession
from ci.scheduling import Needs
from ci.store import schema
from ci.store.builds import cancel_builds
from tests.kit.core import (
    GERRIT,
    FakeCheckout,
    Lab,
    ScriptedRunner,
    job,
    lab,
    layout,
    queue_buildset,
    rows,
)

GOOD = "write-junit r.xml pass=2"
REASON = "patch set 2 replaced this one"
BRIEF = {"interrupt-s": 1, "terminate-s": 1, "kill-s": 1}


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


class Story:
    """A build of patch set 1 on a lab of one node, and its end."""

    def __init__(self, folder: Path, script: str = GOOD, **more: Any) -> None:
        one = job(**BRIEF)
        plan = layout(one, state_dir=folder)
        self.folder = folder
        self.lab: Lab = lab(folder, FakeCheckout((script, GOOD), GOOD), plan=plan, slots=1, **more)
        self.job = one
        (self.build,) = queue_buildset(self.lab.database, one, at=self.lab.clock.now())

    def supersede(self, *_: object, reason: str = REASON) -> None:
        """What the planner does when a newer patch set arrives."""
        with self.lab.database.write() as tx:
            running = cancel_builds(
                tx,
                connection=GERRIT,
                change_number=12,
                reason=reason,
                at=self.lab.clock.now(),
                below_patchset=2,
            )
        self.lab.worker.cancel(running, reason)

    def first(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that is superseded as soon as it begins."""

        def wrapped(*args: Any, **more: Any) -> Any:
            self.supersede()
            return call(*args, **more)

        return wrapped

    def log(self) -> list[str]:
        """The log, line by line."""
        (found,) = (self.folder / "logs" / self.build).rglob("console.log")
        return found.read_text().splitlines()

    def ends(self, result: str = "CANCELED") -> None:
        """Drive it, and look at what is left."""
        self.lab.drive(self.build)
        self.ended(result)

    def ended(self, result: str = "CANCELED") -> None:
        """The build is canceled for its reason, the node is free and empty, nobody is told."""
        assert self.lab.kinds(self.build) == [("check", result)]
        row = self.lab.build(self.build)
        assert (row.state, row.result, row.reason) == ("canceled", "CANCELED", REASON)
        assert not any(self.lab.provider.alive(n) for n in self.lab.provider.node_names())
        assert {n.holder for n in rows(self.lab.database, schema.node)} == {None}
        assert rows(self.lab.database, schema.outbox) == []
        assert self.lab.worker.busy() == 0


@pytest.fixture
def while_it_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Calls something as soon as a suite waits."""

    def arrange(call: Callable[[], None]) -> None:
        real, once = dummy._Watch.wait, [call]

        def wait(self: Any, seconds: float) -> bool:
            if once:
                once.pop()()
            return real(self, seconds)

        monkeypatch.setattr(dummy._Watch, "wait", wait)

    return arrange


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_while_it_is_claimed_and_not_started(story):
    story.lab.claim(story.build)
    story.supersede()
    story.lab.attempt(story.build)
    story.lab.report(story.build)
    story.ended()
    assert rows(story.lab.database, schema.attempt)[0].node is None


def test_while_gerrit_is_away(story):
    story.lab.checkout._errors = [ReviewServerError("away", retryable=True)] * 50
    story.lab.checkout.before_merge = story.supersede
    story.ends()
    assert story.log()[-1].endswith(f"# CANCELED: {REASON}")


def test_while_it_waits_for_a_node(story, monkeypatch):
    pool = story.lab.pool
    (other,) = pool.acquire(Needs(label="lab"), holder="x", avoid=(), cancel=CancelToken())
    monkeypatch.setattr(pool._freed, "wait", story.supersede)
    story.lab.drive(story.build)
    pool.give_back(other)
    story.ended()


def test_while_its_machine_boots(story, monkeypatch):
    provider, opened = story.lab.provider, []
    monkeypatch.setattr(provider, "start", story.first(provider.start))
    monkeypatch.setattr(attempt, "runner_for", opened.append)
    story.ends()
    assert opened == []


def test_while_its_tree_is_shipped(story, monkeypatch):
    put = []
    monkeypatch.setattr(DummySession, "put_tree", lambda *_: put.append(True))
    checkout = story.lab.checkout
    monkeypatch.setattr(checkout, "archive", story.first(checkout.archive))
    story.ends()
    assert put == []


def test_while_its_suite_runs_whose_last_words_are_in_the_log(tmp_path, while_it_runs):
    story = Story(tmp_path, "last 0.05 the VM was still paused;hang")
    while_it_runs(story.supersede)
    story.ends()
    said = [line.partition(" | ")[2] for line in story.log()][-4:]
    assert said[0] == "the VM was still paused"
    assert said[1].startswith("# SIGINT ended 1 process after 0.")
    assert said[2].startswith("# teardown ended after")
    assert said[3] == f"# CANCELED: {REASON}"


def test_while_its_results_are_fetched(story, monkeypatch):
    monkeypatch.setattr(DummySession, "fetch", story.first(DummySession.fetch))
    story.ends()


def test_while_it_is_torn_down_what_it_found_is_no_vote(story, monkeypatch):
    provider = story.lab.provider
    monkeypatch.setattr(provider, "stop", story.first(provider.stop))
    story.ends("SUCCESS")


def test_a_second_reason_changes_nothing(tmp_path, monkeypatch, while_it_runs):
    story = Story(tmp_path, "hang")
    provider = story.lab.provider
    stopped, real = [], provider.stop

    def stop(name: str) -> None:
        story.lab.worker.cancel([story.build], "abandoned")
        stopped.append(name)
        real(name)

    while_it_runs(story.supersede)
    monkeypatch.setattr(provider, "stop", stop)
    story.ends()
    assert stopped == ["lab-1"]
    assert story.log()[-1].endswith(REASON)


def test_the_new_patch_set_starts_when_the_old_ones_teardown_has_ended(story, monkeypatch):
    made, provider = story.lab, story.lab.provider
    (newer,) = queue_buildset(made.database, story.job, at=made.clock.now(), ps=2)
    events: list[str] = []
    real_stop, real_start = provider.stop, provider.start
    threads: list[threading.Thread] = []

    def stop(name: str) -> None:
        if not threads:
            story.supersede()
            threads.append(threading.Thread(target=made.drive, args=(newer,)))
            threads[0].start()
            events.append("old one ends")
            assert not threading.Event().wait(0.3)
            events.append("old one ended")
        real_stop(name)

    def start(name: str, holder: str) -> Any:
        events.append("start")
        return real_start(name, holder)

    monkeypatch.setattr(provider, "stop", stop)
    monkeypatch.setattr(provider, "start", start)
    made.drive(story.build)
    threads[0].join(10)
    assert events == ["start", "old one ends", "old one ended", "start"]
    assert made.build(story.build).state == "canceled"
    (owed,) = rows(made.database, schema.outbox)
    assert (owed.patchset, owed.value) == (2, 1)
    assert made.build(newer).state == "done"


def test_a_lost_lease_ends_the_suite_with_that_reason(tmp_path, while_it_runs):
    story = Story(tmp_path, "hang")
    lost = LeaseLost("somebody else holds lab-1 by now")

    def lose() -> None:
        with story.lab.worker._lock:
            (token,) = story.lab.worker._running.values()
        token.cancel(lost)

    while_it_runs(lose)
    story.lab.drive(story.build)
    assert story.lab.kinds(story.build) == [("check", "LOST"), ("check", "SUCCESS")]
    errors = {row.error for row in rows(story.lab.database, schema.attempt)}
    assert lost.message in errors


class Killed(BaseException):
    """What a SIGKILL leaves: nothing was written down."""


def test_a_build_that_kills_its_worker_each_time_ends_without_a_vote(story, monkeypatch):
    runs = []

    def die(_: object) -> None:
        runs.append(True)
        raise Killed

    monkeypatch.setattr("ci.worker.run_attempt", die)
    for _ in range(INTERRUPTION_LIMIT + 5):
        claim = story.lab.claim(story.build)
        try:
            following = story.lab.worker.attempt(story.build, claim, "check")
        except Killed:
            continue
        assert following == ""
        break
    story.lab.worker.report(story.build, claim)
    assert len(runs) == INTERRUPTION_LIMIT + 1
    row = story.lab.build(story.build)
    assert (row.state, row.result, row.failure_class) == ("done", "RETRY_LIMIT", "infra")
    assert f"interrupted {INTERRUPTION_LIMIT} times" in row.reason
    assert {one.state for one in rows(story.lab.database, schema.attempt)} == {"done"}
    (owed,) = rows(story.lab.database, schema.outbox)
    assert owed.value is None
