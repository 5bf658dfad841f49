# SPDX-License-Identifier: Apache-2.0
"""Step 7 of 9, judge. Before: collect. After: vote.

In: the finished attempts of a build (check, repeat, baseline) with their Outcomes. Out:
either the kind of attempt that is still needed, or a Judgement; and for a Buildset, the
Verdict. Pure: the one table of who gets -1.

| class       | rule                                                            | vote      |
|-------------|-----------------------------------------------------------------|-----------|
| pass        | every test passed, at least one ran                             | +1        |
| regression  | fails here, passed on the branch tip, failed again on repeat    | -1        |
| new-failing | fails here and again; the branch tip does not have this test    | -1        |
| known       | fails here and on the branch tip                                | as set    |
| flaky       | failed, then passed on the same commit                          | +1, named |
| infra       | node, network, harness or time-out, on every node tried; or the | none      |
|             | repeat did not get to the test that failed                      |           |
| conflict    | does not merge onto the branch tip                              | as set    |
| dependency  | a Depends-On cannot be followed, or does not merge              | as set    |
| empty       | the suite ran no test: our fault                                | none      |
| canceled    | superseded, abandoned, or by an operator                        | none      |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ci.layout import ConflictPolicy, Pipeline, VotePolicy
from ci.model.build import AttemptKind, AttemptRecord
from ci.model.result import (
    FailureClass,
    Judgement,
    Outcome,
    Result,
    Status,
    TestFinding,
    Verdict,
    Vote,
)
from ci.retry import Quota, told

INTERRUPTION_LIMIT = 10
TIP = "the branch tip"
STACKED = "the branch tip with what this depends on"


@dataclass(frozen=True, kw_only=True)
class BuildRules:
    """What the judge needs of the layout for one build.

    Attributes:
        quota: How often each kind of attempt is made again.
        known_failure_vote: Vote when all that fails also fails on the branch tip: 1 or 0.
        base: What the baseline tests, in words.
    """

    quota: Quota = field(default_factory=Quota)
    known_failure_vote: int = 1
    base: str = TIP


@dataclass(frozen=True, kw_only=True)
class BuildWord:
    """One finished build of a buildset, as the verdict needs it."""

    job: str
    judgement: Judgement
    voting: bool


def next_step(
    attempts: Sequence[AttemptRecord],
    baselines: Sequence[AttemptRecord],
    rules: BuildRules,
) -> AttemptKind | Judgement:
    """What a build needs next: another attempt, or nothing but its judgement.

    Args:
        attempts: All finished attempts of this build, oldest first.
        baselines: What other builds found of the trees that the baseline tests, with the same
            suite, node label, grade and likeness, newest first.
        rules: The layout's part in it.
    """
    for final in (Result.CANCELED, Result.MERGE_CONFLICT):
        ended = next((a for a in attempts if a.result is final), None)
        if ended:
            return _ended(ended)
    check = _usable(attempts, AttemptKind.CHECK)
    if check is None:
        return _after_trouble(attempts, AttemptKind.CHECK, rules)
    if not any(o.status.bad for o in check.outcomes):
        return _judge_pass(check)
    return _compare(check, attempts, baselines, rules)


def canceled(reason: str) -> Judgement:
    """The judgement of a build that nobody wants any more, whatever was found."""
    return Judgement(
        result=Result.CANCELED, failure_class=FailureClass.CANCELED, vote=0, reason=reason
    )


def _compare(
    check: AttemptRecord,
    attempts: Sequence[AttemptRecord],
    baselines: Sequence[AttemptRecord],
    rules: BuildRules,
) -> AttemptKind | Judgement:
    """A check with failing tests: get the baseline, then the repeat, then judge."""
    own = [a for a in attempts if a.kind is AttemptKind.BASELINE and _comparable(a, check)]
    others = [b for b in baselines if b.likeness == check.likeness]
    baseline = _alike(own, check) or _alike(others, check)
    if baseline is None:
        return _after_trouble(attempts, AttemptKind.BASELINE, rules)
    repeat = _repeat(attempts, check)
    if repeat is None and _suspects(check, baseline):
        return _after_trouble(attempts, AttemptKind.REPEAT, rules)
    return _judge_failures(check, baseline, repeat, rules)


def _usable(attempts: Iterable[AttemptRecord], kind: AttemptKind) -> AttemptRecord | None:
    return next((a for a in attempts if a.kind is kind and a.finished_tests), None)


def _comparable(own: AttemptRecord, check: AttemptRecord) -> bool:
    """Whether another attempt of the same build ran on a node like the check's.

    One from before likeness was noted is like any: a build under way then comes to its end.
    """
    return "" in {own.likeness, check.likeness} or own.likeness == check.likeness


def _repeat(attempts: Iterable[AttemptRecord], check: AttemptRecord) -> AttemptRecord | None:
    return _usable([a for a in attempts if _comparable(a, check)], AttemptKind.REPEAT)


def _alike(baselines: Iterable[AttemptRecord], check: AttemptRecord) -> AttemptRecord | None:
    """A run of the check's trees without the patch, of its grade: only like is compared."""
    mine = (check.base_tree, check.grade)
    return next((b for b in baselines if (b.tree, b.grade) == mine and b.finished_tests), None)


