# SPDX-License-Identifier: Apache-2.0
"""What ran before: first runs, verdicts that a copied vote stands for, rechecks and their limit."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.store import backlog, changes, events, history, schema
from ci.store.builds import NewBuildset, add_buildset
from ci.store.changes import Standing
from tests.kit.core import GERRIT, change, database_in, event, job, patchset, rows

SKIP = {"check": ("NO_CODE_CHANGE",), "gate": ()}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(tmp_path):
    return database_in(tmp_path)


def add(database, clock, *, ps: int = 1, pipeline: str = "check", **more: Any) -> str:
    """A finished buildset; `state` says how it ended."""
    state = more.pop("state", "done")
    with database.write() as tx:
        new = NewBuildset(
            connection=GERRIT,
            change=change(),
            patchset=patchset(ps),
            pipeline=pipeline,
            jobs=(job(),),
            event_id=None,
            reason="why",
            **more,
        )
        made = add_buildset(tx, new, at=clock.now())
        assert made is not None
        mine = schema.buildset.c.id == made
        tx.execute(sa.update(schema.buildset).where(mine).values(state=state))
    return made


def uploaded(database, clock, ps: int, kind: str = "REWORK") -> None:
    one = event(clock, ps=ps, patchset=patchset(ps, kind=kind))
    events.store(database, one, received_at=clock.now(), move_watermark=False)


def unjudged(database, ps: int) -> frozenset[str]:
    with database.read() as tx:
        return history.unjudged(tx, GERRIT, 12, ps, {"check": SKIP["check"]})


class TestUnjudged:
    def test_nothing_below_was_ever_run(self, database):
        assert unjudged(database, 1) == {"check"}
        assert unjudged(database, 2) == {"check"}

    @pytest.mark.parametrize(
        ("state", "found"),
        [("done", set()), ("queued", {"check"}), ("running", {"check"}), ("canceled", {"check"})],
    )
    def test_the_one_below_must_have_its_verdict(self, database, clock, state, found):
        add(database, clock, state=state)
        assert unjudged(database, 2) == found

    def test_a_chain_of_skipped_ones_leads_to_the_verdict(self, database, clock):
        add(database, clock, ps=1)
        uploaded(database, clock, 2, "NO_CODE_CHANGE")
        uploaded(database, clock, 3, "NO_CODE_CHANGE")
        assert unjudged(database, 4) == frozenset()

    def test_one_that_changed_code_and_never_ran_breaks_it(self, database, clock):
        add(database, clock, ps=1)
        uploaded(database, clock, 2, "REWORK")
        assert unjudged(database, 3) == {"check"}

    def test_one_that_nobody_told_of_breaks_it(self, database, clock):
        add(database, clock, ps=1)
        assert unjudged(database, 3) == {"check"}

    def test_another_pipelines_verdict_is_not_ours(self, database, clock):
        add(database, clock, pipeline="gate")
        assert unjudged(database, 2) == {"check"}

    def test_the_newest_run_of_a_patch_set_counts(self, database, clock):
        add(database, clock)
        add(database, clock, state="canceled")
        assert unjudged(database, 2) == {"check"}


def test_ran(database, clock):
    add(database, clock, state="canceled")
    add(database, clock, pipeline="gate")
    with database.read() as tx:
        assert history.ran(tx, GERRIT, 12, 1) == {"check", "gate"}
        assert history.ran(tx, GERRIT, 12, 2) == frozenset()
        assert history.ran(tx, "other", 12, 1) == frozenset()


class TestLimit:
    def allowed_at(self, database, clock, **more: Any):
        wanted = {"pipeline": "check", "requested_by": "ann", "count": 2, "per_s": 60, **more}
        with database.read() as tx:
            return history.next_recheck_at(tx, connection=GERRIT, at=clock.now(), **wanted)

    def test_so_many_and_then_none_until_the_oldest_is_past(self, database, clock):
        begin = clock.now()
        assert self.allowed_at(database, clock) is None
        add(database, clock, requested_by="ann")
        clock.advance(10)
        assert self.allowed_at(database, clock) is None
        add(database, clock, requested_by="ann")
        assert self.allowed_at(database, clock) == begin + timedelta(seconds=60)
        clock.advance(50)
        assert self.allowed_at(database, clock) is None

    def test_others_and_other_pipelines_do_not_count(self, database, clock):
        add(database, clock, requested_by="bob")
        add(database, clock, requested_by="ann", pipeline="gate")
        add(database, clock)
        assert self.allowed_at(database, clock, count=1) is None


def test_the_reasons_of_rechecks_belong_to_what_they_follow(database, clock):
    first = add(database, clock)
    second = add(database, clock, requested_by="ann", request="bug 1")
    add(database, clock, requested_by="bob", request="bug 2")
    add(database, clock, pipeline="gate", requested_by="eve", request="other")
    with database.read() as tx:
        assert [
            (r.number, r.requested_by, r.request) for r in history.rechecks_after(tx, first)
        ] == [
            (1, "ann", "bug 1"),
            (2, "bob", "bug 2"),
        ]
        assert [r.request for r in history.rechecks_after(tx, second)] == ["bug 2"]
        assert history.rechecks_after(tx, "nothing") == ()


class TestFacts:
    """`ci.store.changes`: a newer fact is never replaced by an older one."""

    def note(self, database, clock, ps: int, *, ago_s: float = 0, **more: Any) -> Standing:
        seen_at = clock.now() - timedelta(seconds=ago_s)
        with database.write() as tx:
            return changes.note(tx, "g", change(**more), ps, seen_at=seen_at, at=clock.now())

    def test_an_older_patch_set_changes_the_status_only(self, database, clock):
        self.note(database, clock, 3, subject="new")
        found = self.note(database, clock, 2, subject="old", status="ABANDONED")
        assert found == Standing(newest=3, status="ABANDONED")
        (row,) = rows(database, schema.change)
        assert (row.subject, row.patchset, row.status) == ("new", 3, "ABANDONED")

    def test_an_older_fact_changes_nothing_but_a_higher_number(self, database, clock):
        self.note(database, clock, 2, subject="new", status="ABANDONED")
        found = self.note(database, clock, 3, ago_s=60, subject="old")
        assert found == Standing(newest=3, status="ABANDONED", overtaken=True)
        assert found.closed_since
        (row,) = rows(database, schema.change)
        assert (row.subject, row.patchset, row.status) == ("new", 3, "ABANDONED")
        assert row.seen_at == clock.now()

    def test_of_the_same_second_the_later_told_counts(self, database, clock):
        self.note(database, clock, 1, status="ABANDONED")
        found = self.note(database, clock, 1)
        assert (found.status, found.overtaken, found.closed_since) == ("NEW", False, False)

    def test_an_open_change_is_not_closed_since(self, database, clock):
        self.note(database, clock, 1)
        assert not self.note(database, clock, 1, ago_s=9).closed_since


class TestBacklog:
    def keep(self, database, clock, number: int, source: str, **more: Any) -> None:
        one = event(clock, number=number, source=source, key=f"{number}{source}{more}", **more)
        events.store(database, one, received_at=clock.now(), move_watermark=False)

    def numbers(self, database, **more: Any) -> list[int]:
        return [one.change.number for _, one in backlog.to_plan(database, **more)]

    def test_in_order_of_arrival(self, database, clock):
        for number in (3, 1, 2):
            self.keep(database, clock, number, "stream")
        assert self.numbers(database) == [3, 1, 2]
        assert self.numbers(database, limit=2) == [3, 1]
        assert self.numbers(database, skip=[GERRIT]) == []

    def test_live_ones_overtake_any_number_of_missed_ones(self, database, clock):
        for number in range(100, 200):
            self.keep(database, clock, number, "catch-up")
        self.keep(database, clock, 1, "stream")
        self.keep(database, clock, 2, "request")
        self.keep(database, clock, 3, "catch-up", kind=backlog.ENDS[0])
        self.keep(database, clock, 4, "catch-up", connection="other")
        assert self.numbers(database, paced=[GERRIT]) == [1, 2, 3, 4]
        assert self.numbers(database)[:2] == [100, 101]

    def test_open_buildsets_of_missed_events_are_counted(self, database, clock):
        add(database, clock, made_up=True)
        add(database, clock, ps=2, made_up=True, state="queued")
        add(database, clock, ps=3, made_up=True, state="running")
        add(database, clock, ps=4, state="running")
        assert backlog.open_missed(database) == {GERRIT: 2}
