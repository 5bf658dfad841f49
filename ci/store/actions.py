# SPDX-License-Identifier: Apache-2.0
"""What people ask of a running installation: each request is a row, as a comment would be."""

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.errors import HypervouchError
from ci.model.change import Change, Patchset
from ci.model.event import Account, Event, EventKind
from ci.store import builds, events, schema
from ci.store.database import Database


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
        words: What follows `recheck`: a job, a node label, a reason; may be empty.
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
    events.store(database, event, received_at=at, move_watermark=False)
    return event


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
    return str(row.buildset_id)
