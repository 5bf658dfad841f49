# SPDX-License-Identifier: Apache-2.0
"""Which of a pipeline's jobs a patch set needs: by what was asked for, and by its files. Pure."""

import re
from collections.abc import Sequence

from ci.layout import Job, Layout, Pipeline
from ci.recheck import RecheckRequest, printable
from ci.trigger_filters import Refusal

_FILES_SHOWN = 3
_PATH_LIMIT = 4_096
_PATH_SHOWN = 120


def asked_for(
    jobs: list[Job], layout: Layout, pipeline: Pipeline, recheck: RecheckRequest
) -> list[Job]:
    """The jobs that the words of a request leave: names of one kind add up, kinds narrow.

    Raises:
        Refusal: None is left.
    """
    names = {job.name for job in layout.jobs}
    labels = {job.node_label for job in layout.jobs} - names
    by_job = {word for word in recheck.words if word in names}
    by_label = {word for word in recheck.words if word in labels}
    by_pipeline = set(recheck.words) - by_job - by_label
    if by_pipeline and pipeline.name not in by_pipeline:
        raise Refusal(f"the recheck is for pipeline {', '.join(sorted(by_pipeline))}")
    kept = [
        job
        for job in jobs
        if (not by_job or job.name in by_job) and (not by_label or job.node_label in by_label)
    ]
    if not kept:
        raise Refusal(f"the recheck is for {' '.join(recheck.words)}, which fits no job here")
    return kept


def has_filters(jobs: Sequence[Job]) -> bool:
    """Whether the changed files make a difference to these jobs."""
    return any(job.files or job.irrelevant_files for job in jobs)


def relevant(jobs: list[Job], files: Sequence[str] | None) -> tuple[list[Job], list[str]]:
    """The jobs that the changed files concern, and a reason for each of the others.

    Raises:
        Refusal: They concern none.
    """
    # Gerrit lists the commit message and a merge's parents as files too: `/COMMIT_MSG`.
    changed = [file for file in files or () if not file.startswith("/")]
    if not changed:
        # Unknown, or a merge that changes nothing by itself: running is the safe side.
        return jobs, []
    reasons = {job.name: _irrelevant(job, changed) for job in jobs}
    kept = [job for job in jobs if not reasons[job.name]]
    left_out = [reason for reason in reasons.values() if reason]
    if not kept:
        raise Refusal("; ".join(left_out))
    return kept, left_out


def _irrelevant(job: Job, changed: Sequence[str]) -> str:
    """Why a job need not run for these files; empty if it must. Patterns match from the left."""
    if job.files and not any(_matches(job.files, file) for file in changed):
        return f"no changed file matches files of job {job.name}: {_shown(changed)}"
    if job.irrelevant_files and all(_matches(job.irrelevant_files, file) for file in changed):
        return f"every changed file matches irrelevant-files of job {job.name}: {_shown(changed)}"
    return ""


def _matches(patterns: Sequence[str], file: str) -> bool:
    return any(re.match(pattern, file[:_PATH_LIMIT]) for pattern in patterns)


def _shown(files: Sequence[str]) -> str:
    text = ", ".join(printable(file)[:_PATH_SHOWN] for file in files[:_FILES_SHOWN])
    more = len(files) - _FILES_SHOWN
    return f"{text} and {more} more" if more > 0 else text