def _ended(attempt: AttemptRecord) -> Judgement:
    failure_class = FailureClass.CANCELED
    if attempt.result is Result.MERGE_CONFLICT:
        failure_class = FailureClass.DEPENDENCY if attempt.dependency else FailureClass.CONFLICT
    return Judgement(
        result=attempt.result,
        failure_class=failure_class,
        vote=0,
        reason=attempt.error,
        attempts_compared=(attempt.attempt_id,),
    )


def _after_trouble(
    attempts: Sequence[AttemptRecord], kind: AttemptKind, rules: BuildRules
) -> AttemptKind | Judgement:
    """Try another node, within the quota; an empty run is not worth a second try.

    What we interrupted ourselves counts against no quota, and has a limit of its own: a build
    that kills its worker each time comes to an end.
    """
    tried = [a for a in attempts if a.kind is kind]
    empty = next((a for a in tried if a.result is Result.ERROR), None)
    if empty and kind is AttemptKind.CHECK:
        return Judgement(
            result=Result.ERROR,
            failure_class=FailureClass.EMPTY,
            vote=0,
            reason=empty.error,
            attempts_compared=(empty.attempt_id,),
        )
    counted = [a for a in tried if not a.interrupted]
    used_up = rules.quota.used_up(counted)
    if not used_up and len(tried) - len(counted) >= INTERRUPTION_LIMIT:
        used_up = f"interrupted {INTERRUPTION_LIMIT} times"
    return _gave_up(tried, kind, rules, used_up) if used_up else kind


def _gave_up(
    tried: Sequence[AttemptRecord], kind: AttemptKind, rules: BuildRules, used_up: str
) -> Judgement:
    last = tried[-1]
    purpose = {
        AttemptKind.CHECK: "the patch could not be tested",
        AttemptKind.REPEAT: "the failure could not be repeated",
        AttemptKind.BASELINE: f"{rules.base} could not be tested for comparison",
    }[kind]
    nodes = len(tried)
    what = f"evidence grade {last.grade}{f', {last.likeness}' if last.likeness else ''}"
    trouble = last.error or f"its node is unlike the check's: {what}"
    return Judgement(
        result=Result.RETRY_LIMIT if nodes > 1 else last.result,
        failure_class=FailureClass.INFRA,
        vote=0,
        reason=f"{purpose} in {nodes} {'try' if nodes == 1 else 'tries'}: {trouble}; "
        f"{used_up}{f': {told(tried)}' if nodes > 1 else ''}",
        attempts_compared=tuple(a.attempt_id for a in tried),
    )


