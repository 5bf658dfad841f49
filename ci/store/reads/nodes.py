# SPDX-License-Identifier: Apache-2.0
"""Nodes: their health, and the build behind each lease."""

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.records import NodeRecord, PauseRecord


def all_nodes(database: Database) -> tuple[NodeRecord, ...]:
    """Every slot, by label and name; one query."""
    with database.read() as tx:
        return node_records(tx)


def all_pauses(database: Database) -> tuple[PauseRecord, ...]:
    """As `pause_records`; one query."""
    with database.read() as tx:
        return pause_records(tx)


def node_records(tx: sa.Connection) -> tuple[NodeRecord, ...]:
    """As `all_nodes`, on the caller's connection."""
    node, attempt, build = schema.node, schema.attempt, schema.build
    buildset = schema.buildset
    query = (
        sa.select(
            node.c.name,
            node.c.label,
            node.c.provider,
            node.c.state,
            node.c.reason,
            node.c.failures,
            node.c.checked_at,
            node.c.token,
            node.c.tags,
            node.c.worker,
            node.c.leased_at,
            node.c.expires_at,
            node.c.holder.label("attempt_id"),
            build.c.id.label("build_id"),
            build.c.job_name.label("job"),
            buildset.c.connection,
            buildset.c.change_number,
            buildset.c.patchset,
            sa.func.coalesce(attempt.c.grade, "none").label("grade"),
        )
        .select_from(
            node.outerjoin(attempt, attempt.c.id == node.c.holder)
            .outerjoin(build, build.c.id == attempt.c.build_id)
            .outerjoin(buildset, buildset.c.id == build.c.buildset_id)
        )
        .order_by(node.c.label, node.c.name)
    )
    return tuple(
        NodeRecord(**{**row, "tags": tuple(row["tags"])}) for row in tx.execute(query).mappings()
    )


def pause_records(tx: sa.Connection) -> tuple[PauseRecord, ...]:
    """What operators paused, by kind and name; those that are over are in it until replaced."""
    query = sa.select(schema.pause).order_by(schema.pause.c.kind, schema.pause.c.name)
    return tuple(PauseRecord(**row) for row in tx.execute(query).mappings())
