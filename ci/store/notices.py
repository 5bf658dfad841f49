# SPDX-License-Identifier: Apache-2.0
"""Writes of step 8, beside the review: notices, and their delivery to each reporter.

A notice is written once, in the transaction of its cause. A reporter's delivery rows are made
when its own loop comes by: who writes a notice need not know who wants it.
"""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.notice import Notice, NoticeKind
from ci.store import audit, schema, sending
from ci.store.sending import Sender

SUBJECT_LIMIT = 300
"""Characters kept of a subject."""
TEXT_LIMIT = 16_000
"""Characters kept of a text."""
LISTED = 500


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A notice that a reporter is still owed.

    Attributes:
        id: Of the delivery row.
        notice: What to tell.
        tries: How often it was tried.
        next_at: Not before; aware, UTC.
    """

    id: int
    notice: Notice
    tries: int
    next_at: datetime


@dataclass(frozen=True, kw_only=True)
class DeliveryLine:
    """One notice for one reporter, as listings and pages show it.

    Attributes:
        reporter: Its name.
        configured: Whether the configuration still names it; else nobody tries.
        kind: Kind of the notice.
        subject: Hostile text, printable.
        url: Our page about it, or empty.
        state: `new` (its reporter has not come by yet), `pending`, `delivered` or `dropped`.
        tries: How often it was tried.
        next_at: When it is tried again; None where it is not.
        error: Why it was not delivered, or what the receiver said.
        occurred_at: Aware, UTC.
    """

    reporter: str
    configured: bool
    kind: str
    subject: str
    url: str
    state: str
    tries: int
    next_at: datetime | None
    error: str
    occurred_at: datetime


def add(tx: sa.Connection, notice: Notice) -> bool:
    """Write a notice, in the transaction of what it tells of.

    Texts are kept printable and bounded here, whoever wrote them.

    Returns:
        False when one of this key is there already.
    """
    table = schema.notice
    if tx.execute(sa.select(table.c.id).where(table.c.key == notice.key)).first():
        return False
    tx.execute(
        sa.insert(table).values(
            kind=notice.kind.value,
            key=notice.key,
            subject=" ".join(_printable(notice.subject).split())[:SUBJECT_LIMIT],
            text=_printable(notice.text)[:TEXT_LIMIT].strip("\n"),
            url=notice.url,
            facts=notice.facts,
            occurred_at=notice.occurred_at,
        )
    )
    return True


def register(tx: sa.Connection, reporter: str, *, at: datetime) -> None:
    """Let a reporter see every notice from now on; nothing where it is known already."""
    table = schema.reporter
    if tx.execute(sa.select(table.c.name).where(table.c.name == reporter)).first() is None:
        tx.execute(sa.insert(table).values(name=reporter, seen=_newest(tx), since=at))


def behind(tx: sa.Connection, reporter: str) -> bool:
    """Whether there are notices that a reporter has not looked at."""
    return _newest(tx) > (_seen(tx, reporter) or 0)


def take_up(
    tx: sa.Connection, reporter: str, kinds: Collection[NoticeKind], *, at: datetime
) -> int:
    """Make a reporter's delivery rows of the notices it has not looked at yet.

    Nothing with a smaller id can appear later: SQLite has one writer at a time.

    Returns:
        How many it wants; those of other kinds are passed over for good.
    """
    register(tx, reporter, at=at)
    newest, seen = _newest(tx), _seen(tx, reporter)
    found = tx.execute(
        sa.select(schema.notice.c.id)
        .where(schema.notice.c.id > seen, schema.notice.c.kind.in_([k.value for k in kinds]))
        .order_by(schema.notice.c.id)
    ).scalars()
    made = [
        {"notice_id": id_, "reporter": reporter, "state": "pending", "tries": 0, "next_at": at}
        for id_ in found
    ]
    if made:
        tx.execute(sa.insert(schema.delivery), made)
    mine = schema.reporter.c.name == reporter
    tx.execute(sa.update(schema.reporter).where(mine).values(seen=newest))
    return len(made)


def waiting(tx: sa.Connection, reporter: str, *, limit: int) -> tuple[Waiting, ...]:
    """The oldest notices that a reporter is owed, in their order, due or not."""
    table, notice = schema.delivery, schema.notice
    found = tx.execute(
        sa.select(table.c.id.label("delivery_id"), table.c.tries, table.c.next_at, notice)
        .join(notice, notice.c.id == table.c.notice_id)
        .where(table.c.reporter == reporter, table.c.state == "pending")
        .order_by(table.c.notice_id)
        .limit(limit)
    )
    return tuple(
        Waiting(id=row.delivery_id, notice=_notice(row), tries=row.tries, next_at=row.next_at)
        for row in found
    )


def take(
    tx: sa.Connection, ids: Sequence[int], *, sender: Sender, now: datetime, until: datetime
) -> bool:
    """Take deliveries in hand before anything of them leaves this process: all, or none.

    Args:
        tx: A write transaction.
        ids: Of delivery rows that were due a moment ago.
        sender: Who delivers them.
        now: The time by `ci.store.moment`.
        until: Nobody else delivers them before.
    """
    table = schema.delivery
    mine = sa.and_(
        table.c.id.in_(ids),
        table.c.state == "pending",
        sending.is_free(table, sender, now=now),
    )
    free = tx.execute(sa.select(sa.func.count()).where(mine)).scalar_one()
    if free < len(ids):
        return False
    values = sending.taken_by(sender, until=until)
    tx.execute(sa.update(table).where(table.c.id.in_(ids)).values(**values))
    return True


def settle(tx: sa.Connection, ids: Sequence[int], *, state: str, note: str, at: datetime) -> None:
    """End delivery rows: `delivered` or `dropped`, with one sentence for the operator."""
    table = schema.delivery
    tx.execute(
        sa.update(table)
        .where(table.c.id.in_(ids))
        .values(
            state=state,
            error=_line(note),
            settled_at=at,
            tries=table.c.tries + 1,
            **sending.FREE,
        )
    )


def postpone(
    tx: sa.Connection, ids: Sequence[int], *, sender: Sender, error: str, next_at: datetime
) -> None:
    """Keep delivery rows for later and say why; those that another has in hand stay as they are."""
    table = schema.delivery
    tx.execute(
        sa.update(table)
        .where(table.c.id.in_(ids), table.c.state == "pending", table.c.sender == str(sender))
        .values(error=_line(error), next_at=next_at, tries=table.c.tries + 1, **sending.FREE)
    )


def hurry(tx: sa.Connection, reporter: str, *, at: datetime) -> int:
    """Make all that a reporter is owed due now; returns how many."""
    return _again(tx, reporter, "pending", {"next_at": at})


def revive(tx: sa.Connection, reporter: str, *, by: str, at: datetime) -> int:
    """Owe a reporter again, on an operator's word, what was dropped; returns how many."""
    values = {"state": "pending", "next_at": at, "settled_at": None}
    count = _again(tx, reporter, "dropped", values)
    said = f"{count} notices that had been dropped"
    audit.note(tx, by=by, action="notices-retry", subject=f"reporter {reporter}", at=at, why=said)
    return count