def _judge_pass(check: AttemptRecord) -> Judgement:
    ran = sum(1 for o in check.outcomes if o.status is Status.PASS)
    skipped = sum(1 for o in check.outcomes if o.status is Status.SKIP)
    if not ran:
        return Judgement(
            result=Result.ERROR,
            failure_class=FailureClass.EMPTY,
            vote=0,
            reason=f"the suite ran no test: {skipped} skipped",
            attempts_compared=(check.attempt_id,),
        )
    note = f", {skipped} skipped" if skipped else ""
    return Judgement(
        result=Result.SUCCESS,
        failure_class=FailureClass.PASS,
        vote=1,
        reason=f"{ran} of {ran + skipped} tests passed{note}" if skipped else _all_passed(ran),
        attempts_compared=(check.attempt_id,),
    )


def _all_passed(ran: int) -> str:
    return "the one test passed" if ran == 1 else f"all {ran} tests passed"


def _by_id(outcomes: Iterable[Outcome]) -> Mapping[str, Outcome]:
    return {o.test_id: o for o in outcomes}


def _suspects(check: AttemptRecord, baseline: AttemptRecord) -> bool:
    """Whether a test fails that the branch tip does not fail."""
    broken = {o.test_id for o in baseline.outcomes if o.status.bad}
    return any(o.status.bad and o.test_id not in broken for o in check.outcomes)


def _judge_failures(
    check: AttemptRecord,
    baseline: AttemptRecord,
    repeat: AttemptRecord | None,
    rules: BuildRules,
) -> Judgement:
    tip = _by_id(baseline.outcomes)
    again = _by_id(repeat.outcomes) if repeat else {}
    findings = tuple(
        _finding(outcome, tip.get(outcome.test_id), again.get(outcome.test_id), rules.base)
        for outcome in check.outcomes
        if outcome.status.bad
    )
    compared = tuple(a.attempt_id for a in (check, baseline, repeat) if a)
    classes = {f.failure_class for f in findings}
    for guilty in (FailureClass.REGRESSION, FailureClass.NEW_FAILING):
        if guilty in classes:
            return Judgement(
                result=Result.FAILURE,
                failure_class=guilty,
                vote=-1,
                reason=_reason_of(findings, guilty, rules.base),
                findings=findings,
                attempts_compared=compared,
            )
    if FailureClass.INFRA in classes:
        return Judgement(
            result=Result.ERROR,
            failure_class=FailureClass.INFRA,
            vote=0,
            reason=_reason_of(findings, FailureClass.INFRA, rules.base),
            findings=findings,
            attempts_compared=compared,
        )
    known = FailureClass.KNOWN in classes
    return Judgement(
        result=Result.SUCCESS,
        failure_class=FailureClass.KNOWN if known else FailureClass.FLAKY,
        vote=rules.known_failure_vote if known else 1,
        reason=_reason_of(
            findings, FailureClass.KNOWN if known else FailureClass.FLAKY, rules.base
        ),
        findings=findings,
        attempts_compared=compared,
    )


def _finding(
    outcome: Outcome, tip: Outcome | None, again: Outcome | None, base: str
) -> TestFinding:
    if tip and tip.status.bad:
        same = tip.message == outcome.message
        found, why = (
            FailureClass.KNOWN,
            f"{base} fails it as well" + ("" if same else f", with another message: {tip.message}"),
        )
    elif again is None or again.status is Status.SKIP:
        found, why = FailureClass.INFRA, "did not run when the suite was repeated"
    elif not again.status.bad:
        found, why = FailureClass.FLAKY, "passed when it was repeated on the same commit"
    elif tip is None:
        found, why = (
            FailureClass.NEW_FAILING,
            f"{base} does not have this test, and it failed again when repeated",
        )
    elif tip.status is Status.SKIP:
        found, why = (
            FailureClass.NEW_FAILING,
            f"{base} skips this test, and it failed again when repeated",
        )
    else:
        found, why = (
            FailureClass.REGRESSION,
            f"passes on {base}, and failed again when repeated on another lease",
        )
    return TestFinding(
        test_id=outcome.test_id, failure_class=found, reason=why, message=outcome.message
    )


