# SPDX-License-Identifier: Apache-2.0
"""Writes of step 4: nodes and who holds them, with a fencing token that only grows."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.node import Lease, NodeState
from ci.scheduling import Needs, Node, Seating
from ci.store import schema

LIKENESS = "likeness"
"""Fact of a node: what its last hand-out was like."""
USABLE = (NodeState.GOOD.value, NodeState.UNKNOWN.value)


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """What a renewal found: whether the lease stands, and whether somebody wants an end."""

    held: bool
    cancel_reason: str | None


def register(
    tx: sa.Connection,
    *,
    name: str,
    label: str,
    provider: str,
    tags: Collection[str] = (),
    worker: str | None = None,
) -> None:
    """Make the row of a slot, or give it its current label; health and token stay.

    Args:
        tx: The caller's transaction.
        name: Of the node.
        label: What jobs ask for.
        provider: Who makes it.
        tags: What jobs may require.
        worker: The one process that reaches it; None: any does.
    """
    table = schema.node
    said = {"label": label, "provider": provider, "tags": list(tags), "worker": worker}
    done = tx.execute(sa.update(table).where(table.c.name == name).values(said))
    if not done.rowcount:
        tx.execute(
            sa.insert(table).values(
                **said,
                name=name,
                state=NodeState.UNKNOWN.value,
                reason="",
                failures=0,
                token=0,
            )
        )


def retire_missing(tx: sa.Connection, names: Collection[str], *, worker: str | None = None) -> None:
    """Retire slots that the configuration no longer has; bring back those that it has again.

    What only another process reaches is that one's to retire.
    """
    table = schema.node
    retired = NodeState.RETIRED.value
    ours = sa.or_(table.c.worker.is_(None), table.c.worker == worker)
    tx.execute(sa.update(table).where(ours, table.c.name.not_in(names)).values(state=retired))
    tx.execute(
        sa.update(table)
        .where(table.c.name.in_(names), table.c.state == retired)
        .values(state=NodeState.UNKNOWN.value, reason="")
    )


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks for nodes, and when.

    Attributes:
        holder: Attempt that will hold them.
        worker: Process that runs it.
        now: The time.
        term: How long a lease lasts without renewal.
    """

    holder: str
    worker: str
    now: datetime
    term: timedelta


def take(
    tx: sa.Connection,
    needs: Needs,
    asker: Asker,
    *,
    avoid: Collection[str] = (),
    closed: Collection[str] = (),
    strict: bool = False,
    like: str = "",
) -> tuple[Lease, ...]:
    """Lease usable free nodes for a whole set, or none; one whose lease ran out counts as free.

    All are taken in one transaction, so that two sets never wait for each other's nodes. Nodes in
    `avoid` (where this build was before) are taken only when the set can never be whole without
    them, and with `strict` not even then. What somebody holds for himself is not there.

    Args:
        tx: A write transaction.
        needs: The set.
        asker: For whom.
        avoid: Nodes where this build was before.
        closed: Nodes where nothing may start now.
        strict: Whether avoided nodes are out.
        like: Likeness that the first node should have; a node that was last handed out with
            another one is taken only where the set cannot be whole otherwise.

    Returns:
        The leases with new, larger tokens, the first node's first; empty when one is lacking.
    """
    table = schema.node
    rows = tx.execute(
        sa.select(table)
        .where(
            table.c.label.in_(set(needs.labels)),
            table.c.state.in_(USABLE),
            table.c.held_until.is_(None),
            sa.or_(table.c.worker.is_(None), table.c.worker == asker.worker),
        )
        .order_by(table.c.leased_at.nulls_first(), table.c.name)
    ).all()
    nodes = {row.name: _node(row, asker) for row in rows if row.name not in closed}
    demands = needs.demands(asker.worker)
    first = [row for row in rows if like and row.label == needs.label]
    unlike = {row.name for row in first if row.facts.get(LIKENESS, like) != like}
    others = [node for node in nodes.values() if node.name not in {*avoid, *unlike}]
    if not strict and not Seating(others).seat_all(demands):
        others = sorted(nodes.values(), key=lambda node: (node.name in unlike, node.name in avoid))
    seating = Seating(node for node in others if node.free)
    if not seating.seat_all(demands):
        return ()
    tokens = {row.name: row.token for row in rows}
    return tuple(_lease(tx, name, tokens[name] + 1, asker) for name in seating.of(demands))


