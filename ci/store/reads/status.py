# SPDX-License-Identifier: Apache-2.0
"""The state of the installation at one glance."""

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.nodes import node_records
from ci.store.reads.records import ConnectionRecord, OutboxSummary, StatusOverview
from ci.store.reads.rows import (
    build_records,
    buildset_records,
    event_records,
    select_builds,
    select_buildsets,
)

QUEUE_SHOWN = 100


def ping(database: Database) -> None:
    """Read one trivial row.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database cannot be read.
    """
    with database.read() as tx:
        tx.execute(sa.select(schema.schema_version.c.version)).first()


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
                .order_by(build.c.queued_at, build.c.id)
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
        )


def _connections(tx: sa.Connection) -> tuple[ConnectionRecord, ...]:
    state, mark = schema.connection_state, schema.watermark
    query = (
        sa.select(state, mark.c.at.label("read_up_to"))
        .select_from(state.outerjoin(mark, mark.c.connection == state.c.name))
        .order_by(state.c.name)
    )
    return tuple(ConnectionRecord(**row) for row in tx.execute(query).mappings())


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
    return OutboxSummary(pending=count, oldest_at=oldest_at, last_error=error or "")
