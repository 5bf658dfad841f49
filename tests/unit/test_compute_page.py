# SPDX-License-Identifier: Apache-2.0
"""The page of a run: each row by its worst word, and nothing hostile comes through."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ci.jobs.compute import involved
from ci.jobs.compute.page import GRADES, Run, render
from ci.jobs.compute.record import Said
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage
from nodes.hypervisors.dummy import connect

BEGAN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def said(outcome: str, reason: str = "", test: str = "t.py::a") -> Said:
    return Said(test_id=test, feature=Feature.PAUSE, outcome=outcome, reason=reason)


def run(*words: Said, grade: Grade = Grade.BARE) -> Run:
    system = System(key="uml", title="UML", grade=grade, versions={"kernel": "6.1"})
    return Run(
        hypervisor="uml:///",
        second="",
        system=system,
        asks_guests=True,
        began=BEGAN,
        ended=BEGAN + timedelta(minutes=3),
        words=words,
    )


def test_a_row_has_its_worst_word_with_the_reason():
    page = render(run(said("passed"), said("failed", "it ticks", "t.py::b")))
    assert "<b>fails</b></td><td>it ticks</td>" in page
    assert "0 works, 0 unsupported, 1 fails, 0 not tried" in page
    assert "t.py::a: works" in page
    assert "2026-11-23 09:00:00 to 2026-11-23 09:03:00 UTC" in page


@pytest.mark.parametrize("grade", list(Grade))
def test_the_grade_is_said_and_explained(grade: Grade):
    assert f"<b>{grade.value}</b>: " in (page := render(run(said("passed"), grade=grade)))
    assert GRADES[grade].replace("'", "&#39;") in page


def test_where_nobody_was_asked_the_page_says_so():
    assert "No guest was asked" not in render(run(said("passed")))
    assert "No guest was asked" in render(replace(run(said("passed")), asks_guests=False))


def test_nothing_hostile_comes_through():
    mine = run(said("failed", HOSTILE, HOSTILE))
    system = replace(mine.system, title=HOSTILE, versions={HOSTILE: HOSTILE})
    page = render(replace(mine, hypervisor=HOSTILE, second=HOSTILE, system=system))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_what_a_signature_stands_for_is_on_the_page():
    kept = replace(
        run(said("passed")),
        adapter="nodes.hypervisors.vcenter.VcenterHypervisor, pyvmomi 9.1.1",
        guest="our tiny guest for x86_64: kernel 6.1",
        evidence=("evidence.json", "ab" * 32),
    )
    page = render(kept)
    for words in (kept.adapter, kept.guest, "SHA-256 " + "ab" * 32, "sha256sum evidence.json"):
        assert words in page
    assert "No evidence file was kept" in (alone := render(run(said("passed"))))
    assert "none was asked" in alone


def test_rows_that_were_not_run_are_named():
    page = render(replace(run(said("passed")), only=frozenset({Feature.PAUSE})))
    assert "no run of the whole suite" in page
    assert "Not in this run, so nothing is said of: " in page
    assert "Suspend instance" in page
    assert "no run of the whole suite" not in render(run(said("passed")))


def test_a_failure_is_there_in_full():
    told = "E   vCenter says: <InvalidPowerState>"
    broken = replace(said("failed", "InvalidPowerState"), details=told)
    assert "vCenter says: &lt;InvalidPowerState&gt;</pre>" in render(run(broken))


def test_a_test_that_was_not_tried_says_why_beside_one_that_works():
    page = render(run(said("passed"), said("skipped", "not tried: needs a guest", "t.py::b")))
    assert "t.py::b: not tried, 0.0 s: needs a guest</small>" in page


def test_an_adapter_is_named_with_its_sdk(tmp_path):
    vcenter = pytest.importorskip("nodes.hypervisors.vcenter")
    made = connect("dummy:///", Access(work=tmp_path))
    assert involved.adapter(made) == "nodes.hypervisors.dummy.DummyHypervisor"
    told = involved.adapter(object.__new__(vcenter.VcenterHypervisor))
    assert re.fullmatch(r"nodes[.]hypervisors[.]vcenter[.]VcenterHypervisor, pyvmomi \d\S*", told)


def test_a_guest_is_named_with_what_it_is_made_of(tmp_path):
    image = GuestImage(kernel=tmp_path / "vmlinuz")
    assert involved.guest(image) == "our tiny guest for x86_64"
    (tmp_path / "manifest.json").write_text('{"kernel": "6.1.0"}')
    assert involved.guest(image) == "our tiny guest for x86_64: kernel 6.1.0"


@pytest.mark.parametrize("grade", list(Grade))
def test_only_a_run_on_a_real_hypervisor_is_called_conformance(grade: Grade):
    page = render(run(said("passed"), grade=grade))
    assert ("<h1>Conformance of UML</h1>" in page) is (grade in {Grade.BARE, Grade.NESTED})
    assert ("no conformance, of UML</h1>" in page) is (grade not in {Grade.BARE, Grade.NESTED})
