# SPDX-License-Identifier: Apache-2.0
"""Writes of step 1: where branches stand, as the stream or a query told it."""

from collections.abc import Collection

import sqlalchemy as sa

from ci.model.event import BranchMoved
from ci.store import schema


def record(tx: sa.Connection, moves: Collection[BranchMoved]) -> None:
    """Note the newest tip of each branch; part of the caller's transaction.

    Args:
        tx: The transaction.
        moves: In order of arrival. Of two in one second the later one stands; an older one
            never replaces a newer one.
    """
    table = schema.branch
    for move in moves:
        mine = sa.and_(
            table.c.connection == move.connection,
            table.c.project == move.project,
            table.c.name == move.branch,
        )
        found = tx.execute(sa.select(table.c.tip, table.c.moved_at).where(mine)).first()
        values = {"tip": move.new, "moved_at": move.occurred_at}
        if found is None:
            tx.execute(
                sa.insert(table).values(
                    connection=move.connection, project=move.project, name=move.branch, **values
                )
            )
        elif found.tip != move.new and move.occurred_at >= found.moved_at:
            tx.execute(sa.update(table).where(mine).values(**values))
