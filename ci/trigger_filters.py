# SPDX-License-Identifier: Apache-2.0
"""Which changes a pipeline takes: its `require`, `reject` and `trust` rules. Pure.

The expressions are the operator's, the texts are a stranger's: each text is cut before an
expression sees it, so that a long one costs no more than its limit. An approval counts for the
commit that it was given to and for no other.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from ci.layout import ApprovalRule, Filters, Job, Pipeline
from ci.model.change import Change, Patchset
from ci.model.event import Approval, Event
from ci.model.facts import ChangeFacts
from ci.recheck import printable

LINE_LIMIT = 500
MESSAGE_LIMIT = 8_000
_SHOWN = 120
_SHA = 12


class Need(StrEnum):
    """What is still unknown, and would change the answer."""

    FILES = "files"  # what the patch set changes
    FACTS = "facts"  # the change as the server knows it now
    RUNS = "runs"  # which pipelines ran this patch set
    JUDGED = "judged"  # which pipelines judged what this patch set repeats


class Refusal(Exception):
    """A rule that ends the matter.

    Args:
        reason: One sentence without its full stop, printable.
        waits: Whether it may be otherwise later without another patch set.
        lacks: What has to be known before this answer is the last one.
    """

    def __init__(self, reason: str, *, waits: bool = False, lacks: Need | None = None) -> None:
        super().__init__(reason)
        self.waits = waits
        self.lacks = lacks


def check_known(event: Event, pipeline: Pipeline) -> None:
    """Refuse to judge by an event that leaves out what the pipeline's filters look at.

    Raises:
        Refusal: The server has to be asked.
    """
    change, rules = event.change, (pipeline.require, pipeline.reject)
    # What an operator asked of us was stored with a few columns of the change only.
    thin = event.source == "request" and any(rule.given for rule in rules)
    no_message = not change.message and any(rule.message for rule in rules)
    no_owner = not change.owner_email and any(rule.owner for rule in rules)
    if thin or no_message or no_owner:
        raise Refusal(
            f"the event does not show all of change {change.number} that this pipeline looks at",
            lacks=Need.FACTS,
        )


def check_filters(pipeline: Pipeline, change: Change) -> None:
    """Hold a change against every filter but the approvals.

    Raises:
        Refusal: One of them speaks against it.
    """
    for key, texts, wanted, found in _held_against(pipeline.require, change):
        if wanted and found is None:
            raise Refusal(f"{_named(key, texts)} matches none of require: {', '.join(wanted)}")
    for key, texts, _, found in _held_against(pipeline.reject, change):
        if found is not None:
            raise Refusal(f"{_named(key, texts)} matches reject: {found}")


def _held_against(
    rules: Filters, change: Change
) -> Iterable[tuple[str, Sequence[str], Sequence[str], str | None]]:
    """Each key with its texts, its expressions, and the first of these that matches one."""
    asked: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("branch", (change.branch,), rules.branch),
        ("topic", (change.topic,), rules.topic),
        ("hashtag", change.hashtags, rules.hashtag),
        ("owner", _filled(change.owner, change.owner_email), rules.owner),
    )
    for key, texts, wanted in asked:
        yield key, texts, wanted, _first(wanted, texts, re.fullmatch, LINE_LIMIT)
    found = _first(rules.message, (change.message,), re.search, MESSAGE_LIMIT)
    yield "message", (), rules.message, found


def _filled(*names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name)


def _first(
    wanted: Sequence[str],
    texts: Sequence[str],
    how: Callable[[str, str], object],
    limit: int,
) -> str | None:
    cut = [text[:limit] for text in texts]
    return next((rule for rule in wanted if any(how(rule, text) for text in cut)), None)


def _named(key: str, texts: Sequence[str]) -> str:
    if key == "message":
        return "the commit message"
    shown = ", ".join(printable(text)[:_SHOWN] for text in texts[:5] if text)
    return f"{key} {shown}" if shown else f"no {key}"


def approval_labels(pipeline: Pipeline) -> frozenset[str]:
    """The labels whose votes can make a difference to a pipeline."""
    rules = (*pipeline.require.approval, *pipeline.reject.approval, *pipeline.trust.approval)
    return frozenset(rule.label for rule in rules)


def check_approvals(pipeline: Pipeline, patchset: Patchset, facts: ChangeFacts | None) -> None:
    """Hold the votes on a patch set against the pipeline's rules.

    Raises:
        Refusal: One that is required is missing, or one stands that must not.
    """
    if not pipeline.require.approval and not pipeline.reject.approval:
        return
    if facts is None:
        raise Refusal(f"waits for {_votes_of(patchset)}", waits=True, lacks=Need.FACTS)
    for rule in pipeline.require.approval:
        if not any(_meets(rule, vote) for vote in facts.approvals):
            raise Refusal(f"waits for {told(rule)} on {_commit(patchset)}", waits=True)
    for rule in pipeline.reject.approval:
        found = next((vote for vote in facts.approvals if _meets(rule, vote)), None)
        if found:
            raise Refusal(
                f"waits for {told_vote(found)} on {_commit(patchset)} to be taken back", waits=True
            )


def check_trust(
    pipeline: Pipeline,
    jobs: Sequence[Job],
    change: Change,
    patchset: Patchset,
    facts: ChangeFacts | None,
) -> None:
    """Hold a patch set against the pipeline's trust rule, where one of its jobs requires that.

    Raises:
        Refusal: Neither its owner nor a vote on this very commit is trusted.
    """
    wary = [job.name for job in jobs if job.requires_trust]
    rule = pipeline.trust
    if not wary or _trusted_owner(rule.owner, change, patchset):
        return
    which = ", ".join(wary)
    unclear = rule.owner and not (patchset.uploader and change.owner_email)
    if facts is None and (rule.approval or unclear):
        reason = f"waits for {_votes_of(patchset)}: {which} requires trust"
        raise Refusal(reason, waits=True, lacks=Need.FACTS)
    votes = facts.approvals if facts else ()
    authors = {change.owner, change.owner_email, patchset.uploader} - {""}
    if any(_vouches(one, vote, authors) for one in rule.approval for vote in votes):
        return
    who = f"owner {printable(change.owner)[:_SHOWN] or 'unknown'}"
    if patchset.uploader != change.owner:
        who += f" and uploader {printable(patchset.uploader)[:_SHOWN] or 'unknown'}"
    named = f" ({', '.join(rule.owner)})" if rule.owner else ""
    why = f"{which} requires trust, and {who} of it may not without: trust.owner{named}"
    if not rule.approval:
        raise Refusal(f"{_commit(patchset)} is not trusted: {why}")
    wanted = " or ".join(told(one) for one in rule.approval)
    raise Refusal(f"waits for {wanted} on {_commit(patchset)}: {why}", waits=True)


def _trusted_owner(wanted: Sequence[str], change: Change, patchset: Patchset) -> bool:
    # Anybody may upload to somebody else's change: who pushed this commit must be named too.
    owner = _filled(change.owner, change.owner_email)
    uploader = owner if patchset.uploader == change.owner else _filled(patchset.uploader)
    found = [_first(wanted, names, re.fullmatch, LINE_LIMIT) for names in (owner, uploader)]
    return None not in found


def _vouches(rule: ApprovalRule, vote: Approval, authors: set[str]) -> bool:
    """Whether a vote makes trusted: nobody vouches for themselves, unless named by the rule."""
    own = bool({vote.by.username, vote.by.email} & authors)
    return _meets(rule, vote) and (bool(rule.by) or not own)


def _meets(rule: ApprovalRule, vote: Approval) -> bool:
    names = _filled(vote.by.username, vote.by.email)
    allowed = not rule.by or _first(rule.by, names, re.fullmatch, LINE_LIMIT) is not None
    return vote.label == rule.label and vote.value in rule.value and allowed


def told(rule: ApprovalRule) -> str:
    """A rule in words: `Verified+1 by zuul`."""
    values = "/".join(f"{value:+d}" for value in rule.value)
    return f"{rule.label}{values}" + (f" by {' or '.join(rule.by)}" if rule.by else "")


def told_vote(vote: Approval) -> str:
    """A vote in words: `Verified-1 of zuul`."""
    who = vote.by.username or vote.by.name or "somebody"
    value = f"{vote.value:+d}" if vote.value else ""
    return f"{printable(vote.label)[:_SHOWN]}{value} of {printable(who)[:_SHOWN]}"


def _commit(patchset: Patchset) -> str:
    return f"patch set {patchset.number} ({patchset.revision[:_SHA]})"


def _votes_of(patchset: Patchset) -> str:
    return f"the votes on {_commit(patchset)}, which the server has not told"
