# SPDX-License-Identifier: Apache-2.0
"""Who says what of a patch set: our own runs, other CIs, and people who verify by hand."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from ci.model.result import Verdict
from ci.store import schema
from ci.store.reads.records import BuildsetRecord
from ci.store.reads.review_records import PatchsetVote

OUR_FAULTS = ("regression", "new-failing")
APPROVALS_READ = 2000
_VERIFIED = "Verified"
_SAID = {"succeeded": 1, "failed": -1}


def our_opinion(verdict: Verdict | None, *, broke: bool) -> int:
    """What a verdict of ours comes down to: 1, -1, or 0 where the patch was not judged.

    A policy that posts no vote changes nothing here: the opinion is the tests'.

    Args:
        verdict: Of the whole run; None before it is judged.
        broke: Whether a voting job saw a failure of the patch's own.
    """
    if verdict is None:
        return 0
    if verdict.vote and verdict.vote.value:
        return _sign(verdict.vote.value)
    if broke:
        return -1
    return 1 if verdict.succeeded else 0


def their_opinion(value: int, said: str) -> int:
    """What a vote or, without one, the word of a report comes down to: 1, -1 or 0."""
    return _sign(value) or _SAID.get(said, 0)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def approvals_of(tx: sa.Connection, connection: str, number: int) -> dict[int, list[sa.Row[Any]]]:
    """Votes of others on a change by patch set, oldest first; one query."""
    table = schema.approval
    query = (
        sa.select(table)
        .where(table.c.connection == connection, table.c.change_number == number)
        .order_by(table.c.patchset, table.c.at, table.c.account, table.c.label)
        .limit(APPROVALS_READ)
    )
    found: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in tx.execute(query):
        found[row.patchset].append(row)
    return found


def votes_of(
    buildsets: Sequence[BuildsetRecord], approvals: Iterable[sa.Row[Any]]
) -> tuple[PatchsetVote, ...]:
    """All votes on one patch set: ours newest first, then CIs, then people.

    Args:
        buildsets: Our runs of it, newest first.
        approvals: Rows of others on it.
    """
    ours = tuple(_own(item) for item in buildsets)
    mine = next((vote.opinion for vote in ours if vote.opinion), 0)
    labels = {vote.label for vote in ours} | {_VERIFIED}
    others = [
        _other(row, mine) for row in approvals if row.is_ci or (row.label in labels and row.value)
    ]
    return (*ours, *sorted(others, key=lambda vote: not vote.is_ci))


def _own(item: BuildsetRecord) -> PatchsetVote:
    broke = any(build.voting and build.failure_class in OUR_FAULTS for build in item.builds)
    vote = item.vote
    words = item.state if item.state != "done" else "not posted"
    return PatchsetVote(
        who=item.pipeline + (f", recheck {item.recheck}" if item.recheck else ""),
        account="",
        ours=True,
        is_ci=True,
        label=(vote.label or "") if vote else "",
        value=(vote.value or 0) if vote else 0,
        opinion=our_opinion(item.verdict, broke=broke),
        words=vote.state if vote else words,
        agrees=None,
        buildset_id=item.id,
        at=item.finished_at or item.created_at,
    )


def _other(row: sa.Row[Any], mine: int) -> PatchsetVote:
    opinion = their_opinion(row.value, row.said)
    return PatchsetVote(
        who=row.name or row.account,
        account=row.account,
        ours=False,
        is_ci=row.is_ci,
        label=row.label,
        value=row.value,
        opinion=opinion,
        words=row.said,
        agrees=opinion == mine if row.is_ci and opinion and mine else None,
        buildset_id=None,
        at=row.at,
    )
