# SPDX-License-Identifier: Apache-2.0
"""Writes of step 3: buildsets made once, numbered by recheck, cancelled whole."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.layout import Job
from ci.store import builds, events, schema
from ci.store.builds import NewBuildset, add_buildset
from tests.kit.core import (
    GERRIT,
    change,
    database_in,
    event,
    job,
    patchset,
    rows,
)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(tmp_path):
    return database_in(tmp_path)


def add(database, clock, *jobs, ps=1, pipeline="check", connection=GERRIT):
    with database.write() as tx:
        return add_buildset(
            tx,
            NewBuildset(
                connection=connection,
                change=change(),
                patchset=patchset(ps),
                pipeline=pipeline,
                jobs=jobs or (job(),),
                event_id=None,
                reason="why",
            ),
            at=clock.now(),
        )


def set_state(database, buildset_id, state):
    with database.write() as tx:
        mine = schema.buildset.c.id == buildset_id
        tx.execute(sa.update(schema.buildset).where(mine).values(state=state))


@pytest.mark.parametrize("state", ["queued", "running"])
def test_while_one_is_open_there_is_no_second(database, clock, state):
    first = add(database, clock)
    set_state(database, first, state)
    assert add(database, clock) is None
    assert len(rows(database, schema.build)) == 1


@pytest.mark.parametrize("state", ["done", "canceled"])
def test_after_its_end_a_recheck_gets_the_next_number(database, clock, state):
    numbers = []
    for _ in range(3):
        made = add(database, clock)
        numbers.append(rows(database, schema.buildset, id=made)[0].recheck)
        set_state(database, made, state)
    assert numbers == [0, 1, 2]
    assert len({row.id for row in rows(database, schema.build)}) == 3


def test_patch_sets_pipelines_and_servers_are_apart(database, clock):
    made = [
        add(database, clock),
        add(database, clock, ps=2),
        add(database, clock, pipeline="gate"),
        add(database, clock, connection="other"),
    ]
    assert len(set(made)) == 4
    assert None not in made


def test_the_database_itself_refuses_a_twin(database, clock):
    made = add(database, clock)
    (row,) = rows(database, schema.buildset, id=made)
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        tx.execute(sa.insert(schema.buildset).values({**row._mapping, "id": "another"}))


def test_the_job_is_frozen_as_it_was(database, clock):
    wanted = job("unit", env={"A": "1"}, node_attempts=2, irrelevant_files=["^docs/"])
    add(database, clock, wanted)
    assert Job.model_validate(rows(database, schema.build)[0].job) == wanted


def test_a_whole_buildset_is_cancelled_at_once(database, clock):
    made = add(database, clock, job("a"), job("b"), job("c"))
    first, second, _ = sorted(rows(database, schema.build), key=lambda b: b.job_name)
    with database.write() as tx:
        mine = schema.build.c.id.in_((first.id, second.id))
        tx.execute(sa.update(schema.build).where(mine).values(state="running", worker="w1"))
        mine = schema.build.c.id == second.id
        tx.execute(sa.update(schema.build).where(mine).values(state="done", result="SUCCESS"))
        asked = builds.cancel_buildsets(tx, [made], reason="why", at=clock.now())
    assert asked == (first.id,)
    states = {b.job_name: (b.state, b.cancel_reason) for b in rows(database, schema.build)}
    assert states == {
        "a": ("running", "why"),
        "b": ("done", None),
        "c": ("canceled", "why"),
    }
    assert rows(database, schema.buildset)[0].finished_at == clock.now()


def test_cancelling_twice_changes_nothing_more(database, clock):
    made = add(database, clock)
    for reason in ("first", "second"):
        with database.write() as tx:
            builds.cancel_builds(
                tx, connection=GERRIT, change_number=12, reason=reason, at=clock.now()
            )
        clock.advance(5)
    (build,) = rows(database, schema.build)
    assert build.cancel_reason == "first"
    (buildset,) = rows(database, schema.buildset, id=made)
    assert buildset.finished_at < clock.now()


def test_only_older_patch_sets(database, clock):
    add(database, clock, ps=1)
    add(database, clock, ps=2)
    with database.write() as tx:
        builds.cancel_builds(
            tx,
            connection=GERRIT,
            change_number=12,
            reason="newer",
            at=clock.now(),
            below_patchset=2,
        )
    states = {s.patchset: s.state for s in rows(database, schema.buildset)}
    assert states == {1: "canceled", 2: "queued"}


class TestOneForAFact:
    """An event never starts what was started for it already, or for something newer."""

    def add(self, database, clock, *, event_id, at, only_first=False):
        with database.write() as tx:
            return add_buildset(
                tx,
                NewBuildset(
                    connection=GERRIT,
                    change=change(),
                    patchset=patchset(),
                    pipeline="check",
                    jobs=(job(),),
                    event_id=event_id,
                    reason="why",
                    occurred_at=at,
                ),
                at=clock.now(),
                only_first=only_first,
            )

    def stored(self, database, clock, at, **more):
        one = event(clock, key=f"k{at.timestamp()}{more}", at=at, **more)
        events.store(database, one, received_at=clock.now(), move_watermark=False)
        return max(row.id for row in rows(database, schema.event))

    @pytest.mark.parametrize("state", ["queued", "running", "done", "canceled"])
    def test_the_first_run_is_the_only_one_of_its_kind(self, database, clock, state):
        set_state(database, add(database, clock), state)
        assert self.add(database, clock, event_id=None, at=clock.now(), only_first=True) is None

    def test_what_was_said_before_the_last_run_began_is_done(self, database, clock):
        at = clock.now()
        later = self.stored(database, clock, at + timedelta(seconds=9))
        made = self.add(database, clock, event_id=later, at=at + timedelta(seconds=9))
        set_state(database, made, "done")
        assert self.add(database, clock, event_id=None, at=at) is None
        assert self.add(database, clock, event_id=None, at=at + timedelta(seconds=9)) is not None

    def test_an_operators_request_bears_another_clocks_date(self, database, clock):
        at = clock.now()
        ahead = self.stored(database, clock, at + timedelta(hours=1), source="request")
        set_state(database, self.add(database, clock, event_id=ahead, at=None), "done")
        assert self.add(database, clock, event_id=None, at=at) is not None


def test_who_asked_and_why_are_kept_and_fit(database, clock):
    with database.write() as tx:
        made = add_buildset(
            tx,
            NewBuildset(
                connection=GERRIT,
                change=change(),
                patchset=patchset(),
                pipeline="check",
                jobs=(job(),),
                event_id=None,
                reason="why",
                requested_by="x" * 900,
                request="bug 1",
                made_up=True,
            ),
            at=clock.now(),
        )
    (row,) = rows(database, schema.buildset, id=made)
    assert (row.requested_by, row.request, row.made_up) == ("x" * 255, "bug 1", True)
