# SPDX-License-Identifier: Apache-2.0
"""The whole flow: `hypervouch serve` and a real Gerrit; changes in, votes and pages out."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ci.comment_rules import problems
from ci.sandbox.real.server import RealGerrit
from tests.kit.installation import GOOD
from tests.kit.stage import BROKEN, SLOW, Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def stage(
    real_gerrit: RealGerrit, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Stage]:
    made = Stage(real_gerrit, tmp_path, **getattr(request, "param", {}))
    made.ci.start()
    yield made
    made.ci.stop()


def test_a_good_patch_gets_one_vote_and_a_page(stage: Stage):
    change = stage.push(GOOD)
    said = stage.ci.wait_for_comments(stage.author, change)
    assert said.vote == 1
    comment = said.comments[0]
    assert comment.startswith("Build succeeded (check pipeline).\n")
    assert problems(comment) == ()
    link = re.search(r"- suite (http://\S+) : SUCCESS in ", comment)
    assert link
    page = httpx.get(link.group(1), follow_redirects=True, trust_env=False)
    assert page.status_code == 200
    assert "ll 4 tests passed" in page.text
    [build] = stage.ci.builds(change)
    log = httpx.get(f"{stage.ci.url}builds/{build['id']}/log", trust_env=False).text
    assert change.revision in log
    assert "case resume pass" in log


def test_a_regression_gets_minus_one_after_baseline_and_repeat(stage: Stage):
    change = stage.push(BROKEN)
    said = stage.ci.wait_for_comments(stage.author, change)
    assert (said.vote, len(said.comments)) == (-1, 1)
    assert problems(said.comments[0]) == ()
    assert "suite::resume: told to fail" in said.comments[0]
    assert "recheck" in said.comments[0]
    [build] = stage.ci.builds(change)
    attempts = stage.ci.get(f"builds/{build['id']}.json")["detail"]["attempts"]
    assert [(a["kind"], a["result"]) for a in attempts] == [
        ("check", "FAILURE"),
        ("baseline", "SUCCESS"),
        ("repeat", "FAILURE"),
    ]
    assert len({a["tip"] for a in attempts}) == 1


def test_what_the_branch_breaks_is_not_the_patchs_fault(stage: Stage):
    stage.author.push_branch({"cases.txt": BROKEN}, subject="Break the branch")
    change = stage.push(BROKEN)
    said = stage.ci.wait_for_comments(stage.author, change)
    assert said.vote == 1
    assert problems(said.comments[0]) == ()
    [build] = stage.ci.builds(change)
    assert build["failure_class"] == "known"


def test_documentation_alone_starts_nothing_and_says_why(stage: Stage):
    change = stage.author.push_change("Docs", {"docs/a.md": "B\n"})
    after = stage.push(GOOD)
    stage.ci.wait_for_comments(stage.author, after)
    assert stage.ci.said(stage.author, change).comments == ()
    assert stage.ci.builds(change) == []
    page = httpx.get(f"{stage.ci.url}changes/{change.number}", trust_env=False).text
    assert "every changed file matches irrelevant-files" in page


def test_a_newer_patch_set_takes_the_place_of_the_older(stage: Stage):
    first = stage.push(GOOD + "watch sleep 60\n")
    stage.ci.wait(
        lambda: any(b["phase"] == "run" for b in stage.ci.builds(first)), 30, "the first to run"
    )
    began = time.monotonic()
    second = stage.author.amend(first, {"cases.txt": GOOD + "second pass\n"})
    said = stage.ci.wait_for_comments(stage.author, second)
    assert time.monotonic() - began < 50
    assert (said.vote, len(said.comments)) == (1, 1)
    states = {b["patchset"]: b["state"] for b in stage.ci.builds(second)}
    assert states == {1: "canceled", 2: "done"}


def test_an_abandoned_change_stops_running(stage: Stage):
    change = stage.push(GOOD + "watch sleep 60\n")
    stage.ci.wait(
        lambda: any(b["phase"] == "run" for b in stage.ci.builds(change)), 30, "it to run"
    )
    stage.author.abandon(change)
    stage.ci.wait(
        lambda: all(b["state"] == "canceled" and b["result"] for b in stage.ci.builds(change)),
        20,
        "the build to be cancelled",
    )
    assert stage.ci.said(stage.author, change).comments == ()
    nodes = stage.ci.get("nodes.json")["nodes"]
    assert all(n["build_id"] is None for n in nodes)


def test_a_recheck_runs_again_and_a_quoted_one_does_not(stage: Stage):
    change = stage.push(GOOD)
    stage.ci.wait_for_comments(stage.author, change)
    stage.author.comment(change, "> recheck\n\nplease do not recheck")
    stage.author.comment(change, "recheck the lab was on fire")
    said = stage.ci.wait_for_comments(stage.author, change, 2)
    time.sleep(3)
    assert len(stage.ci.said(stage.author, change).comments) == 2
    assert said.vote == 1


def test_a_patch_that_does_not_merge_gets_no_vote(stage: Stage):
    change = stage.push(GOOD, "Conflicting")
    stage.ci.wait_for_comments(stage.author, change)
    stage.author.push_branch({"cases.txt": "other pass\n"}, subject="Overtake it")
    stage.author.comment(change, "recheck")
    stage.ci.wait(
        lambda: stage.ci.builds(change)[0]["result"] == "MERGE_CONFLICT", 60, "the conflict"
    )
    time.sleep(2)
    assert len(stage.ci.said(stage.author, change).comments) == 1


@pytest.mark.parametrize("stage", [{"job": {"run": "exit 7"}}], indirect=True)
def test_a_suite_that_runs_no_test_is_our_fault(stage: Stage):
    change = stage.push(GOOD)
    said = stage.ci.wait_for_comments(stage.author, change)
    assert said.vote == 0
    assert "the suite ran no test (exit status 7)" in said.comments[0]
    assert problems(said.comments[0]) == ()


@pytest.mark.parametrize("stage", [{"job": {"timeout-s": 2, "node-attempts": 2}}], indirect=True)
def test_a_time_out_is_tried_again_and_never_minus_one(stage: Stage):
    change = stage.push(GOOD + "watch sleep 30\n")
    said = stage.ci.wait_for_comments(stage.author, change)
    assert said.vote == 0
    assert "RETRY_LIMIT" in said.comments[0]
    [build] = stage.ci.builds(change)
    attempts = stage.ci.get(f"builds/{build['id']}.json")["detail"]["attempts"]
    assert [a["result"] for a in attempts] == ["TIMED_OUT", "TIMED_OUT"]
    assert len({a["node"] for a in attempts}) == 2


def test_killed_in_a_burst_every_change_gets_exactly_one_vote(stage: Stage):
    changes = [stage.push(SLOW if n % 2 else GOOD, f"Burst {n}") for n in range(8)]
    stage.ci.wait(
        lambda: any(stage.ci.said(stage.author, c).comments for c in changes), 60, "a first vote"
    )
    stage.ci.kill()
    missed = stage.push(GOOD, "While it was dead")
    stage.ci.start()
    for change in [*changes, missed]:
        stage.ci.wait_for_comments(stage.author, change)
    time.sleep(2)
    for change in [*changes, missed]:
        said = stage.ci.said(stage.author, change)
        assert (said.vote, len(said.comments)) == (1, 1), change


def test_killed_again_and_again_it_still_ends_with_one_vote(stage: Stage):
    change = stage.push(BROKEN + "watch sleep 1\n")
    for pause_s in (0.3, 0.9, 1.6, 2.4, 3.1):
        time.sleep(pause_s)
        stage.ci.kill()
        stage.ci.start()
    said = stage.ci.wait_for_comments(stage.author, change, seconds=120)
    time.sleep(2)
    said = stage.ci.said(stage.author, change)
    assert (said.vote, len(said.comments)) == (-1, 1)


def test_stopped_cleanly_what_ran_is_run_again(stage: Stage):
    change = stage.push(SLOW)
    stage.ci.wait(
        lambda: any(b["phase"] == "run" for b in stage.ci.builds(change)), 30, "it to run"
    )
    assert stage.ci.stop() == 0
    assert stage.ci.said(stage.author, change).comments == ()
    stage.ci.start()
    said = stage.ci.wait_for_comments(stage.author, change)
    assert (said.vote, len(said.comments)) == (1, 1)


def test_gerrit_killed_in_a_burst_loses_no_vote(stage: Stage):
    changes = [stage.push(SLOW, f"Burst {n}") for n in range(5)]
    stage.ci.wait(
        lambda: any(stage.ci.said(stage.author, c).comments for c in changes), 60, "a first vote"
    )
    stage.gerrit.kill()
    time.sleep(4)
    stage.gerrit.start()
    after = stage.push(GOOD, "After it came back")
    for change in [*changes, after]:
        stage.ci.wait_for_comments(stage.author, change, seconds=120)
    time.sleep(2)
    for change in [*changes, after]:
        said = stage.ci.said(stage.author, change)
        assert (said.vote, len(said.comments)) == (1, 1), change
