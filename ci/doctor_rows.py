# SPDX-License-Identifier: Apache-2.0
"""What `hypervouch doctor` reads off the database: processes, leaders, what is stuck, the clock.

Each look says in a sentence that all is well, or raises with what is not and how to mend it.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa

from ci.clock import Clock
from ci.errors import HypervouchError
from ci.layout import Layout
from ci.model.node import NodeState
from ci.store import processes, schema
from ci.store.database import Database
from ci.store.moment import moment
from ci.store.processes import Process
from ci.store.reads.processes import all_processes

SKEW_S = 5.0
"""Of the clocks of this machine and the database's: beyond, times on pages mislead."""
_USABLE = (NodeState.GOOD.value, NodeState.UNKNOWN.value)
Look = tuple[str, Callable[[], str]]


def looks(layout: Layout, database: Database, clock: Clock) -> Iterator[Look]:
    """(what, how to look) for each thing that rows can tell."""
    service = layout.service
    term = timedelta(seconds=service.lease_s)
    yield "clock", partial(_clock, database, clock)
    yield "processes", partial(_processes, database, clock, term)
    yield "leaders", partial(_leaders, database, clock)
    yield "queued builds", partial(_queued, database)
    yield "running builds", partial(_running, database, clock, term)
    overdue = timedelta(seconds=service.undelivered_after_s)
    yield "owed reviews", partial(_owed, database, clock, overdue)


def _clock(database: Database, clock: Clock) -> str:
    with database.read() as tx:
        skew_s = (moment(tx, clock) - clock.now()).total_seconds()
    if abs(skew_s) > SKEW_S:
        raise HypervouchError(
            f"this machine's clock is {abs(skew_s):.0f} s "
            f"{'behind' if skew_s > 0 else 'ahead of'} the database's",
            hint="let all machines keep time by NTP: timedatectl set-ntp true",
        )
    return f"differs from the database's by {abs(skew_s):.1f} s"


def _processes(database: Database, clock: Clock, term: timedelta) -> str:
    with database.read() as tx:
        now = moment(tx, clock)
        found = [one for one in processes.listing(tx) if one.state != processes.STOPPED]
    if not found:
        return "none runs"
    told = "; ".join(_of_process(one, now) for one in found)
    silent = [one.name for one in found if now - one.beat_at > term]
    if silent:
        raise HypervouchError(
            f"nothing is heard of {', '.join(silent)} ({told})",
            hint="start them again, or look into their logs; who is gone for good is forgotten"
            " after some days",
        )
    versions = sorted({one.version for one in found})
    if len(versions) > 1:
        raise HypervouchError(
            f"different versions run: {', '.join(versions)} ({told})",
            hint="bring all processes to the same version",
        )
    return told


def _of_process(one: Process, now: datetime) -> str:
    age_s = max(0.0, (now - one.beat_at).total_seconds())
    return f"{one.name} ({', '.join(one.roles)}) on {one.host}, heard of {age_s:.0f} s ago"


def _leaders(database: Database, clock: Clock) -> str:
    with database.read() as tx:
        now = moment(tx, clock)
    found, leases = all_processes(database, now=now)
    if not leases:
        return "none is needed where one process does everything"
    vacant = [one.name for one in leases if one.expires_at <= now]
    if vacant and any(one.state == processes.RUNNING for one in found):
        raise HypervouchError(
            f"nobody does {', '.join(vacant)}",
            hint="start a process with that role: listen for listen:..., relay for relay:... and"
            " notify:..., work for shared-nodes",
        )
    return ", ".join(f"{one.name} by {one.holder}" for one in leases)


def _queued(database: Database) -> str:
    build, node = schema.build, schema.node
    usable = sa.select(node.c.label).where(node.c.state.in_(_USABLE))
    waiting = sa.select(build.c.node_label, sa.func.count().label("n")).where(
        build.c.state == "queued"
    )
    with database.read() as tx:
        stuck = tx.execute(
            waiting.where(build.c.node_label.not_in(usable)).group_by(build.c.node_label)
        ).all()
        count = tx.execute(
            sa.select(sa.func.count()).select_from(build).where(build.c.state == "queued")
        ).scalar_one()
    if stuck:
        said = ", ".join(f"{row.n} for {row.node_label}" for row in stuck)
        raise HypervouchError(
            f"no usable node can ever take some: {said}",
            hint="see `hypervouch nodes`: mend a node of that label, or start its worker",
        )
    return f"{count} wait, each for a label that has a usable node"


def _running(database: Database, clock: Clock, term: timedelta) -> str:
    build = schema.build
    with database.read() as tx:
        now = moment(tx, clock)
        alive = processes.alive(tx, since=now - term)
        rows = tx.execute(sa.select(build.c.id, build.c.worker).where(build.c.state == "running"))
        found = rows.all()
    lost = [f"{row.id} of {row.worker or 'nobody'}" for row in found if row.worker not in alive]
    if lost:
        raise HypervouchError(
            f"no living process runs {', '.join(lost[:10])}",
            hint="they are queued again as soon as any process with another role than web runs",
        )
    return f"{len(found)} run, each in a living process"


def _owed(database: Database, clock: Clock, overdue: timedelta) -> str:
    outbox = schema.outbox
    with database.read() as tx:
        now = clock.now()
        rows = tx.execute(
            sa.select(outbox.c.connection, outbox.c.created_at, outbox.c.error)
            .where(outbox.c.state == "pending")
            .order_by(outbox.c.created_at)
        ).all()
    old = [row for row in rows if now - row.created_at > overdue]
    if old:
        age_min = (now - old[0].created_at).total_seconds() / 60
        raise HypervouchError(
            f"{len(old)} are owed for too long, the oldest to {old[0].connection} for "
            f"{age_min:.0f} min: {old[0].error or 'never tried'}",
            hint="see `hypervouch outbox` and docs/how-to/undelivered-votes.md",
        )
    return f"{len(rows)} are owed, none for too long"
