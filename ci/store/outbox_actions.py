# SPDX-License-Identifier: Apache-2.0
"""What operators do with owed reviews, from the command line or a page; all of it audited."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.store import audit, schema
from ci.store.actions import RequestRefused
from ci.store.database import Database

SETTLED = ("delivered", "dropped")


def retry(database: Database, row_id: int, *, by: str, at: datetime) -> None:
    """Try a pending review again as soon as its connection can, whatever its pause.

    Raises:
        RequestRefused: There is no such review, it is settled, or it is held back.
    """
    with database.write() as tx:
        row = _open_row(tx, row_id)
        if row.state == "held":
            raise RequestRefused(
                f"review {row_id} is held back, so it is not being tried",
                hint=f"give it with `hypervouch outbox release {row_id}`",
            )
        _update(tx, row_id, next_at=row.created_at)
        audit.note(tx, by=by, action="outbox-retry", subject=f"review {row_id}", at=at)


def retry_all(database: Database, *, by: str, at: datetime) -> int:
    """Try every pending review again; returns how many there are."""
    table = schema.outbox
    with database.write() as tx:
        found = tx.execute(
            sa.update(table).where(table.c.state == "pending").values(next_at=table.c.created_at)
        ).rowcount
        if found:
            audit.note(tx, by=by, action="outbox-retry", subject=f"all {found} reviews", at=at)
    return int(found)


def drop(database: Database, row_id: int, *, by: str, why: str, at: datetime) -> None:
    """Give up a review that is pending or held back.

    Raises:
        RequestRefused: There is no such review, it is settled, or no reason was given.
    """
    why = " ".join(why.split())
    if not why:
        raise RequestRefused("a review is dropped for a reason only", hint="say why")
    with database.write() as tx:
        _open_row(tx, row_id)
        _update(tx, row_id, state="dropped", error=f"dropped by {by}: {why}", settled_at=at)
        audit.note(tx, by=by, action="outbox-drop", subject=f"review {row_id}", at=at, why=why)


def release(database: Database, row_id: int, *, by: str, at: datetime) -> str:
    """Let a review that is held back be given, unless it no longer counts: then it is dropped.

    Returns:
        Why it was dropped instead; empty where it is owed from now on.

    Raises:
        RequestRefused: There is no such review, or it is not held back.
    """
    with database.write() as tx:
        row = _open_row(tx, row_id)
        if row.state != "held":
            raise RequestRefused(
                f"review {row_id} is not held back, it is on its way",
                hint="see `hypervouch outbox`",
            )
        stale = _stale(tx, row)
        if stale:
            _update(tx, row_id, state="dropped", error=stale, settled_at=at)
        else:
            # Owed from now on: the time it was held back is nobody's delay.
            _update(tx, row_id, state="pending", next_at=row.created_at, created_at=at)
        subject = f"review {row_id}"
        audit.note(tx, by=by, action="outbox-release", subject=subject, at=at, why=stale)
    return stale


def _open_row(tx: sa.Connection, row_id: int) -> sa.Row[Any]:
    """A row that is not settled.

    Raises:
        RequestRefused: There is none of that number, or it is settled.
    """
    table = schema.outbox
    row = tx.execute(sa.select(table).where(table.c.id == row_id)).first()
    if row is None:
        raise RequestRefused(f"there is no review {row_id}", hint="see `hypervouch outbox --all`")
    if row.state in SETTLED:
        raise RequestRefused(
            f"review {row_id} is {row.state} already",
            hint=f"run the tests again with `hypervouch recheck {row.change_number}`",
        )
    return row


def _update(tx: sa.Connection, row_id: int, **values: object) -> None:
    tx.execute(sa.update(schema.outbox).where(schema.outbox.c.id == row_id).values(**values))


def _stale(tx: sa.Connection, row: sa.Row[Any]) -> str:
    """Why a review no longer counts, as far as we know ourselves; empty while it does."""
    table = schema.change
    change = tx.execute(
        sa.select(table.c.patchset, table.c.status).where(
            table.c.connection == row.connection, table.c.number == row.change_number
        )
    ).first()
    where = f"{row.change_number},{row.patchset}"
    if change is None:
        return ""
    if change.status != "NEW":
        return f"{where} is {change.status.lower()}"
    if change.patchset > row.patchset:
        return f"{where} is not current, patch set {change.patchset} is"
    return ""
