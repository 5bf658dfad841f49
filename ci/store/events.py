# SPDX-License-Identifier: Apache-2.0
"""Writes of step 1: events stored once, the watermark with them, the connection's state."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.event import RECONSIDER, BranchMoved, Event, EventKind
from ci.model.event_json import event_from_json, event_to_json
from ci.model.event_key import SKEW_S, TOLERANCE_S, same_fact
from ci.store import approvals, branches, schema
from ci.store.database import Database

TWIN_WINDOW = timedelta(seconds=max(TOLERANCE_S, SKEW_S))
STREAM = "stream"


def store(database: Database, event: Event, *, received_at: datetime, move_watermark: bool) -> bool:
    """Store one event; see `store_all`. False when this fact was there already."""
    return bool(
        store_all(database, [event], received_at=received_at, move_watermark=move_watermark)
    )


def store_all(
    database: Database,
    told: Sequence[Event | BranchMoved],
    *,
    received_at: datetime,
    move_watermark: bool,
    own_username: str = "",
    answered: Mapping[str, str] | None = None,
) -> int:
    """Store what one connection told, and move the watermark, in one transaction.

    What cannot be written never takes its neighbours with it: they are stored by themselves,
    and only then is the error raised.

    Args:
        database: Where it goes.
        told: Events with the votes in them, and tips of branches; in order.
        received_at: Our own clock.
        move_watermark: False while a catch-up is still under way: everything up to these
            events has then not been read yet.
        own_username: Our account there, whose votes are not kept.
        answered: By key, why a new event needs nothing more: it is stored as processed, with
            this decision.

    Returns:
        How many events were new.

    Raises:
        StorageError: Nothing of it was stored; try again.
    """
    if not told:
        return 0
    try:
        with database.write() as tx:
            found = [one for one in told if isinstance(one, Event)]
            new = _insert_new(tx, found, received_at, answered or {})
            approvals.record(tx, new, own_username=own_username)
            branches.record(tx, [one for one in told if isinstance(one, BranchMoved)])
            if move_watermark:
                _advance(tx, told[0].connection, max(one.occurred_at for one in told))
            return len(new)
    except sa.exc.StatementError:
        if len(told) == 1:
            raise
    return _one_by_one(
        database,
        told,
        received_at=received_at,
        move_watermark=move_watermark,
        own_username=own_username,
        answered=answered,
    )


def _one_by_one(database: Database, told: Sequence[Event | BranchMoved], **options: Any) -> int:
    new, failure = 0, None
    for one in told:
        try:
            new += store_all(database, [one], **options)
        except sa.exc.StatementError as error:
            failure = error
    if failure is not None:
        raise failure
    return new


def _insert_new(
    tx: sa.Connection,
    told: Sequence[Event],
    received_at: datetime,
    answered: Mapping[str, str],
) -> list[Event]:
    """Insert those events whose fact is not there yet; returns them."""
    table = schema.event
    known = _known_keys(tx, told)
    twins = _Twins(tx, [one for one in told if one.key not in known])
    new: list[Event] = []
    again: list[str] = []
    for event in told:
        if event.key in known:
            if event.kind in RECONSIDER and event.source == STREAM:
                again.append(event.key)
            continue
        if not twins.has(event):
            new.append(event)
        known.add(event.key)
    if new:
        tx.execute(sa.insert(table), [_row(one, received_at, answered) for one in new])
    if again:
        # The same state twice in one second, with another between: look at the last again.
        mine = sa.and_(table.c.connection == told[0].connection, table.c.key.in_(again))
        tx.execute(sa.update(table).where(mine).values(processed_at=None))
    return new


def _known_keys(tx: sa.Connection, told: Sequence[Event]) -> set[str]:
    if not told:
        return set()
    table = schema.event
    keys = {one.key for one in told}
    rows = tx.execute(
        sa.select(table.c.key).where(
            table.c.connection == told[0].connection, table.c.key.in_(keys)
        )
    )
    return set(rows.scalars())


class _Twins:
    """Facts that another source told, with dates a moment apart from these events'.

    The stream dates a comment when the event is made, a query when it was written; the two
    seconds can differ, so the key alone does not always meet its twin.
    """

    def __init__(self, tx: sa.Connection, told: Collection[Event]) -> None:
        self._near: dict[tuple[str, int, bool], list[str]] = {}
        dated = [one for one in told if one.kind is not EventKind.PATCHSET_CREATED]
        if not dated:
            return
        table = schema.event
        rows = tx.execute(
            sa.select(table.c.kind, table.c.change_number, table.c.source, table.c.key).where(
                table.c.connection == dated[0].connection,
                table.c.change_number.in_({one.change.number for one in dated}),
                table.c.occurred_at.between(
                    min(one.occurred_at for one in dated) - TWIN_WINDOW,
                    max(one.occurred_at for one in dated) + TWIN_WINDOW,
                ),
            )
        )
        for row in rows:
            place = (row.kind, row.change_number, row.source == STREAM)
            self._near.setdefault(place, []).append(row.key)

    def has(self, event: Event) -> bool:
        """Whether the other source told this event already."""
        streamed = event.source == STREAM
        keys = self._near.get((event.kind.value, event.change.number, not streamed), ())
        if streamed:
            return any(same_fact(event.key, key) for key in keys)
        return any(same_fact(key, event.key) for key in keys)


def _row(event: Event, received_at: datetime, answered: Mapping[str, str]) -> dict[str, Any]:
    decision = answered.get(event.key)
    return {
        "connection": event.connection,
        "key": event.key,
        "kind": event.kind.value,
        "project": event.change.project,
        "change_number": event.change.number,
        "patchset": event.patchset.number if event.patchset else None,
        "payload": event_to_json(event),
        "source": event.source,
        "author": (event.author.username or event.author.name)[:255],
        "occurred_at": event.occurred_at,
        "received_at": received_at,
        "processed_at": None if decision is None else received_at,
        "decision": decision,
    }


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


def is_unprocessed(tx: sa.Connection, event_id: int) -> bool:
    """Whether nobody has planned an event yet; holds until the end of a write transaction."""
    table = schema.event
    query = sa.select(table.c.id).where(table.c.id == event_id, table.c.processed_at.is_(None))
    return tx.execute(query).first() is not None


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


def count_lines(database: Database, name: str, *, malformed: int, unknown: int) -> None:
    """Count lines nobody acts on: unreadable ones, and those of unknown types."""
    table = schema.connection_state
    with database.write() as tx:
        tx.execute(
            sa.update(table)
            .where(table.c.name == name)
            .values(malformed=table.c.malformed + malformed, unknown=table.c.unknown + unknown)
        )
