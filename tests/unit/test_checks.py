# SPDX-License-Identifier: Apache-2.0
"""Runs in the words of Gerrit's checks API."""

from dataclasses import replace

import pytest

from ci.model.result import FailureClass, Judgement, Result, TestFinding
from ci.store import reads
from tests.kit.core import database_in
from tests.kit.review_rows import WAITS, fill_reviews
from tests.kit.rows import GERRIT, Rows, ago
from tests.kit.stories import fill
from webui import checks

BASE = "https://ci.example.org/"
EVIL = "<b>x</b>\x1b[31m\u202e\x00\n end"


@pytest.fixture
def rows(tmp_path):
    database = database_in(tmp_path)
    fill(database, tmp_path)
    made = Rows(database, tmp_path)
    fill_reviews(made)
    yield made
    database.close()


def response(rows, number, patchset=1, sha=None):
    found = reads.patchset_runs(rows.database, GERRIT, number, patchset)
    assert found is not None
    return checks.response(found, sha, BASE)


def test_attempts_are_rechecks_of_one_check(rows):
    runs = response(rows, 4718)["runs"]
    assert [(run["checkName"], run["attempt"]) for run in runs] == [
        ("functional-qemu", 1),
        ("functional-qemu", 2),
    ]
    assert runs[1]["labelName"] == "Verified"
    assert "asked for by jun: bug 1934" in runs[1]["checkDescription"]
    assert runs[1]["checkLink"] == f"{BASE}changes/4718/1?connection=review"
    assert runs[1]["statusLink"] == f"{BASE}builds/{runs[1]['externalId']}"


@pytest.mark.parametrize(
    ("number", "patchset", "status", "words"),
    [
        (4716, 1, "SCHEDULED", "no usable node of label xen"),
        (4715, 3, "RUNNING", "the suite runs on qemu-1"),
        (4710, 1, "COMPLETED", "took 3m 18s"),
    ],
)
def test_status(rows, number, patchset, status, words):
    (run,) = response(rows, number, patchset)["runs"]
    assert run["status"] == status
    assert words in run["statusDescription"]
    assert bool(run["results"]) is (status == "COMPLETED")


def test_times_are_as_a_browser_reads_them(rows):
    (run,) = response(rows, 4710)["runs"]
    assert run["finishedTimestamp"] == "2026-11-22T16:49:20.000Z"
    (waiting,) = response(rows, 4716)["runs"]
    assert "startedTimestamp" not in waiting


@pytest.mark.parametrize(
    ("failure_class", "voting", "category", "tag"),
    [
        (FailureClass.REGRESSION, True, "ERROR", "REGRESSION"),
        (FailureClass.NEW_FAILING, True, "ERROR", "NEW_FAILING"),
        (FailureClass.REGRESSION, False, "WARNING", "NON_VOTING"),
        (FailureClass.KNOWN, True, "INFO", "KNOWN"),
        (FailureClass.FLAKY, True, "INFO", "FLAKY"),
        (FailureClass.INFRA, True, "WARNING", "INFRA_ERROR"),
        (FailureClass.CONFLICT, True, "WARNING", "MERGE_CONFLICT"),
        (FailureClass.EMPTY, True, "WARNING", "INFRA_ERROR"),
        (FailureClass.PASS, True, "SUCCESS", "qemu-tcg"),
        (FailureClass.CANCELED, True, "INFO", "qemu-tcg"),
    ],
)
def test_categories(rows, failure_class, voting, category, tag):
    buildset = rows.buildset(5000, at=ago(50))
    judgement = Judgement(
        result=Result.FAILURE, failure_class=failure_class, vote=0, reason="because"
    )
    rows.build(buildset, judgement=judgement, voting=voting, finished_at=ago(1))
    ((result,),) = [run["results"] for run in response(rows, 5000)["runs"]]
    assert (result["category"], result["summary"]) == (category, "Because.")
    assert tag in [one["name"] for one in result["tags"]]
    assert result["codePointers"] == []


def many(count):
    return tuple(
        TestFinding(
            test_id=f"suite.{'long.' * 40}Test::n{number}",
            failure_class=FailureClass.KNOWN if number < 3 else FailureClass.REGRESSION,
            reason="r",
        )
        for number in range(count)
    )


def test_findings_that_count_come_first_and_are_capped(rows):
    judgement = Judgement(
        result=Result.FAILURE,
        failure_class=FailureClass.REGRESSION,
        vote=-1,
        reason="this patch breaks tests",
        findings=many(40),
    )
    rows.build(rows.buildset(5001, at=ago(50)), judgement=judgement)
    (run,) = response(rows, 5001)["runs"]
    assert len(run["results"]) == checks.FINDINGS_SHOWN + 1
    assert run["results"][0]["summary"].endswith("Test::n3")
    assert len(run["results"][0]["summary"]) == 120
    assert run["results"][-1]["summary"] == "20 more tests failed"
    ids = [result["externalId"] for result in run["results"]]
    assert len(ids) == len(set(ids))


def test_one_job_in_two_pipelines_is_two_checks(rows):
    for pipeline in ("check", "nightly"):
        buildset = rows.buildset(5002, at=ago(50), pipeline=pipeline, id=pipeline)
        rows.build(buildset, state="running")
    names = [run["checkName"] for run in response(rows, 5002)["runs"]]
    assert sorted(names) == ["functional-qemu (check)", "functional-qemu (nightly)"]


def test_only_runs_of_the_commit_that_is_shown(rows):
    assert response(rows, 4718, sha="0" * 40) == {"responseCode": "OK", "runs": []}
    found = reads.patchset_runs(rows.database, GERRIT, 4718, 1)
    assert found is not None
    newest = replace(found.buildsets[1], revision="1" * 40)
    mixed = replace(found, buildsets=(found.buildsets[0], newest))
    (run,) = checks.response(mixed, "1" * 40, BASE)["runs"]
    assert run["attempt"] == 2


def test_what_waits_is_the_summary(rows):
    assert response(rows, 4717) == {"responseCode": "OK", "runs": [], "summaryMessage": WAITS}


def test_hostile_text_keeps_to_one_clean_line(rows):
    finding = TestFinding(
        test_id=EVIL, failure_class=FailureClass.REGRESSION, reason=EVIL, message=EVIL
    )
    buildset = rows.buildset(5003, at=ago(5), requested_by=EVIL, request=EVIL * 200)
    judgement = Judgement(
        result=Result.FAILURE,
        failure_class=FailureClass.REGRESSION,
        vote=-1,
        reason=EVIL,
        findings=(finding,),
    )
    rows.build(buildset, EVIL, judgement=judgement, node_label=EVIL, finished_at=ago(1))
    (run,) = response(rows, 5003)["runs"]
    texts = [run["checkName"], run["checkDescription"], run["results"][0]["message"]]
    texts += [run["results"][0]["summary"], *(tag["name"] for tag in run["results"][0]["tags"])]
    for text in texts:
        assert text.isprintable(), text
        assert len(text) <= 1000
