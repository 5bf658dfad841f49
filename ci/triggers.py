# SPDX-License-Identifier: Apache-2.0
"""Step 2 of 9, trigger. Before: event (`ci/listener.py`). After: build (`ci/planner.py`).

In: a stored Event, the Layout, and what else is Known. Out: one Decision per pipeline with its
reason: for yes, for no, and for not yet. Pure: what was missing for a last answer stands in
`Decision.lacks`, so the caller asks for that and for nothing else.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ci.layout import Layout, Pipeline, Project, TriggerKind
from ci.model.change import Change, Patchset
from ci.model.event import RECONSIDER, Event, EventKind
from ci.model.facts import ChangeFacts
from ci.recheck import RecheckRequest, parse, printable
from ci.trigger_filters import (
    Need,
    Refusal,
    approval_labels,
    check_approvals,
    check_filters,
    check_known,
    check_trust,
    told_vote,
)
from ci.trigger_jobs import asked_for, has_filters, relevant

__all__ = ["ALIAS", "Decision", "Known", "Need", "explain", "match", "needs"]

ALIAS = "hypervouch"
_CLOSED = frozenset({"MERGED", "ABANDONED"})
_ENDED = {
    EventKind.CHANGE_ABANDONED: "an abandoned change starts nothing; its builds are cancelled",
    EventKind.CHANGE_MERGED: "a merged change starts nothing; its builds are cancelled",
    EventKind.CHANGE_DELETED: "a deleted change starts nothing; its builds are cancelled",
}
_HAPPENED = {
    EventKind.WIP_STATE_CHANGED: "it is ready for review",
    EventKind.PRIVATE_STATE_CHANGED: "it is no longer private",
    EventKind.TOPIC_CHANGED: "its topic changed",
    EventKind.HASHTAGS_CHANGED: "its hashtags changed",
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known besides the event; None where nobody asked yet.

    Attributes:
        files: Changed files as Gerrit lists them; while unknown, file filters hold nothing back.
        facts: The change as the server knows it now.
        has_run: Names of pipelines that have a buildset of this patch set.
        unjudged: Names of pipelines that never judged what this patch set repeats, so that
            they run it although they skip its kind.
    """

    files: Sequence[str] | None = None
    facts: ChangeFacts | None = None
    has_run: frozenset[str] | None = None
    unjudged: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether an event starts a pipeline, and why.

    Attributes:
        pipeline: Its name.
        starts: Whether a Buildset is wanted.
        waits: Whether it does not start now and may later without another patch set: after
            a vote, or when the change leaves work in progress.
        jobs: Names of the jobs to run, in the project's order; empty without a start.
        reason: One sentence without its full stop; may hold hostile text, printable only.
        recheck: What was asked for, where a comment started it.
        only_first: Start it only if this patch set never ran in this pipeline.
        lacks: What was not known and would change this answer.
    """

    pipeline: str
    starts: bool
    waits: bool = False
    jobs: tuple[str, ...] = ()
    reason: str
    recheck: RecheckRequest | None = None
    only_first: bool = False
    lacks: frozenset[Need] = field(default=frozenset())


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What an event asks of a pipeline: a recheck, a patch set's first run, or a new run.

    Attributes:
        before, after: The words around the patch set's name in the reason.
    """

    before: str = ""
    after: str
    recheck: RecheckRequest | None = None
    only_first: bool = False


def match(
    event: Event, layout: Layout, known: Known = Known(), own: frozenset[str] = frozenset()
) -> tuple[Decision, ...]:
    """What an event starts.

    Args:
        event: What happened.
        layout: The configuration.
        known: What else is known of the change.
        own: User names, and full names where known, of our own accounts on that server.

    Returns:
        One Decision per pipeline, in the layout's order.
    """
    return tuple(_decide(event, layout, pipeline, known, own) for pipeline in layout.pipelines)


def needs(decisions: Iterable[Decision]) -> frozenset[Need]:
    """All that has to be known before these decisions are the last word."""
    return frozenset(need for decision in decisions for need in decision.lacks)


def explain(decisions: Sequence[Decision]) -> list[str]:
    """One line per pipeline: whether it starts, which jobs, and why."""
    if not decisions:
        return ["The layout has no pipelines."]
    return [_sentence(decision) for decision in decisions]


