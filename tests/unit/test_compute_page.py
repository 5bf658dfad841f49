# SPDX-License-Identifier: Apache-2.0
"""The page of a run: each row by its worst word, and nothing hostile comes through."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ci.jobs.compute.page import GRADES, Run, render
from ci.jobs.compute.record import Said
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade

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
