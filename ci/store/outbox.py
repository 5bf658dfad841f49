# SPDX-License-Identifier: Apache-2.0
"""Writes of step 8: what is owed to a review server, until it is settled.

```
           add                deliver
  (new) ---------> pending -----------> delivered
    |  held           ^  |   stale, replaced, gone, or an operator's drop
    +-----> held -----+  +------------> dropped
              release
```
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.event import EventKind
from ci.model.review import Review
from ci.store import outbox_notices, schema, sending
from ci.store.sending import Sender

OPEN = ("pending", "held")
LATER_RUN = "a later run of this patch set replaced it"
LATER_PATCHSET = "the verdict on a later patch set replaced it"
JUDGED_LATE = "a later run of this patch set was judged before this one"


def add(
    tx: sa.Connection,
    *,
    buildset_id: str,
    connection: str,
    review: Review,
    at: datetime,
    held: bool = False,
) -> bool:
    """Owe a review; part of the transaction that writes the verdict. One per buildset.

    A vote replaces what an earlier run of the same patch set and pipeline still owes, held
    back or not: were that delivered later, the older vote would stand. So does a review of a
    later patch set, but for comments that are wanted on old patch sets too.

    Args:
        tx: The transaction of the verdict.
        buildset_id: Whose verdict it is.
        connection: Which server.
        review: What is owed.
        at: The time by `ci.store.moment`: whoever delivers it waits until then.
        held: Nothing is posted until an operator releases it.

    Returns:
        False when this buildset's review is there already.
    """
    table = schema.outbox
    if tx.execute(sa.select(table.c.id).where(table.c.buildset_id == buildset_id)).first():
        return False
    late = bool(review.label) and _judged_late(tx, buildset_id, review)
    if not late:
        _replace(tx, connection, review, at)
    state = "dropped" if late else "held" if held else "pending"
    tx.execute(
        sa.insert(table).values(
            buildset_id=buildset_id,
            connection=connection,
            project=review.project,
            change_number=review.change_number,
            patchset=review.patchset,
            revision=review.revision,
            tag=review.tag,
            marker=review.marker,
            message=review.message,
            label=review.label,
            value=review.value if review.label else None,
            state=state,
            stale="comment" if review.comment_when_stale else "drop",
            next_at=at,
            error=JUDGED_LATE if late else "",
            created_at=at,
            settled_at=at if late else None,
        )
    )
    if state == "held":
        mine = sa.select(table).where(table.c.buildset_id == buildset_id)
        outbox_notices.held(tx, tx.execute(mine).one(), at=at)
    return True


def _judged_late(tx: sa.Connection, buildset_id: str, review: Review) -> bool:
    """Whether a later run of the same patch set and pipeline has given its vote already."""
    table, mine = schema.outbox, schema.buildset.alias()
    later = schema.buildset.alias()
    query = (
        sa.select(table.c.id)
        .join(later, later.c.id == table.c.buildset_id)
        .join(
            mine,
            sa.and_(
                mine.c.connection == later.c.connection,
                mine.c.change_number == later.c.change_number,
                mine.c.patchset == later.c.patchset,
                mine.c.recheck < later.c.recheck,
            ),
        )
        .where(
            mine.c.id == buildset_id,
            table.c.tag == review.tag,
            table.c.label == review.label,
            table.c.state != "dropped",
        )
    )
    return tx.execute(query.limit(1)).first() is not None


def _replace(tx: sa.Connection, connection: str, review: Review, at: datetime) -> None:
    table = schema.outbox
    mine = sa.and_(
        table.c.connection == connection,
        table.c.change_number == review.change_number,
        table.c.tag == review.tag,
    )
    older = sa.and_(
        table.c.patchset < review.patchset,
        sa.or_(
            table.c.state == "held",
            sa.and_(table.c.state == "pending", table.c.stale == "drop"),
        ),
    )
    _drop(tx, sa.and_(mine, older), LATER_PATCHSET, at)
    if review.label:
        same = sa.and_(table.c.patchset == review.patchset, table.c.state.in_(OPEN))
        _drop(tx, sa.and_(mine, same), LATER_RUN, at)


def _drop(tx: sa.Connection, which: sa.ColumnElement[bool], why: str, at: datetime) -> None:
    tx.execute(
        sa.update(schema.outbox).where(which).values(state="dropped", error=why, settled_at=at)
    )


def due(
    tx: sa.Connection,
    *,
    connection: str,
    now: datetime,
    sender: Sender,
    busy: Collection[int] = (),
    limit: int = 20,
) -> Sequence[sa.Row[Any]]:
    """The oldest pending row of each change whose time has come, longest waiting first.

    Rows that another sender has in hand are left out, and with them their changes.

    Args:
        tx: A connection for reading.
        connection: Of this connection alone.
        now: The time by `ci.store.moment`.
        sender: Who asks.
        busy: Changes that are left out.
        limit: At most so many.
    """
    table = schema.outbox
    mine = sa.and_(table.c.state == "pending", table.c.connection == connection)
    elsewhere = sa.select(table.c.change_number).where(
        mine, sa.not_(sending.is_free(table, sender, now=now))
    )
    oldest = (
        sa.select(sa.func.min(table.c.id))
        .where(
            mine,
            # A time far ahead was written by a clock that was wrong: no pause is so long.
            sa.or_(table.c.next_at <= now, table.c.next_at > now + sending.FAR),
            table.c.change_number.not_in(list(busy)),
            table.c.change_number.not_in(elsewhere),
        )
        .group_by(table.c.change_number)
    )
    query = sa.select(table).where(table.c.id.in_(oldest))
    return tx.execute(query.order_by(table.c.next_at, table.c.id).limit(limit)).all()


def take(tx: sa.Connection, row_id: int, *, sender: Sender, now: datetime, until: datetime) -> bool:
    """Take a row in hand, or keep it for longer, before anything of it leaves this process.

    Args:
        tx: A write transaction.
        row_id: A row that was due a moment ago.
        sender: Who sends it.
        now: The time by `ci.store.moment`.
        until: Nobody else sends it before.

    Returns:
        False where it was settled since, or another has it, or has a row of the same change
        that was replaced while it was on its way.
    """
    table = schema.outbox
    row = tx.execute(sa.select(table).where(table.c.id == row_id)).one()
    same = sa.and_(table.c.connection == row.connection, table.c.change_number == row.change_number)
    in_hand = sa.not_(sending.is_free(table, sender, now=now))
    if row.state != "pending" or tx.execute(sa.select(table.c.id).where(same, in_hand)).first():
        return False
    values = sending.taken_by(sender, until=until)
    tx.execute(sa.update(table).where(table.c.id == row_id).values(**values))
    return True


def was_deleted(tx: sa.Connection, connection: str, change_number: int) -> bool:
    """Whether the server told us that it deleted a change."""
    table = schema.event
    query = sa.select(table.c.id).where(
        table.c.connection == connection,
        table.c.change_number == change_number,
        table.c.kind == EventKind.CHANGE_DELETED.value,
    )
    return tx.execute(query.limit(1)).first() is not None


def settle(
    tx: sa.Connection, row_id: int, *, state: str, note: str, at: datetime, transport: str = ""
) -> None:
    """End a row: `delivered` or `dropped`, with one sentence for the operator.

    What was replaced or dropped by hand while it was on its way, and got there, is delivered.
    """
    table = schema.outbox
    which = table.c.id == row_id
    if state != "delivered":
        which = sa.and_(which, table.c.state == "pending")
    tx.execute(
        sa.update(table)
        .where(which)
        .values(
            state=state,
            error=note,
            settled_at=at,
            transport=transport,
            tries=table.c.tries + 1,
            **sending.FREE,
        )
    )


def postpone(
    tx: sa.Connection, row_id: int, *, sender: Sender, error: str, next_at: datetime
) -> bool:
    """Keep a pending row for later and say why; False where another has it in hand by now."""
    table = schema.outbox
    done = tx.execute(
        sa.update(table)
        .where(table.c.id == row_id, table.c.state == "pending", table.c.sender == str(sender))
        .values(error=error, next_at=next_at, tries=table.c.tries + 1, **sending.FREE)
    )
    return bool(done.rowcount)
