# SPDX-License-Identifier: Apache-2.0
"""The compute suite around its tests: plan, record, patience, and what a JUnit file may say."""

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from ci.errors import ConfigError
from ci.jobs import trouble
from ci.jobs.base import Plan, Where
from ci.jobs.compute.patient import Patient, patient
from ci.jobs.compute.record import Record, Said
from ci.jobs.compute.run import TESTS, apart_of
from ci.jobs.compute.suite import ComputeSuite, seen_from_here
from ci.jobs.compute.untested import UNTESTED
from ci.jobs.table import suite_for
from ci.layout import Job, SuiteKind
from ci.model.evidence import Shown, System
from ci.model.feature import Feature
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade, Status
from ci.results import junit
from nodes.hypervisors.base import Access, GuestImage, GuestSpec
from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.table import connect

SYSTEM = System(key="uml", title="User Mode Linux", grade=Grade.BARE)


def job(**more: object) -> Job:
    return Job.model_validate({"name": "j", "suite": "compute", "node-label": "x", **more})


def plan(endpoint: Endpoint, **more: object) -> Plan:
    return ComputeSuite().plan(job(**more), endpoint, Path("/logs/a"))


class TestJob:
    @pytest.mark.parametrize(
        "more",
        [
            {"run": "make"},
            {"results": ["*.xml"]},
            {"features": ["operation.fly"]},
            {"second-hypervisor": "not a url"},
            {"suite": "shell", "run": "make", "features": ["operation.pause"]},
            {"suite": "shell"},
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, more: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            job(**more)


class TestPlan:
    HERE = Endpoint(transport=Transport.LOCAL, hypervisor="uml:///", grade=Grade.BARE)

    def test_is_one_step_on_the_controller(self) -> None:
        made = plan(self.HERE, features=["operation.pause", "operation.suspend"])
        (step,) = made.steps
        assert step.where is Where.CONTROLLER
        assert "-m ci.jobs.compute --hypervisor=uml:///" in step.command
        assert "--features=operation.pause,operation.suspend" in step.command
        assert "--grade=bare" in step.command
        assert made.local_results == (Path("/logs/a/compute.xml"),)
        assert made.trouble == Path("/logs/a") / trouble.FILE
        assert made.env["PYTHONSAFEPATH"] == "1"

    def test_takes_the_keys_of_the_lease_along(self) -> None:
        there = Endpoint(
            transport=Transport.SSH,
            host="192.0.2.7",
            port=2222,
            key_file=Path("/k/id"),
            known_hosts=Path("/k/hosts"),
            hypervisor="qemu:///system?type=kvm",
        )
        (step,) = plan(there, **{"second-hypervisor": "qemu+ssh://root@192.0.2.8/system"}).steps
        assert "qemu+ssh://root@192.0.2.7:2222/system?type=kvm" in step.command
        assert "--second=qemu+ssh://root@192.0.2.8/system" in step.command
        assert "--key-file=/k/id --known-hosts=/k/hosts" in step.command

    def test_a_password_is_never_on_the_command_line(self) -> None:
        api = Endpoint(
            transport=Transport.SSH,
            hypervisor="vcenter://ci@vc.example.org/DC/C",
            password_file=Path("/s/node-1.password"),
            ca_file=Path("/s/ca.pem"),
            certificate="ab" * 32,
            marks=Path("/s/node-1.marks"),
        )
        made = plan(api)
        (step,) = made.steps
        assert "--hypervisor=vcenter://ci@vc.example.org/DC/C" in step.command
        assert "--password-file=/s/node-1.password --marks=/s/node-1.marks" in step.command
        assert "--ca-file=/s/ca.pem" in step.command
        assert f"--certificate={'ab' * 32}" in step.command
        assert not {"password", "PASSWORD"} & set("".join(made.env).split("_"))

    @pytest.mark.parametrize(
        "url", ["xl+ssh://root@192.0.2.7:22", "qemu+ssh://h/system", "dummy:///a"]
    )
    def test_a_url_that_leads_there_stays_as_it_is(self, url: str) -> None:
        assert seen_from_here(Endpoint(transport=Transport.SSH, hypervisor=url)) == url

    def test_a_node_without_a_hypervisor_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="which hypervisor"):
            plan(Endpoint(transport=Transport.LOCAL))

    def test_is_in_the_table(self) -> None:
        assert isinstance(suite_for(SuiteKind.COMPUTE), ComputeSuite)


def features_of(test: ast.FunctionDef) -> list[str]:
    """The keys that a test in the code is marked with."""
    marks = [ast.unparse(mark) for mark in test.decorator_list]
    names = [mark for mark in marks if mark.startswith("pytest.mark.feature(Feature.")]
    return [Feature[name.removesuffix(")").rpartition(".")[2]].value for name in names]


def features_tried() -> set[str]:
    """Every key that some test is marked with."""
    trees = [ast.parse(path.read_text()) for path in TESTS.glob("test_*.py")]
    tests = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {key for test in tests for key in features_of(test)}


def test_every_row_is_tried_or_said_not_to_be() -> None:
    tried = features_tried()
    untried = {feature.value for feature in UNTESTED}
    assert tried | untried == {feature.value for feature in Feature}
    assert not tried & untried


class TestPatience:
    def patient(self, tmp_path: Path, url: str) -> tuple[Patient, GuestSpec, list[float]]:
        (tmp_path / "i").touch()
        slept: list[float] = []
        made = Patient(connect(url, Access(work=tmp_path)), slept.append)
        return made, GuestSpec(name="hv-a", image=GuestImage(initrd=tmp_path / "i")), slept

    def test_a_call_that_may_work_in_a_moment_is_made_again(self, tmp_path: Path) -> None:
        made, spec, slept = self.patient(tmp_path, "dummy:///?fail=launch:transient:2")
        made.launch(spec)
        assert set(made.inventory().guests) == {"hv-a"}
        assert len(slept) == 2

    def test_not_for_ever(self, tmp_path: Path) -> None:
        made, spec, _ = self.patient(tmp_path, "dummy:///?fail=launch:transient:9")
        with pytest.raises(TransientFault):
            made.launch(spec)

    def test_a_broken_node_is_not_asked_again(self, tmp_path: Path) -> None:
        made, spec, slept = self.patient(tmp_path, "dummy:///?fail=launch:node:1")
        with pytest.raises(NodeFault):
            made.launch(spec)
        assert slept == []

    def test_another_host_is_handed_over_as_it_is(self, tmp_path: Path) -> None:
        made, spec, _ = self.patient(tmp_path, "dummy:///a")
        made.launch(spec)
        other = patient(connect("dummy:///b", Access(work=tmp_path)))
        made.live_migrate("hv-a", other)
        assert set(other.inventory().guests) == {"hv-a"}


class TestRecord:
    def record(self) -> tuple[Record, list[str]]:
        lines: list[str] = []
        return Record(lines.append, lambda: datetime(2026, 1, 1, tzinfo=UTC)), lines

    def said(self, outcome: str, reason: str = "", name: str = "t.py::a") -> Said:
        return Said(test_id=name, feature=Feature.PAUSE, outcome=outcome, reason=reason)

    def test_each_word_is_told_at_once(self) -> None:
        record, lines = self.record()
        record.expect(2)
        record.add(self.said("skipped", "unsupported: never heard of it"))
        assert lines == ["  1/2  unsupported     t.py::a  0.0 s  never heard of it"]

    def test_what_was_not_tried_is_no_evidence(self) -> None:
        record, _ = self.record()
        record.add(self.said("skipped", "not tried: needs a second host"))
        assert record.evidence(SYSTEM) == ()
        assert not record.tried()

    def test_evidence_has_the_reason(self) -> None:
        record, _ = self.record()
        record.add(self.said("skipped", "unsupported: no freezer"))
        (one,) = record.evidence(SYSTEM)
        assert (one.shown, one.reason, one.feature) == (
            Shown.UNSUPPORTED,
            "no freezer",
            "operation.pause",
        )

    def test_a_test_that_fails_in_its_cleanup_has_failed(self) -> None:
        record, _ = self.record()
        record.add(self.said("passed"))
        record.add(self.said("failed", "left something"))
        (one,) = record.evidence(SYSTEM)
        assert one.shown is Shown.FAILS
        assert record.failed()

    def test_the_table_has_the_worst_word_of_a_row(self) -> None:
        record, _ = self.record()
        record.add(self.said("passed", name="t.py::a"))
        record.add(self.said("failed", "it broke", name="t.py::b"))
        first, *_, last = record.table().splitlines()
        assert first.split() == ["operation.pause", "fails", "it", "broke"]
        assert last == "0 works, 0 unsupported, 1 fails, 0 not tried"


class TestJUnit:
    def file(self, key: str, feature: str, grade: str = "bare") -> bytes:
        return f"""<testsuites><testsuite name="pytest"><properties>
            <property name="hypervouch.system" value="{key}"/>
            <property name="hypervouch.title" value="User Mode&#10;Linux"/>
            <property name="hypervouch.grade" value="{grade}"/>
            <property name="hypervouch.version.kernel" value="6.1"/></properties>
            <testcase classname="test_memory" name="test_pause"><properties>
            <property name="hypervouch.feature" value="{feature}"/></properties></testcase>
            <testcase classname="test_memory" name="other"/>
            </testsuite></testsuites>""".encode()

    def test_features_of_tests_are_read(self) -> None:
        first, second = junit.parse(self.file("uml", "operation.pause"))
        assert (first.feature, first.status) == ("operation.pause", Status.PASS)
        assert second.feature == ""

    def test_a_feature_that_is_none_is_dropped(self) -> None:
        assert junit.parse(self.file("uml", "&lt;b>"))[0].feature == ""

    def test_the_system_is_read_but_never_its_grade(self) -> None:
        found = junit.system(self.file("uml", "x"))
        assert found == System(
            key="uml", title="User Mode Linux", grade=Grade.NONE, versions={"kernel": "6.1"}
        )

    @pytest.mark.parametrize("key", ["", "Big Words", "../x"])
    def test_a_system_with_a_wrong_key_is_none(self, key: str) -> None:
        assert junit.system(self.file(key, "x")) is None


class TestPage:
    """docs/reference/compute-suite.md says what the tests are."""

    PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compute-suite.md"

    def test_has_a_row_for_each_test_with_its_own_words(self) -> None:
        rows = set()
        for path in TESTS.glob("test_*.py"):
            for node in ast.parse(path.read_text()).body:
                if not isinstance(node, ast.FunctionDef) or node.name == "test_declared":
                    continue
                for key in features_of(node):
                    proves = (ast.get_docstring(node) or "").splitlines()[0]
                    rows.add(f"| `{key}` | `{path.stem}::{node.name}` | {proves} |")
        text = self.PAGE.read_text().partition("## Tests")[2].partition("## Rows without")[0]
        assert {line for line in text.splitlines() if line.startswith("| `")} == rows

    def test_names_the_rows_without_a_test(self) -> None:
        text = self.PAGE.read_text().partition("## Rows without a test")[2]
        found = {line for line in text.splitlines() if line.startswith("| `")}
        assert found == {f"| `{key.value}` | {why} |" for key, why in UNTESTED.items()}


@pytest.mark.parametrize(
    ("url", "apart"),
    [
        ("qemu:///system?socket=/s&type=qemu", "qemu:///system?socket=/s&type=qemu"),
        ("qemu:///system?disks=/d", "qemu:///system"),
        ("qemu:///system?disks=/d&type=qemu", "qemu:///system?type=qemu"),
        (
            "qemu+ssh://root@h:2/system",
            "qemu+ssh://root@h:2/system?disks=/var/lib/libvirt/hypervouch-apart",
        ),
        ("qemu+ssh://root@h/system?disks=/d&address=h2", "qemu+ssh://root@h/system?address=h2"),
        ("dummy:///", "dummy:///"),
    ],
)
def test_a_host_apart_has_other_disks_than_the_shared_ones(url: str, apart: str) -> None:
    assert apart_of(url) == apart
