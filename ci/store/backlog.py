# SPDX-License-Identifier: Apache-2.0
"""Events that still have to be planned, and how many missed ones may start something now.

After a long outage a catch-up finds hundreds of patch sets at once. They start a few at a time,
so that what people upload now does not wait behind them.
"""

from collections.abc import Collection

import sqlalchemy as sa

from ci.model.event import Event, EventKind
from ci.model.event_json import event_from_json
from ci.store import schema
from ci.store.builds import OPEN_STATES
from ci.store.database import Database

MISSED = "catch-up"
ENDS = (EventKind.CHANGE_ABANDONED, EventKind.CHANGE_MERGED, EventKind.CHANGE_DELETED)


def to_plan(
    database: Database,
    *,
    limit: int = 50,
    only: str = "",
    skip: Collection[str] = (),
    paced: Collection[str] = (),
) -> list[tuple[int, Event]]:
    """Events that can be planned: list of (row id, Event), in order of arrival.

    Args:
        database: Where they are.
        limit: At most so many.
        only: Of this connection alone; empty for all.
        skip: Connections that cannot be asked now; theirs stay where they are.
        paced: Connections whose missed events have enough builds open: of those events only
            the ones that end a change come.
    """
    table = schema.event
    query = sa.select(table.c.id, table.c.payload).where(table.c.processed_at.is_(None))
    if only:
        query = query.where(table.c.connection == only)
    if skip:
        query = query.where(table.c.connection.not_in(skip))
    if paced:
        query = query.where(
            sa.not_(
                sa.and_(
                    table.c.connection.in_(paced),
                    table.c.source == MISSED,
                    table.c.kind.not_in([kind.value for kind in ENDS]),
                )
            )
        )
    with database.read() as tx:
        rows = tx.execute(query.order_by(table.c.id).limit(limit)).all()
    return [(row.id, event_from_json(row.payload)) for row in rows]


def open_missed(database: Database) -> dict[str, int]:
    """By connection, how many open buildsets missed events have started."""
    table = schema.buildset
    with database.read() as tx:
        rows = tx.execute(
            sa.select(table.c.connection, sa.func.count())
            .where(table.c.made_up, table.c.state.in_(OPEN_STATES))
            .group_by(table.c.connection)
        ).all()
    return {row[0]: row[1] for row in rows}
