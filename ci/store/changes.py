# SPDX-License-Identifier: Apache-2.0
"""Writes of step 3: the newest facts about each change; an older fact never replaces them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.change import Change
from ci.store import schema

CLOSED = frozenset({"MERGED", "ABANDONED", "DELETED"})


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is stored of a change after a fact was noted.

    Attributes:
        newest: Number of the newest patch set known.
        status: `NEW`, `MERGED`, `ABANDONED` or `DELETED`.
        overtaken: Whether the fact is older than what is stored, and so changed nothing.
    """

    newest: int
    status: str
    overtaken: bool = False

    @property
    def closed_since(self) -> bool:
        """Whether a newer fact than this one closed the change."""
        return self.overtaken and self.status in CLOSED


def note(
    tx: sa.Connection,
    connection: str,
    change: Change,
    patchset: int,
    *,
    seen_at: datetime | None,
    at: datetime,
) -> Standing:
    """Note what a fact says of a change.

    Args:
        tx: The transaction of the event.
        connection: Where the change lives.
        change: The change as the fact shows it.
        patchset: Number of the patch set it is about; 0 where it names none.
        seen_at: When that was so, by the server's clock; None for what did not come from the
            server, and so is no news.
        at: Now, by ours.
    """
    table = schema.change
    mine = sa.and_(table.c.connection == connection, table.c.number == change.number)
    row = tx.execute(
        sa.select(table.c.patchset, table.c.status, table.c.seen_at).where(mine)
    ).first()
    if row is None:
        values = {**_columns(change), "patchset": patchset, "seen_at": seen_at, "updated_at": at}
        tx.execute(sa.insert(table).values(connection=connection, number=change.number, **values))
        return Standing(newest=patchset, status=change.status)
    newest = max(row.patchset, patchset)
    overtaken = seen_at is None or (row.seen_at is not None and seen_at < row.seen_at)
    if overtaken:
        changes: dict[str, Any] = {"patchset": newest} if newest > row.patchset else {}
    elif patchset < row.patchset:
        changes = {"status": change.status, "seen_at": seen_at, "updated_at": at}
    else:
        changes = {**_columns(change), "patchset": newest, "seen_at": seen_at, "updated_at": at}
    if changes:
        tx.execute(sa.update(table).where(mine).values(**changes))
    status = row.status if overtaken else change.status
    return Standing(newest=newest, status=status, overtaken=overtaken)


def _columns(change: Change) -> dict[str, Any]:
    return {
        "project": change.project,
        "branch": change.branch,
        "change_id": change.change_id,
        "subject": change.subject,
        "owner": change.owner,
        "url": change.url,
        "status": change.status,
    }
