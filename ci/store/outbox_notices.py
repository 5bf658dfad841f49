# SPDX-License-Identifier: Apache-2.0
"""Notices of step 8: a vote that is held back, a review that cannot be given. Once per review."""

import re
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.notice import Notice, NoticeKind
from ci.store import notices, schema

ERROR_LIMIT = 2_000


def held(tx: sa.Connection, row: sa.Row[Any], *, at: datetime) -> None:
    """Tell that a negative vote waits for an operator."""
    text = (
        f"The vote {_vote(row)} of {row.tag} on {_place(row)} is held back: its pipeline's policy"
        " gives no negative vote by itself.\n\n"
        f"Give it:  hypervouch outbox release {row.id}\n"
        f"Drop it:  hypervouch outbox drop {row.id} --why TEXT\n"
    )
    subject = f"{_vote(row)} on {_place(row)} waits for release"
    notices.add(tx, _notice(NoticeKind.HELD_VOTE, row, subject, text, at))


def undelivered(tx: sa.Connection, row: sa.Row[Any], *, error: str, at: datetime) -> bool:
    """Tell that a review cannot be given; False where that was told before."""
    what = _vote(row) if row.label else "a comment"
    text = (
        f"A review of {row.tag} on {_place(row)} is owed since {row.created_at:%Y-%m-%d %H:%M}Z"
        f" ({what}), after {row.tries} tries:\n\n{error[:ERROR_LIMIT] or 'not tried yet'}\n\n"
        "It is tried again until it is taken or dropped.\n\n"
        f"Try it now:  hypervouch outbox retry {row.id}\n"
        f"Drop it:     hypervouch outbox drop {row.id} --why TEXT\n"
    )
    subject = f"{what} on {_place(row)} cannot be given"
    return notices.add(tx, _notice(NoticeKind.UNDELIVERED, row, subject, text, at))


def tell_overdue(
    tx: sa.Connection, connection: str, *, before: datetime, at: datetime, limit: int = 100
) -> int:
    """Tell of pending reviews that are owed since before a time; how many were not told yet."""
    table, notice = schema.outbox, schema.notice
    told = sa.select(notice.c.id).where(
        notice.c.key
        == sa.literal(f"{NoticeKind.UNDELIVERED.value}:").concat(sa.cast(table.c.id, sa.String))
    )
    query = sa.select(table).where(
        table.c.state == "pending",
        table.c.connection == connection,
        table.c.created_at <= before,
        ~told.exists(),
    )
    rows = tx.execute(query.order_by(table.c.id).limit(limit)).all()
    for row in rows:
        undelivered(tx, row, error=row.error, at=at)
    return len(rows)


def _notice(kind: NoticeKind, row: sa.Row[Any], subject: str, text: str, at: datetime) -> Notice:
    page = re.search(rf"https?://\S*{re.escape(row.marker)}", row.message)
    return Notice(
        kind=kind,
        key=f"{kind.value}:{row.id}",
        subject=subject,
        text=text,
        url=page.group() if page else "",
        facts={
            "review": row.id,
            "buildset": row.buildset_id,
            "connection": row.connection,
            "project": row.project,
            "change": row.change_number,
            "patchset": row.patchset,
            "label": row.label,
            "value": row.value,
        },
        occurred_at=at,
    )


def _place(row: sa.Row[Any]) -> str:
    return f"{row.change_number},{row.patchset} of {row.project} ({row.connection})"


def _vote(row: sa.Row[Any]) -> str:
    return f"{row.label} {row.value:+d}"
