# SPDX-License-Identifier: Apache-2.0
"""Why a build waits, where it stands and when it may start; what windows close."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from ci.clock import FakeClock
from ci.cron import trigger, window_at
from ci.layout import Maintenance
from ci.maintenance import closed_now
from ci.reasons import Busy, Scene, Waiting, obstacle, starts_at, without_dead
from ci.scheduling import Closed, Needs, Node, Site
from ci.store import leases, schema
from ci.waiting import Explainer
from tests.kit.core import database_in, job, layout, queue_buildset, rows

NOW = datetime(2026, 11, 28, 3, 30, tzinfo=UTC)  # a Saturday
MINUTE = timedelta(minutes=1)


def after(minutes: float) -> datetime:
    return NOW + minutes * MINUTE


class TestObstacles:
    def why(self, needs: Needs, nodes=(), **scene) -> str:
        workers = scene.pop("workers", {"w1": 4})
        limits = scene.pop("limits", {})
        site = without_dead(Site(nodes=nodes, limits=limits), workers)
        build = Waiting(
            build_id="b", needs=needs, pipeline="check", connection="review", job="unit"
        )
        return obstacle(build, Scene(site=site, workers=workers, **scene))

    LAB = Needs(label="lab")
    ONE = (Node(name="lab-1", label="lab"),)

    def test_none(self):
        assert self.why(self.LAB, self.ONE) == ""

    def test_a_label_that_left_the_configuration(self):
        assert self.why(self.LAB) == "no provider offers a node with label lab"

    def test_no_worker_at_all(self):
        said = self.why(self.LAB, self.ONE, workers={})
        assert said == "no worker runs: start a process with the role work"

    def test_no_worker_that_reaches_it(self):
        bound = [Node(name="lab-1", label="lab", worker="w2")]
        assert self.why(self.LAB, bound) == "no live worker reaches a lab node"
        other = Node(name="lab-2", label="lab", trouble="lab-2 is Bad: no answer")
        assert self.why(self.LAB, [*bound, other]) == (
            "no lab node is usable (lab-1 is reached by w2 only, which does not run; "
            "lab-2 is Bad: no answer)"
        )

    def test_what_is_closed_says_so(self):
        closed = Closed(pipelines={"check": "pipeline check is paused by ann: x"})
        assert self.why(self.LAB, self.ONE, closed=closed).startswith("pipeline check is paused")
        closed = Closed(labels={"lab": "label lab is in maintenance"})
        assert self.why(self.LAB, self.ONE, closed=closed) == "label lab is in maintenance"

    def test_sets_and_tags(self):
        pair = Needs(label="lab", peers=("lab",))
        assert "it needs 2 lab nodes at once, and 1 are usable" in self.why(pair, self.ONE)
        two = [Node(name=f"lab-{w}", label="lab", worker=w) for w in ("w1", "w2")]
        said = self.why(pair, two, workers={"w1": 1, "w2": 1})
        assert said == "no single worker reaches all the nodes of its set"
        assert "the label's slots are 1" in self.why(
            pair, [*self.ONE, Node(name="lab-2", label="lab")], limits={"lab": 1}
        )
        big = Needs(label="lab", requires=frozenset({"big"}))
        assert self.why(big, self.ONE) == "no usable lab node has what it requires: big"


class TestStarts:
    def test_an_idle_line_starts_at_once(self):
        line = [(1, 10 * MINUTE)] * 3
        assert starts_at(line, [], nodes=2, now=NOW) == [NOW, NOW, after(10)]

    def test_behind_what_runs(self):
        busy = [Busy(count=1, ends_at=after(5)), Busy(count=1, ends_at=after(-3))]
        assert starts_at([(1, 10 * MINUTE)] * 2, busy, nodes=2, now=NOW) == [NOW, after(5)]

    def test_a_set_waits_for_its_last_node(self):
        busy = [Busy(count=1, ends_at=after(5))]
        line = [(2, 10 * MINUTE), (1, MINUTE)]
        assert starts_at(line, busy, nodes=2, now=NOW) == [after(5), after(15)]

    def test_unknown_is_said(self):
        known, unknown = (1, MINUTE), (1, None)
        assert starts_at([unknown, known], [], nodes=1, now=NOW) == [NOW, None]
        busy = [Busy(count=1, ends_at=None)]
        assert starts_at([known], busy, nodes=1, now=NOW) == [None]
        assert starts_at([known], [], nodes=0, now=NOW) == [None]


class TestWindows:
    @pytest.mark.parametrize(
        ("at", "inside"),
        [(NOW, True), (after(-31), False), (after(-30), True), (after(90), False)],
    )
    def test_the_end_is_outside(self, at, inside):
        assert (window_at("0 3 * * 6", 120, at) is not None) == inside

    def test_weekdays_count_as_cron_does(self):
        sunday = NOW + timedelta(days=1)
        assert window_at("0 3 * * 0", 60, sunday)
        assert window_at("0 3 * * 7", 60, sunday)
        assert window_at("0 3 * * 1-5", 60, sunday) is None
        assert window_at("0 3 * * 1-5", 60, sunday + timedelta(days=1))

    @pytest.mark.parametrize("line", ["", "* * * *", "61 * * * *", "0 3 * * xyz"])
    def test_what_is_no_cron_line(self, line):
        with pytest.raises(ValueError, match="cron line"):
            trigger(line)

    def test_a_window_says_where(self):
        fields = {"name": "w", "cron": "0 3 * * 6", "minutes": 120, "why": "disks"}
        with pytest.raises(ValidationError, match="say where"):
            Maintenance.model_validate(fields)
        window = Maintenance.model_validate({**fields, "nodes": ["lab-1"], "labels": ["xen"]})
        closed = closed_now([window], NOW)
        assert closed.labels == {
            "xen": "label xen is in maintenance (w): disks, until 2026-11-28 05:00 UTC"
        }
        assert set(closed.nodes) == {"lab-1"}
        assert closed_now([window], after(120)) == Closed()


class Desk:
    """A line of builds of one label, and who explains it."""

    def __init__(self, folder, nodes: int = 1) -> None:
        self.database, self.clock = database_in(folder), FakeClock()
        self.workers = {"w1": 4}
        plan = layout(job())
        self.explainer = Explainer(self.database, self.clock, lambda: plan, lambda _: self.workers)
        with self.database.write() as tx:
            for n in range(nodes):
                leases.register(tx, name=f"lab-{n}", label="lab", provider="p")

    def queue(self, number: int) -> str:
        return queue_buildset(self.database, at=self.clock.now(), number=number)[0]

    def build(self, build_id: str) -> sa.Row:
        return rows(self.database, schema.build, id=build_id)[0]

    def ran(self, number: int, minutes: float) -> None:
        """A build of the job that ended now."""
        build_id = self.queue(number)
        with self.database.write() as tx:
            tx.execute(
                sa.update(schema.build)
                .where(schema.build.c.id == build_id)
                .values(
                    state="done",
                    started_at=self.clock.now() - minutes * MINUTE,
                    finished_at=self.clock.now(),
                )
            )


def test_position_and_start_come_from_history(tmp_path):
    desk = Desk(tmp_path)
    for number, minutes in enumerate((10, 20, 60)):
        desk.ran(100 + number, minutes)
    made = [desk.queue(number) for number in range(3)]
    assert desk.explainer.explain() == 3
    found = [desk.build(one) for one in made]
    assert [one.position for one in found] == [1, 2, 3]
    assert [one.eta_at - desk.clock.now() for one in found] == [
        0 * MINUTE,
        20 * MINUTE,
        40 * MINUTE,
    ]


def test_without_history_the_start_is_unknown_behind_the_first(tmp_path):
    desk = Desk(tmp_path)
    made = [desk.queue(number) for number in range(2)]
    desk.explainer.explain()
    assert [desk.build(one).eta_at for one in made] == [desk.clock.now(), None]


def test_only_what_changed_is_written(tmp_path):
    desk = Desk(tmp_path)
    desk.queue(1)
    assert desk.explainer.explain() == 1
    desk.clock.advance(5)
    assert desk.explainer.explain() == 0
    desk.workers = {}
    assert desk.explainer.explain() == 1


def test_who_falls_behind_the_first_two_hundred_loses_its_position(tmp_path, monkeypatch):
    monkeypatch.setattr("ci.store.lines.SHOWN", 2)
    desk = Desk(tmp_path)
    made = [desk.queue(number) for number in range(2)]
    desk.explainer.explain()
    assert desk.build(made[1]).position == 2
    with desk.database.write() as tx:  # somebody asked for another one
        mine = schema.build.c.id == made[0]
        tx.execute(sa.update(schema.build).where(mine).values(priority=0))
    late = desk.queue(3)
    with desk.database.write() as tx:
        tx.execute(sa.update(schema.build).where(schema.build.c.id == late).values(priority=0))
    desk.explainer.explain()
    assert desk.build(made[1]).position is None
    assert "more than" in desk.build(made[1]).waiting
