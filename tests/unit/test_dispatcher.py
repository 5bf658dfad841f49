# SPDX-License-Identifier: Apache-2.0
"""Between steps 3 and 4: first come first served, where there is room, and why the rest waits."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.bell import Bell
from ci.clock import FakeClock
from ci.dispatcher import Dispatcher
from ci.errors import StorageError
from ci.model.build import AttemptKind, Claim
from ci.model.node import NodeState
from ci.store import attempts, builds, leases, queue, schema
from ci.waiting import Explainer
from tests.kit.core import GERRIT, database_in, job, queue_buildset, rows


class FakeEngine:
    """Remembers what it runs; `crash` ends it before or after it took a build."""

    def __init__(self) -> None:
        self.live: list[str] = []
        self.done: list[str] = []
        self.forgotten: list[str] = []
        self.crash = ""

    def submit(self, build: Claim) -> None:
        build_id = build.build_id
        if self.crash == "before":
            raise KeyboardInterrupt
        if build_id not in [*self.live, *self.done]:
            self.live.append(build_id)
        if self.crash == "after":
            raise KeyboardInterrupt

    def unknown(self, builds) -> tuple[Claim, ...]:
        return tuple(one for one in builds if one.build_id not in self.live)

    def forget(self, builds) -> None:
        for build_id, _ in builds:
            self.forgotten.append(build_id)
            if build_id in self.done:
                self.done.remove(build_id)

    def finished(self, limit: int = 500) -> tuple[Claim, ...]:
        return tuple(Claim(one, 1) for one in self.done[:limit])


class Desk:
    """A dispatcher over `nodes` of each label."""

    def __init__(self, folder: Path, *, slots: int = 4, **nodes: int) -> None:
        self.clock, self.database, self.engine = FakeClock(), database_in(folder), FakeEngine()
        self.dispatcher = Dispatcher(
            self.database, self.clock, self.engine, worker="w1", slots=slots, bell=Bell()
        )
        self.explainer = Explainer(self.database, self.clock, None, lambda _: {"w1": slots})
        with self.database.write() as tx:
            for label, count in nodes.items():
                for number in range(count):
                    leases.register(tx, name=f"{label}-{number}", label=label, provider="p")

    def queue(self, number: int, *labels: str) -> list[str]:
        self.clock.advance(1)
        jobs = [job(f"j{n}", label) for n, label in enumerate(labels or ("lab",))]
        return queue_buildset(self.database, *jobs, at=self.clock.now(), number=number)

    def end(self, build_id: str) -> None:
        with self.database.write() as tx:
            mine = schema.build.c.id == build_id
            tx.execute(sa.update(schema.build).where(mine).values(state="done"))
        self.engine.live.remove(build_id)
        self.engine.done.append(build_id)

    def bad(self, node: str, reason: str = "no answer") -> None:
        with self.database.write() as tx:
            leases.set_health(
                tx, name=node, state=NodeState.BAD, reason=reason, failures=3, now=self.clock.now()
            )

    def waiting(self, build_id: str) -> str:
        self.explainer.explain()
        return str(rows(self.database, schema.build, id=build_id)[0].waiting)


def test_oldest_first_and_only_where_there_is_a_node(tmp_path):
    desk = Desk(tmp_path, lab=2)
    made = [desk.queue(number)[0] for number in (30, 20, 10)]
    assert desk.dispatcher.dispatch() == 2
    assert desk.engine.live == made[:2]
    assert desk.dispatcher.dispatch() == 0
    desk.end(made[0])
    assert desk.dispatcher.dispatch() == 1
    assert desk.engine.live == made[1:]
    states = {b.id: b.state for b in rows(desk.database, schema.build)}
    assert states == {made[0]: "done", made[1]: "running", made[2]: "running"}


def test_a_full_label_holds_up_no_other(tmp_path):
    desk = Desk(tmp_path, lab=1, xen=1)
    first, second = desk.queue(1)[0], desk.queue(2)[0]
    other = desk.queue(3, "xen")[0]
    assert desk.dispatcher.dispatch() == 2
    assert desk.engine.live == [first, other]
    assert desk.waiting(second) == "the lab node is busy, next in line"


def test_slots_bound_all_labels_together(tmp_path):
    desk = Desk(tmp_path, slots=2, lab=2, xen=2)
    made = [*desk.queue(1), *desk.queue(2, "xen"), *desk.queue(3, "xen")]
    assert desk.dispatcher.dispatch() == 2
    assert desk.waiting(made[2]) == "all 2 slots of this installation are busy, next in line"


def test_a_canceled_build_is_not_started(tmp_path):
    desk = Desk(tmp_path, lab=1)
    desk.queue(12)
    with desk.database.write() as tx:
        builds.cancel_builds(
            tx, connection=GERRIT, change_number=12, reason="x", at=desk.clock.now()
        )
    assert desk.dispatcher.dispatch() == 0


def test_the_buildset_runs_with_its_first_build(tmp_path):
    desk = Desk(tmp_path, lab=1)
    desk.queue(12, "lab", "lab")
    desk.dispatcher.dispatch()
    assert rows(desk.database, schema.buildset)[0].state == "running"


class TestWhyItWaits:
    def test_no_such_label(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1, "zvm")
        assert desk.dispatcher.dispatch() == 0
        assert desk.waiting(build) == "no provider offers a node with label zvm"

    def test_bad_nodes_are_named_with_their_trouble(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        desk.bad("lab-0")
        assert desk.dispatcher.dispatch() == 0
        assert desk.waiting(build) == "no lab node is usable (lab-0 is Bad: no answer)"

    def test_a_place_in_the_line(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        made = [desk.queue(number)[0] for number in range(4)]
        desk.dispatcher.dispatch()
        assert desk.waiting(made[3]).endswith("busy, 2 before it")

    def test_it_is_cleared_when_the_build_starts(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        desk.bad("lab-0")
        assert desk.waiting(build)
        with desk.database.write() as tx:
            leases.set_health(
                tx,
                name="lab-0",
                state=NodeState.GOOD,
                reason="",
                failures=0,
                now=desk.clock.now(),
            )
        desk.dispatcher.dispatch()
        assert rows(desk.database, schema.build)[0].waiting == ""

    def test_a_retired_node_is_no_room(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        with desk.database.write() as tx:
            leases.retire_missing(tx, ["other"])
        assert desk.waiting(build) == "no provider offers a node with label lab"


class TestCrashes:
    @pytest.mark.parametrize("crash", ["before", "after"])
    def test_between_claim_and_submit(self, tmp_path, crash):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        desk.engine.crash = crash
        with pytest.raises(KeyboardInterrupt):
            desk.dispatcher.dispatch()
        assert rows(desk.database, schema.build)[0].state == "running"
        desk.engine.crash = ""
        assert desk.dispatcher.reconcile() == (1 if crash == "before" else 0)
        assert desk.engine.live == [build]
        assert desk.dispatcher.reconcile() == 0

    def test_a_workflow_that_ended_in_error_is_run_anew(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        desk.dispatcher.dispatch()
        desk.engine.live.remove(build)
        desk.engine.done.append(build)
        assert desk.dispatcher.reconcile() == 1
        assert (desk.engine.live, desk.engine.forgotten) == ([build], [build])

    def test_what_ended_is_forgotten_and_stays_ended(self, tmp_path):
        desk = Desk(tmp_path, lab=1)
        (build,) = desk.queue(1)
        desk.dispatcher.dispatch()
        desk.end(build)
        assert desk.dispatcher.forget() == 1
        assert desk.dispatcher.reconcile() == 0
        assert desk.engine.live == []


def test_a_full_disk_is_waited_for(tmp_path, monkeypatch):
    desk = Desk(tmp_path, lab=1)
    desk.queue(1)
    calls: list[float] = []

    def claim(*_, **__):
        raise StorageError("disk full", retryable=True)

    def wait(seconds: float) -> bool:
        calls.append(seconds)
        desk.dispatcher.stop()
        return True

    monkeypatch.setattr(queue, "claim_next", claim)
    monkeypatch.setattr(desk.dispatcher._stop, "wait", wait)
    desk.dispatcher.run()
    assert calls == [2.0]
    assert rows(desk.database, schema.build)[0].state == "queued"


def _merging(desk: Desk, build_id: str, *, connection: str = GERRIT) -> None:
    """The build's attempt merges now; its change lives on this server."""
    with desk.database.write() as tx:
        attempts.begin(tx, build_id, AttemptKind.CHECK, at=desk.clock.now())
        owner = rows(desk.database, schema.build, id=build_id)[0].buildset_id
        tx.execute(
            sa.update(schema.buildset)
            .where(schema.buildset.c.id == owner)
            .values(connection=connection)
        )


def test_builds_that_wait_for_their_server_take_no_room_from_others(tmp_path):
    desk = Desk(tmp_path, slots=2, lab=2)
    for number in (1, 2, 3):
        desk.queue(number)
    assert desk.dispatcher.dispatch() == 2
    stuck = list(desk.engine.live)
    for build_id in stuck:
        _merging(desk, build_id, connection="silent")
    [third] = [b.id for b in rows(desk.database, schema.build) if b.id not in stuck]
    assert desk.dispatcher.dispatch() == 0
    desk.clock.advance(21)
    assert desk.dispatcher.dispatch() == 1
    assert desk.engine.live == [*stuck, third]


def test_a_server_that_is_away_gets_no_more_builds_and_the_page_says_why(tmp_path):
    desk = Desk(tmp_path, slots=4, lab=4)
    desk.queue(1)
    desk.dispatcher.dispatch()
    [stuck] = desk.engine.live
    _merging(desk, stuck)
    desk.clock.advance(21)
    [second] = desk.queue(2)
    assert desk.dispatcher.dispatch() == 0
    assert desk.waiting(second) == f"the review server of {GERRIT} is away"
