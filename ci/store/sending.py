# SPDX-License-Identifier: Apache-2.0
"""Who sends an owed row just now, so that no two processes send it at once.

A row is taken in a write transaction before anything leaves this process, for a bounded time.
Until then nobody else takes it, unless the process that did is dead: a later incarnation of
its own name knows that at once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

FAR = timedelta(hours=1)
"""Longer than any pause: a time so far ahead comes of a clock that was wrong."""


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who takes rows.

    Attributes:
        name: Of the process.
        incarnation: Of that process.
        token: Of the leadership under which it sends.
    """

    name: str
    incarnation: str
    token: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.incarnation} {self.token}"


def is_free(table: sa.Table, sender: Sender, *, now: datetime) -> sa.ColumnElement[bool]:
    """Which rows of a table a sender may take: nobody else is sending them."""
    earlier = sa.and_(
        _begins(table.c.sender, f"{sender.name} "),
        sa.not_(_begins(table.c.sender, f"{sender.name} {sender.incarnation} ")),
    )
    return sa.or_(
        table.c.sender.is_(None),
        table.c.sending_until <= now,
        table.c.sending_until > now + FAR,  # written by a clock that was wrong
        table.c.sender == str(sender),
        earlier,
    )


def taken_by(sender: Sender, *, until: datetime) -> dict[str, Any]:
    """The columns of a row that a sender takes."""
    return {"sender": str(sender), "sending_until": until}


FREE = {"sender": None, "sending_until": None}
"""The columns of a row that nobody is sending."""


def _begins(column: sa.Column[Any], text: str) -> sa.ColumnElement[bool]:
    found: sa.ColumnElement[bool] = sa.func.substr(column, 1, len(text)) == text
    return found
