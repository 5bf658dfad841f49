# SPDX-License-Identifier: Apache-2.0
"""Nodes: their health, and the build behind each lease."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.records import LeftRecord, NodeRecord, PauseRecord

LEFT_LOOKED_AT = 200
LEFT_SHOWN = 20


def all_nodes(database: Database) -> tuple[NodeRecord, ...]:
    """Every slot, by label and name, with what builds left there; two queries."""
    with database.read() as tx:
        return node_records(tx, left=_left_behind(tx))


def all_pauses(database: Database) -> tuple[PauseRecord, ...]:
    """As `pause_records`; one query."""
    with database.read() as tx:
        return pause_records(tx)


def node_records(
    tx: sa.Connection, left: Mapping[str, Sequence[LeftRecord]] | None = None
) -> tuple[NodeRecord, ...]:
    """Every slot on the caller's connection, with what is given of things left there."""
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
            node.c.blamed_by,
            node.c.facts,
            node.c.health_at,
            node.c.health_tries,
            node.c.held_until,
            node.c.held_for_s,
            node.c.held_by,
            node.c.held_why,
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
    rows = tx.execute(query).mappings()
    return tuple(_record(row, (left or {}).get(row["name"], ())) for row in rows)


def _record(row: Any, left: Sequence[LeftRecord]) -> NodeRecord:
    blamed = dict.fromkeys(one.get("change", "") for one in row["blamed_by"] or ())
    facts = {name: str(value) for name, value in (row["facts"] or {}).items()}
    held = row["held_until"] is not None
    changed = {
        "tags": tuple(row["tags"]),
        "use": "held" if held else "leased" if row["attempt_id"] else "free",
        "blamed_by": tuple(change for change in blamed if change),
        "facts": {name: value for name, value in facts.items() if name != "cpu-flags"},
        "left_behind": tuple(left[:LEFT_SHOWN]),
    }
    return NodeRecord(**{**row, **changed})


def _left_behind(tx: sa.Connection) -> dict[str, list[LeftRecord]]:
    """By node what newer attempts left there, newest first."""
    table = schema.attempt
    rows = tx.execute(
        sa.select(table.c.build_id, table.c.left_behind, table.c.finished_at)
        .where(table.c.finished_at.is_not(None), sa.cast(table.c.left_behind, sa.Text) != "[]")
        .order_by(table.c.finished_at.desc())
        .limit(LEFT_LOOKED_AT)
    )
    found: dict[str, list[LeftRecord]] = {}
    for row in rows:
        for one in row.left_behind or ():
            record = LeftRecord(**one, build_id=row.build_id, at=row.finished_at)
            found.setdefault(record.node, []).append(record)
    return found


def pause_records(tx: sa.Connection) -> tuple[PauseRecord, ...]:
    """What operators paused, by kind and name; those that are over are in it until replaced."""
    query = sa.select(schema.pause).order_by(schema.pause.c.kind, schema.pause.c.name)
    return tuple(PauseRecord(**row) for row in tx.execute(query).mappings())
