# SPDX-License-Identifier: Apache-2.0
"""Fairness between projects: each queued build of a line has a turn, see ADR 0017.

A line is what waits for one node label at one priority. Its clock is the turn of the build that
it started last; it is the row of the project "".
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ci.scheduling import next_turn
from ci.store import schema

LINE = ""


def draw(tx: sa.Connection, *, project: str, label: str, priority: int) -> int:
    """The turn of one more build of a project in a line."""
    turn = next_turn(_read(tx, LINE, label, priority), _read(tx, project, label, priority))
    _write(tx, project, label, priority, turn)
    return turn


def started(tx: sa.Connection, *, label: str, priority: int, turn: int) -> None:
    """Let a line's clock follow the build that it started; it never goes back."""
    if turn > _read(tx, LINE, label, priority):
        _write(tx, LINE, label, priority, turn)


def clocks(tx: sa.Connection) -> dict[tuple[str, int], int]:
    """The clock of every line that ever started a build, by label and priority."""
    table = schema.turn
    rows = tx.execute(
        sa.select(table.c.node_label, table.c.priority, table.c.turn).where(table.c.project == LINE)
    )
    return {(row.node_label, row.priority): row.turn for row in rows}


def of_buildsets(tx: sa.Connection, buildset_ids: Sequence[str]) -> list[sa.Row[Any]]:
    """The lines where builds of some buildsets wait: project, label, priority, first turn."""
    build, buildset = schema.build, schema.buildset
    mine = sa.select(
        buildset.c.project.label("project"),
        build.c.node_label.label("node_label"),
        build.c.priority.label("priority"),
    ).join(buildset, buildset.c.id == build.c.buildset_id)
    lines: Sequence[Any] = tx.execute(
        mine.where(build.c.buildset_id.in_(buildset_ids), build.c.state == "queued").distinct()
    ).all()
    return [line for line in lines if line.project != LINE]


def close_gaps(tx: sa.Connection, lines: Sequence[sa.Row[Any]]) -> None:
    """Let a project's builds move up where earlier ones of it were cancelled.

    Without it the turns of what was cancelled would count against what the project still wants.
    """
    for line in lines:
        key = (line.project, line.node_label, line.priority)
        waiting = _waiting(tx, *key)
        turn = _read(tx, LINE, line.node_label, line.priority)
        for row in waiting:
            turn += 1
            if row.turn <= turn:  # never later than it was
                turn = row.turn
                continue
            tx.execute(sa.update(schema.build).where(schema.build.c.id == row.id).values(turn=turn))
        _write(tx, *key, turn)


def _waiting(tx: sa.Connection, project: str, label: str, priority: int) -> Sequence[sa.Row[Any]]:
    build, buildset = schema.build, schema.buildset
    rows: Sequence[Any] = tx.execute(
        sa.select(build.c.id, build.c.turn)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(
            build.c.state == "queued",
            build.c.node_label == label,
            build.c.priority == priority,
            buildset.c.project == project,
        )
        .order_by(build.c.turn, build.c.id)
    ).all()
    return rows


def _row(project: str, label: str, priority: int) -> sa.ColumnElement[bool]:
    table = schema.turn
    return sa.and_(
        table.c.project == project, table.c.node_label == label, table.c.priority == priority
    )


def _read(tx: sa.Connection, project: str, label: str, priority: int) -> int:
    found = tx.execute(sa.select(schema.turn.c.turn).where(_row(project, label, priority)))
    return int(found.scalar() or 0)


def _write(tx: sa.Connection, project: str, label: str, priority: int, turn: int) -> None:
    table = schema.turn
    done = tx.execute(sa.update(table).where(_row(project, label, priority)).values(turn=turn))
    if not done.rowcount:
        tx.execute(
            sa.insert(table).values(project=project, node_label=label, priority=priority, turn=turn)
        )
