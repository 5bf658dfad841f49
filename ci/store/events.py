# SPDX-License-Identifier: Apache-2.0
"""Writes of step 1: events stored once, the watermark with them, the connection's state."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.event import Event, EventKind
from ci.model.event_json import event_from_json, event_to_json
from ci.model.event_key import TOLERANCE_S, same_fact
from ci.store import schema
from ci.store.database import Database

TWIN_WINDOW = timedelta(seconds=TOLERANCE_S)


def store(database: Database, event: Event, *, received_at: datetime, move_watermark: bool) -> bool:
    """Store an event and move the watermark, in one transaction.

    Args:
        database: Where it goes.
        event: What happened.
        received_at: Our own clock.
        move_watermark: False while a catch-up is still under way: everything up to this
            event has then not been read yet.

    Returns:
        False when this fact was there already.
    """
    with database.write() as tx:
        known = _known(tx, event)
        if not known:
            tx.execute(sa.insert(schema.event).values(**_row(event, received_at)))
        if move_watermark:
            _advance(tx, event.connection, event.occurred_at)
    return not known


def _row(event: Event, received_at: datetime) -> dict[str, Any]:
    return {
        "connection": event.connection,
        "key": event.key,
        "kind": event.kind.value,
        "project": event.change.project,
        "change_number": event.change.number,
        "patchset": event.patchset.number if event.patchset else None,
        "payload": event_to_json(event),
        "source": event.source,
        "occurred_at": event.occurred_at,
        "received_at": received_at,
    }


def _known(tx: sa.Connection, event: Event) -> bool:
    """Whether the fact is stored: by its key, or as the same comment a moment apart.

    The stream dates a comment when the event is made, a query when it was written; the two
    seconds can differ, so the key alone does not always meet its twin.
    """
    table = schema.event
    mine = table.c.connection == event.connection
    if tx.execute(sa.select(table.c.id).where(mine, table.c.key == event.key)).first():
        return True
    if event.kind is EventKind.PATCHSET_CREATED:
        return False
    near = tx.execute(
        sa.select(table.c.key).where(
            mine,
            table.c.change_number == event.change.number,
            table.c.kind == event.kind.value,
            table.c.source != event.source,
            table.c.occurred_at.between(
                event.occurred_at - TWIN_WINDOW, event.occurred_at + TWIN_WINDOW
            ),
        )
    ).scalars()
    return any(same_fact(key, event.key) for key in near)


def _advance(tx: sa.Connection, connection: str, at: datetime) -> None:
    table = schema.watermark
    found = tx.execute(sa.select(table.c.at).where(table.c.connection == connection)).scalar()
    if found is None:
        tx.execute(sa.insert(table).values(connection=connection, at=at))
    elif at > found:
        tx.execute(sa.update(table).where(table.c.connection == connection).values(at=at))


def watermark(database: Database, connection: str) -> datetime | None:
    """How far a connection has been read; None before its first event."""
    table = schema.watermark
    with database.read() as tx:
        at: datetime | None = tx.execute(
            sa.select(table.c.at).where(table.c.connection == connection)
        ).scalar()
    return at


def advance_watermark(database: Database, connection: str, at: datetime) -> None:
    """Note that everything up to `at` has been read; never moves back."""
    with database.write() as tx:
        _advance(tx, connection, at)


def unprocessed(
    database: Database, *, limit: int = 50, skip_connections: Sequence[str] = ()
) -> list[tuple[int, Event]]:
    """Events that still have to be planned: list of (row id, Event), in order of arrival.

    Args:
        database: Where they are.
        limit: At most so many.
        skip_connections: Connections that cannot be asked now; theirs stay where they are.
    """
    table = schema.event
    with database.read() as tx:
        rows = tx.execute(
            sa.select(table.c.id, table.c.payload)
            .where(table.c.processed_at.is_(None), table.c.connection.not_in(skip_connections))
            .order_by(table.c.id)
            .limit(limit)
        ).all()
    return [(row.id, event_from_json(row.payload)) for row in rows]


def mark_processed(tx: sa.Connection, event_id: int, *, decision: str, at: datetime) -> None:
    """Note what an event led to; part of the planner's own transaction."""
    table = schema.event
    tx.execute(
        sa.update(table).where(table.c.id == event_id).values(processed_at=at, decision=decision)
    )


def set_connection_state(
    database: Database, name: str, state: str, message: str, *, at: datetime
) -> None:
    """Note what a connection is doing now; `since` moves only when the state changes."""
    table = schema.connection_state
    with database.write() as tx:
        found = tx.execute(sa.select(table.c.state).where(table.c.name == name)).scalar()
        if found is None:
            tx.execute(
                sa.insert(table).values(
                    name=name, state=state, message=message, since=at, malformed=0, unknown=0
                )
            )
            return
        values: dict[str, Any] = {"state": state, "message": message}
        if found != state:
            values["since"] = at
        tx.execute(sa.update(table).where(table.c.name == name).values(**values))


def count_line(database: Database, name: str, *, malformed: bool) -> None:
    """Count a line nobody acts on: unreadable, or of an unknown type."""
    table = schema.connection_state
    column = table.c.malformed if malformed else table.c.unknown
    with database.write() as tx:
        tx.execute(sa.update(table).where(table.c.name == name).values({column: column + 1}))
