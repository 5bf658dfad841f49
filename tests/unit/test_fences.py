# SPDX-License-Identifier: Apache-2.0
"""A worker writes only what is its own, and what dead ones hold is taken back."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci import attempt
from ci.engine import Record
from ci.model.build import AttemptKind, Claim
from ci.reaper import Reaper
from ci.store import attempts, processes, schema
from tests.kit.core import FakeCheckout, Lab, ScriptedRunner, lab, queue_buildset, rows

GOOD = "write-junit r.xml pass=2"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    return lab(tmp_path, FakeCheckout((GOOD,), GOOD))


def queued(made: Lab) -> str:
    (build,) = queue_buildset(made.database, at=made.clock.now())
    return build


def steal(made: Lab, **values: Any) -> None:
    """Let another worker claim everything."""
    with made.database.write() as tx:
        new = {"worker": "other", "claim": schema.build.c.claim + 1, **values}
        tx.execute(sa.update(schema.build).values(**new))


def shown(made: Lab) -> tuple[str, int]:
    """Result of the one attempt, and how many outcomes it shows."""
    (row,) = rows(made.database, schema.attempt)
    return row.result, len(rows(made.database, schema.outcome))


class TestClaim:
    def test_an_old_claim_does_nothing(self, made):
        build = queued(made)
        claim = made.claim(build)
        steal(made)
        assert made.worker.attempt(build, claim, "check") == ""
        made.worker.report(build, claim)
        assert rows(made.database, schema.attempt) == []
        assert made.build(build).judgement is None

    def test_a_build_that_waits_again_is_nobodys(self, made):
        build = queued(made)
        claim = made.claim(build)
        steal(made, worker=None, claim=schema.build.c.claim, state="queued")
        assert made.worker.attempt(build, claim, "check") == ""
        assert rows(made.database, schema.attempt) == []

    def test_lost_before_the_node_was_used_nothing_runs(self, made):
        build = queued(made)
        made.checkout.before_merge = lambda: steal(made)
        assert made.attempt(build) == ""
        (row,) = rows(made.database, schema.attempt)
        assert (row.result, row.node, row.interrupted) == ("LOST", None, True)

    def test_results_that_come_too_late_are_evidence(self, made, monkeypatch):
        build = queued(made)
        real = attempt._on_node

        def late(*args: Any) -> Any:
            end = real(*args)
            steal(made)
            return end

        monkeypatch.setattr(attempt, "_on_node", late)
        assert made.attempt(build) == ""
        assert shown(made) == ("LOST", 2)
        (row,) = rows(made.database, schema.attempt)
        assert "what came in later does not count: SUCCESS, 2 tests" in row.error
        assert made.build(build).judgement is None
        with made.database.read() as tx:
            (judged,) = attempts.records(tx, build)
        assert judged.outcomes == ()

    def test_a_new_incarnation_outdoes_the_old(self, made):
        build = queued(made)
        claim = made.claim(build)
        with made.database.write() as tx:
            processes.register(
                tx,
                name=made.me.name,
                incarnation="second",
                roles=["work"],
                host="h",
                pid=1,
                version="1",
                slots=1,
                at=made.clock.now(),
            )
        assert made.worker.attempt(build, claim, "check") == ""
        assert rows(made.database, schema.attempt) == []
        made.me.incarnation = "second"
        assert made.worker.attempt(build, claim, "check") == ""
        assert made.kinds(build) == [("check", "SUCCESS")]

    def test_a_verdict_is_given_only_under_the_claim(self, made, monkeypatch):
        build = queued(made)
        claim = made.claim(build)
        made.worker.attempt(build, claim, "check")
        order = made.worker._rows.order(made.worker._rows.fence(build, claim))
        steal(made)
        monkeypatch.setattr(made.worker._rows, "order", lambda _: order)  # it had just looked
        made.worker.report(build, claim)
        assert rows(made.database, schema.outbox) == []
        assert made.build(build).state == "running"


class TestLease:
    def test_outcomes_and_lease_are_one_transaction(self, made, monkeypatch):
        """The node changed hands after the suite, before its outcomes were written."""
        build = queued(made)
        real = attempt._on_node

        def late(*args: Any) -> Any:
            end = real(*args)
            with made.database.write() as tx:
                tx.execute(sa.update(schema.node).values(token=schema.node.c.token + 1))
            return end

        monkeypatch.setattr(attempt, "_on_node", late)
        assert made.attempt(build) == "check"
        assert shown(made) == ("LOST", 2)
        assert "ran out under this attempt" in rows(made.database, schema.attempt)[0].error

    def test_a_lease_that_ran_out_does_not_count(self, made, monkeypatch):
        build = queued(made)
        real = attempt._on_node

        def late(*args: Any) -> Any:
            end = real(*args)
            made.clock.advance(61)
            return end

        monkeypatch.setattr(attempt, "_on_node", late)
        made.attempt(build)
        assert shown(made) == ("LOST", 2)

    def test_another_machines_clock_is_no_measure(self, made, monkeypatch):
        """Leases have the database's time: a worker whose clock is ahead settles all the same."""
        build = queued(made)
        began, real = made.clock.now(), attempt._on_node

        def late(*args: Any) -> Any:
            end = real(*args)
            monkeypatch.setattr(made.clock, "_now", began + timedelta(seconds=300))
            return end

        monkeypatch.setattr(attempt, "_on_node", late)
        monkeypatch.setattr("ci.attempt_rows.moment", lambda *_: began)
        made.attempt(build)
        assert shown(made) == ("SUCCESS", 2)


