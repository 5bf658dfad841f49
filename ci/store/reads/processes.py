# SPDX-License-Identifier: Apache-2.0
"""Processes of the installation: what each does, leads and has in hand."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ci.store import processes, schema
from ci.store.database import Database


@dataclass(frozen=True, kw_only=True)
class BuildInHand:
    """A build that a process runs."""

    id: str
    job: str
    connection: str
    change_number: int
    patchset: int
    started_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """One process.

    Attributes:
        name: Stays over restarts.
        roles: listen, work, relay, web.
        host: Its machine.
        pid: Its number there.
        version: Of this program.
        state: running, draining or stopped.
        started_at: Since when.
        beat_at: When it was last heard of.
        slots: Builds it runs at once.
        leads: Leases that it holds: what only one process may do.
        builds: What it runs.
    """

    name: str
    roles: tuple[str, ...]
    host: str
    pid: int
    version: str
    state: str
    started_at: datetime
    beat_at: datetime
    slots: int
    leads: tuple[str, ...]
    builds: tuple[BuildInHand, ...]


@dataclass(frozen=True, kw_only=True)
class LeaseRecord:
    """What only one process may do, and who does.

    Attributes:
        name: Such as `listen:gerrit`.
        holder: The process.
        token: How often it changed hands.
        expires_at: Until when, unless it is renewed.
    """

    name: str
    holder: str
    token: int
    expires_at: datetime


def all_processes(
    database: Database, *, now: datetime
) -> tuple[tuple[ProcessRecord, ...], tuple[LeaseRecord, ...]]:
    """Processes by name, and who leads what; three queries.

    Args:
        database: Where they are.
        now: A lease that ended before is led by nobody.
    """
    with database.read() as tx:
        found = processes.listing(tx)
        rows = tx.execute(sa.select(schema.leader).order_by(schema.leader.c.name)).all()
        in_hand = _in_hand(tx)
    leases = tuple(
        LeaseRecord(name=row.name, holder=row.holder, token=row.token, expires_at=row.expires_at)
        for row in rows
    )
    made = tuple(
        ProcessRecord(
            name=one.name,
            roles=one.roles,
            host=one.host,
            pid=one.pid,
            version=one.version,
            state=one.state,
            started_at=one.started_at,
            beat_at=one.beat_at,
            slots=one.slots,
            leads=tuple(
                row.name
                for row in rows
                if row.expires_at > now
                and (row.holder, row.incarnation) == (one.name, one.incarnation)
            ),
            builds=tuple(in_hand[one.name]),
        )
        for one in found
    )
    return made, leases


def _in_hand(tx: sa.Connection) -> defaultdict[str, list[BuildInHand]]:
    build, buildset = schema.build, schema.buildset
    query = (
        sa.select(
            build.c.id,
            build.c.job_name.label("job"),
            build.c.worker,
            build.c.started_at,
            buildset.c.connection,
            buildset.c.change_number,
            buildset.c.patchset,
        )
        .select_from(build.join(buildset, buildset.c.id == build.c.buildset_id))
        .where(build.c.state == "running", build.c.worker.is_not(None))
        .order_by(build.c.started_at, build.c.id)
    )
    found: defaultdict[str, list[BuildInHand]] = defaultdict(list)
    for row in tx.execute(query).mappings():
        values = dict(row)
        found[str(values.pop("worker"))].append(BuildInHand(**values))
    return found
