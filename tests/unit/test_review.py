# SPDX-License-Identifier: Apache-2.0
"""The comment that a verdict becomes: every reader can read it, and the words are true."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest

from ci.comment_rules import MAX_BYTES, problems
from ci.judge import BuildWord, verdict
from ci.layout import Job, Pipeline
from ci.model.anchor import test_anchor as anchor_of
from ci.model.notice import NoticeKind
from ci.model.result import FailureClass, Judgement, Result, TestFinding
from ci.review import compose_review
from ci.store.attempts import BuildOrder, JudgedBuild

HOSTILE = "Build succeeded (check pipeline).\n- x http://x : SUCCESS in 1s\nrecheck"
RESULTS = {
    FailureClass.PASS: (Result.SUCCESS, 1),
    FailureClass.REGRESSION: (Result.FAILURE, -1),
    FailureClass.NEW_FAILING: (Result.FAILURE, -1),
    FailureClass.KNOWN: (Result.SUCCESS, 1),
    FailureClass.FLAKY: (Result.SUCCESS, 1),
    FailureClass.INFRA: (Result.RETRY_LIMIT, 0),
    FailureClass.CONFLICT: (Result.MERGE_CONFLICT, 0),
    FailureClass.DEPENDENCY: (Result.MERGE_CONFLICT, 0),
    FailureClass.EMPTY: (Result.ERROR, 0),
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
INFRA_WORDS = [Result.NODE_FAILURE, Result.LOST, Result.TIMED_OUT, Result.POST_FAILURE]

ORDER = BuildOrder(
    build_id="b1",
    buildset_id="s1",
    job=Job.model_validate({"name": "unit", "suite": "shell", "run": "true", "node-label": "lab"}),
    state="running",
    cancel_reason=None,
    connection="review",
    project="acme/virt",
    branch="main",
    change_number=12,
    patchset=3,
    revision="3" * 40,
    ref="refs/changes/12/12/3",
    pipeline="check",
)


def judgement(kind: FailureClass, *, tests: int = 1, **more: object) -> Judgement:
    result, vote = RESULTS[kind]
    failing = kind not in {
        FailureClass.PASS,
        FailureClass.INFRA,
        FailureClass.CONFLICT,
        FailureClass.DEPENDENCY,
        FailureClass.EMPTY,
    }
    findings = tuple(
        TestFinding(test_id=f"test_{n}", failure_class=kind, reason=f"is {kind}", message=HOSTILE)
        for n in range(tests if failing else 0)
    )
    fields = {"result": result, "failure_class": kind, "vote": vote, "reason": f"it is {kind}"}
    return Judgement(**{**fields, "findings": findings, **more})


def built(one: Judgement, name: str = "unit", *, voting: bool = True) -> JudgedBuild:
    return JudgedBuild(
        build_id=f"id-{name}",
        job_name=name,
        voting=voting,
        judgement=one,
        duration_s=61,
        grade="nested",
        hypervisor="qemu:///tcg",
    )


def composed(*builds: JudgedBuild, order: BuildOrder = ORDER, **rules: object):
    fields = {"name": "check", "connection": "g", "policy": "vote", "merge-conflict": "vote"}
    pipeline = Pipeline.model_validate({**fields, **rules})
    words = [BuildWord(job=b.job_name, judgement=b.judgement, voting=b.voting) for b in builds]
    said = verdict(words, pipeline)
    return compose_review(order, builds, said, pipeline, url="https://ci.example.org/", at=NOW)


def review(*builds: JudgedBuild, **rules: object):
    return composed(*builds, **rules).review


@pytest.mark.parametrize("voting", list(product([True, False], repeat=2)))
def test_every_reader_can_read_every_pair_of_verdicts(voting):
    for pair in product(RESULTS, repeat=2):
        made = review(
            *(
                built(judgement(kind), f"job-{n}", voting=votes)
                for n, (kind, votes) in enumerate(zip(pair, voting, strict=True))
            )
        )
        assert made.marker in made.message
        assert problems(made.message) == (), (pair, made.message)


@pytest.mark.parametrize("word", INFRA_WORDS)
def test_every_word_of_trouble(word):
    made = review(built(judgement(FailureClass.INFRA, result=word)))
    assert problems(made.message) == ()
    assert made.label is None


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (FailureClass.PASS, "All voting jobs passed."),
        (FailureClass.REGRESSION, "A test that passes on the branch does not pass"),
        (FailureClass.NEW_FAILING, "does not pass with this patch"),
        (FailureClass.INFRA, "This is the lab's trouble"),
        (FailureClass.EMPTY, "This is the lab's trouble"),
        (FailureClass.CONFLICT, "does not merge onto its branch; please rebase"),
        (FailureClass.DEPENDENCY, "What this change depends on could not be stacked"),
    ],
)
@pytest.mark.parametrize("voting", [True, False])
def test_the_sentence_says_whose_trouble_it_is(kind, sentence, voting):
    assert sentence in review(built(judgement(kind), voting=voting)).message


def test_a_conflict_is_said_before_a_regression():
    made = review(
        built(judgement(FailureClass.REGRESSION), "a"), built(judgement(FailureClass.CONFLICT), "b")
    )
    assert "please rebase" in made.message


def test_known_failures_that_take_the_vote_away_are_not_called_the_labs_trouble():
    made = review(built(judgement(FailureClass.KNOWN, vote=0)))
    assert made.message.startswith("Build succeeded (check pipeline).")
    assert "lab" not in made.message
    assert made.label is None


def test_it_is_bound_to_change_patch_set_and_run():
    made = review(built(judgement(FailureClass.PASS)))
    assert (made.change_number, made.patchset, made.revision) == (12, 3, "3" * 40)
    assert made.tag == "autogenerated:hypervouch:check"
    assert (made.label, made.value) == ("Verified", 1)
    assert made.marker == "#s1"
    assert "https://ci.example.org/changes/12/3?connection=review#s1" in made.message
    assert "- unit https://ci.example.org/builds/id-unit/ : SUCCESS in 1m 01s" in made.message


def test_hundreds_of_jobs_and_failures_fit_and_keep_the_marker():
    builds = [
        built(judgement(FailureClass.REGRESSION, tests=50), f"{n:03}-" + "x" * 70)
        for n in range(300)
    ]
    made = review(*builds)
    assert len(made.message.encode()) <= MAX_BYTES
    assert problems(made.message) == ()
    assert made.marker in made.message


def test_what_is_not_counted_is_named_as_such():
    made = review(
        built(judgement(FailureClass.REGRESSION), "a"), built(judgement(FailureClass.FLAKY), "b")
    )
    assert "b: test_0 is flaky; not counted" in made.message


def test_the_evidence_of_each_build_is_named():
    assert (
        "unit: evidence nested on qemu:///tcg"
        in review(built(judgement(FailureClass.PASS))).message
    )


def test_a_failing_row_opens_at_its_first_failing_test_that_counts():
    findings = tuple(
        TestFinding(test_id=name, failure_class=kind, reason="r")
        for name, kind in (
            ("test_known", FailureClass.KNOWN),
            ("test_broken", FailureClass.REGRESSION),
            ("test_other", FailureClass.REGRESSION),
        )
    )
    made = review(
        built(judgement(FailureClass.REGRESSION, findings=findings), "a"),
        built(judgement(FailureClass.PASS), "b"),
        built(judgement(FailureClass.INFRA), "c"),
    )
    anchor = anchor_of("test_broken")
    assert f"- a https://ci.example.org/builds/id-a/#{anchor} : FAILURE in" in made.message
    assert "- b https://ci.example.org/builds/id-b/ : SUCCESS in" in made.message
    assert "- c https://ci.example.org/builds/id-c/ : RETRY_LIMIT in" in made.message
    assert problems(made.message) == ()


def test_the_anchor_of_a_test_is_stable_and_safe():
    assert anchor_of("test_power::test_resume") == "test-957c18f870"
    assert anchor_of("x" * 500 + "cut by the store") == anchor_of("x" * 500)
    assert anchor_of("\ud800<script>").startswith("test-")


def test_a_run_that_somebody_asked_for_says_so():
    order = replace(ORDER, requested_by="dana", request="bug 1")
    made = composed(built(judgement(FailureClass.PASS)), order=order).review
    assert "\nRun again as asked by dana: bug 1\n" in made.message
    assert problems(made.message) == ()


@pytest.mark.parametrize(("stale", "posted"), [("drop", False), ("comment", True)])
def test_what_becomes_of_a_stale_one_is_the_pipelines_choice(stale, posted):
    assert review(built(judgement(FailureClass.PASS)), stale=stale).comment_when_stale is posted


GOOD = "{{ header }}\n{{ url }}\n{% for row in rows %}{{ row.line }}\n{% endfor %}Ours."


def test_the_operators_template_is_used(tmp_path):
    file = tmp_path / "mine.j2"
    file.write_text(GOOD)
    made = composed(built(judgement(FailureClass.PASS)), **{"comment-template": file})
    assert made.review.message.endswith("Ours.")
    assert made.notice is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{{ nothing }}", "there is no 'nothing'"),
        (GOOD + " An error.", "scoreboard"),
        (GOOD + "{{ notes|join('x') + 1 }}", "mine.j2:4"),
    ],
)
def test_a_template_that_fails_costs_the_author_nothing_and_is_told_once(tmp_path, source, said):
    file = tmp_path / "mine.j2"
    if source is not None:
        file.write_text(source)
    builds = [built(judgement(FailureClass.PASS))]
    made = composed(*builds, **{"comment-template": file})
    assert made.review == review(*builds)
    assert made.notice is not None
    assert made.notice.kind is NoticeKind.COMMENT_TEMPLATE
    assert said in made.notice.text
    assert made.notice.occurred_at == NOW
    again = composed(*builds, order=replace(ORDER, patchset=4), **{"comment-template": file})
    assert again.notice.key == made.notice.key
    file.write_text("{{ other }}")
    assert composed(*builds, **{"comment-template": file}).notice.key != made.notice.key
