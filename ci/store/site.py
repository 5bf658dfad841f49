# SPDX-License-Identifier: Apache-2.0
"""One look at nodes and running builds, as scheduling wants them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.build import Phase
from ci.model.node import NodeState
from ci.scheduling import OPEN, Closed, Needs, Node, Running, Site
from ci.store import schema
from ci.store.leases import USABLE

STUCK = timedelta(seconds=20)
"""A merge takes less than a second; one that takes longer waits for its server."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is there, what is closed, and which review servers let builds wait.

    Attributes:
        site: Nodes and running builds.
        closed: What is paused or in a maintenance window.
        away: Connections whose running builds wait for their server.
    """

    site: Site
    closed: Closed
    away: frozenset[str]


def look(
    tx: sa.Connection, *, at: datetime, limits: Mapping[str, int], closed: Closed = OPEN
) -> Look:
    """Read nodes and running builds: two queries, whatever waits."""
    table = schema.node
    rows = tx.execute(sa.select(table).where(table.c.state != NodeState.RETIRED.value)).all()
    held = {row.holder for row in rows if row.holder is not None and row.expires_at > at}
    running, away = _running(tx, at, held)
    nodes = [
        Node(
            name=row.name,
            label=row.label,
            tags=frozenset(row.tags),
            worker=row.worker,
            free=row.holder not in held,
            trouble=_trouble(row, closed),
        )
        for row in rows
    ]
    site = Site(nodes=nodes, running=running, limits=limits, closed=closed.labels)
    return Look(site=site, closed=closed, away=away)


def _trouble(row: sa.Row[Any], closed: Closed) -> str:
    if row.state not in USABLE:
        return f"{row.name} is {row.state}: {row.reason}"
    if row.held_until is not None:
        return f"{row.name} is held by {row.held_by}: {row.held_why}"
    return closed.nodes.get(row.name, "")


def _running(
    tx: sa.Connection, at: datetime, held: Collection[str]
) -> tuple[list[Running], frozenset[str]]:
    build, buildset, attempt = schema.build, schema.buildset, schema.attempt
    rows = tx.execute(
        sa.select(
            build.c.id,
            build.c.node_label,
            build.c.wants,
            build.c.requires,
            build.c.worker,
            buildset.c.connection,
            attempt.c.id.label("attempt_id"),
            attempt.c.phase,
            attempt.c.started_at,
        )
        .select_from(
            build.join(buildset, buildset.c.id == build.c.buildset_id).outerjoin(
                attempt, sa.and_(attempt.c.build_id == build.c.id, attempt.c.state == "running")
            )
        )
        .where(build.c.state == "running")
    ).all()
    found = [
        Running(
            build_id=row.id,
            worker=row.worker,
            needs=needs_of(row.node_label, row.wants, row.requires),
            holds=row.attempt_id in held,
            stuck=row.phase == Phase.MERGE.value and row.started_at < at - STUCK,
        )
        for row in rows
    ]
    stuck = {one.build_id for one in found if one.stuck}
    return found, frozenset(row.connection for row in rows if row.id in stuck)


def needs_of(label: str, wants: list[str], requires: list[str]) -> Needs:
    """The shape of a build's set, from its columns."""
    return Needs(label=label, peers=tuple(wants), requires=frozenset(requires))
