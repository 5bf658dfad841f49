# SPDX-License-Identifier: Apache-2.0
"""Running builds that nobody runs: their process stopped, died, or was never known."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ci.model.build import Claim
from ci.store import processes, schema

WORK = "work"
_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A running build whose worker is gone.

    Attributes:
        claim: The build, and the claim that no longer counts.
        worker: Who had it; empty where that was never written down.
    """

    claim: Claim
    worker: str


def orphans(tx: sa.Connection, *, since: datetime, limit: int) -> list[Orphan]:
    """Running builds of processes that were not heard of since a time, oldest first."""
    build = schema.build
    alive = processes.alive(tx, since=since)
    rows = tx.execute(
        sa.select(build.c.id, build.c.claim, build.c.worker)
        .where(
            build.c.state == "running",
            sa.or_(build.c.worker.is_(None), build.c.worker.not_in(alive)),
        )
        .order_by(build.c.queued_at, build.c.id)
        .limit(limit)
    )
    return [Orphan(claim=Claim(row.id, row.claim), worker=row.worker or "") for row in rows]


def current(tx: sa.Connection, claims: Collection[Claim]) -> frozenset[Claim]:
    """Those claims under which a build runs now."""
    build = schema.build
    ids = sorted({one.build_id for one in claims})
    found: set[Claim] = set()
    for start in range(0, len(ids), _AT_ONCE):
        rows = tx.execute(
            sa.select(build.c.id, build.c.claim).where(
                build.c.id.in_(ids[start : start + _AT_ONCE]), build.c.state == "running"
            )
        )
        found.update(Claim(row.id, row.claim) for row in rows)
    return frozenset(found)


def nobody_works(tx: sa.Connection, *, since: datetime) -> int:
    """How many builds are queued while no living process runs builds; 0 while one does."""
    alive = set(processes.alive(tx, since=since))
    if any(WORK in one.roles and one.name in alive for one in processes.listing(tx)):
        return 0
    build = schema.build
    return int(
        tx.execute(
            sa.select(sa.func.count()).select_from(build).where(build.c.state == "queued")
        ).scalar()
        or 0
    )
