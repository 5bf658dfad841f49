# SPDX-License-Identifier: Apache-2.0
"""The queue of builds: our own rows, claimed one by one by the workers that run them."""

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.build import Claim, Priority
from ci.scheduling import OPEN, Candidate, Chooser, Closed, slots_left
from ci.store import pauses, schema, turns
from ci.store.site import Look, look, needs_of

PAGE = 20
PAGES = 50
"""Kinds of builds in one line that may be in the way of one that can start."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A queued build, and where it stands."""

    candidate: Candidate
    shape: str
    label: str
    priority: int
    turn: int
    lag: int
    queued_at: datetime

    @property
    def order(self) -> tuple[int, int, datetime, str]:
        """Smaller goes first; turns of several lines are compared by how late they are."""
        return (self.priority, self.lag, self.queued_at, self.candidate.build_id)


def could_start(
    tx: sa.Connection,
    *,
    worker: str,
    slots: int,
    at: datetime,
    limits: Mapping[str, int] | None = None,
    closed: Closed = OPEN,
) -> bool:
    """Whether `claim_next` would take something: asked without its lock. The same arguments."""
    limits = limits or {}
    if not _any_queued(tx):
        return False
    return bool(_first(tx, worker=worker, slots=slots, at=at, limits=limits, closed=closed))


def claim_next(
    tx: sa.Connection,
    *,
    worker: str,
    slots: int,
    at: datetime,
    limits: Mapping[str, int] | None = None,
    closed: Closed = OPEN,
) -> Claim | None:
    """Let a worker take the next build that it can start, in a write transaction of its own.

    Room is what the labels have minus what runs anywhere; only nodes that this worker may lease
    count for it.

    Args:
        tx: A write transaction: no other claims meanwhile.
        worker: Name of the process.
        slots: Builds that it may run at once.
        at: Now.
        limits: Nodes of a label that may be in use at once.
        closed: What maintenance closes now; what is paused is read here.

    Returns:
        The build with its claim, or None when nothing can start.
    """
    found = _first(tx, worker=worker, slots=slots, at=at, limits=limits or {}, closed=closed)
    return None if found is None else _claim(tx, found, worker, at)


def waiting(tx: sa.Connection) -> dict[str, int]:
    """Builds in line by the label of their first node."""
    build = schema.build
    counted = (
        sa.select(build.c.node_label, sa.func.count())
        .where(build.c.state == "queued")
        .group_by(build.c.node_label)
    )
    return {row[0]: row[1] for row in tx.execute(counted)}


def _any_queued(tx: sa.Connection) -> bool:
    build = schema.build
    return bool(tx.execute(sa.select(build.c.id).where(build.c.state == "queued").limit(1)).first())


def _first(
    tx: sa.Connection,
    *,
    worker: str,
    slots: int,
    at: datetime,
    limits: Mapping[str, int],
    closed: Closed,
) -> _Waiting | None:
    seen = look(tx, at=at, limits=limits, closed=pauses.closed(tx, at=at) | closed)
    if slots_left(seen.site.running, worker, slots) <= 0:
        return None
    chooser = Chooser(seen.site, worker)
    clocks = turns.clocks(tx)
    blocked: set[str] = set()
    lines = [_line(tx, label, seen, clocks, blocked) for label in chooser.labels()]
    for one in heapq.merge(*lines, key=lambda waiting: waiting.order):
        if one.shape in blocked:
            continue
        if chooser.start(one.candidate.needs):
            return one
        blocked.add(one.shape)
    return None


def _line(
    tx: sa.Connection,
    label: str,
    seen: Look,
    clocks: Mapping[tuple[str, int], int],
    blocked: Collection[str],
) -> Iterator[_Waiting]:
    """What waits for a label, in order, a page at a time, without kinds that cannot start."""
    after: tuple[int, int, str] | None = None
    for _ in range(PAGES):
        rows = _page(tx, label, seen, blocked, after)
        for row in rows:
            yield _Waiting(
                candidate=Candidate(
                    build_id=row.id, needs=needs_of(label, row.wants, row.requires)
                ),
                shape=label + row.shape,
                label=label,
                priority=row.priority,
                turn=row.turn,
                lag=row.turn - clocks.get((label, row.priority), 0),
                queued_at=row.queued_at,
            )
        if len(rows) < PAGE:
            return
        after = (rows[-1].priority, rows[-1].turn, rows[-1].id)


def _page(
    tx: sa.Connection,
    label: str,
    seen: Look,
    blocked: Collection[str],
    after: tuple[int, int, str] | None,
) -> list[sa.Row[Any]]:
    build, buildset = schema.build, schema.buildset
    order = (build.c.priority, build.c.turn, build.c.id)
    shape = sa.cast(build.c.wants, sa.Text) + sa.cast(build.c.requires, sa.Text)
    query = (
        sa.select(*order, build.c.wants, build.c.requires, build.c.queued_at, shape.label("shape"))
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(build.c.state == "queued", build.c.node_label == label)
        .order_by(*order)
        .limit(PAGE)
    )
    mine = [one.removeprefix(label) for one in blocked if one.startswith(f"{label}[")]
    if mine:
        query = query.where(shape.not_in(mine))
    if seen.away:
        query = query.where(buildset.c.connection.not_in(seen.away))
    if seen.closed.pipelines:
        query = query.where(buildset.c.pipeline.not_in(seen.closed.pipelines))
    if after is not None:
        query = query.where(sa.tuple_(*order) > sa.tuple_(*map(sa.literal, after)))
    return list(tx.execute(query))


def _claim(tx: sa.Connection, found: _Waiting, worker: str, at: datetime) -> Claim:
    build, buildset = schema.build, schema.buildset
    build_id = found.candidate.build_id
    row = tx.execute(
        sa.select(build.c.claim, build.c.buildset_id).where(build.c.id == build_id)
    ).one()
    tx.execute(
        sa.update(build)
        .where(build.c.id == build_id)
        .values(
            state="running",
            worker=worker,
            claim=row.claim + 1,
            started_at=at,
            waiting="",
            position=None,
            eta_at=None,
        )
    )
    tx.execute(
        sa.update(buildset)
        .where(buildset.c.id == row.buildset_id, buildset.c.state == "queued")
        .values(state="running")
    )
    turns.started(tx, label=found.label, priority=found.priority, turn=found.turn)
    return Claim(build_id, row.claim + 1)


def put_back(tx: sa.Connection, build_id: str, claim: int) -> bool:
    """Queue a build again whose worker is gone, before all others of its line.

    Returns:
        False when it is no longer running under that claim.
    """
    build = schema.build
    done = tx.execute(
        sa.update(build)
        .where(
            build.c.id == build_id,
            build.c.state == "running",
            build.c.claim == claim,
        )
        .values(state="queued", worker=None, priority=Priority.ASKED.value, turn=0, started_at=None)
    )
    return bool(done.rowcount)


def running(tx: sa.Connection, worker: str) -> tuple[Claim, ...]:
    """Builds that a worker should be running."""
    build = schema.build
    rows = tx.execute(
        sa.select(build.c.id, build.c.claim).where(
            build.c.state == "running", build.c.worker == worker
        )
    )
    return tuple(Claim(row.id, row.claim) for row in rows)
