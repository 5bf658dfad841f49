# SPDX-License-Identifier: Apache-2.0
"""A suite on the controller that could not test: infra, another node, and never a vote."""

from pathlib import Path
from typing import Any

import pytest

from ci import attempt
from ci.errors import HarnessBroken, HypervouchError, NodeUnavailable, RunTimeout
from ci.jobs import trouble
from ci.jobs.base import Plan, PlanStep
from ci.layout import Job
from ci.store import schema
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from tests.kit.core import FakeCheckout, Lab, ScriptedRunner, lab, queue_buildset, rows

BAD = "write-junit r.xml pass=1 fail=test_launch; exit 69"
GOOD = "write-junit r.xml pass=2"


class Steered:
    """A suite whose harness met an error in its first attempts, one each."""

    def __init__(self, *errors: HypervouchError) -> None:
        self.errors = list(errors)
        self.nodes: list[str] = []

    def plan(self, job: Any, endpoint: Any, results_dir: Path) -> Plan:
        """A plan, and what its step would write."""
        del endpoint
        told = results_dir / trouble.FILE
        if self.errors:
            trouble.tell(told, self.errors.pop(0))
        return Plan(
            steps=(PlanStep(phase="run", command=job.run, timeout_s=5),),
            checkout="/w/checkout",
            results=("r.xml",),
            trouble=told,
        )


def drive(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *errors: HypervouchError, script: str = BAD
) -> tuple[Lab, str]:
    """A build whose suite met these errors; its tree's tests fail as long as it does."""
    suite = Steered(*errors)
    monkeypatch.setattr(attempt, "suite_for", lambda _: suite)
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    made = lab(folder, FakeCheckout((*[script] * len(errors), GOOD), GOOD), slots=3)
    (build,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build)
    return made, build


def test_a_dead_hypervisor_is_tried_again_elsewhere_whatever_the_tests_say(tmp_path, monkeypatch):
    made, build = drive(tmp_path, monkeypatch, NodeFault("libvirtd died"))
    assert made.kinds(build) == [("check", "NODE_FAILURE"), ("check", "SUCCESS")]
    first, second = rows(made.database, schema.attempt, build_id=build)
    assert first.node != second.node
    assert "libvirtd died" in first.error
    assert rows(made.database, schema.outcome, attempt_id=first.id) == []
    assert [row.value for row in rows(made.database, schema.outbox)] == [1]


@pytest.mark.parametrize("fault", [NodeFault, TransientFault])
def test_one_that_stays_dead_is_infra_and_votes_nothing(tmp_path, monkeypatch, fault):
    made, build = drive(tmp_path, monkeypatch, *[fault("no answer")] * 3)
    assert {result for _, result in made.kinds(build)} == {"NODE_FAILURE"}
    done = made.build(build)
    assert done.failure_class == "infra"
    assert [row.value for row in rows(made.database, schema.outbox)] == [None]


def test_what_the_tests_left_is_kept_for_people(tmp_path, monkeypatch):
    made, build = drive(tmp_path, monkeypatch, NodeFault("disk full"))
    first = rows(made.database, schema.attempt, build_id=build)[0]
    kept = tmp_path / "logs" / build / first.id
    assert (kept / "logs" / "r.xml").is_file()
    assert "disk full" in (kept / "console.log").read_text()


def test_a_wrong_url_is_our_fault_and_is_not_tried_on_other_nodes(tmp_path, monkeypatch):
    made, build = drive(tmp_path, monkeypatch, CallerFault("no such URL", hint="mend it"))
    assert made.kinds(build) == [("check", "ERROR")]
    done = made.build(build)
    assert done.failure_class == "empty"
    assert "no such URL" in done.reason
    assert [row.value for row in rows(made.database, schema.outbox)] == [None]


def test_without_trouble_failing_tests_are_failing_tests(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "suite_for", lambda _: Steered())
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    made = lab(tmp_path, FakeCheckout((BAD,), GOOD))
    (build,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build)
    assert [result for _, result in made.kinds(build)] == ["FAILURE", "SUCCESS", "FAILURE"]


class TestTheFile:
    def test_the_first_word_stands(self, tmp_path):
        path = tmp_path / trouble.FILE
        assert trouble.tell(path, NodeFault("first", hint="mend it")) == trouble.NODE_STATUS
        assert trouble.tell(path, RunTimeout("second")) == trouble.HARNESS_STATUS
        said = trouble.told(path)
        assert isinstance(said, NodeUnavailable)
        assert (said.message, said.hint) == ("first", "mend it")

    def test_nothing_was_said(self, tmp_path):
        assert trouble.told(None) is None
        assert trouble.told(tmp_path / trouble.FILE) is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"fault": "node"}', "\0"])
    def test_one_that_cannot_be_read_is_the_harnesss_fault(self, tmp_path, text):
        path = tmp_path / trouble.FILE
        path.write_text(text)
        assert isinstance(trouble.told(path), HarnessBroken)

    def test_what_a_daemon_shouts_is_cut(self, tmp_path):
        path = tmp_path / trouble.FILE
        trouble.tell(path, NodeFault("x" * 1_000_000))
        assert path.stat().st_size < 10_000
        assert isinstance(trouble.told(path), NodeUnavailable)


def test_a_compute_job_is_the_same_after_it_was_stored():
    given = {"name": "c", "suite": "compute", "features": ["operation.launch"], "node-label": "v"}
    made = Job.model_validate(given)
    assert Job.model_validate(made.model_dump(mode="json")) == made
