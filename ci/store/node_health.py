# SPDX-License-Identifier: Apache-2.0
"""What is known of nodes' health: rows of `ci_node`, read and written as a whole.

`blamed_by` holds, oldest first, each failure since a build last came to its end there:
`{"change": "SERVER:NUMBER", "tested": bool}`, and `{"returned": true}` where a probe found the
node fit in between. An empty change is a failure that no change can be blamed for.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.node import NodeState
from ci.store import schema

KEPT = 30
"""Failures that are remembered of one node."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a node stands.

    Attributes:
        name: Which.
        label: What jobs ask for.
        state: Its health.
        reason: Why.
        failures: Failures in a row, those of probes too.
        blamed_by: See the module's text.
        checked_at: When it was last looked at.
        health_at: When its last health job ended.
        health_tries: Health jobs that failed in a row.
        held: Whether somebody keeps it.
    """

    name: str
    label: str
    state: NodeState
    reason: str = ""
    failures: int = 0
    blamed_by: tuple[Mapping[str, Any], ...] = field(default=())
    checked_at: datetime | None = None
    health_at: datetime | None = None
    health_tries: int = 0
    held: bool = False

    @property
    def fit(self) -> bool:
        """Whether it was in work."""
        return self.state not in {NodeState.BAD, NodeState.LOOPING}

    @property
    def changes(self) -> int:
        """Different changes that it failed since it was last in order."""
        since: list[Mapping[str, Any]] = []
        for entry in self.blamed_by:
            since = [] if entry.get("returned") else [*since, entry]
        named = {entry["change"] for entry in since if entry.get("change")}
        return len(named) + sum(1 for entry in since if not entry.get("change"))

    @property
    def untested(self) -> int:
        """Times in a row that it was handed out and failed before a test ran."""
        count = 0
        for entry in reversed(self.blamed_by):
            if entry.get("tested"):
                break
            count += not entry.get("returned")
        return count


def standing(tx: sa.Connection, name: str) -> Standing | None:
    """How a node stands; None for one that nobody knows."""
    return next(iter(standings(tx, [name])), None)


def standings(tx: sa.Connection, names: Collection[str]) -> tuple[Standing, ...]:
    """How several nodes stand, by name."""
    table = schema.node
    rows = tx.execute(sa.select(table).where(table.c.name.in_(names)).order_by(table.c.name))
    return tuple(
        Standing(
            name=row.name,
            label=row.label,
            state=NodeState(row.state),
            reason=row.reason,
            failures=row.failures,
            blamed_by=tuple(row.blamed_by or ()),
            checked_at=row.checked_at,
            health_at=row.health_at,
            health_tries=row.health_tries,
            held=row.held_until is not None,
        )
        for row in rows
    )


def put(tx: sa.Connection, name: str, **values: Any) -> None:
    """Write columns of a node."""
    if "blamed_by" in values:
        values["blamed_by"] = [dict(one) for one in values["blamed_by"]][-KEPT:]
    tx.execute(sa.update(schema.node).where(schema.node.c.name == name).values(**values))


def due(
    tx: sa.Connection, names: Iterable[str], *, now: datetime, every: timedelta
) -> tuple[str, ...]:
    """Of some nodes those that are in work and owe a health job, which comes before any build."""
    table = schema.node
    return tuple(
        tx.execute(
            sa.select(table.c.name)
            .where(
                table.c.name.in_(list(names)),
                table.c.state.in_((NodeState.GOOD.value, NodeState.UNKNOWN.value)),
                table.c.held_until.is_(None),
                sa.or_(table.c.health_at.is_(None), table.c.health_at <= now - every),
            )
            .order_by(table.c.name)
        ).scalars()
    )


def left_behind(tx: sa.Connection, attempt_id: str, found: Collection[Mapping[str, str]]) -> None:
    """Write down what an attempt left on its nodes; further nodes of its set add to it."""
    table = schema.attempt
    row = tx.execute(sa.select(table.c.left_behind).where(table.c.id == attempt_id)).first()
    if row is not None:
        both = [*(row.left_behind or ()), *(dict(one) for one in found)]
        tx.execute(sa.update(table).where(table.c.id == attempt_id).values(left_behind=both))
