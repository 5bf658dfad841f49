# SPDX-License-Identifier: Apache-2.0
"""What is owed: reviews to the review servers, notices to the reporters; and the audit log."""

from typing import Any

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.review_records import (
    AuditPage,
    AuditRecord,
    NoticeDelivery,
    OutboxPage,
    OwedRecord,
)

OWED_SHOWN = 500
SETTLED_SHOWN = 100
UNSETTLED = ("pending", "held")


def outbox_page(database: Database, *, settled: bool = False) -> OutboxPage:
    """Everything undelivered, oldest first; five queries.

    Args:
        database: Where it is.
        settled: Whether the newest settled reviews are wanted too.
    """
    out, delivery = schema.outbox, schema.delivery
    open_ = out.c.state.in_(UNSETTLED)
    late = delivery.c.state == "pending"
    with database.read() as tx:
        return OutboxPage(
            owed=_owed(tx, _select_owed().where(open_).order_by(out.c.id).limit(OWED_SHOWN)),
            owed_total=_count(tx, open_),
            notices=_notices(tx, late),
            notices_total=_count(tx, late),
            settled=_owed(
                tx,
                _select_owed()
                .where(~open_)
                .order_by(out.c.settled_at.desc(), out.c.id.desc())
                .limit(SETTLED_SHOWN),
            )
            if settled
            else (),
        )


def _count(tx: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
    return tx.execute(sa.select(sa.func.count()).where(condition)).scalar_one()


def _select_owed() -> sa.Select[Any]:
    out, buildset, change = schema.outbox, schema.buildset, schema.change
    return sa.select(
        out.c.id,
        out.c.buildset_id,
        out.c.connection,
        out.c.project,
        out.c.change_number,
        out.c.patchset,
        sa.func.coalesce(change.c.subject, "").label("subject"),
        buildset.c.pipeline,
        buildset.c.recheck,
        out.c.label,
        out.c.value,
        out.c.state,
        out.c.transport,
        out.c.tries,
        out.c.next_at,
        out.c.error.label("note"),
        out.c.created_at,
        out.c.settled_at,
    ).select_from(
        out.join(buildset, buildset.c.id == out.c.buildset_id).outerjoin(
            change,
            sa.and_(
                change.c.connection == out.c.connection, change.c.number == out.c.change_number
            ),
        )
    )


def _owed(tx: sa.Connection, query: sa.Select[Any]) -> tuple[OwedRecord, ...]:
    return tuple(OwedRecord(**row) for row in tx.execute(query).mappings())


def _notices(tx: sa.Connection, late: sa.ColumnElement[bool]) -> tuple[NoticeDelivery, ...]:
    delivery, notice = schema.delivery, schema.notice
    query = (
        sa.select(
            delivery.c.id,
            delivery.c.reporter,
            notice.c.kind,
            notice.c.subject,
            notice.c.url,
            delivery.c.state,
            delivery.c.tries,
            delivery.c.next_at,
            delivery.c.error.label("note"),
            notice.c.occurred_at,
            delivery.c.settled_at,
        )
        .select_from(delivery.join(notice, notice.c.id == delivery.c.notice_id))
        .where(late)
        .order_by(delivery.c.reporter, delivery.c.id)
        .limit(OWED_SHOWN)
    )
    return tuple(NoticeDelivery(**row) for row in tx.execute(query).mappings())


def audit_page(database: Database, *, before: int | None = None, limit: int = 50) -> AuditPage:
    """Up to `limit` lines of the audit log, newest first; one query.

    Args:
        database: Where it is.
        before: Only lines with a smaller id.
        limit: Lines on a page.
    """
    table = schema.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(table.c.id < before)
    with database.read() as tx:
        found = [AuditRecord(**row) for row in tx.execute(query).mappings()]
    more = len(found) > limit
    return AuditPage(lines=tuple(found[:limit]), next=found[limit - 1].id if more else None)
