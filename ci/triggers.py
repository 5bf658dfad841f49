# SPDX-License-Identifier: Apache-2.0
"""Step 2 of 9, trigger. Before: event (`ci/listener.py`). After: build (`ci/planner.py`).

In: a stored Event, the Layout and, where a job filters by them, the changed files. Out: one
Decision per pipeline with its reason, for yes and for no. Pure: `needs_files` tells the caller
whether the files have to be fetched first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ci.layout import Job, Layout, Pipeline, Project, TriggerKind
from ci.model.event import Event, EventKind
from ci.recheck import RecheckRequest, parse, printable

ALIAS = "hypervouch"
_FILES_SHOWN = 3
_CLOSED = frozenset({"MERGED", "ABANDONED"})
_PLANNED = {
    EventKind.CHANGE_ABANDONED: "an abandoned change starts nothing; its builds are cancelled",
    EventKind.CHANGE_RESTORED: "a restored change starts nothing until its next patch set",
    EventKind.CHANGE_MERGED: "a merged change starts nothing; its builds are cancelled",
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether an event starts a pipeline, and why.

    Attributes:
        pipeline: Its name.
        starts: Whether a Buildset is wanted.
        jobs: Names of the jobs to run, in the project's order; empty without a start.
        reason: One sentence without its full stop; may hold hostile text, printable only.
        recheck: What was asked for, where a comment started it.
    """

    pipeline: str
    starts: bool
    jobs: tuple[str, ...] = ()
    reason: str
    recheck: RecheckRequest | None = None


class _No(Exception):
    """A rule that ends the matter, with the reason."""


def match(
    event: Event,
    layout: Layout,
    files: Sequence[str] | None,
    own_usernames: frozenset[str] = frozenset(),
) -> tuple[Decision, ...]:
    """What an event starts.

    Args:
        event: What happened.
        layout: The configuration.
        files: Changed files as Gerrit lists them; None where unknown or not needed, then file
            filters hold nothing back.
        own_usernames: User names, and full names where known, of our own accounts.

    Returns:
        One Decision per pipeline, in the layout's order.
    """
    return tuple(
        _decide(event, layout, pipeline, files, own_usernames) for pipeline in layout.pipelines
    )


def needs_files(event: Event, layout: Layout) -> bool:
    """Whether a job that would start has file filters, so that `match` wants the changed files."""
    for decision in match(event, layout, None):
        jobs = (layout.job(name) for name in decision.jobs)
        if any(job.files or job.irrelevant_files for job in jobs):
            return True
    return False


def explain(decisions: Sequence[Decision]) -> list[str]:
    """One line per pipeline: whether it starts, which jobs, and why."""
    if not decisions:
        return ["The layout has no pipelines."]
    lines = []
    for decision in decisions:
        verb = f"starts {', '.join(decision.jobs)}" if decision.starts else "does not start"
        lines.append(f"{decision.pipeline} {verb}: {decision.reason}.")
    return lines


def _decide(
    event: Event,
    layout: Layout,
    pipeline: Pipeline,
    files: Sequence[str] | None,
    own: frozenset[str],
) -> Decision:
    try:
        names = _project_jobs(event, layout, pipeline)
        _check_author(event, own)
        recheck = _check_kind(event, layout, pipeline, own)
        _check_change(event, pipeline, recheck)
        jobs = [layout.job(name) for name in names]
        if recheck is not None:
            jobs = _asked_for(jobs, layout, pipeline, recheck)
        jobs, left_out = _relevant(jobs, files)
    except _No as no:
        return Decision(pipeline=pipeline.name, starts=False, reason=str(no))
    reason = "; ".join([_cause(event, recheck), *left_out])
    return Decision(
        pipeline=pipeline.name,
        starts=True,
        jobs=tuple(job.name for job in jobs),
        reason=reason,
        recheck=recheck,
    )


def _project_jobs(event: Event, layout: Layout, pipeline: Pipeline) -> tuple[str, ...]:
    """Names of the jobs that the pipeline runs for the change's project and branch."""
    change = event.change
    if pipeline.connection != event.connection:
        raise _No(
            f"the event came through connection {event.connection}, and this pipeline listens "
            f"to {pipeline.connection}"
        )
    project = layout.project(change.project)
    if project is None:
        raise _No(f"project {printable(change.project)} is not in the layout")
    if pipeline.name not in project.pipelines:
        raise _No(f"project {project.name} does not use this pipeline")
    if not _branch_matches(project, change.branch):
        raise _No(
            f"branch {printable(change.branch)} of project {project.name} matches none of: "
            f"{', '.join(project.branches)}"
        )
    return project.pipelines[pipeline.name].jobs


def _branch_matches(project: Project, branch: str) -> bool:
    # The whole name: `master` must not take in `master-2024`.
    return not project.branches or any(re.fullmatch(rule, branch) for rule in project.branches)


