# SPDX-License-Identifier: Apache-2.0
"""The state of the installation at one glance."""

from datetime import datetime

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.nodes import node_records, pause_records
from ci.store.reads.outbox import UNSETTLED
from ci.store.reads.records import ConnectionRecord, OutboxSummary, StatusOverview
from ci.store.reads.rows import (
    build_records,
    buildset_records,
    event_records,
    select_builds,
    select_buildsets,
)

QUEUE_SHOWN = 100
FAR = 1_000_000
EVENTS_LOOKED_AT = 5000


def schema_found(database: Database) -> int | None:
    """Version of the schema that the database has; None where it has none.

    Raises:
        StorageError: The database cannot be read.
    """
    with database.read() as tx:
        found: int | None = tx.execute(sa.select(schema.schema_version.c.version)).scalar()
    return found


def status_overview(database: Database, *, recent: int = 12, events: int = 8) -> StatusOverview:
    """Connections, what runs, what waits and why, nodes, newest buildsets and events."""
    build, buildset, event = schema.build, schema.buildset, schema.event
    with database.read() as tx:
        queued = build.c.state == "queued"
        return StatusOverview(
            connections=_connections(tx),
            running=build_records(
                tx,
                select_builds().where(build.c.state == "running").order_by(build.c.started_at),
            ),
            queued=build_records(
                tx,
                select_builds()
                .where(queued)
                .order_by(sa.func.coalesce(build.c.position, FAR), build.c.priority, build.c.turn)
                .limit(QUEUE_SHOWN),
            ),
            queued_total=tx.execute(
                sa.select(sa.func.count()).select_from(build).where(queued)
            ).scalar_one(),
            nodes=node_records(tx),
            recent=buildset_records(
                tx, select_buildsets().order_by(buildset.c.created_at.desc()).limit(recent)
            ),
            events=event_records(tx, sa.select(event).order_by(event.c.id.desc()).limit(events)),
            events_unplanned=tx.execute(
                sa.select(sa.func.count()).where(event.c.processed_at.is_(None))
            ).scalar_one(),
            outbox=_outbox(tx),
            pauses=pause_records(tx),
        )


def _connections(tx: sa.Connection) -> tuple[ConnectionRecord, ...]:
    """Four counts for all of them, and one look at the newest events for each."""
    state, mark, out = schema.connection_state, schema.watermark, schema.outbox
    event, build, buildset = schema.event, schema.build, schema.buildset
    query = (
        sa.select(state, mark.c.at.label("read_up_to"))
        .select_from(state.outerjoin(mark, mark.c.connection == state.c.name))
        .order_by(state.c.name)
    )
    runs = sa.select(buildset.c.connection, sa.func.count(buildset.c.id.distinct())).where(
        build.c.buildset_id == buildset.c.id,
        build.c.state.in_(("queued", "running")),
        buildset.c.made_up,
    )
    missed = sa.select(event.c.connection, sa.func.count()).where(
        event.c.processed_at.is_(None), event.c.source == "catch-up"
    )
    owed = sa.select(out.c.connection, sa.func.count()).where(out.c.state.in_(UNSETTLED))
    open_runs = _per_connection(tx, runs.group_by(buildset.c.connection))
    missed_events = _per_connection(tx, missed.group_by(event.c.connection))
    undelivered = _per_connection(tx, owed.group_by(out.c.connection))
    return tuple(
        ConnectionRecord(
            **row,
            last_event_at=_last_event_at(tx, row["name"]),
            missed_open=open_runs.get(row["name"], 0),
            missed_waiting=missed_events.get(row["name"], 0),
            undelivered=undelivered.get(row["name"], 0),
        )
        for row in tx.execute(query).mappings()
    )


def _per_connection(tx: sa.Connection, query: sa.Select[str, int]) -> dict[str, int]:
    return {row[0]: row[1] for row in tx.execute(query)}


def _last_event_at(tx: sa.Connection, name: str) -> datetime | None:
    """When the stream of a connection last brought an event, among the newest of all."""
    event = schema.event
    newest = sa.select(sa.func.max(event.c.id)).scalar_subquery()
    query = (
        sa.select(event.c.received_at)
        .where(
            event.c.id > newest - EVENTS_LOOKED_AT,
            event.c.connection == name,
            event.c.source == "stream",
        )
        .order_by(event.c.id.desc())
        .limit(1)
    )
    return tx.execute(query).scalar()


def _outbox(tx: sa.Connection) -> OutboxSummary:
    table = schema.outbox
    pending = table.c.state == "pending"
    count, oldest_at = tx.execute(
        sa.select(sa.func.count(), sa.func.min(table.c.created_at)).where(pending)
    ).one()
    error = tx.execute(
        sa.select(table.c.error)
        .where(pending, table.c.error != "")
        .order_by(table.c.id.desc())
        .limit(1)
    ).scalar()
    held = tx.execute(sa.select(sa.func.count()).where(table.c.state == "held")).scalar_one()
    late = schema.delivery.c.state == "pending"
    return OutboxSummary(
        pending=count,
        oldest_at=oldest_at,
        last_error=error or "",
        held=held,
        notices=tx.execute(sa.select(sa.func.count()).where(late)).scalar_one(),
    )
