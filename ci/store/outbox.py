# SPDX-License-Identifier: Apache-2.0
"""Writes of step 8: what is owed to a review server, until it is settled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.review import Review
from ci.store import schema


def add(
    tx: sa.Connection, *, buildset_id: str, connection: str, review: Review, at: datetime
) -> None:
    """Owe a review; part of the transaction that writes the verdict. One per buildset.

    A vote replaces what an earlier run of the same patch set and pipeline still owes: were
    that delivered later, the older vote would stand.
    """
    if review.label:
        _replace(tx, connection, review, at)
    tx.execute(
        sa.insert(schema.outbox).values(
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
            state="pending",
            tries=0,
            next_at=at,
            error="",
            created_at=at,
        )
    )


def _replace(tx: sa.Connection, connection: str, review: Review, at: datetime) -> None:
    table = schema.outbox
    tx.execute(
        sa.update(table)
        .where(
            table.c.state == "pending",
            table.c.connection == connection,
            table.c.change_number == review.change_number,
            table.c.patchset == review.patchset,
            table.c.tag == review.tag,
        )
        .values(state="dropped", error="a later run of this patch set replaced it", settled_at=at)
    )


def due(
    tx: sa.Connection, *, connection: str, now: datetime, limit: int = 20
) -> Sequence[sa.Row[Any]]:
    """Pending rows of one connection whose time has come, oldest first."""
    table = schema.outbox
    return tx.execute(
        sa.select(table)
        .where(
            table.c.state == "pending",
            table.c.connection == connection,
            table.c.next_at <= now,
        )
        .order_by(table.c.id)
        .limit(limit)
    ).all()


def settle(tx: sa.Connection, row_id: int, *, state: str, note: str, at: datetime) -> None:
    """End a row: `delivered` or `dropped`, with one sentence for the operator."""
    table = schema.outbox
    tx.execute(
        sa.update(table)
        .where(table.c.id == row_id)
        .values(state=state, error=note, settled_at=at, tries=table.c.tries + 1)
    )


def postpone(tx: sa.Connection, row_id: int, *, error: str, next_at: datetime) -> None:
    """Keep a row for later and say why."""
    table = schema.outbox
    tx.execute(
        sa.update(table)
        .where(table.c.id == row_id)
        .values(error=error, next_at=next_at, tries=table.c.tries + 1)
    )