def _check_author(event: Event, own: frozenset[str]) -> None:
    """Refuse what other programs say. What they upload is a patch like any other."""
    if event.kind is not EventKind.COMMENT_ADDED:
        return
    author = event.author
    if {author.username, author.name} & (own - {""}):
        raise _No("the comment is our own")
    if author.is_ci:
        raise _No(f"the comment was written by a program, {printable(author.name)}")


def _check_kind(
    event: Event, layout: Layout, pipeline: Pipeline, own: frozenset[str]
) -> RecheckRequest | None:
    """The request, for a comment; None for an upload."""
    if event.kind in _PLANNED:
        raise _No(_PLANNED[event.kind])
    if event.kind is EventKind.PATCHSET_CREATED:
        if TriggerKind.PATCHSET_CREATED not in pipeline.trigger:
            raise _No("this pipeline is not started by new patch sets")
        return None
    aliases = {ALIAS, layout.connection(pipeline.connection).user, *own}
    recheck = parse(event.texts, aliases, _names(layout))
    if recheck is None:
        raise _No("the comment asks for no recheck")
    if TriggerKind.RECHECK not in pipeline.trigger:
        raise _No("this pipeline is not started by rechecks")
    return recheck


def _names(layout: Layout) -> frozenset[str]:
    pipelines = {pipeline.name for pipeline in layout.pipelines}
    return frozenset(
        pipelines | {word for job in layout.jobs for word in (job.name, job.node_label)}
    )


def _check_change(event: Event, pipeline: Pipeline, recheck: RecheckRequest | None) -> None:
    change, patchset = event.change, event.patchset
    if patchset is None:
        raise _No("the event names no patch set")
    if change.status in _CLOSED:
        raise _No(f"change {change.number} is closed ({change.status})")
    if change.private:
        raise _No(f"change {change.number} is private, and what we publish is not")
    if recheck is not None:
        return
    if change.wip and pipeline.skip_wip:
        raise _No(f"change {change.number} is work in progress; `recheck` runs it all the same")
    if patchset.kind in pipeline.skip_kinds:
        raise _No(
            f"patch set {patchset.number} of change {change.number} is of the kind "
            f"{patchset.kind}, which this pipeline skips"
        )


def _asked_for(
    jobs: list[Job], layout: Layout, pipeline: Pipeline, recheck: RecheckRequest
) -> list[Job]:
    """The jobs that the words of a request leave: names of one kind add up, kinds narrow."""
    names = {job.name for job in layout.jobs}
    labels = {job.node_label for job in layout.jobs} - names
    by_job = {word for word in recheck.words if word in names}
    by_label = {word for word in recheck.words if word in labels}
    by_pipeline = set(recheck.words) - by_job - by_label
    if by_pipeline and pipeline.name not in by_pipeline:
        raise _No(f"the recheck is for pipeline {', '.join(sorted(by_pipeline))}")
    kept = [
        job
        for job in jobs
        if (not by_job or job.name in by_job) and (not by_label or job.node_label in by_label)
    ]
    if not kept:
        raise _No(f"the recheck is for {' '.join(recheck.words)}, which fits no job here")
    return kept


def _relevant(jobs: list[Job], files: Sequence[str] | None) -> tuple[list[Job], list[str]]:
    """The jobs that the changed files concern, and a reason for each of the others."""
    # Gerrit lists the commit message and a merge's parents as files too: `/COMMIT_MSG`.
    changed = [file for file in files or () if not file.startswith("/")]
    if not changed:
        # Unknown, or a merge that changes nothing by itself: running is the safe side.
        return jobs, []
    reasons = {job.name: _irrelevant(job, changed) for job in jobs}
    kept = [job for job in jobs if not reasons[job.name]]
    left_out = [reason for reason in reasons.values() if reason]
    if not kept:
        raise _No("; ".join(left_out))
    return kept, left_out


def _irrelevant(job: Job, changed: Sequence[str]) -> str:
    """Why a job need not run for these files; empty if it must. Patterns match from the left."""
    if job.files and not any(_matches(job.files, file) for file in changed):
        return f"no changed file matches files of job {job.name}: {_shown(changed)}"
    if job.irrelevant_files and all(_matches(job.irrelevant_files, file) for file in changed):
        return f"every changed file matches irrelevant-files of job {job.name}: {_shown(changed)}"
    return ""


def _matches(patterns: Sequence[str], file: str) -> bool:
    return any(re.match(pattern, file) for pattern in patterns)


def _shown(files: Sequence[str]) -> str:
    text = ", ".join(printable(file)[:120] for file in files[:_FILES_SHOWN])
    more = len(files) - _FILES_SHOWN
    return f"{text} and {more} more" if more > 0 else text


def _cause(event: Event, recheck: RecheckRequest | None) -> str:
    number = event.patchset.number if event.patchset else 0
    what = f"patch set {number} of change {event.change.number}"
    if recheck is None:
        return f"{what} was uploaded"
    who = printable(event.author.username or event.author.name or "somebody")
    text = " ".join([*recheck.words, recheck.reason]).strip()
    return f"{who} asked for a recheck of {what}" + (f" ({text})" if text else "")
