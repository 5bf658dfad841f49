# SPDX-License-Identifier: Apache-2.0
"""`hypervouch config check --preview`: the comments of each pipeline, before anybody gets one.

Every sample goes the whole way of a real one: judge, ladder of policies, template, linter.
Only the builds are made up. Nothing is posted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from ci import judge
from ci.comment import problems
from ci.layout import ConflictPolicy, Job, Layout, Pipeline
from ci.model.result import FailureClass, Judgement, Result, TestFinding, Verdict
from ci.review import compose_review
from ci.store.attempts import BuildOrder, JudgedBuild

_TEST = "tests.test_power.TestPower::test_resume"
_KNOWN = "tests.test_snapshot::test_delete"
_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)  # of a notice that nobody stores
_TOOK_S = 754.0


@dataclass(frozen=True, kw_only=True)
class Preview:
    """One sample comment.

    Attributes:
        pipeline: Its name.
        projects: Those for which it comes out like this.
        sample: What the sample is of.
        said: What would become of it, for instance `would vote Verified +1`.
        text: The comment; empty when nothing is posted.
        complaints: The linter's word, and why the template was not used; empty when all is well.
    """

    pipeline: str
    projects: tuple[str, ...]
    sample: str
    said: str
    text: str
    complaints: tuple[str, ...]


def previews(layout: Layout) -> Iterator[Preview]:
    """Samples of each pipeline; projects for which they come out alike stand together."""
    for pipeline in layout.pipelines:
        alike: dict[tuple[Pipeline, tuple[str, ...]], list[str]] = {}
        for project in layout.projects:
            if pipeline.name in project.pipelines:
                effective = layout.effective(pipeline.name, project.name)
                jobs = project.pipelines[pipeline.name].jobs
                alike.setdefault((effective, jobs), []).append(project.name)
        for (effective, names), projects in alike.items():
            jobs_of = [layout.job(name) for name in names]
            yield from _of_one(layout, effective, jobs_of, tuple(projects))


def show(layout: Layout, *, as_json: bool) -> bool:
    """Print the samples.

    Returns:
        Whether the linter has nothing against any.
    """
    found = list(previews(layout))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=1))
    else:
        for one in found:
            click.echo(_as_text(one))
    return not any(one.complaints for one in found)


def _as_text(one: Preview) -> str:
    where = f"{one.pipeline} for {', '.join(one.projects)}: {one.sample}"
    lines = [f"{click.style(where, bold=True)}: {one.said}"]
    lines += [f"    {line}".rstrip() for line in one.text.split("\n") if one.text]
    lines += [click.style(f"  BAD  {text}", fg="red") for text in one.complaints]
    if one.text and not one.complaints:
        lines.append("  ok   every program that reads comments can read this one")
    return "\n".join([*lines, ""])


def _of_one(
    layout: Layout, pipeline: Pipeline, jobs: Sequence[Job], projects: tuple[str, ...]
) -> Iterator[Preview]:
    for sample, judgements in _samples(pipeline, len(jobs)):
        builds = [_built(job, one) for job, one in zip(jobs, judgements, strict=True)]
        words = [
            judge.BuildWord(job=b.job_name, judgement=b.judgement, voting=b.voting) for b in builds
        ]
        verdict = judge.verdict(words, pipeline)
        order = _order(pipeline, projects[0], jobs[0])
        url = layout.service.url
        composed = compose_review(order, builds, verdict, pipeline, url=url, at=_MOMENT)
        text = composed.review.message
        notice = [composed.notice.text.split("\n", 1)[0]] if composed.notice else []
        yield Preview(
            pipeline=pipeline.name,
            projects=projects,
            sample=sample,
            said=_said(verdict),
            text=text if verdict.report else "",
            complaints=(*notice, *problems(text)) if verdict.report else (),
        )


def _said(verdict: Verdict) -> str:
    if not verdict.report:
        return "nothing is posted"
    if verdict.vote is None:
        return "would comment without a vote"
    vote = f"{verdict.vote.label} {verdict.vote.value:+d}"
    if verdict.held:
        return f"would be held until an operator releases it, then vote {vote}"
    return f"would vote {vote}"


def _samples(pipeline: Pipeline, jobs: int) -> Iterator[tuple[str, list[Judgement]]]:
    """What may happen, with one judgement for each job."""
    passed = _judged(Result.SUCCESS, FailureClass.PASS, 1, "all 42 tests passed")
    rest = [passed] * (jobs - 1)
    yield "succeeded", [passed, *rest]
    yield "a regression and a known failure", [_regression(), *rest]
    yield "a known failure alone", [_known(pipeline), *rest]
    lost = "the patch could not be tested in 3 tries: the node did not answer"
    yield (
        "trouble of a node",
        [_judged(Result.RETRY_LIMIT, FailureClass.INFRA, 0, lost), *rest],
    )
    if pipeline.merge_conflict is not ConflictPolicy.SILENT:
        conflict = "it conflicts with its branch in driver/power.py"
        yield (
            "a merge conflict",
            [_judged(Result.MERGE_CONFLICT, FailureClass.CONFLICT, 0, conflict)] * jobs,
        )
    if pipeline.dependency_trouble is not ConflictPolicy.SILENT:
        trouble = "it depends on change 11, which is abandoned"
        yield (
            "a dependency that cannot be followed",
            [_judged(Result.MERGE_CONFLICT, FailureClass.DEPENDENCY, 0, trouble)] * jobs,
        )


def _judged(
    result: Result,
    kind: FailureClass,
    vote: int,
    reason: str,
    findings: tuple[TestFinding, ...] = (),
) -> Judgement:
    return Judgement(result=result, failure_class=kind, vote=vote, reason=reason, findings=findings)


def _regression() -> Judgement:
    broken = TestFinding(
        test_id=_TEST,
        failure_class=FailureClass.REGRESSION,
        reason="passes on the branch tip, and failed again when repeated on another lease",
        message="AssertionError: the guest is still paused",
    )
    return _judged(
        Result.FAILURE,
        FailureClass.REGRESSION,
        -1,
        "this patch breaks 1 test that the branch tip passes",
        (broken, _known_finding()),
    )


def _known(pipeline: Pipeline) -> Judgement:
    return _judged(
        Result.SUCCESS,
        FailureClass.KNOWN,
        pipeline.known_failure_vote,
        "1 test is broken on the branch tip as well",
        (_known_finding(),),
    )


def _known_finding() -> TestFinding:
    return TestFinding(
        test_id=_KNOWN,
        failure_class=FailureClass.KNOWN,
        reason="the branch tip fails it as well",
    )


def _built(job: Job, judgement: Judgement) -> JudgedBuild:
    ran = judgement.result in {Result.SUCCESS, Result.FAILURE}
    return JudgedBuild(
        build_id=f"sample-{job.name}",
        job_name=job.name,
        voting=job.voting,
        judgement=judgement,
        duration_s=_TOOK_S,
        grade="nested" if ran else "none",
        hypervisor="the hypervisor" if ran else "",
    )


def _order(pipeline: Pipeline, project: str, job: Job) -> BuildOrder:
    return BuildOrder(
        build_id=f"sample-{job.name}",
        buildset_id="sample",
        job=job,
        state="running",
        cancel_reason=None,
        connection=pipeline.connection,
        project=project,
        branch="main",
        change_number=12,
        patchset=3,
        revision="0" * 40,
        ref="refs/changes/12/12/3",
        pipeline=pipeline.name,
    )
