# SPDX-License-Identifier: Apache-2.0
"""Leases on what only one process may do, each with a token that only grows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ci.store import schema

NOBODY = ""


@dataclass(frozen=True, kw_only=True)
class Lead:
    """One row of `ci_leader`.

    Attributes:
        name: What is led.
        holder: Name of the process; empty when it was given back.
        incarnation: Of that process.
        token: Of the newest win.
        expires_at: From then on anybody may take it.
    """

    name: str
    holder: str
    incarnation: str
    token: int
    expires_at: datetime

    def is_free(self, holder: str, *, now: datetime) -> bool:
        """Whether a process may take it: what its own name holds is an earlier life's."""
        return self.holder in {NOBODY, holder} or self.expires_at <= now


def listing(tx: sa.Connection) -> Mapping[str, Lead]:
    """Every lease that was ever taken, by its name."""
    rows = tx.execute(sa.select(schema.leader).order_by(schema.leader.c.name))
    return {
        row.name: Lead(
            name=row.name,
            holder=row.holder,
            incarnation=row.incarnation,
            token=row.token,
            expires_at=row.expires_at,
        )
        for row in rows
    }


def take(
    tx: sa.Connection,
    name: str,
    *,
    holder: str,
    incarnation: str,
    now: datetime,
    term: timedelta,
) -> int | None:
    """Take a lease that is free; returns its new, larger token, or None where it is not."""
    table = schema.leader
    found = listing(tx).get(name)
    values = {"holder": holder, "incarnation": incarnation, "expires_at": now + term}
    if found is None:
        tx.execute(sa.insert(table).values(name=name, token=1, **values))
        return 1
    if not found.is_free(holder, now=now):
        return None
    token = found.token + 1
    tx.execute(sa.update(table).where(table.c.name == name).values(token=token, **values))
    return token


def renew(
    tx: sa.Connection, name: str, *, token: int, incarnation: str, now: datetime, term: timedelta
) -> bool:
    """Let a lease last for another term; False when its token is no longer the newest."""
    done = tx.execute(
        sa.update(schema.leader)
        .where(_is(name, token), schema.leader.c.incarnation == incarnation)
        .values(expires_at=now + term)
    )
    return bool(done.rowcount)


def release(tx: sa.Connection, name: str, *, token: int, now: datetime) -> bool:
    """Give a lease back, so that another may take it at once. Repeatable."""
    done = tx.execute(
        sa.update(schema.leader)
        .where(_is(name, token))
        .values(holder=NOBODY, incarnation=NOBODY, expires_at=now)
    )
    return bool(done.rowcount)


def is_newest(tx: sa.Connection, name: str, token: int) -> bool:
    """Whether nobody took the lease since; what a leader checks where it writes.

    Token 0 is that of the only process there can be.
    """
    if not token:
        return True
    query = sa.select(schema.leader.c.name).where(
        _is(name, token), schema.leader.c.holder != NOBODY
    )
    return tx.execute(query).first() is not None


def _is(name: str, token: int) -> sa.ColumnElement[bool]:
    table = schema.leader
    return sa.and_(table.c.name == name, table.c.token == token)
