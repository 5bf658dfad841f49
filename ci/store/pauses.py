# SPDX-License-Identifier: Apache-2.0
"""What an operator paused: a pipeline, a node label or a node, until a time or a word."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from ci.scheduling import Closed
from ci.store import audit, schema


class PauseKind(StrEnum):
    """What can be paused."""

    PIPELINE = "pipeline"
    LABEL = "label"
    NODE = "node"


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Nothing new starts there; what runs goes on.

    Attributes:
        kind: What is paused.
        name: Which one.
        by: Who said so.
        why: Their reason.
        since: When they did.
        until: When it ends by itself; None: only by a word.
    """

    kind: PauseKind
    name: str
    by: str
    why: str
    since: datetime
    until: datetime | None = None

    @property
    def words(self) -> str:
        """One sentence for pages and for what waits."""
        until = f", until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return f"{self.kind} {self.name} is paused by {self.by}: {self.why}{until}"


def pause(tx: sa.Connection, new: Pause) -> None:
    """Pause something, or say anew why and how long."""
    table = schema.pause
    tx.execute(sa.delete(table).where(_is(new.kind, new.name)))
    tx.execute(
        sa.insert(table).values(
            kind=new.kind.value,
            name=new.name,
            by=new.by,
            why=new.why,
            since=new.since,
            until=new.until,
        )
    )
    until = f" (until {new.until:%Y-%m-%d %H:%M} UTC)" if new.until else ""
    audit.note(
        tx,
        by=new.by,
        action="pause",
        subject=f"{new.kind} {new.name}",
        at=new.since,
        why=f"{new.why}{until}",
    )


def resume(tx: sa.Connection, *, kind: PauseKind, name: str, by: str, at: datetime) -> bool:
    """End a pause; False where there was none."""
    there = [one for one in standing(tx, at=at) if (one.kind, one.name) == (kind, name)]
    tx.execute(sa.delete(schema.pause).where(_is(kind, name)))
    if there:
        audit.note(tx, by=by, action="resume", subject=f"{kind} {name}", at=at)
    return bool(there)


def standing(tx: sa.Connection, *, at: datetime) -> tuple[Pause, ...]:
    """The pauses that are not over, by kind and name."""
    table = schema.pause
    rows = tx.execute(
        sa.select(table)
        .where(sa.or_(table.c.until.is_(None), table.c.until > at))
        .order_by(table.c.kind, table.c.name)
    )
    return tuple(
        Pause(
            kind=PauseKind(row.kind),
            name=row.name,
            by=row.by,
            why=row.why,
            since=row.since,
            until=row.until,
        )
        for row in rows
    )


def closed(tx: sa.Connection, *, at: datetime) -> Closed:
    """What is paused now, as scheduling wants it."""
    found: dict[PauseKind, dict[str, str]] = {kind: {} for kind in PauseKind}
    for one in standing(tx, at=at):
        found[one.kind][one.name] = one.words
    return Closed(
        pipelines=found[PauseKind.PIPELINE],
        labels=found[PauseKind.LABEL],
        nodes=found[PauseKind.NODE],
    )


def _is(kind: PauseKind, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(schema.pause.c.kind == kind.value, schema.pause.c.name == name)
