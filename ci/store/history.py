# SPDX-License-Identifier: Apache-2.0
"""What ran before, for step 3 and for the pages: first runs, judged patch sets, rechecks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ci.model.event import EventKind
from ci.store import schema


@dataclass(frozen=True, kw_only=True)
class Recheck:
    """A run that somebody asked for after another one.

    Attributes:
        buildset_id: The new run.
        number: 1 for the first recheck of a patch set.
        requested_by: Who asked; hostile text, printable; empty where an event started it.
        request: The reason they gave; likewise.
        created_at: When it was queued.
    """

    buildset_id: str
    number: int
    requested_by: str
    request: str
    created_at: datetime


def ran(tx: sa.Connection, connection: str, change_number: int, patchset: int) -> frozenset[str]:
    """Names of the pipelines that have a buildset of a patch set, whatever became of it."""
    table = schema.buildset
    found = tx.execute(
        sa.select(table.c.pipeline)
        .distinct()
        .where(
            table.c.connection == connection,
            table.c.change_number == change_number,
            table.c.patchset == patchset,
        )
    )
    return frozenset(found.scalars())


def unjudged(
    tx: sa.Connection,
    connection: str,
    change_number: int,
    patchset: int,
    skip_kinds: Mapping[str, Collection[str]],
) -> frozenset[str]:
    """Pipelines that have no verdict on what a patch set of a skipped kind repeats.

    Gerrit copies a vote from one patch set to the next of such a kind. So the patch sets below
    are looked at, newest first, until one ran: it must have come to its verdict. One that was
    skipped in its turn leads on to the one below; any other that never ran ends the search.

    Args:
        tx: For reading.
        connection: Where the change lives.
        change_number: Which change.
        patchset: Number of the patch set that is to be skipped.
        skip_kinds: By pipeline, the kinds that it skips.
    """
    states = _states(tx, connection, change_number, patchset)
    kinds = _kinds(tx, connection, change_number, patchset)
    return frozenset(
        name
        for name, skipped in skip_kinds.items()
        if not _judged(patchset, states.get(name, {}), kinds, skipped)
    )


def _judged(
    patchset: int, states: Mapping[int, str], kinds: Mapping[int, str], skipped: Collection[str]
) -> bool:
    for number in range(patchset - 1, 0, -1):
        if number in states:
            return states[number] == "done"
        if kinds.get(number) not in skipped:
            return False
    return False


def _states(
    tx: sa.Connection, connection: str, change_number: int, below: int
) -> dict[str, dict[int, str]]:
    """By pipeline and patch set, the state of the newest buildset."""
    table = schema.buildset
    rows = tx.execute(
        sa.select(table.c.pipeline, table.c.patchset, table.c.state)
        .where(
            table.c.connection == connection,
            table.c.change_number == change_number,
            table.c.patchset < below,
        )
        .order_by(table.c.recheck)
    )
    found: dict[str, dict[int, str]] = {}
    for row in rows:
        found.setdefault(row.pipeline, {})[row.patchset] = row.state
    return found


def _kinds(tx: sa.Connection, connection: str, change_number: int, below: int) -> dict[int, str]:
    """By patch set, the kind that its upload told."""
    table = schema.event
    rows = tx.execute(
        sa.select(table.c.patchset, table.c.payload).where(
            table.c.connection == connection,
            table.c.change_number == change_number,
            table.c.kind == EventKind.PATCHSET_CREATED.value,
            table.c.patchset < below,
        )
    )
    return {row.patchset: str(row.payload["patchset"]["kind"]) for row in rows}


def next_recheck_at(
    tx: sa.Connection,
    *,
    connection: str,
    pipeline: str,
    requested_by: str,
    count: int,
    per_s: int,
    at: datetime,
) -> datetime | None:
    """When an account may have its next recheck; None where it may now.

    Args:
        tx: The transaction that would queue it.
        connection: Where the account is.
        pipeline: Which pipeline; each has its own limit.
        requested_by: The account.
        count: So many are allowed...
        per_s: ...within so many seconds.
        at: Now.
    """
    table = schema.buildset
    newest = (
        tx.execute(
            sa.select(table.c.created_at)
            .where(
                table.c.created_at > at - timedelta(seconds=per_s),
                table.c.connection == connection,
                table.c.pipeline == pipeline,
                table.c.requested_by == requested_by,
            )
            .order_by(table.c.created_at.desc())
            .limit(count)
        )
        .scalars()
        .all()
    )
    return newest[-1] + timedelta(seconds=per_s) if len(newest) >= count else None


def rechecks_after(tx: sa.Connection, buildset_id: str) -> tuple[Recheck, ...]:
    """The runs of the same patch set and pipeline that came after a buildset, in order.

    The reason that somebody gave for a recheck belongs to the failure it followed.
    """
    failed, later = schema.buildset.alias(), schema.buildset.alias()
    rows = tx.execute(
        sa.select(later)
        .join(
            failed,
            sa.and_(
                failed.c.id == buildset_id,
                later.c.connection == failed.c.connection,
                later.c.change_number == failed.c.change_number,
                later.c.patchset == failed.c.patchset,
                later.c.pipeline == failed.c.pipeline,
                later.c.recheck > failed.c.recheck,
            ),
        )
        .order_by(later.c.recheck)
    )
    return tuple(
        Recheck(
            buildset_id=row.id,
            number=row.recheck,
            requested_by=row.requested_by,
            request=row.request,
            created_at=row.created_at,
        )
        for row in rows
    )