def _node(row: sa.Row[Any], asker: Asker) -> Node:
    return Node(
        name=row.name,
        label=row.label,
        tags=frozenset(row.tags),
        worker=row.worker,
        free=row.holder is None or row.expires_at <= asker.now,
    )


def take_one(tx: sa.Connection, name: str, asker: Asker) -> Lease | None:
    """Lease one node by name, whatever its state; None while somebody holds it."""
    table = schema.node
    row = tx.execute(sa.select(table).where(table.c.name == name)).first()
    if row is None or (row.holder is not None and row.expires_at > asker.now):
        return None
    return _lease(tx, name, row.token + 1, asker)


def _lease(tx: sa.Connection, name: str, token: int, asker: Asker) -> Lease:
    lease = Lease(node=name, token=token, holder=asker.holder, expires_at=asker.now + asker.term)
    tx.execute(
        sa.update(schema.node)
        .where(schema.node.c.name == name)
        .values(
            token=token,
            holder=asker.holder,
            holder_worker=asker.worker,
            leased_at=asker.now,
            expires_at=lease.expires_at,
        )
    )
    return lease


def _is_held(lease: Lease) -> sa.ColumnElement[bool]:
    table = schema.node
    return sa.and_(
        table.c.name == lease.node,
        table.c.token == lease.token,
        table.c.holder == lease.holder,
    )


def prolong(tx: sa.Connection, lease: Lease, *, now: datetime, term: timedelta) -> bool:
    """Let a lease last for another term; False when its token is no longer the newest."""
    done = tx.execute(sa.update(schema.node).where(_is_held(lease)).values(expires_at=now + term))
    return bool(done.rowcount)


def renew(
    tx: sa.Connection, lease: Lease, *, build_id: str, now: datetime, term: timedelta
) -> Renewal:
    """Prolong a lease, and look on the way whether its build was cancelled."""
    held = prolong(tx, lease, now=now, term=term)
    return Renewal(held=held, cancel_reason=cancel_reason(tx, build_id))


def holds(tx: sa.Connection, lease: Lease, *, now: datetime) -> bool:
    """Whether the token is still the node's newest and its term has not run out."""
    table = schema.node
    found = tx.execute(
        sa.select(table.c.name).where(_is_held(lease), table.c.expires_at > now)
    ).first()
    return found is not None


_FREE = {"holder": None, "holder_worker": None, "expires_at": None}


def release(tx: sa.Connection, lease: Lease) -> bool:
    """Give a node back; a stale token gives back nothing. Repeatable."""
    done = tx.execute(sa.update(schema.node).where(_is_held(lease)).values(_FREE))
    return bool(done.rowcount)


def release_all(tx: sa.Connection, worker: str | None = None) -> int:
    """Free what an earlier incarnation of a process held: right at its start, when nothing runs.

    Args:
        tx: The caller's transaction.
        worker: Which process; None: whoever, where there is only one.
    """
    table = schema.node
    held = table.c.holder.is_not(None)
    mine = held if worker is None else sa.and_(held, table.c.holder_worker == worker)
    done = tx.execute(sa.update(table).where(mine).values(_FREE))
    return int(done.rowcount)


def set_health(
    tx: sa.Connection,
    *,
    name: str,
    state: NodeState,
    reason: str,
    failures: int,
    now: datetime,
) -> None:
    """Note what a check or a build said of a node."""
    tx.execute(
        sa.update(schema.node)
        .where(schema.node.c.name == name)
        .values(state=state.value, reason=reason, failures=failures, checked_at=now)
    )


def out_of_work(tx: sa.Connection) -> tuple[str, ...]:
    """Names of the nodes that are quarantined: Bad or Looping."""
    table = schema.node
    out = (NodeState.BAD.value, NodeState.LOOPING.value)
    return tuple(tx.execute(sa.select(table.c.name).where(table.c.state.in_(out))).scalars())


def cancel_reason(tx: sa.Connection, build_id: str) -> str | None:
    """Why a running build should stop; None while nobody asked."""
    reason: str | None = tx.execute(
        sa.select(schema.build.c.cancel_reason).where(schema.build.c.id == build_id)
    ).scalar()
    return reason