def _again(tx: sa.Connection, reporter: str, state: str, values: dict[str, Any]) -> int:
    table = schema.delivery
    mine = sa.and_(table.c.reporter == reporter, table.c.state == state)
    return int(tx.execute(sa.update(table).where(mine).values(**values)).rowcount)


def listing(
    tx: sa.Connection,
    reporters: Mapping[str, Collection[NoticeKind]],
    *,
    everything: bool = False,
) -> tuple[DeliveryLine, ...]:
    """What each reporter has not got, by reporter, oldest first; at most 500 newest rows.

    Args:
        tx: Any transaction.
        reporters: Kinds by name, as configured now.
        everything: Whether delivered notices are listed as well.
    """
    table, notice = schema.delivery, schema.notice
    query = (
        sa.select(table, notice.c.kind, notice.c.subject, notice.c.url, notice.c.occurred_at)
        .join(notice, notice.c.id == table.c.notice_id)
        .order_by(table.c.id.desc())
        .limit(LISTED)
    )
    if not everything:
        query = query.where(table.c.state != "delivered")
    lines = [_row_line(row, row.reporter in reporters) for row in tx.execute(query)][::-1]
    for name, kinds in reporters.items():
        lines += _not_taken_up(tx, name, kinds)
    return tuple(sorted(lines, key=lambda line: line.reporter))


def _row_line(row: sa.Row[Any], configured: bool) -> DeliveryLine:  # noqa: FBT001
    return DeliveryLine(
        reporter=row.reporter,
        configured=configured,
        kind=row.kind,
        subject=row.subject,
        url=row.url,
        state=row.state,
        tries=row.tries,
        next_at=row.next_at if configured and row.state == "pending" else None,
        error=row.error,
        occurred_at=row.occurred_at,
    )


def _not_taken_up(
    tx: sa.Connection, reporter: str, kinds: Collection[NoticeKind]
) -> list[DeliveryLine]:
    seen = _seen(tx, reporter)
    if seen is None:  # never ran with it: what there is was before its time
        return []
    table = schema.notice
    found = tx.execute(
        sa.select(table)
        .where(table.c.id > seen, table.c.kind.in_([kind.value for kind in kinds]))
        .order_by(table.c.id)
        .limit(LISTED)
    )
    return [
        DeliveryLine(
            reporter=reporter,
            configured=True,
            kind=row.kind,
            subject=row.subject,
            url=row.url,
            state="new",
            tries=0,
            next_at=None,
            error="",
            occurred_at=row.occurred_at,
        )
        for row in found
    ]


def _newest(tx: sa.Connection) -> int:
    return int(tx.execute(sa.select(sa.func.max(schema.notice.c.id))).scalar() or 0)


def _seen(tx: sa.Connection, reporter: str) -> int | None:
    table = schema.reporter
    found: int | None = tx.execute(sa.select(table.c.seen).where(table.c.name == reporter)).scalar()
    return found


def _notice(row: sa.Row[Any]) -> Notice:
    return Notice(
        kind=NoticeKind(row.kind),
        key=row.key,
        subject=row.subject,
        text=row.text,
        url=row.url,
        facts=row.facts,
        occurred_at=row.occurred_at,
    )


def _line(text: str) -> str:
    return " ".join(_printable(text).split())[:1000]


def _printable(text: str) -> str:
    """Line ends stay; what moves a cursor, reorders a line or cannot be written does not."""
    unified = text.replace("\r\n", "\n").replace("\t", " ")
    return "".join(_shown(one) for one in unified)


def _shown(one: str) -> str:
    if one == "\n" or one.isprintable():
        return one
    return " " if unicodedata.category(one) in {"Zs", "Zl", "Zp", "Cc"} else ""
