# SPDX-License-Identifier: Apache-2.0
"""What notices say: what happened, where, and what to do."""

from typing import Any

import pytest

from ci.model.notice import NoticeKind
from ci.model.result import FailureClass, Judgement, Result, Verdict, Vote
from ci.notice_texts import quarantine_notice, trial_notice, verdict_notices
from ci.store.attempts import BuildOrder, JudgedBuild
from tests.kit.core import job
from tests.kit.noticed import AT

URL = "https://ci.example.org/"
BAD = Verdict(vote=Vote(label="Verified", value=-1), succeeded=False, reason="unit: breaks 1 test")


def order(**more: Any) -> BuildOrder:
    fields: dict[str, Any] = {
        "build_id": "b1",
        "buildset_id": "s1",
        "job": job(),
        "state": "running",
        "cancel_reason": None,
        "connection": "review",
        "project": "acme/virt",
        "branch": "main",
        "change_number": 12,
        "patchset": 3,
        "revision": "3" * 40,
        "ref": "refs/changes/12/12/3",
        "pipeline": "check",
    }
    known = {name: value for name, value in fields.items() if name in BuildOrder.__annotations__}
    return BuildOrder(**(known | more))


def build(
    failure_class: FailureClass = FailureClass.PASS, name: str = "unit", **more: Any
) -> JudgedBuild:
    passed = failure_class is FailureClass.PASS
    judgement = Judgement(
        result=Result.SUCCESS if passed else Result.FAILURE,
        failure_class=failure_class,
        vote=1 if passed else -1,
        reason="all 2 tests passed" if passed else "breaks 1 test",
    )
    fields: dict[str, Any] = {
        "build_id": f"b-{name}",
        "job_name": name,
        "voting": True,
        "judgement": judgement,
        "duration_s": 12.3456,
        "grade": "nested",
        "hypervisor": "qemu:///system",
    }
    return JudgedBuild(**(fields | more))


def told(*builds: JudgedBuild, verdict: Verdict = BAD) -> Any:
    return verdict_notices(order(), builds, verdict, url=URL, at=AT)


def test_a_good_verdict():
    good = Verdict(
        vote=Vote(label="Verified", value=1), succeeded=True, reason="every job succeeded"
    )
    (notice,) = told(build(), verdict=good)
    assert (notice.kind, notice.key) == (NoticeKind.VERDICT, "verdict:s1")
    assert notice.subject == "acme/virt 12,3: succeeded, Verified +1"
    assert notice.url == "https://ci.example.org/changes/12/3#s1"
    assert notice.text.split("\n") == [
        "The builds were judged (succeeded, Verified +1): every job succeeded.",
        "Where: change 12, patch set 3 of acme/virt, branch main, pipeline check, server review.",
        "  unit: SUCCESS: all 2 tests passed",
        "",
        "To run it again: `hypervouch recheck 12 --connection review`.",
    ]


def test_a_bad_verdict_leads_to_the_build_that_tells_most():
    (notice,) = told(
        build(name="a"),
        build(FailureClass.REGRESSION, "b"),
        build(FailureClass.REGRESSION, "c", voting=False),
    )
    assert notice.subject == "acme/virt 12,3: failed, Verified -1"
    assert "To look closer: `hypervouch build b-b`." in notice.text
    assert "  c (non-voting): FAILURE: breaks 1 test" in notice.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"vote": None}, "failed, no vote"),
        ({"held": True}, "failed, Verified -1, held"),
        ({"report": False}, "Nothing is said on the review server."),
    ],
)
def test_how_a_verdict_is_given(more, said):
    fields = {"vote": BAD.vote, "succeeded": False, "reason": "r", **more}
    (notice,) = told(build(FailureClass.REGRESSION), verdict=Verdict(**fields))
    assert said in notice.text


def test_facts_for_programs():
    (notice,) = told(build())
    assert notice.facts["vote"] == {"label": "Verified", "value": -1}
    assert (notice.facts["change"], notice.facts["patchset"]) == (12, 3)
    assert notice.facts["builds"] == [
        {
            "id": "b-unit",
            "job": "unit",
            "voting": True,
            "result": "SUCCESS",
            "class": "pass",
            "reason": "all 2 tests passed",
            "duration_s": 12.346,
            "grade": "nested",
            "hypervisor": "qemu:///system",
            "url": "https://ci.example.org/builds/b-unit/",
        }
    ]


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (FailureClass.CONFLICT, NoticeKind.MERGE_CONFLICT, "does not merge onto its branch"),
        (
            FailureClass.DEPENDENCY,
            NoticeKind.DEPENDENCY,
            "has a Depends-On that cannot be followed",
        ),
    ],
)
def test_trouble_of_the_change_is_told_beside_its_verdict(found, kind, said):
    verdict, trouble = told(build(found))
    assert verdict.kind is NoticeKind.VERDICT
    assert (trouble.kind, trouble.key) == (kind, f"{kind.value}:s1")
    assert trouble.subject == f"acme/virt 12,3 {said}"
    assert "acme/virt 12,3 cannot be tested: breaks 1 test" in trouble.text
    assert "What to do: " in trouble.text
    assert trouble.facts == verdict.facts


def test_nothing_is_told_of_what_was_canceled():
    assert told(build(), build(FailureClass.CANCELED, "b")) == ()


def test_a_quarantine():
    notice = quarantine_notice("qemu-1", label="lab", reason="no disk", failures=3, url=URL, at=AT)
    assert notice.kind is NoticeKind.QUARANTINE
    assert notice.subject == "node qemu-1 was taken out of work"
    assert notice.url == "https://ci.example.org/nodes"
    for word in ("no disk", "label lab", "3 times", "hypervouch doctor", "hypervouch nodes"):
        assert word in notice.text
    assert notice.facts["node"] == "qemu-1"


def test_a_trial_says_that_it_is_one():
    notice = trial_notice("hook", NoticeKind.VERDICT, url=URL, at=AT)
    assert notice.facts == {"test": True, "reporter": "hook"}
    assert "nothing happened" in notice.text