def _reason_of(findings: Sequence[TestFinding], wanted: FailureClass, base: str) -> str:
    names = [f.test_id for f in findings if f.failure_class is wanted]
    count = f"{len(names)} test" + ("" if len(names) == 1 else "s")
    said = {
        FailureClass.REGRESSION: f"this patch breaks {count} that {base} passes",
        FailureClass.NEW_FAILING: f"{count} that this patch brings in fails",
        FailureClass.KNOWN: f"{count} is broken on {base} as well",
        FailureClass.FLAKY: f"{count} passed only on the second run",
        FailureClass.INFRA: f"{count} did not run again when the suite was repeated",
    }[wanted]
    return f"{said}: {', '.join(names[:5])}" + (", ..." if len(names) > len(names[:5]) else "")


def verdict(builds: Sequence[BuildWord], pipeline: Pipeline) -> Verdict:
    """What is said of a buildset whose builds have all been judged.

    One voting build with a -1 decides; else one that could not be judged takes the vote
    away; only when every voting build passed is there a +1. Non-voting builds are listed
    and decide nothing.
    """
    voting = [b for b in builds if b.voting] or list(builds)
    classes = {b.judgement.failure_class for b in voting}
    if FailureClass.CANCELED in classes:
        return Verdict(vote=None, succeeded=False, reason="canceled", report=False)
    if FailureClass.CONFLICT in classes:
        return _not_merged(voting, pipeline, FailureClass.CONFLICT, pipeline.merge_conflict)
    if FailureClass.DEPENDENCY in classes:
        return _not_merged(voting, pipeline, FailureClass.DEPENDENCY, pipeline.dependency_trouble)
    guilty = [b for b in voting if b.judgement.vote < 0]
    undecided = [b for b in voting if b.judgement.vote == 0]
    if guilty:
        value, culprits = pipeline.failure, guilty
    elif undecided:
        value, culprits = 0, undecided
    else:
        value, culprits = pipeline.success, []
    may_vote = any(b.voting for b in builds)
    vote = _allowed(value if may_vote else 0, pipeline)
    return Verdict(
        vote=vote,
        held=_held(vote, pipeline),
        succeeded=all(b.judgement.result is Result.SUCCESS for b in voting),
        reason="; ".join(f"{b.job}: {b.judgement.reason}" for b in culprits)
        or "every job succeeded",
        report=pipeline.policy is not VotePolicy.SILENT,
    )


def _not_merged(
    voting: Sequence[BuildWord], pipeline: Pipeline, why: FailureClass, policy: ConflictPolicy
) -> Verdict:
    """There was nothing to test; the pipeline says whether that is told."""
    reason = next(b.judgement.reason for b in voting if b.judgement.failure_class is why)
    vote = _allowed(pipeline.failure if policy is ConflictPolicy.VOTE else 0, pipeline)
    return Verdict(
        vote=vote,
        held=_held(vote, pipeline),
        succeeded=False,
        reason=reason,
        report=policy is not ConflictPolicy.SILENT and pipeline.policy is not VotePolicy.SILENT,
    )


def _allowed(value: int, pipeline: Pipeline) -> Vote | None:
    """The vote that the pipeline's rung of the ladder allows; None for a comment alone."""
    votes = {
        VotePolicy.SILENT: False,
        VotePolicy.COMMENT: False,
        VotePolicy.PLUS_ONE_ONLY: value != 0,
        VotePolicy.VOTE: value != 0,
    }.get(pipeline.policy, False)
    return Vote(label=pipeline.label, value=value) if votes else None


def _held(vote: Vote | None, pipeline: Pipeline) -> bool:
    return pipeline.policy is VotePolicy.PLUS_ONE_ONLY and vote is not None and vote.value < 0