def _sentence(decision: Decision) -> str:
    if decision.waits:
        return f"{decision.pipeline} {decision.reason}."
    verb = f"starts {', '.join(decision.jobs)}" if decision.starts else "does not start"
    return f"{decision.pipeline} {verb}: {decision.reason}."


def _decide(
    event: Event, layout: Layout, pipeline: Pipeline, known: Known, own: frozenset[str]
) -> Decision:
    try:
        return _start(event, layout, pipeline, known, own)
    except Refusal as refusal:
        return Decision(
            pipeline=pipeline.name,
            starts=False,
            waits=refusal.waits,
            reason=str(refusal),
            lacks=frozenset({refusal.lacks} if refusal.lacks else ()),
        )


def _start(
    event: Event, layout: Layout, pipeline: Pipeline, known: Known, own: frozenset[str]
) -> Decision:
    """The decision to start, after every rule has been asked; cheap rules come first."""
    names = _project_jobs(event, layout, pipeline)
    start = _asked(event, layout, pipeline, own)
    if start.only_first and event.patchset is not None:
        _check_first(pipeline, event.patchset, known)
    change, patchset = _subject(event, pipeline, known)
    _check_state(change, patchset, pipeline, known, start)
    check_filters(pipeline, change)
    if start.only_first:
        _check_first(pipeline, patchset, known)
    jobs = [layout.job(name) for name in names]
    if start.recheck is not None:
        jobs = asked_for(jobs, layout, pipeline, start.recheck)
    check_approvals(pipeline, patchset, known.facts)
    lacks = {Need.FILES} if known.files is None and has_filters(jobs) else set()
    jobs, left_out = relevant(jobs, known.files)
    check_trust(pipeline, jobs, change, patchset, known.facts)
    which = f"patch set {patchset.number} of change {change.number}"
    return Decision(
        pipeline=pipeline.name,
        starts=True,
        jobs=tuple(job.name for job in jobs),
        reason="; ".join([f"{start.before}{which}{start.after}", *left_out]),
        recheck=start.recheck,
        only_first=start.only_first,
        lacks=frozenset(lacks),
    )


def _project_jobs(event: Event, layout: Layout, pipeline: Pipeline) -> tuple[str, ...]:
    """Names of the jobs that the pipeline runs for the change's project and branch."""
    change = event.change
    if pipeline.connection != event.connection:
        raise Refusal(
            f"the event came through connection {event.connection}, and this pipeline listens "
            f"to {pipeline.connection}"
        )
    project = layout.project(change.project)
    if project is None:
        raise Refusal(f"project {printable(change.project)} is not in the layout")
    if pipeline.name not in project.pipelines:
        raise Refusal(f"project {project.name} does not use this pipeline")
    if not _branch_matches(project, change.branch):
        raise Refusal(
            f"branch {printable(change.branch)} of project {project.name} matches none of: "
            f"{', '.join(project.branches)}"
        )
    return project.pipelines[pipeline.name].jobs


def _branch_matches(project: Project, branch: str) -> bool:
    # The whole name: `master` must not take in `master-2024`.
    return not project.branches or any(re.fullmatch(rule, branch) for rule in project.branches)


def _asked(event: Event, layout: Layout, pipeline: Pipeline, own: frozenset[str]) -> _Start:
    """What the event asks of this pipeline."""
    if event.kind in _ENDED:
        raise Refusal(_ENDED[event.kind])
    if event.kind is EventKind.COMMENT_ADDED:
        start = _said(event, layout, pipeline, own)
    elif event.kind in RECONSIDER:
        start = _changed(event, pipeline)
    else:
        restored = event.kind is EventKind.CHANGE_RESTORED
        start = _Start(after=" was restored" if restored else " was uploaded")
    if start.recheck is None and TriggerKind.PATCHSET_CREATED not in pipeline.trigger:
        raise Refusal("this pipeline is not started by new patch sets")
    return start


