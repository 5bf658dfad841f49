# SPDX-License-Identifier: Apache-2.0
"""Lines of waiting builds, one a node label: who stands first, and what is told of each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

import sqlalchemy as sa

from ci.scheduling import Needs
from ci.store import schema
from ci.store.site import needs_of

SHOWN = 200
FAR = f"more than {SHOWN} builds are before it"
SAMPLE = 10
SAMPLE_AGE = timedelta(days=30)


_COLUMNS = (  # not the whole job, which is large
    schema.build.c.id,
    schema.build.c.node_label,
    schema.build.c.wants,
    schema.build.c.requires,
    schema.build.c.job_name,
    schema.build.c.waiting,
    schema.build.c.position,
    schema.build.c.eta_at,
    schema.build.c.started_at,
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is told of a waiting build.

    Attributes:
        waiting: Why it waits.
        position: In its line, from 1; None far behind.
        eta_at: When it will start, by what such builds took before; None: not known.
    """

    waiting: str = ""
    position: int | None = None
    eta_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A build that waits, with what was told of it last."""

    build_id: str
    label: str
    needs: Needs
    job: str
    pipeline: str
    connection: str
    place: Place


@dataclass(frozen=True, kw_only=True)
class RunningBuild:
    """A build that runs, and since when."""

    build_id: str
    label: str
    needs: Needs
    job: str
    started_at: datetime | None


def first(tx: sa.Connection) -> list[Queued]:
    """The first `SHOWN` builds of each line, each line in order."""
    build, buildset = schema.build, schema.buildset
    queued = build.c.state == "queued"
    labels = tx.execute(sa.select(build.c.node_label).where(queued).distinct()).scalars().all()
    found: list[Queued] = []
    for label in sorted(labels):
        rows = tx.execute(
            sa.select(*_COLUMNS, buildset.c.pipeline, buildset.c.connection)
            .join(buildset, buildset.c.id == build.c.buildset_id)
            .where(queued, build.c.node_label == label)
            .order_by(build.c.priority, build.c.turn, build.c.id)
            .limit(SHOWN)
        )
        found.extend(
            Queued(
                build_id=row.id,
                label=label,
                needs=needs_of(label, row.wants, row.requires),
                job=row.job_name,
                pipeline=row.pipeline,
                connection=row.connection,
                place=Place(waiting=row.waiting, position=row.position, eta_at=row.eta_at),
            )
            for row in rows
        )
    return found


def running(tx: sa.Connection) -> list[RunningBuild]:
    """Everything that runs."""
    build = schema.build
    rows = tx.execute(sa.select(*_COLUMNS).where(build.c.state == "running"))
    return [
        RunningBuild(
            build_id=row.id,
            label=row.node_label,
            needs=needs_of(row.node_label, row.wants, row.requires),
            job=row.job_name,
            started_at=row.started_at,
        )
        for row in rows
    ]


def usual_time(tx: sa.Connection, *, job: str, label: str, at: datetime) -> timedelta | None:
    """The median time of the last builds of a job on a label; None without any."""
    build = schema.build
    rows = tx.execute(
        sa.select(build.c.started_at, build.c.finished_at)
        .where(
            build.c.state == "done",
            build.c.job_name == job,
            build.c.node_label == label,
            build.c.started_at.is_not(None),
            build.c.finished_at > at - SAMPLE_AGE,
        )
        .order_by(build.c.finished_at.desc())
        .limit(SAMPLE)
    ).all()
    if not rows:
        return None
    times = [(row.finished_at - row.started_at).total_seconds() for row in rows]
    return timedelta(seconds=round(median(times)))


def no_longer_first(tx: sa.Connection, build_ids: Collection[str]) -> tuple[str, ...]:
    """Queued builds that have a position, although they do not stand among the first."""
    build = schema.build
    told = tx.execute(
        sa.select(build.c.id).where(build.c.state == "queued", build.c.position.is_not(None))
    ).scalars()
    there = frozenset(build_ids)
    return tuple(one for one in told if one not in there)


def write(tx: sa.Connection, told: Mapping[str, Place]) -> None:
    """Write down what is told of builds that still wait, by build id."""
    build = schema.build
    for build_id, place in told.items():
        tx.execute(
            sa.update(build)
            .where(build.c.id == build_id, build.c.state == "queued")
            .values(waiting=place.waiting, position=place.position, eta_at=place.eta_at)
        )
