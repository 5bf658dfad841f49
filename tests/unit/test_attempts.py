# SPDX-License-Identifier: Apache-2.0
"""Writes of steps 4 to 7: attempts, outcomes, the baseline that may be compared, the verdict."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.model.build import AttemptKind
from ci.model.result import FailureClass, Judgement, Outcome, Result, Status
from ci.store import attempts, schema
from ci.store.attempts import INTERRUPTED, AttemptEnd
from tests.kit.core import TIP, database_in, job, queue_buildset, rows

PASSED = AttemptEnd(
    result=Result.SUCCESS, outcomes=(Outcome(test_id="t", status=Status.PASS, message="m"),)
)
FAILED = AttemptEnd(
    result=Result.FAILURE, outcomes=(Outcome(test_id="t", status=Status.FAIL, message="m"),)
)
NOTED = {"tip": TIP, "tree": "with", "base_tree": "without", "grade": "nested", "node": "n1"}
FINE = Judgement(result=Result.SUCCESS, failure_class=FailureClass.PASS, vote=1, reason="fine")


class Store:
    """One buildset of jobs `a` and `b`, with the writes of a worker."""

    def __init__(self, folder):
        self.clock, self.database = FakeClock(), database_in(folder)
        self.first, self.second = queue_buildset(
            self.database, job("a"), job("b"), at=self.clock.now()
        )

    def begin(self, build=None, kind=AttemptKind.CHECK):
        self.clock.advance(1)
        with self.database.write() as tx:
            return attempts.begin(tx, build or self.first, kind, at=self.clock.now())

    def finish(self, attempt, end=PASSED, **noted):
        with self.database.write() as tx:
            attempts.update(tx, attempt, **{**NOTED, **noted})
            attempts.finish(tx, attempt, end, at=self.clock.now())

    def records(self, build=None):
        with self.database.read() as tx:
            return attempts.records(tx, build or self.first)

    def judge(self, build, judgement=FINE):
        with self.database.write() as tx:
            attempts.finish_build(tx, build, judgement, at=self.clock.now())
            return attempts.judged(tx, self.buildset().id)

    def buildset(self):
        return rows(self.database, schema.buildset)[0]

    def order(self, build=None):
        return attempts.load(self.database, build or self.first)

    def baselines(self, check, order=None):
        with self.database.read() as tx:
            now = self.clock.now()
            return attempts.baselines(tx, order or self.order(), check=check, at=now)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_an_order_knows_build_and_buildset(store):
    order = store.order()
    assert (order.job.name, order.state, order.project) == ("a", "queued", "acme/virt")
    assert (order.change_number, order.patchset, order.ref) == (12, 1, "refs/changes/12/12/1")
    assert attempts.load(store.database, "nobody") is None


def test_attempts_are_numbered_and_come_back_as_they_ended(store):
    first = store.begin()
    store.finish(first, AttemptEnd(result=Result.NODE_FAILURE, error="dead", hint="mend"))
    second = store.begin()
    store.finish(second)
    found = store.records()
    assert [(a.result, a.error, a.hint, len(a.outcomes)) for a in found] == [
        (Result.NODE_FAILURE, "dead", "mend", 0),
        (Result.SUCCESS, "", "", 1),
    ]
    assert found[1].outcomes[0] == Outcome(test_id="t", status=Status.PASS, message="m")
    assert (found[1].tip, found[1].grade, found[1].node) == (TIP, "nested", "n1")
    assert [r.number for r in rows(store.database, schema.attempt, id=second)] == [2]


def test_what_runs_is_no_record_yet(store):
    store.begin()
    assert store.records() == ()


def test_one_that_a_killed_process_left_is_closed_as_interrupted(store):
    left = store.begin()
    store.begin()
    (found,) = store.records()
    assert (found.attempt_id, found.result, found.interrupted) == (left, Result.LOST, True)
    assert found.error == INTERRUPTED


def test_the_open_attempt_of_another_build_is_left_alone(store):
    store.begin(store.second)
    store.begin(store.first)
    assert store.records(store.second) == ()


def test_nodes_tried_are_named_once_in_order(store):
    for node in ("n2", "n1", "n2", None):
        store.finish(store.begin(), node=node)
    assert attempts.nodes_tried(store.records()) == ("n2", "n1")


class TestBaselines:
    def check_of(self, store):
        attempt = store.begin()
        store.finish(attempt)
        return store.records()[0]

    def other(self, store, number, *jobs, end=PASSED, kind=AttemptKind.BASELINE, **noted):
        """A baseline that another change's build made; its attempt's id."""
        (build,) = queue_buildset(
            store.database, *(jobs or (job("a"),)), at=store.clock.now(), number=number
        )
        attempt = store.begin(build, kind)
        store.finish(attempt, end, **{"tree": "without", **noted})
        return attempt

    def judged_so(self, store, attempt, failure_class):
        """Give the build of an attempt a class."""
        with store.database.write() as tx:
            number = sa.select(schema.attempt.c.build_id).where(schema.attempt.c.id == attempt)
            mine = schema.build.c.id == number.scalar_subquery()
            tx.execute(sa.update(schema.build).where(mine).values(failure_class=failure_class))

    def test_of_other_builds_newest_first(self, store):
        check = self.check_of(store)
        made = [self.other(store, number) for number in (20, 21)]
        assert [b.attempt_id for b in store.baselines(check)] == made[::-1]
        assert store.baselines(check)[0].outcomes[0].test_id == "t"

    @pytest.mark.parametrize(
        "unlike",
        [
            {"tree": "with"},
            {"grade": "emulator"},
            {"hypervisor": "another 1.2"},
            {"kind": AttemptKind.REPEAT},
            {"kind": AttemptKind.CHECK, "end": FAILED},
            {"end": AttemptEnd(result=Result.TIMED_OUT)},
            {"end": AttemptEnd(result=Result.LOST, interrupted=True)},
        ],
    )
    def test_only_like_is_compared(self, store, unlike):
        check = self.check_of(store)
        self.other(store, 20, **unlike)
        assert store.baselines(check) == ()

    def test_the_tip_may_be_another_where_the_trees_are_the_same(self, store):
        check = self.check_of(store)
        assert self.other(store, 20, tip="8" * 40)
        assert len(store.baselines(check)) == 1

    def test_the_check_of_a_change_that_was_merged_since(self, store):
        check = self.check_of(store)
        merged = self.other(store, 20, kind=AttemptKind.CHECK)
        assert [b.attempt_id for b in store.baselines(check)] == [merged]

    @pytest.mark.parametrize(
        ("failure_class", "counts"),
        [
            ("regression", True),
            ("new-failing", True),
            ("known", True),
            ("flaky", False),
            ("infra", False),
            ("canceled", False),
            (None, False),
        ],
    )
    def test_its_failures_count_where_they_were_confirmed(self, store, failure_class, counts):
        check = self.check_of(store)
        merged = self.other(store, 20, kind=AttemptKind.CHECK, end=FAILED)
        self.judged_so(store, merged, failure_class)
        assert bool(store.baselines(check)) is counts

    def test_a_build_is_never_its_own_baseline(self, store):
        check = store.begin()
        store.finish(check, tree="without")
        assert store.baselines(store.records()[0]) == ()

    def test_an_attempt_of_an_unlike_node_does_not_count(self, store):
        check = self.check_of(store)
        self.other(store, 20)
        assert len(store.baselines(check)) == 1
        assert store.baselines(replace(check, likeness="qemu 8")) == ()

    def test_what_is_a_day_old_does_not_count(self, store):
        check = self.check_of(store)
        self.other(store, 20)
        store.clock.advance(attempts.BASELINE_AGE.total_seconds() - 5)
        assert len(store.baselines(check)) == 1
        store.clock.advance(10)
        assert store.baselines(check) == ()

    @pytest.mark.parametrize(
        "unlike", [job("b"), job("a", label="xen"), job("a", run="false"), job("a", env={"A": "1"})]
    )
    def test_another_job_or_another_command_is_not_like(self, store, unlike):
        check = self.check_of(store)
        self.other(store, 20, unlike)
        assert store.baselines(check) == ()

    def test_a_job_that_an_older_version_wrote_is_only_unlike(self, store):
        check = self.check_of(store)
        made = self.other(store, 20)
        with store.database.write() as tx:
            number = sa.select(schema.attempt.c.build_id).where(schema.attempt.c.id == made)
            mine = schema.build.c.id == number.scalar_subquery()
            tx.execute(sa.update(schema.build).where(mine).values(job={"gone": 1}))
        assert store.baselines(check) == ()

    @pytest.mark.parametrize(
        "unlike", [{"branch": "stable"}, {"project": "acme/x"}, {"connection": "other"}]
    )
    def test_another_place_is_not_like(self, store, unlike):
        check = self.check_of(store)
        self.other(store, 20)
        assert len(store.baselines(check)) == 1
        assert store.baselines(check, replace(store.order(), **unlike)) == ()


class TestVerdictOnce:
    def test_only_when_every_build_is_judged(self, store):
        assert store.judge(store.first) is None
        found = store.judge(store.second)
        assert [b.job_name for b in found] == ["a", "b"]
        assert found[0].judgement == FINE

    def test_a_done_buildset_gets_no_second_one(self, store):
        store.judge(store.first)
        store.judge(store.second)
        with store.database.write() as tx:
            attempts.finish_buildset(tx, store.buildset().id, {}, at=store.clock.now())
        assert store.judge(store.second) is None

    def test_a_canceled_buildset_gets_none(self, store):
        with store.database.write() as tx:
            tx.execute(sa.update(schema.buildset).values(state="canceled"))
        store.judge(store.first)
        assert store.judge(store.second) is None

    def test_a_judgement_that_stands_is_not_changed(self, store):
        store.judge(store.first)
        worse = replace(FINE, result=Result.FAILURE, vote=-1)
        store.judge(store.first, worse)
        (row,) = rows(store.database, schema.build, id=store.first)
        assert (row.state, row.result) == ("done", "SUCCESS")

    def test_a_canceled_build_says_so(self, store):
        canceled = replace(FINE, result=Result.CANCELED, failure_class=FailureClass.CANCELED)
        store.judge(store.first, canceled)
        assert rows(store.database, schema.build, id=store.first)[0].state == "canceled"