def _said(event: Event, layout: Layout, pipeline: Pipeline, own: frozenset[str]) -> _Start:
    """What a comment asks: a recheck by its text, or a first run by a vote that it brings.

    What other programs write is no request; their votes count like anybody's, and what they
    upload is a patch like any other.
    """
    author = event.author
    if {author.username, author.name} & (own - {""}):
        raise Refusal("the comment is our own")
    recheck = None
    if not author.is_ci:
        # An account of ours may stand beside another: `run-` names one of them.
        beside = {one.user for one in layout.connections if one.name != pipeline.connection}
        aliases = {ALIAS, layout.connection(pipeline.connection).user, *(own - beside)}
        recheck = parse(event.texts, aliases, _names(layout))
    if recheck is not None and TriggerKind.RECHECK in pipeline.trigger:
        return _request(event, recheck)
    labels = approval_labels(pipeline)
    votes = [vote for vote in event.approvals if vote.changed and vote.label in labels]
    if votes:
        return _first_run(f"there is {told_vote(votes[0])}")
    if recheck is not None:
        raise Refusal("this pipeline is not started by rechecks")
    if author.is_ci:
        raise Refusal(f"the comment was written by a program, {printable(author.name)}")
    raise Refusal("the comment asks for no recheck")


def _changed(event: Event, pipeline: Pipeline) -> _Start:
    """A first run, where the pipeline may have waited for just this."""
    rules = (pipeline.require, pipeline.reject)
    labels = approval_labels(pipeline)
    cares = {
        EventKind.WIP_STATE_CHANGED: pipeline.skip_wip,
        EventKind.PRIVATE_STATE_CHANGED: True,
        EventKind.TOPIC_CHANGED: any(rule.topic for rule in rules),
        EventKind.HASHTAGS_CHANGED: any(rule.hashtag for rule in rules),
        EventKind.VOTE_DELETED: any(vote.label in labels for vote in event.approvals),
    }
    if not cares[event.kind]:
        raise Refusal(f"{event.kind.value.replace('-', ' ')}, and no rule here looks at that")
    gone = ", ".join(told_vote(vote) for vote in event.approvals[:3])
    return _first_run(_HAPPENED.get(event.kind) or f"there is no {gone}")


def _first_run(why: str) -> _Start:
    return _Start(after=f" had not run, and now {why}", only_first=True)


def _names(layout: Layout) -> frozenset[str]:
    pipelines = {pipeline.name for pipeline in layout.pipelines}
    return frozenset(
        pipelines | {word for job in layout.jobs for word in (job.name, job.node_label)}
    )


def _subject(event: Event, pipeline: Pipeline, known: Known) -> tuple[Change, Patchset]:
    """The change as far as it is known now, and the patch set in question."""
    facts = known.facts
    if facts is None:
        if event.patchset is None:
            raise Refusal("the event names no patch set", lacks=Need.FACTS)
        if event.kind in RECONSIDER:
            # It tells that something changed; what holds now may be different again.
            raise Refusal("the server has not told how the change stands now", lacks=Need.FACTS)
        check_known(event, pipeline)
        return event.change, event.patchset
    current = facts.patchset
    if event.patchset is not None and event.patchset.number != current.number:
        raise Refusal(
            f"patch set {event.patchset.number} is no longer current, {current.number} is"
        )
    return facts.change, current


def _check_state(
    change: Change, patchset: Patchset, pipeline: Pipeline, known: Known, start: _Start
) -> None:
    if change.status in _CLOSED:
        raise Refusal(f"change {change.number} is closed ({change.status})")
    if change.private:
        raise Refusal(
            f"waits for change {change.number} to be public: it is private, and what we publish "
            "is not",
            waits=True,
        )
    if start.recheck is not None:
        return
    if change.wip and pipeline.skip_wip:
        raise Refusal(
            f"waits for change {change.number} to be ready for review: it is work in progress; "
            "`recheck` runs it all the same",
            waits=True,
        )
    if patchset.kind in pipeline.skip_kinds and pipeline.name not in (known.unjudged or ()):
        raise Refusal(
            f"patch set {patchset.number} of change {change.number} is of the kind "
            f"{printable(patchset.kind)}, which this pipeline skips",
            lacks=Need.JUDGED if known.unjudged is None else None,
        )


def _check_first(pipeline: Pipeline, patchset: Patchset, known: Known) -> None:
    if known.has_run is None:
        raise Refusal(f"waits for word of patch set {patchset.number}", lacks=Need.RUNS)
    if pipeline.name in known.has_run:
        raise Refusal(f"patch set {patchset.number} has run or runs now")


def _request(event: Event, recheck: RecheckRequest) -> _Start:
    who = printable(event.author.username or event.author.name or "somebody")
    text = " ".join([*recheck.words, recheck.reason]).strip()
    return _Start(
        before=f"{who} asked for a recheck of ",
        after=f" ({text})" if text else "",
        recheck=recheck,
    )
