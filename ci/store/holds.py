# SPDX-License-Identifier: Apache-2.0
"""Nodes that are kept, machine and all, for a person to look at.

`held_until` set: held. Nobody leases the node and nobody ends its machine until a process that
reaches it finds the time over, ends the machine and clears the row; a return makes the time
over at once. `held_for_s` set: held for so long as soon as the next build fails there.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ci.errors import ConfigError
from ci.store import audit, schema


@dataclass(frozen=True, kw_only=True)
class Hold:
    """One hold.

    Attributes:
        node: What is held.
        by: Who holds it.
        why: For what.
        until: When it ends by itself; None while it waits for a failure.
        for_s: Seconds from that failure on; 0 where it holds already.
        login: One line that logs in to the machine that is there now; may be empty.
        worker: The one process that reaches it; None: any.
        attempt_id: Who has the node now, if anybody.
    """

    node: str
    by: str
    why: str
    until: datetime | None
    for_s: int
    login: str
    worker: str | None
    attempt_id: str | None


def of(tx: sa.Connection, name: str) -> Hold:
    """What is said of a node's hold; `by` is empty where there is none.

    Raises:
        ConfigError: There is no such node.
    """
    table = schema.node
    row = tx.execute(sa.select(table).where(table.c.name == name)).first()
    if row is None:
        raise ConfigError(f"there is no node {name}", hint="see `hypervouch nodes`")
    return Hold(
        node=name,
        by=row.held_by,
        why=row.held_why,
        until=row.held_until,
        for_s=row.held_for_s,
        login=row.held_login,
        worker=row.worker,
        attempt_id=row.holder,
    )


def hold(
    tx: sa.Connection,
    name: str,
    *,
    by: str,
    why: str,
    length: timedelta,
    now: datetime,
    on_failure: bool = False,
) -> Hold:
    """Hold a node from now on, or from the next failure there on; replaces what was said before.

    Raises:
        ConfigError: There is no such node, or one of another operator is in the way.
    """
    found = of(tx, name)
    if found.until is not None and found.until <= now:
        raise ConfigError(f"the hold on {name} is just being ended", hint="try again in a moment")
    until = None if on_failure else now + length
    if found.until is not None and on_failure:
        raise ConfigError(f"{name} is held already, by {found.by}", hint="return it first")
    seconds = int(length.total_seconds()) if on_failure else 0
    _put(tx, name, held_until=until, held_for_s=seconds, held_by=by, held_why=why)
    said = "on failure" if until is None else f"until {until:%Y-%m-%d %H:%M} UTC"
    audit.note(tx, at=now, by=by, action="hold", subject=f"node {name}", why=f"{said}: {why}")
    return of(tx, name)


def give_back(tx: sa.Connection, name: str, *, by: str, now: datetime) -> bool:
    """End a hold before its time, or disarm one; False where there was none.

    Raises:
        ConfigError: There is no such node.
    """
    found = of(tx, name)
    if not found.by:
        return False
    if found.until is None:
        clear(tx, name)
    else:
        _put(tx, name, held_until=min(found.until, now))
    audit.note(tx, at=now, by=by, action="return", subject=f"node {name}")
    return True


def begins(tx: sa.Connection, name: str, *, failed: bool, now: datetime) -> bool:
    """Whether a node whose build ended stays as it is; a failure sets off an armed hold."""
    table = schema.node
    row = tx.execute(
        sa.select(table.c.held_until, table.c.held_for_s).where(table.c.name == name)
    ).first()
    if row is None:
        return False
    if row.held_until is not None:
        return bool(row.held_until > now)
    if not row.held_for_s or not failed:
        return False
    _put(tx, name, held_until=now + timedelta(seconds=row.held_for_s), held_for_s=0)
    return True


def names(tx: sa.Connection) -> frozenset[str]:
    """Nodes that are held, those included whose time is over and whose machine still runs."""
    table = schema.node
    return frozenset(
        tx.execute(sa.select(table.c.name).where(table.c.held_until.is_not(None))).scalars()
    )


def over(tx: sa.Connection, *, now: datetime) -> tuple[str, ...]:
    """Nodes whose hold has come to its end."""
    table = schema.node
    return tuple(
        tx.execute(
            sa.select(table.c.name).where(table.c.held_until <= now).order_by(table.c.name)
        ).scalars()
    )


def clear(tx: sa.Connection, name: str) -> None:
    """Forget a hold."""
    _put(tx, name, held_until=None, held_for_s=0, held_by="", held_why="")


def _put(tx: sa.Connection, name: str, **values: object) -> None:
    tx.execute(sa.update(schema.node).where(schema.node.c.name == name).values(**values))
