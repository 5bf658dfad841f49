# SPDX-License-Identifier: Apache-2.0
"""Steps 4 to 7 together, on dummy nodes: which attempts a build gets, and what is owed for it."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci import attempt
from ci.attempt_rows import Stopping
from ci.comment_rules import problems
from ci.errors import HypervouchError, MergeConflict, ReviewServerError, StorageError
from ci.layout import Job
from ci.model.node import Endpoint
from ci.store import attempts, schema
from tests.kit.core import (
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
BAD = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


def site(folder: Path, *patched: str, tip: str = GOOD, errors: Any = (), **more: Any) -> Lab:
    return lab(folder, FakeCheckout(patched or (GOOD,), tip, errors), **more)


def run(made: Lab, *jobs: Job, number: int = 12) -> str:
    (build,) = queue_buildset(made.database, *jobs, at=made.clock.now(), number=number)
    made.drive(build)
    return build


def owed(made: Lab) -> list[tuple[str | None, int | None]]:
    return [(row.label, row.value) for row in rows(made.database, schema.outbox)]


def nodes(made: Lab, build: str) -> list[str]:
    found = rows(made.database, schema.attempt, build_id=build)
    return [row.node for row in sorted(found, key=lambda row: row.number)]


class TestVotes:
    def test_a_good_patch(self, tmp_path):
        made = site(tmp_path)
        build = run(made)
        assert made.kinds(build) == [("check", "SUCCESS")]
        assert owed(made) == [("Verified", 1)]
        assert made.build(build).reason == "all 2 tests passed"
        assert rows(made.database, schema.buildset)[0].state == "done"
        assert made.verdicts == [None]

    def test_a_regression_is_compared_and_repeated_before_it_is_said(self, tmp_path):
        made = site(tmp_path, BAD)
        build = run(made)
        assert made.kinds(build) == [
            ("check", "FAILURE"),
            ("baseline", "SUCCESS"),
            ("repeat", "FAILURE"),
        ]
        assert owed(made) == [("Verified", -1)]
        assert made.build(build).failure_class == "regression"
        (row,) = rows(made.database, schema.outbox)
        assert "test_pass_2: fail on purpose" in row.message
        assert problems(row.message) == ()

    def test_a_failure_of_the_branch_costs_nobody_a_vote(self, tmp_path):
        made = site(tmp_path, BAD, tip=BAD)
        build = run(made)
        assert made.kinds(build) == [("check", "FAILURE"), ("baseline", "FAILURE")]
        assert owed(made) == [("Verified", 1)]

    def test_a_flaky_test_is_named_and_passes(self, tmp_path):
        made = site(tmp_path, BAD, GOOD)
        build = run(made)
        assert made.build(build).failure_class == "flaky"
        assert owed(made) == [("Verified", 1)]

    def test_the_next_change_on_the_same_tip_uses_the_same_baseline(self, tmp_path):
        made = site(tmp_path, BAD)
        run(made)
        build = run(made, number=13)
        assert made.kinds(build) == [("check", "FAILURE"), ("repeat", "FAILURE")]
        assert owed(made) == [("Verified", -1), ("Verified", -1)]

    def test_an_exit_status_is_a_test_for_a_shell_job(self, tmp_path):
        shell = job("sh", suite="shell", results=[])
        made = site(tmp_path, "exit 3", tip="true", plan=layout(shell, state_dir=tmp_path))
        build = run(made, shell)
        assert made.kinds(build)[0] == ("check", "FAILURE")
        assert owed(made) == [("Verified", -1)]

    @pytest.mark.parametrize("script", ["true", "exit 4", "write-junit r.xml skip=2"])
    def test_a_suite_that_ran_no_test_votes_nothing_and_is_not_repeated(self, tmp_path, script):
        made = site(tmp_path, script)
        build = run(made)
        assert made.kinds(build) == [("check", "ERROR")]
        assert owed(made) == [(None, None)]
        assert "no test" in made.build(build).reason

    def test_all_passed_but_the_command_did_not(self, tmp_path):
        made = site(tmp_path, "write-junit r.xml pass=2; exit 1")
        build = run(made)
        assert made.build(build).failure_class == "empty"
        assert owed(made) == [(None, None)]


class TestTrouble:
    def test_a_node_that_does_not_come_up_is_left_for_another(self, tmp_path):
        made = site(tmp_path, fail_starts=1)
        build = run(made)
        assert made.kinds(build) == [("check", "NODE_FAILURE"), ("check", "SUCCESS")]
        first, second = nodes(made, build)
        assert first != second
        assert owed(made) == [("Verified", 1)]
        assert rows(made.database, schema.node, name=first)[0].failures == 1

    def test_a_node_that_dies_half_way_too(self, tmp_path):
        made = site(tmp_path, "echo begun; die", GOOD)
        build = run(made)
        assert made.kinds(build) == [("check", "NODE_FAILURE"), ("check", "SUCCESS")]
        assert len(set(nodes(made, build))) == 2

    def test_a_dead_lab_votes_nothing(self, tmp_path):
        made = site(tmp_path, "die", slots=3)
        build = run(made, job(node_attempts=2))
        assert made.kinds(build) == [("check", "NODE_FAILURE")] * 2
        assert made.build(build).result == "RETRY_LIMIT"
        assert owed(made) == [(None, None)]
        (row,) = rows(made.database, schema.outbox)
        assert problems(row.message) == ()
        assert "lab's trouble" in row.message

    def test_a_lost_repeat_takes_the_minus_one_away(self, tmp_path):
        made = site(tmp_path, BAD, "die", slots=6)
        build = run(made)
        assert made.build(build).failure_class == "infra"
        assert owed(made) == [(None, None)]

    @pytest.mark.parametrize("policy", ["silent", "comment", "vote"])
    def test_a_merge_conflict_is_told_as_configured(self, tmp_path, policy):
        plan = layout(state_dir=tmp_path, **{"merge-conflict": policy})
        made = site(tmp_path, errors=[MergeConflict("conflict in a.c")], plan=plan)
        build = run(made)
        assert made.kinds(build) == [("check", "MERGE_CONFLICT")]
        wanted = {"silent": [], "comment": [(None, None)], "vote": [("Verified", -1)]}
        assert owed(made) == wanted[policy]
        assert nodes(made, build) == [None]

    def test_a_server_that_is_away_is_waited_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ci.cancel.threading.Event.wait", lambda *_: False)
        errors = [ReviewServerError("away", retryable=True)] * 3
        made = site(tmp_path, errors=errors)
        assert made.kinds(run(made)) == [("check", "SUCCESS")]

    def test_results_under_a_stale_lease_are_evidence_and_no_vote(self, tmp_path):
        made = site(tmp_path)
        late = [61]

        def slow(_: Endpoint) -> dict[str, str]:
            made.clock.advance(late.pop() if late else 0)
            return {}

        made.pool._preflight = slow
        build = run(made)
        assert made.kinds(build) == [("check", "LOST"), ("check", "SUCCESS")]

    def test_a_bug_of_ours_costs_one_attempt(self, tmp_path):
        made = site(tmp_path, errors=[KeyError("oops")])
        build = run(made)
        assert made.kinds(build) == [("check", "LOST"), ("check", "SUCCESS")]
        assert any("KeyError" in r.error for r in rows(made.database, schema.attempt))

    def test_an_untrusted_job_never_runs_on_this_machine_and_harms_no_node(self, tmp_path):
        made = site(tmp_path, transport="local")
        build = run(made)
        assert made.build(build).result == "ERROR"
        assert "not trusted" in made.build(build).reason
        assert {n.failures for n in rows(made.database, schema.node)} == {0}

    def test_whatever_happens_every_machine_ends_and_every_lease_is_back(self, tmp_path):
        for number, script in enumerate([GOOD, BAD, "die", "exit 9", "write-junit r.xml skip=1"]):
            folder = tmp_path / str(number)
            made = site(folder, script, slots=3)
            run(made)
            assert not any(made.provider.alive(n) for n in made.provider.node_names())
            assert {n.holder for n in rows(made.database, schema.node)} == {None}
            assert made.worker.busy() == 0


class TestCancel:
    def cancel_while_merging(self, made: Lab, build: str) -> None:
        made.checkout.before_merge = lambda: made.worker.cancel([build], "superseded")

    def test_a_running_build_ends_without_a_vote(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        self.cancel_while_merging(made, build)
        made.drive(build)
        assert made.kinds(build) == [("check", "CANCELED")]
        assert (made.build(build).state, made.build(build).reason) == ("canceled", "superseded")
        assert owed(made) == []

    def test_one_canceled_in_the_database_before_it_began(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        with made.database.write() as tx:
            tx.execute(sa.update(schema.build).values(cancel_reason="abandoned"))
        made.drive(build)
        assert made.build(build).state == "canceled"
        assert nodes(made, build) == [None]

    def test_others_go_on(self, tmp_path):
        made = site(tmp_path)
        made.checkout.before_merge = lambda: made.worker.cancel(["another"], "x")
        assert owed(made) == []
        run(made)
        assert owed(made) == [("Verified", 1)]


class TestStopping:
    def test_a_stop_leaves_the_build_to_the_next_start(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        made.checkout.before_merge = made.worker.stop
        with pytest.raises(Stopping):
            made.drive(build)
        assert made.kinds(build) == [("check", None)]
        assert made.build(build).state == "running"
        assert owed(made) == []
        made.database.close()

        again = site(tmp_path)
        again.drive(build)
        assert again.kinds(build) == [("check", "LOST"), ("check", "SUCCESS")]
        assert owed(again) == [("Verified", 1)]

    def test_a_stop_before_the_attempt_began_is_seen(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        made.worker.stop()
        with pytest.raises(Stopping):
            made.attempt(build, "check")
        assert nodes(made, build) == [None]

    def test_stopping_is_no_exception_that_anybody_takes_for_a_result(self):
        assert not issubclass(Stopping, Exception)


class TestRepeatedSteps:
    """The engine runs a step again when the process died before it was written down."""

    def test_an_attempt_that_was_finished_is_not_run_again(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        assert made.attempt(build, "check") == ""
        assert made.attempt(build, "check") == ""
        assert made.kinds(build) == [("check", "SUCCESS")]

    def test_it_goes_on_with_what_is_wanted_next(self, tmp_path):
        made = site(tmp_path, BAD)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        assert made.attempt(build, "check") == "baseline"
        assert made.attempt(build, "check") == "repeat"
        assert made.attempt(build, "baseline") == ""

    def test_a_report_twice_owes_one_review(self, tmp_path):
        made = site(tmp_path)
        build = run(made)
        made.report(build)
        made.drive(build)
        assert owed(made) == [("Verified", 1)]
        assert made.verdicts == [None]

    def test_a_crash_inside_the_report_leaves_nothing_half(self, tmp_path, monkeypatch):
        made = site(tmp_path)
        monkeypatch.setattr("ci.worker.outbox.add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(made)
        (build,) = rows(made.database, schema.build)
        assert (build.state, build.judgement) == ("running", None)
        monkeypatch.undo()
        made.report(build.id)
        assert owed(made) == [("Verified", 1)]

    def test_a_build_that_is_gone_is_no_trouble(self, tmp_path):
        made = site(tmp_path)
        assert made.worker.attempt("nobody", 1, "check") == ""
        made.worker.report("nobody", 1)


class TestDiskFull:
    def test_a_build_waits_and_loses_nothing(self, tmp_path, monkeypatch):
        made = site(tmp_path)
        real, refusals, pauses = attempts.begin, [1, 2], []

        def begin(*args: Any, **kwargs: Any) -> str:
            if refusals:
                refusals.pop()
                raise StorageError("disk full", retryable=True)
            return real(*args, **kwargs)

        monkeypatch.setattr(attempts, "begin", begin)
        monkeypatch.setattr(made.worker._stop, "wait", pauses.append)
        run(made)
        assert len(pauses) == 2
        assert owed(made) == [("Verified", 1)]

    def test_a_disk_that_fills_up_in_the_middle_is_not_the_nodes_fault(self, tmp_path):
        full: list[HypervouchError] = [StorageError("disk full", retryable=True)] * 4
        made = site(tmp_path, errors=full)
        build = run(made)
        assert made.kinds(build) == [("check", "LOST")] * 4 + [("check", "SUCCESS")]
        assert owed(made) == [("Verified", 1)]

    def test_a_stop_ends_the_wait(self, tmp_path, monkeypatch):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())

        def begin(*_: Any, **__: Any) -> str:
            made.worker.stop()
            raise StorageError("disk full", retryable=True)

        monkeypatch.setattr(attempts, "begin", begin)
        with pytest.raises(Stopping):
            made.attempt(build, "check")


def test_two_jobs_give_one_review_with_the_last_of_them(tmp_path):
    jobs = (job("a"), job("b", voting=False))
    made = site(tmp_path, plan=layout(*jobs, state_dir=tmp_path))
    first, second = queue_buildset(made.database, *jobs, at=made.clock.now())
    made.drive(first)
    assert owed(made) == []
    made.drive(second)
    assert owed(made) == [("Verified", 1)]
    (row,) = rows(made.database, schema.outbox)
    assert "- b https://ci.example.org/builds/" in row.message
    assert "(non-voting)" in row.message


def test_the_log_tells_the_story_without_secrets(tmp_path):
    made = site(tmp_path, "echo the password is s3cret; " + GOOD)
    build = run(made)
    (log,) = (tmp_path / "logs" / build).rglob("console.log")
    text = log.read_text()
    assert "s3cret" not in text
    for said in ("check: change 12,1", "node lab-", "run ended with status 0", "2 of 2 tests"):
        assert said in text