class TestFenced:
    def test_a_process_nobody_heard_of_ends_its_suite(self, made):
        build = queued(made)
        made.checkout.before_merge = made.worker.fence
        assert made.attempt(build) == "check"
        assert shown(made) == ("LOST", 0)
        assert "could not say" in rows(made.database, schema.attempt)[0].error

    def test_a_frozen_one_sees_it_by_itself(self, made):
        build = queued(made)

        def freeze() -> None:
            made.me.fenced = True
            made.clock.advance(50)

        made.checkout.before_merge = freeze
        made.attempt(build)
        assert shown(made)[0] == "LOST"
        made.me.fenced = False
        made.checkout.before_merge = lambda: None
        made.attempt(build)
        assert made.kinds(build)[-1] == ("check", "SUCCESS")


class FakeRecords:
    """The engine's records."""

    def __init__(self, *found: Record) -> None:
        self.found = list(found)

    def of(self) -> list[Record]:
        return list(self.found)

    def delete(self, gone: list[Record]) -> None:
        self.found = [one for one in self.found if one not in gone]


class TestReaper:
    def reaper(self, made: Lab, *found: Record) -> tuple[Reaper, FakeRecords, list[None]]:
        records, rung = FakeRecords(*found), []
        reaper = Reaper(
            made.database,
            made.clock,
            records,  # type: ignore[arg-type]
            term_s=60,
            on_queued=lambda: rung.append(None),
        )
        return reaper, records, rung

    def process(self, made: Lab, name: str, state: str = "running") -> None:
        with made.database.write() as tx:
            processes.register(
                tx,
                name=name,
                incarnation="first",
                roles=["work"],
                host="h",
                pid=1,
                version="1",
                slots=1,
                at=made.clock.now(),
            )
            processes.set_state(tx, name, state)

    def test_a_living_worker_keeps_its_builds(self, made):
        build = queued(made)
        self.process(made, "here")
        made.claim(build)
        reaper, _, rung = self.reaper(made)
        made.clock.advance(60)
        assert reaper.run() == 0
        assert made.build(build).state == "running"
        assert rung == []

    @pytest.mark.parametrize("how", ["silent", "stopped", "unknown", "frozen drain"])
    def test_a_dead_ones_go_back_first_in_line(self, made, how):
        build = queued(made)
        states = {"silent": "running", "stopped": "stopped", "frozen drain": "draining"}
        if how in states:
            self.process(made, "here", states[how])
        made.claim(build)
        attempt_id = made.worker._rows.begin(made.worker._rows.fence(build, 1), AttemptKind.CHECK)
        if how in {"silent", "frozen drain"}:
            made.clock.advance(61)
        reaper, _, rung = self.reaper(made)
        assert reaper.run() == 1
        assert reaper.run() == 0
        row = made.build(build)
        assert (row.state, row.worker, row.claim) == ("queued", None, 1)
        (left,) = rows(made.database, schema.attempt, id=attempt_id)
        assert (left.state, left.result, left.interrupted) == ("done", "LOST", True)
        assert rung == [None]

    def test_every_one_in_however_many_turns(self, made, monkeypatch):
        monkeypatch.setattr("ci.reaper.BATCH", 2)
        for number in range(5):
            (build,) = queue_buildset(made.database, at=made.clock.now(), number=number)
            made.claim(build)
        assert self.reaper(made)[0].run() == 5

    def test_its_nodes_are_left_to_their_leases(self, made):
        build = queued(made)
        made.claim(build)
        with made.database.write() as tx:
            tx.execute(sa.update(schema.node).values(holder="x", holder_worker="here"))
        self.reaper(made)[0].run()
        assert {row.holder for row in rows(made.database, schema.node)} == {"x"}

    def test_what_it_took_is_run_to_its_vote_by_another(self, made):
        build = queued(made)
        made.claim(build)
        self.reaper(made)[0].run()
        made.drive(build)
        assert made.build(build).claim == 2
        assert len(rows(made.database, schema.outbox)) == 1

    def test_records_of_dead_claims_are_dropped_and_no_others(self, made):
        build = queued(made)
        self.process(made, "here")
        made.claim(build)

        def record(number: int, executor: str, **more: bool) -> Record:
            claim = Claim(build, number)
            given = {"finished": False, "current": True, **more}
            return Record(workflow=f"{build}.{number}", claim=claim, executor=executor, **given)

        mine, old = record(1, "here"), record(0, "gone")
        ended, other = record(3, "gone", finished=True), record(4, "here", current=False)
        of_live, upgraded = record(5, "here", finished=True), record(1, "here", current=False)
        reaper, records, _ = self.reaper(made, mine, old, ended, other, of_live, upgraded)
        assert reaper.clean() == 3
        assert records.found == [mine, of_live, upgraded]

    def test_it_says_once_that_nobody_runs_builds(self, made, caplog):
        queued(made)
        reaper, _, _ = self.reaper(made)
        with caplog.at_level("ERROR"):
            reaper.run()
            reaper.run()
        assert reaper._idle_told
        self.process(made, "here")
        reaper.run()
        assert not reaper._idle_told
