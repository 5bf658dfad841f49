# SPDX-License-Identifier: Apache-2.0
"""What people ask of a running installation: each request is a row, as a comment would be."""

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.errors import HypervouchError
from ci.model.change import Change, Patchset
from ci.model.event import Account, Event, EventKind
from ci.model.event_json import event_to_json
from ci.recheck import printable
from ci.store import audit, builds, schema
from ci.store.database import Database

_WORDS_LIMIT = 500


class RequestRefused(HypervouchError):
    """There is nothing that the request could apply to."""


def request_recheck(
    database: Database, number: int, *, by: str, words: str, connection: str | None, at: datetime
) -> Event:
    """Store a recheck of a change's newest tested patch set, as if somebody commented it.

    Args:
        database: Where it goes.
        number: Gerrit's change number.
        by: Who asks.
        words: What follows `recheck`: a job, a pipeline, a node label, a reason; may be empty.
        connection: Needed only where two servers have a change of that number.
        at: Now.

    Raises:
        RequestRefused: The change was never tested here, its newest patch set was not, or it
            is on several servers.
    """
    row = _newest(database, number, connection)
    if row.patchset < row.newest:
        raise RequestRefused(
            f"patch set {row.newest} of change {number} is current and was never tested here",
            hint="comment `recheck` on its page in Gerrit instead",
        )
    event = Event(
        key=f"request:{uuid.uuid4().hex}",
        connection=row.connection,
        kind=EventKind.COMMENT_ADDED,
        change=Change(
            project=row.project,
            branch=row.branch,
            number=number,
            change_id=row.change_id,
            subject=row.subject,
            owner=row.owner,
            url=row.url,
            status=row.status,
        ),
        patchset=Patchset(number=row.patchset, revision=row.revision, ref=row.ref),
        # Not the bare name: the service may run under the name of its Gerrit account, and what
        # that account says is never a request.
        author=Account(username=f"operator {by}"),
        occurred_at=at,
        texts=(f"recheck {words}".strip(),),
        source="request",
    )
    with database.write() as tx:
        _store(tx, event, at=at)
        audit.note(
            tx,
            by=by,
            action="recheck",
            subject=f"change {number},{row.patchset}",
            at=at,
            why=printable(words)[:_WORDS_LIMIT],
        )
    return event


def _store(tx: sa.Connection, event: Event, *, at: datetime) -> None:
    """The event's row, in the transaction of its line in the audit log."""
    tx.execute(
        sa.insert(schema.event).values(
            connection=event.connection,
            key=event.key,
            kind=event.kind.value,
            project=event.change.project,
            change_number=event.change.number,
            patchset=event.patchset.number if event.patchset else None,
            payload=event_to_json(event),
            source=event.source,
            author=event.author.username,
            occurred_at=event.occurred_at,
            received_at=at,
        )
    )


def _newest(database: Database, number: int, connection: str | None) -> sa.Row[Any]:
    buildset, change = schema.buildset, schema.change
    query = (
        sa.select(
            buildset.c.connection,
            buildset.c.project,
            buildset.c.branch,
            buildset.c.patchset,
            buildset.c.revision,
            buildset.c.ref,
            change.c.change_id,
            change.c.subject,
            change.c.owner,
            change.c.url,
            change.c.status,
            change.c.patchset.label("newest"),
        )
        .join(
            change,
            sa.and_(
                change.c.connection == buildset.c.connection,
                change.c.number == buildset.c.change_number,
            ),
        )
        .where(buildset.c.change_number == number)
        .order_by(buildset.c.patchset.desc())
    )
    if connection:
        query = query.where(buildset.c.connection == connection)
    with database.read() as tx:
        rows: list[sa.Row[Any]] = list(tx.execute(query))
    if not rows:
        raise RequestRefused(
            f"change {number} was never tested here",
            hint="comment `recheck` on its page in Gerrit instead",
        )
    if len({row.connection for row in rows}) > 1:
        raise RequestRefused(
            f"change {number} exists on several servers",
            hint="say which with --connection",
        )
    return rows[0]


def request_cancel(database: Database, build_id: str, *, by: str, at: datetime) -> str:
    """Cancel the buildset of a build; a running build stops within a few seconds.

    Returns:
        Id of the buildset.

    Raises:
        RequestRefused: There is no such build, or it has ended.
    """
    build = schema.build
    with database.write() as tx:
        row = tx.execute(
            sa.select(build.c.buildset_id, build.c.state).where(build.c.id == build_id)
        ).first()
        if row is None:
            raise RequestRefused(f"there is no build {build_id}", hint="see `hypervouch builds`")
        if row.state not in builds.OPEN_STATES:
            raise RequestRefused(f"build {build_id} has ended already ({row.state})")
        builds.cancel_buildsets(tx, [row.buildset_id], reason=f"canceled by {by}", at=at)
        audit.note(
            tx,
            by=by,
            action="cancel",
            subject=f"build {build_id}",
            at=at,
            why=f"with all of buildset {row.buildset_id}",
        )
    return str(row.buildset_id)
