# SPDX-License-Identifier: Apache-2.0
"""Processes of the installation: who they are, and when each was last heard of.

A name belongs to the newest incarnation that registered it; an older one finds out at its
next beat, and in every write that it makes for a build.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ci.errors import ConfigError
from ci.store import audit, schema
from ci.store.database import Database

RUNNING, DRAINING, STOPPED = "running", "draining", "stopped"


@dataclass(frozen=True, kw_only=True)
class Process:
    """One row of `ci_process`.

    Attributes:
        name: Its name; also that of the worker in it.
        incarnation: New at each start.
        roles: What it does: listen, work, relay, web.
        host: Machine.
        pid: Process id on that machine.
        version: Of this program.
        slots: Builds it runs at once; 0 without the role work.
        state: running, draining or stopped.
        started_at: Since when.
        beat_at: When it was last heard of.
    """

    name: str
    incarnation: str
    roles: tuple[str, ...]
    host: str
    pid: int
    version: str
    slots: int
    state: str
    started_at: datetime
    beat_at: datetime


def register(
    tx: sa.Connection,
    *,
    name: str,
    incarnation: str,
    roles: Sequence[str],
    host: str,
    pid: int,
    version: str,
    slots: int,
    at: datetime,
) -> None:
    """Make the row of a process that starts, or take over that of its predecessor."""
    table = schema.process
    values = {
        "incarnation": incarnation,
        "roles": list(roles),
        "host": host,
        "pid": pid,
        "version": version,
        "slots": slots,
        "state": RUNNING,
        "started_at": at,
        "beat_at": at,
    }
    done = tx.execute(sa.update(table).where(table.c.name == name).values(**values))
    if not done.rowcount:
        tx.execute(sa.insert(table).values(name=name, **values))


def beat(tx: sa.Connection, name: str, incarnation: str, *, at: datetime) -> bool:
    """Say that a process lives; False when its row is gone or carries another incarnation."""
    done = tx.execute(sa.update(schema.process).where(_is(name, incarnation)).values(beat_at=at))
    return bool(done.rowcount)


def set_state(tx: sa.Connection, name: str, state: str, *, incarnation: str | None = None) -> bool:
    """Change the state of a process, whatever its incarnation unless one is given.

    Returns:
        False where there is no such row, or it carries another incarnation.
    """
    table = schema.process
    mine = table.c.name == name if incarnation is None else _is(name, incarnation)
    done = tx.execute(sa.update(table).where(mine).values(state=state))
    return bool(done.rowcount)


def drain(tx: sa.Connection, names: Collection[str] | None = None) -> tuple[str, ...]:
    """Let running processes take no more builds; all of them, or those with these names.

    Returns:
        The names of those that run or drain now.
    """
    table = schema.process
    wanted = [table.c.state.in_((RUNNING, DRAINING))]
    if names is not None:
        wanted.append(table.c.name.in_(names))
    found = tx.execute(sa.select(table.c.name).where(*wanted).order_by(table.c.name)).scalars()
    chosen = tuple(found)
    tx.execute(sa.update(table).where(table.c.name.in_(chosen)).values(state=DRAINING))
    return chosen


def ask_to_drain(
    database: Database, names: Collection[str] | None, *, by: str, at: datetime
) -> tuple[str, ...]:
    """Drain processes on behalf of an operator; all of them where no names are given.

    Raises:
        ConfigError: No running process has one of the names: none is changed then.
    """
    with database.write() as tx:
        found = drain(tx, names)
        missing = sorted(set(names or ()) - set(found))
        if missing:
            known = [one.name for one in listing(tx) if one.state != STOPPED]
            raise ConfigError(
                f"no running process is called {', '.join(missing)}",
                hint=f"use one of {', '.join(known)}" if known else "none runs",
            )
        for name in found:
            audit.note(tx, by=by, action="drain", subject=f"process {name}", at=at)
    return found


def find(tx: sa.Connection, name: str) -> Process | None:
    """The process of a name, or None."""
    row = tx.execute(sa.select(schema.process).where(schema.process.c.name == name)).first()
    return None if row is None else _process(row)


def listing(tx: sa.Connection) -> tuple[Process, ...]:
    """Every process that was ever registered and not forgotten, by name."""
    rows = tx.execute(sa.select(schema.process).order_by(schema.process.c.name))
    return tuple(_process(row) for row in rows)


def alive(tx: sa.Connection, *, since: datetime) -> tuple[str, ...]:
    """Names of the processes that were heard of since a time and are not stopped."""
    table = schema.process
    found = tx.execute(
        sa.select(table.c.name)
        .where(table.c.beat_at >= since, table.c.state != STOPPED)
        .order_by(table.c.name)
    ).scalars()
    return tuple(found)


def working(tx: sa.Connection, *, since: datetime) -> dict[str, int]:
    """Slots of each process that runs builds and was heard of since a time, by name.

    One that drains counts: it still reaches its nodes.
    """
    table = schema.process
    rows = tx.execute(
        sa.select(table.c.name, table.c.slots).where(
            table.c.beat_at >= since, table.c.state != STOPPED, table.c.slots > 0
        )
    )
    return {row.name: row.slots for row in rows}


def set_room(tx: sa.Connection, name: str, incarnation: str, slots: int) -> None:
    """Say how many builds a process may run at once: 0 while its disk is too full for more."""
    table = schema.process
    mine = sa.and_(table.c.name == name, table.c.incarnation == incarnation)
    tx.execute(sa.update(table).where(mine).values(slots=slots))


def full(tx: sa.Connection, *, since: datetime) -> tuple[str, ...]:
    """Names of the living processes with the role work that take no new builds for want of room."""
    table = schema.process
    rows = tx.execute(
        sa.select(table.c.name, table.c.roles)
        .where(table.c.beat_at >= since, table.c.state != STOPPED, table.c.slots == 0)
        .order_by(table.c.name)
    )
    return tuple(row.name for row in rows if "work" in row.roles)


def dead(tx: sa.Connection, *, since: datetime) -> tuple[str, ...]:
    """Names of the processes that are stopped or were not heard of since a time."""
    living = set(alive(tx, since=since))
    return tuple(one.name for one in listing(tx) if one.name not in living)


def forget(tx: sa.Connection, *, before: datetime) -> int:
    """Drop the rows of processes not heard of since a time that hold no running build."""
    table, build = schema.process, schema.build
    busy = sa.select(build.c.worker).where(build.c.state == "running", build.c.worker.is_not(None))
    done = tx.execute(sa.delete(table).where(table.c.beat_at < before, table.c.name.not_in(busy)))
    return int(done.rowcount)


def _is(name: str, incarnation: str) -> sa.ColumnElement[bool]:
    table = schema.process
    return sa.and_(table.c.name == name, table.c.incarnation == incarnation)


def _process(row: sa.Row[tuple[object, ...]]) -> Process:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return Process(**{**values, "roles": tuple(values["roles"])})
