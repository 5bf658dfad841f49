# SPDX-License-Identifier: Apache-2.0
"""Figures about the whole installation: each is counted by the database, over what is open."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.build import Priority
from ci.store import schema
from ci.store.outbox import OPEN
from ci.store.processes import STOPPED, Process, listing

Counted = dict[tuple[str, ...], int]
Oldest = dict[tuple[str, ...], datetime]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What one look at the database found; keys are the values of the labels, in order.

    Attributes:
        events: Stored and not planned, by connection.
        queued: Builds, by node label and priority.
        running: Builds, by node label.
        queued_since: Oldest queued build, by node label.
        nodes: By node label and state.
        leases: Leased nodes, by node label.
        reviews: Not delivered, by connection and state.
        owed_since: Oldest pending review, by connection.
        notices: Not delivered, by reporter.
        connections: State, by connection.
        processes: Those that are not stopped.
    """

    events: Counted
    queued: Counted
    running: Counted
    queued_since: Oldest
    nodes: Counted
    leases: Counted
    reviews: Counted
    owed_since: Oldest
    notices: Counted
    connections: dict[str, str]
    processes: tuple[Process, ...]


def measure(tx: sa.Connection) -> Measures:
    """Look once."""
    queued, running, queued_since = _builds(tx)
    nodes, leases = _nodes(tx)
    reviews, owed_since = _reviews(tx)
    event, delivery = schema.event, schema.delivery
    connection = schema.connection_state
    return Measures(
        events=_counted(tx, event.c.connection, where=event.c.processed_at.is_(None)),
        queued=queued,
        running=running,
        queued_since=queued_since,
        nodes=nodes,
        leases=leases,
        reviews=reviews,
        owed_since=owed_since,
        notices=_counted(tx, delivery.c.reporter, where=delivery.c.state == "pending"),
        connections={
            row.name: row.state
            for row in tx.execute(sa.select(connection.c.name, connection.c.state))
        },
        processes=tuple(one for one in listing(tx) if one.state != STOPPED),
    )


def _counted(tx: sa.Connection, *keys: sa.Column[Any], where: sa.ColumnElement[bool]) -> Counted:
    found = tx.execute(sa.select(*keys, sa.func.count().label("n")).where(where).group_by(*keys))
    return {tuple(str(value) for value in row[:-1]): int(row.n) for row in found}


def _builds(tx: sa.Connection) -> tuple[Counted, Counted, Oldest]:
    build = schema.build
    found = tx.execute(
        sa.select(
            build.c.state,
            build.c.node_label,
            build.c.priority,
            sa.func.count().label("n"),
            sa.func.min(build.c.queued_at).label("since"),
        )
        .where(build.c.state.in_(("queued", "running")))
        .group_by(build.c.state, build.c.node_label, build.c.priority)
    )
    queued, running = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    since: Oldest = {}
    for row in found:
        label = (row.node_label,)
        if row.state == "running":
            running[label] += row.n
            continue
        queued[(row.node_label, _priority(row.priority))] += row.n
        since[label] = min(since.get(label, row.since), row.since)
    return dict(queued), dict(running), since


def _priority(value: int) -> str:
    try:
        return Priority(value).name.lower()
    except ValueError:
        return "other"


def _nodes(tx: sa.Connection) -> tuple[Counted, Counted]:
    node = schema.node
    held = node.c.holder.is_not(None).label("held")
    found = tx.execute(
        sa.select(node.c.label, node.c.state, held, sa.func.count().label("n")).group_by(
            node.c.label, node.c.state, held
        )
    )
    nodes, leases = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for row in found:
        nodes[(row.label, row.state)] += row.n
        leases[(row.label,)] += row.n if row.held else 0
    return dict(nodes), dict(leases)


def _reviews(tx: sa.Connection) -> tuple[Counted, Oldest]:
    outbox = schema.outbox
    found = tx.execute(
        sa.select(
            outbox.c.connection,
            outbox.c.state,
            sa.func.count().label("n"),
            sa.func.min(outbox.c.created_at).label("since"),
        )
        .where(outbox.c.state.in_(OPEN))
        .group_by(outbox.c.connection, outbox.c.state)
    ).all()
    reviews: Counted = {(row.connection, row.state): int(row.n) for row in found}
    return reviews, {(row.connection,): row.since for row in found if row.state == "pending"}
