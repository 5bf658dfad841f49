# SPDX-License-Identifier: Apache-2.0
"""Builds that retention leaves alone, on an operator's word; all of it audited."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ci.store import audit, schema
from ci.store.actions import RequestRefused
from ci.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Why a build is kept.

    Attributes:
        by: Who asked for it.
        why: What they said; hostile text.
        at: Aware, UTC.
    """

    build_id: str
    by: str
    why: str
    at: datetime


def pin(database: Database, build_id: str, *, by: str, why: str, at: datetime) -> None:
    """Keep a build with its logs, whatever its age; again: another reason.

    Raises:
        RequestRefused: There is no such build, or no reason was given.
    """
    why = " ".join(why.split())
    if not why:
        raise RequestRefused("a build is pinned for a reason only", hint="say why")
    with database.write() as tx:
        table = schema.build
        logs = tx.execute(sa.select(table.c.logs).where(table.c.id == build_id)).scalar()
        if logs is None:
            raise RequestRefused(f"there is no build {build_id}", hint="see `hypervouch builds`")
        tx.execute(sa.delete(schema.pin).where(schema.pin.c.build_id == build_id))
        tx.execute(sa.insert(schema.pin).values(build_id=build_id, by=by, why=why, at=at))
        audit.note(tx, by=by, action="pin", subject=f"build {build_id}", at=at, why=why)


def unpin(database: Database, build_id: str, *, by: str, at: datetime) -> None:
    """Let retention have a build again.

    Raises:
        RequestRefused: It is not pinned.
    """
    with database.write() as tx:
        gone = tx.execute(sa.delete(schema.pin).where(schema.pin.c.build_id == build_id)).rowcount
        if not gone:
            raise RequestRefused(f"build {build_id} is not pinned", hint="see `hypervouch pins`")
        audit.note(tx, by=by, action="unpin", subject=f"build {build_id}", at=at)


def pins(database: Database) -> tuple[Pin, ...]:
    """Every pin, newest first."""
    table = schema.pin
    with database.read() as tx:
        rows = tx.execute(sa.select(table).order_by(table.c.at.desc(), table.c.build_id))
        return tuple(Pin(build_id=r.build_id, by=r.by, why=r.why, at=r.at) for r in rows)


def keeping(database: Database, build_id: str) -> tuple[str, Pin | None]:
    """The day on which a build's logs were removed, empty where they were not; and its pin."""
    with database.read() as tx:
        logs = tx.execute(
            sa.select(schema.build.c.logs).where(schema.build.c.id == build_id)
        ).scalar()
        row = tx.execute(sa.select(schema.pin).where(schema.pin.c.build_id == build_id)).first()
    found = Pin(build_id=row.build_id, by=row.by, why=row.why, at=row.at) if row else None
    return (logs or "kept").removeprefix("kept").removeprefix("deleted "), found
