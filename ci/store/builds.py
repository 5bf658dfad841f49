# SPDX-License-Identifier: Apache-2.0
"""Writes of step 3: changes, buildsets and their builds; cancelling them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.layout import Job
from ci.model.change import Change, Patchset
from ci.store import schema

OPEN_STATES = ("queued", "running")


@dataclass(frozen=True, kw_only=True)
class NewBuildset:
    """What step 3 decided to run.

    Attributes:
        connection: Where the change lives.
        change: The change.
        patchset: The patch set to test.
        pipeline: Name of the pipeline.
        jobs: The jobs, frozen as they are now.
        event_id: Row of the event that started it.
        reason: Why, one sentence.
    """

    connection: str
    change: Change
    patchset: Patchset
    pipeline: str
    jobs: Sequence[Job]
    event_id: int | None
    reason: str


def make_id(*parts: object) -> str:
    """A short stable id: the same parts give the same id, so a repeat makes nothing new."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def upsert_change(
    tx: sa.Connection, connection: str, change: Change, patchset: int, *, at: datetime
) -> int:
    """Note the newest facts about a change; an older patch set never replaces a newer one.

    Returns:
        Number of the newest patch set known.
    """
    table = schema.change
    mine = sa.and_(table.c.connection == connection, table.c.number == change.number)
    values: dict[str, Any] = {
        "project": change.project,
        "branch": change.branch,
        "change_id": change.change_id,
        "subject": change.subject,
        "owner": change.owner,
        "url": change.url,
        "status": change.status,
        "updated_at": at,
    }
    newest: int | None = tx.execute(sa.select(table.c.patchset).where(mine)).scalar()
    if newest is None:
        tx.execute(
            sa.insert(table).values(
                connection=connection, number=change.number, patchset=patchset, **values
            )
        )
        return patchset
    if patchset >= newest:
        tx.execute(sa.update(table).where(mine).values(patchset=patchset, **values))
    return max(newest, patchset)


def add_buildset(tx: sa.Connection, new: NewBuildset, *, at: datetime) -> str | None:
    """Queue a buildset with its builds.

    The first of a patch set and pipeline has recheck number 0. While one is open no
    second one is made.

    Returns:
        Its id, or None when one of this patch set and pipeline is still open.
    """
    table = schema.buildset
    earlier = tx.execute(
        sa.select(table.c.recheck, table.c.state).where(
            table.c.connection == new.connection,
            table.c.change_number == new.change.number,
            table.c.patchset == new.patchset.number,
            table.c.pipeline == new.pipeline,
        )
    ).all()
    if any(row.state in OPEN_STATES for row in earlier):
        return None
    recheck = max((row.recheck for row in earlier), default=-1) + 1
    key = (new.connection, new.change.number, new.patchset.number, new.pipeline, recheck)
    buildset_id = make_id("buildset", *key)
    tx.execute(
        sa.insert(table).values(
            id=buildset_id,
            connection=new.connection,
            project=new.change.project,
            branch=new.change.branch,
            change_number=new.change.number,
            patchset=new.patchset.number,
            revision=new.patchset.revision,
            ref=new.patchset.ref,
            pipeline=new.pipeline,
            recheck=recheck,
            event_id=new.event_id,
            reason=new.reason,
            state="queued",
            created_at=at,
        )
    )
    tx.execute(
        sa.insert(schema.build),
        [
            {
                "id": make_id("build", *key, job.name),
                "buildset_id": buildset_id,
                "job_name": job.name,
                "job": job.model_dump(mode="json", by_alias=True),
                "node_label": job.node_label,
                "voting": job.voting,
                "state": "queued",
                "waiting": "",
                "reason": "",
                "queued_at": at,
            }
            for job in new.jobs
        ],
    )
    return buildset_id


def was_judged(
    tx: sa.Connection, *, connection: str, change_number: int, below_patchset: int
) -> bool:
    """Whether the newest buildset of the older patch sets came to a verdict."""
    table = schema.buildset
    state = tx.execute(
        sa.select(table.c.state)
        .where(
            table.c.connection == connection,
            table.c.change_number == change_number,
            table.c.patchset < below_patchset,
        )
        .order_by(table.c.patchset.desc(), table.c.recheck.desc())
        .limit(1)
    ).scalar()
    return bool(state == "done")


def cancel_builds(
    tx: sa.Connection,
    *,
    connection: str,
    change_number: int,
    reason: str,
    at: datetime,
    below_patchset: int | None = None,
) -> tuple[str, ...]:
    """Cancel the open buildsets of a change.

    Queued builds end here; running ones are asked to stop by `cancel_reason` and end by
    their worker's hand.

    Args:
        tx: The caller's transaction.
        connection: Where the change lives.
        change_number: Which change.
        reason: Why, for the page.
        at: Now.
        below_patchset: Only buildsets of older patch sets than this one.

    Returns:
        Ids of builds that run and were asked to stop.
    """
    table = schema.buildset
    wanted = [
        table.c.connection == connection,
        table.c.change_number == change_number,
        table.c.state.in_(OPEN_STATES),
    ]
    if below_patchset is not None:
        wanted.append(table.c.patchset < below_patchset)
    ids = tx.execute(sa.select(table.c.id).where(*wanted)).scalars().all()
    return cancel_buildsets(tx, ids, reason=reason, at=at) if ids else ()


def cancel_buildsets(
    tx: sa.Connection, buildset_ids: Sequence[str], *, reason: str, at: datetime
) -> tuple[str, ...]:
    """Cancel whole buildsets; see `cancel_builds`."""
    build = schema.build
    mine = build.c.buildset_id.in_(buildset_ids)
    tx.execute(
        sa.update(build)
        .where(mine, build.c.state == "queued")
        .values(
            state="canceled",
            result="CANCELED",
            failure_class="canceled",
            cancel_reason=reason,
            reason=reason,
            finished_at=at,
        )
    )
    running = (
        tx.execute(sa.select(build.c.id).where(mine, build.c.state == "running")).scalars().all()
    )
    tx.execute(
        sa.update(build).where(mine, build.c.state == "running").values(cancel_reason=reason)
    )
    tx.execute(
        sa.update(schema.buildset)
        .where(schema.buildset.c.id.in_(buildset_ids), schema.buildset.c.state.in_(OPEN_STATES))
        .values(state="canceled", finished_at=at)
    )
    return tuple(running)
