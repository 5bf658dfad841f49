# SPDX-License-Identifier: Apache-2.0
"""Writes of step 4: nodes and who holds them, with a fencing token that only grows."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ci.model.node import Lease, NodeState
from ci.store import schema

USABLE = (NodeState.GOOD.value, NodeState.UNKNOWN.value)


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """What a renewal found: whether the lease stands, and whether somebody wants an end."""

    held: bool
    cancel_reason: str | None


def register(tx: sa.Connection, *, name: str, label: str, provider: str) -> None:
    """Make the row of a slot, or give it its current label; health and token stay."""
    table = schema.node
    done = tx.execute(
        sa.update(table).where(table.c.name == name).values(label=label, provider=provider)
    )
    if not done.rowcount:
        tx.execute(
            sa.insert(table).values(
                name=name,
                label=label,
                provider=provider,
                state=NodeState.UNKNOWN.value,
                reason="",
                failures=0,
                token=0,
            )
        )


def retire_missing(tx: sa.Connection, names: Collection[str]) -> None:
    """Retire slots that the configuration no longer has; bring back those that it has again."""
    table = schema.node
    retired = NodeState.RETIRED.value
    tx.execute(sa.update(table).where(table.c.name.not_in(names)).values(state=retired))
    tx.execute(
        sa.update(table)
        .where(table.c.name.in_(names), table.c.state == retired)
        .values(state=NodeState.UNKNOWN.value, reason="")
    )


def take(
    tx: sa.Connection,
    *,
    label: str,
    holder: str,
    avoid: Collection[str],
    strict: bool = False,
    now: datetime,
    term: timedelta,
) -> Lease | None:
    """Lease any usable free node of a label; one whose lease ran out counts as free.

    Nodes in `avoid` (where this build was before) are taken only when the label has no other
    usable node at all, and with `strict` not even then.

    Returns:
        The lease with a new, larger token, or None when every node is busy.
    """
    table = schema.node
    rows = tx.execute(
        sa.select(table)
        .where(table.c.label == label, table.c.state.in_(USABLE))
        .order_by(table.c.leased_at.nulls_first(), table.c.name)
    ).all()
    others = [row for row in rows if row.name not in avoid]
    for row in others if strict else others or rows:
        if row.holder is None or row.expires_at <= now:
            lease = Lease(node=row.name, token=row.token + 1, holder=holder, expires_at=now + term)
            tx.execute(
                sa.update(table)
                .where(table.c.name == row.name)
                .values(
                    token=lease.token,
                    holder=holder,
                    leased_at=now,
                    expires_at=lease.expires_at,
                )
            )
            return lease
    return None


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


def release(tx: sa.Connection, lease: Lease) -> bool:
    """Give a node back; a stale token gives back nothing. Repeatable."""
    done = tx.execute(
        sa.update(schema.node).where(_is_held(lease)).values(holder=None, expires_at=None)
    )
    return bool(done.rowcount)


def release_all(tx: sa.Connection) -> int:
    """Free every node: right only at the start of the one executor, when nothing can run."""
    done = tx.execute(
        sa.update(schema.node)
        .where(schema.node.c.holder.is_not(None))
        .values(holder=None, expires_at=None)
    )
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


def label_when_fit(tx: sa.Connection, name: str) -> str | None:
    """The node label of a node that is not quarantined; None for one that is, or is unknown."""
    table = schema.node
    found: str | None = tx.execute(
        sa.select(table.c.label).where(table.c.name == name, table.c.state != NodeState.BAD.value)
    ).scalar()
    return found


def failures_of(tx: sa.Connection, name: str) -> int:
    """Builds in a row that ended as this node's fault."""
    found = tx.execute(sa.select(schema.node.c.failures).where(schema.node.c.name == name)).scalar()
    return int(found or 0)


def in_state(tx: sa.Connection, state: NodeState) -> tuple[str, ...]:
    """Names of the nodes in a state."""
    table = schema.node
    return tuple(tx.execute(sa.select(table.c.name).where(table.c.state == state.value)).scalars())


def cancel_reason(tx: sa.Connection, build_id: str) -> str | None:
    """Why a running build should stop; None while nobody asked."""
    reason: str | None = tx.execute(
        sa.select(schema.build.c.cancel_reason).where(schema.build.c.id == build_id)
    ).scalar()
    return reason
