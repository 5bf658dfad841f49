# SPDX-License-Identifier: Apache-2.0
"""The queue of builds: our own rows in order of arrival, and why each of them waits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.store import schema
from ci.store.leases import USABLE


@dataclass(frozen=True, kw_only=True)
class QueuedBuild:
    """A build that waits for room."""

    build_id: str
    label: str
    waiting: str
    connection: str


@dataclass(frozen=True, kw_only=True)
class LabelRoom:
    """What a node label has.

    Attributes:
        usable: Nodes that may be leased.
        running: Builds that run or wait for a lease.
        trouble: Why the others are out, one sentence.
    """

    usable: int
    running: int
    trouble: str


def queued(tx: sa.Connection, *, limit: int = 200) -> list[QueuedBuild]:
    """Queued builds, first come first served."""
    build, buildset = schema.build, schema.buildset
    rows = tx.execute(
        sa.select(build.c.id, build.c.node_label, build.c.waiting, buildset.c.connection)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(build.c.state == "queued")
        .order_by(build.c.queued_at, build.c.id)
        .limit(limit)
    )
    return [
        QueuedBuild(build_id=r.id, label=r.node_label, waiting=r.waiting, connection=r.connection)
        for r in rows
    ]


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """A running build that waits for its review server and uses no node."""

    build_id: str
    label: str
    connection: str


def stuck(tx: sa.Connection, *, before: datetime) -> list[Stuck]:
    """Builds whose newest attempt has been merging since before a time."""
    build, buildset, attempt = schema.build, schema.buildset, schema.attempt
    rows = tx.execute(
        sa.select(build.c.id, build.c.node_label, buildset.c.connection)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .join(attempt, attempt.c.build_id == build.c.id)
        .where(
            build.c.state == "running",
            attempt.c.state == "running",
            attempt.c.phase == "merge",
            attempt.c.started_at < before,
        )
    )
    return [Stuck(build_id=r.id, label=r.node_label, connection=r.connection) for r in rows]


def rooms(tx: sa.Connection) -> dict[str, LabelRoom]:
    """What every node label has, by label."""
    node, build = schema.node, schema.build
    counts = tx.execute(
        sa.select(build.c.node_label, sa.func.count().label("count"))
        .where(build.c.state == "running")
        .group_by(build.c.node_label)
    )
    running: dict[str, int] = {row.node_label: row[1] for row in counts}
    found: dict[str, list[Any]] = {}
    for row in tx.execute(
        sa.select(node.c.label, node.c.name, node.c.state, node.c.reason).where(
            node.c.state != "Retired"
        )
    ):
        found.setdefault(row.label, []).append(row)
    return {
        label: LabelRoom(
            usable=sum(1 for r in rows if r.state in USABLE),
            running=running.get(label, 0),
            trouble="; ".join(
                f"{r.name} is {r.state}: {r.reason}" for r in rows if r.state not in USABLE
            ),
        )
        for label, rows in found.items()
    }


def claim(tx: sa.Connection, build_id: str, *, at: datetime) -> bool:
    """Turn a queued build into a running one; False when it is no longer queued."""
    build, buildset = schema.build, schema.buildset
    done = tx.execute(
        sa.update(build)
        .where(build.c.id == build_id, build.c.state == "queued")
        .values(state="running", started_at=at, waiting="")
    )
    if not done.rowcount:
        return False
    mine = sa.select(build.c.buildset_id).where(build.c.id == build_id).scalar_subquery()
    tx.execute(
        sa.update(buildset)
        .where(buildset.c.id == mine, buildset.c.state == "queued")
        .values(state="running")
    )
    return True


def running(tx: sa.Connection) -> tuple[str, ...]:
    """Builds that should be running."""
    build = schema.build
    return tuple(tx.execute(sa.select(build.c.id).where(build.c.state == "running")).scalars())


def explain_waiting(tx: sa.Connection, reasons: Mapping[str, str]) -> None:
    """Write down why builds wait, by build id."""
    build = schema.build
    for build_id, reason in reasons.items():
        tx.execute(
            sa.update(build)
            .where(build.c.id == build_id, build.c.state == "queued")
            .values(waiting=reason)
        )
