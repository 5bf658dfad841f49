# SPDX-License-Identifier: Apache-2.0
"""Writes of step 3: changes, buildsets and their builds; cancelling them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.layout import Job
from ci.model.build import Priority
from ci.model.change import Change, Patchset
from ci.store import schema, turns

OPEN_STATES = ("queued", "running")
_NAME_LIMIT = 255


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
        requested_by: Who asked for a recheck, printable; empty for any other start.
        request: The reason they gave, printable.
        made_up: Whether its event had been missed and was found by a catch-up.
        occurred_at: When its event happened, by the server's clock; None where there is none.
    """

    connection: str
    change: Change
    patchset: Patchset
    pipeline: str
    jobs: Sequence[Job]
    event_id: int | None
    reason: str
    requested_by: str = ""
    request: str = ""
    made_up: bool = False
    occurred_at: datetime | None = None

    @property
    def priority(self) -> Priority:
        """Where its builds stand in line: before them all, what a person waits for."""
        if self.requested_by:
            return Priority.ASKED
        return Priority.MISSED if self.made_up else Priority.PUSHED


def make_id(*parts: object) -> str:
    """A short stable id: the same parts give the same id, so a repeat makes nothing new."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def add_buildset(
    tx: sa.Connection, new: NewBuildset, *, at: datetime, only_first: bool = False
) -> str | None:
    """Queue a buildset with its builds.

    The first of a patch set and pipeline has recheck number 0. While one is open no second
    one is made, nor for an event that is older than what started an earlier one: that run
    came later, and so is the one that was wanted.

    Args:
        tx: The transaction of the event.
        new: What to run.
        at: Now.
        only_first: Only where none of this patch set and pipeline was ever made.

    Returns:
        Its id, or None when an earlier one stands against it.
    """
    table = schema.buildset
    earlier = _earlier(tx, new)
    if earlier and only_first:
        return None
    if any(row.state in OPEN_STATES or _newer(row.occurred_at, new) for row in earlier):
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
            requested_by=new.requested_by[:_NAME_LIMIT],
            request=new.request,
            made_up=new.made_up,
            state="queued",
            created_at=at,
        )
    )
    _add_builds(tx, new, key, buildset_id, at)
    return buildset_id


def _add_builds(
    tx: sa.Connection, new: NewBuildset, key: tuple[object, ...], buildset_id: str, at: datetime
) -> None:
    project, priority = new.change.project, new.priority.value
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
                "priority": priority,
                "turn": turns.draw(tx, project=project, label=job.node_label, priority=priority),
                "wants": list(job.peers),
                "requires": list(job.requires),
                "state": "queued",
                "waiting": "",
                "reason": "",
                "queued_at": at,
            }
            for job in new.jobs
        ],
    )


def _earlier(tx: sa.Connection, new: NewBuildset) -> list[sa.Row[Any]]:
    """Buildsets of the same patch set and pipeline, and when their events happened."""
    table, event = schema.buildset, schema.event
    # What operators asked of us bears the date of our own clock, which is not to be compared.
    dated = sa.and_(event.c.id == table.c.event_id, event.c.source != "request")
    query = (
        sa.select(table.c.recheck, table.c.state, event.c.occurred_at)
        .outerjoin(event, dated)
        .where(
            table.c.connection == new.connection,
            table.c.change_number == new.change.number,
            table.c.patchset == new.patchset.number,
            table.c.pipeline == new.pipeline,
        )
    )
    return list(tx.execute(query))


def _newer(occurred_at: datetime | None, new: NewBuildset) -> bool:
    return bool(occurred_at and new.occurred_at and occurred_at > new.occurred_at)


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
    lines = turns.of_buildsets(tx, buildset_ids)
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
    turns.close_gaps(tx, lines)
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
