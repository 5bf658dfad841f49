# SPDX-License-Identifier: Apache-2.0
"""What notices say: what happened, where, and what to do; pure.

Text that others wrote (subjects, branches, reasons) may be hostile: it is data here, and
`ci.store.notices.add` keeps it printable.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from ci.model.notice import Notice, NoticeKind
from ci.model.result import FailureClass, Verdict
from ci.store.attempts import BuildOrder, JudgedBuild

# Troubles of a change that its verdict stands for, with what their notices say.
_TROUBLES = {
    FailureClass.CONFLICT: (
        NoticeKind.MERGE_CONFLICT,
        "does not merge onto its branch",
        "nothing, its owner has to rebase it.",
    ),
    FailureClass.DEPENDENCY: (
        NoticeKind.DEPENDENCY,
        "has a Depends-On that cannot be followed",
        (
            "nothing, if its owner has to mend the footer. A change that it needs and our account "
            "may not read is for the review server's administrator."
        ),
    ),
}


def verdict_notices(
    order: BuildOrder,
    builds: Sequence[JudgedBuild],
    verdict: Verdict,
    *,
    url: str,
    at: datetime,
) -> tuple[Notice, ...]:
    """What is told of a judged buildset: its verdict, and the trouble behind it if there is one.

    Args:
        order: Any build of it: all share change, patch set and pipeline.
        builds: Every build of it, judged.
        verdict: What is said.
        url: Base URL of our pages, with its slash.
        at: When it was judged; aware, UTC.

    Returns:
        Nothing for one that was cancelled.
    """
    classes = {build.judgement.failure_class for build in builds}
    if FailureClass.CANCELED in classes:
        return ()
    page = f"{url}changes/{order.change_number}/{order.patchset}#{order.buildset_id}"
    facts = _facts(order, builds, verdict, url)
    made = [
        Notice(
            kind=NoticeKind.VERDICT,
            key=f"verdict:{order.buildset_id}",
            subject=f"{_place(order)}: {_outcome(verdict)}",
            text="\n".join(_verdict_lines(order, builds, verdict)),
            url=page,
            facts=facts,
            occurred_at=at,
        )
    ]
    for found in (trouble for trouble in _TROUBLES if trouble in classes):
        kind, said, advice = _TROUBLES[found]
        made.append(
            Notice(
                kind=kind,
                key=f"{kind.value}:{order.buildset_id}",
                subject=f"{_place(order)} {said}",
                text="\n".join(_trouble_lines(order, builds, found, advice)),
                url=page,
                facts=facts,
                occurred_at=at,
            )
        )
    return tuple(made)


def quarantine_notice(
    node: str,
    *,
    label: str,
    reason: str,
    failures: int,
    url: str,
    at: datetime,
    looping: bool = False,
) -> Notice:
    """A node was taken out of work.

    Args:
        node: Its name.
        label: Node label that jobs ask for.
        reason: What was wrong with it the last time.
        failures: Times in a row.
        url: Base URL of our pages; empty where it is not known.
        at: When; aware, UTC.
        looping: Whether it comes back and fails again and again before any test.
    """
    how_often = f"{failures} time{'' if failures == 1 else 's'} in a row"
    told = (
        f"It is Looping: it failed {how_often}, each time before a test ran."
        if looping
        else f"It failed {how_often}."
    )
    return Notice(
        kind=NoticeKind.QUARANTINE,
        key=f"quarantine:{node}:{at.isoformat()}:{'looping' if looping else 'bad'}",
        subject=f"node {node} {'is looping' if looping else 'was taken out of work'}",
        text=(
            f"Node {node} (label {label}) gets no more builds: {reason}\n"
            f"{told} Builds that need the label wait for its other nodes.\n\n"
            f"What to do: mend the node. It is tried {_tried(looping=looping)} and returns to "
            f"work by itself once it is fit; `hypervouch nodes probe {node}` tries it now, "
            "`hypervouch doctor` tries each provider, `hypervouch nodes` shows the health of all "
            "nodes."
        ),
        url=f"{url}nodes" if url else "",
        facts={"node": node, "label": label, "reason": reason, "failures": failures},
        occurred_at=at,
    )


def _tried(*, looping: bool) -> str:
    return "less and less often, at least every hour," if looping else "every minute"


def trial_notice(reporter: str, kind: NoticeKind, *, url: str, at: datetime) -> Notice:
    """What `hypervouch notices test` sends."""
    return Notice(
        kind=kind,
        key=f"test:{reporter}:{at.isoformat()}",
        subject=f"test of the reporter {reporter}",
        text=(
            f"This is a test that an operator sent; nothing happened.\n"
            f"The reporter {reporter} works if you can read it."
        ),
        url=url,
        facts={"test": True, "reporter": reporter},
        occurred_at=at,
    )


def _place(order: BuildOrder) -> str:
    return f"{order.project} {order.change_number},{order.patchset}"


def _outcome(verdict: Verdict) -> str:
    word = "succeeded" if verdict.succeeded else "failed"
    if verdict.vote is None:
        return f"{word}, no vote"
    held = ", held" if verdict.held else ""
    return f"{word}, {verdict.vote.label} {verdict.vote.value:+d}{held}"


def _where(order: BuildOrder) -> str:
    return (
        f"Where: change {order.change_number}, patch set {order.patchset} of {order.project}, "
        f"branch {order.branch}, pipeline {order.pipeline}, server {order.connection}."
    )


def _verdict_lines(
    order: BuildOrder, builds: Sequence[JudgedBuild], verdict: Verdict
) -> Iterator[str]:
    said = "" if verdict.report else " Nothing is said on the review server."
    yield f"The builds were judged ({_outcome(verdict)}): {verdict.reason}.{said}"
    yield _where(order)
    for build in builds:
        voting = "" if build.voting else " (non-voting)"
        judgement = build.judgement
        yield f"  {build.job_name}{voting}: {judgement.result.value}: {judgement.reason}"
    yield ""
    if not verdict.succeeded:
        yield f"To look closer: `hypervouch build {_telling(builds)}`."
    yield f"To run it again: `hypervouch recheck {order.change_number}{_server(order)}`."


def _trouble_lines(
    order: BuildOrder, builds: Sequence[JudgedBuild], found: FailureClass, advice: str
) -> Iterator[str]:
    reason = next(b.judgement.reason for b in builds if b.judgement.failure_class is found)
    yield f"{_place(order)} cannot be tested: {reason}"
    yield _where(order)
    yield ""
    yield f"What to do: {advice}"
    yield f"To try again: `hypervouch recheck {order.change_number}{_server(order)}`."


def _server(order: BuildOrder) -> str:
    return f" --connection {order.connection}"


def _telling(builds: Sequence[JudgedBuild]) -> str:
    """The build that says most of why a buildset did not succeed."""
    worst = min(builds, key=lambda b: (not b.voting, b.judgement.vote))
    return worst.build_id


def _facts(
    order: BuildOrder, builds: Sequence[JudgedBuild], verdict: Verdict, url: str
) -> dict[str, object]:
    vote = verdict.vote
    return {
        "connection": order.connection,
        "project": order.project,
        "branch": order.branch,
        "change": order.change_number,
        "patchset": order.patchset,
        "revision": order.revision,
        "pipeline": order.pipeline,
        "buildset": order.buildset_id,
        "succeeded": verdict.succeeded,
        "vote": {"label": vote.label, "value": vote.value} if vote else None,
        "held": verdict.held,
        "reported": verdict.report,
        "reason": verdict.reason,
        "builds": [_build_facts(build, url) for build in builds],
    }


def _build_facts(build: JudgedBuild, url: str) -> dict[str, object]:
    return {
        "id": build.build_id,
        "job": build.job_name,
        "voting": build.voting,
        "result": build.judgement.result.value,
        "class": build.judgement.failure_class.value,
        "reason": build.judgement.reason,
        "duration_s": round(build.duration_s, 3),
        "grade": build.grade,
        "hypervisor": build.hypervisor,
        "url": f"{url}builds/{build.build_id}/",
    }
