# SPDX-License-Identifier: Apache-2.0
"""What retention removes: one `Tier` for each kind of rows, a bounded chunk a transaction.

Rows are found by reading, and looked at again by their ids in the transaction that removes: so
that is short, and a pin given meanwhile counts. Rows whose largest id tells where others stand
(events, notices) keep their newest: SQLite would give its number to the next one.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.build import AttemptKind
from ci.model.result import Result
from ci.store import schema

CHUNK = 50
"""Builds, buildsets, events or notices of one transaction."""
FOUND_AT_ONCE = 2000
ENDED = ("done", "canceled")
OPEN_REVIEW = ("pending", "held")
_QUIET = (Result.SUCCESS.value, Result.SKIPPED.value, Result.CANCELED.value)
_build, _set, _attempt = schema.build, schema.buildset, schema.attempt
_event, _change, _notice = schema.event, schema.change, schema.notice
_FREE = ~sa.exists().where(schema.pin.c.build_id == _build.c.id)


@dataclass(frozen=True, kw_only=True)
class LogCutOff:
    """Builds that ended before these times lose their logs; both aware, UTC."""

    passed: datetime
    failed: datetime


def evidence(tx: sa.Connection, *, since: datetime) -> frozenset[str]:
    """Builds that later judgements or the support matrix rest on: they stay whole.

    The newest build that passed, of each job on each node label in each branch, and the ones
    that newer builds (`since`) were compared with.
    """
    rank = (
        sa.func.row_number()
        .over(
            partition_by=(
                *(_set.c.connection, _set.c.project, _set.c.branch),
                *(_build.c.job_name, _build.c.node_label),
            ),
            order_by=(_build.c.finished_at.desc(), _build.c.id),
        )
        .label("rank")
    )
    passes = (
        sa.select(_build.c.id, rank)
        .join(_set, _set.c.id == _build.c.buildset_id)
        .where(_build.c.result == Result.SUCCESS.value, _build.c.state == "done")
        .subquery()
    )
    newest = tx.execute(sa.select(passes.c.id).where(passes.c.rank == 1)).scalars()
    return frozenset(newest) | _compared_with(tx, since)


def _compared_with(tx: sa.Connection, since: datetime) -> frozenset[str]:
    """Other builds whose attempts the judgements of newer failures name as their baselines."""
    rows = tx.execute(
        sa.select(_build.c.judgement).where(
            _build.c.finished_at >= since, _build.c.result == Result.FAILURE.value
        )
    ).scalars()
    named = {one for row in rows if row for one in row.get("attempts_compared") or ()}
    found: set[str] = set()
    for some in _chunks(sorted(named)):
        found |= set(
            tx.execute(
                sa.select(_attempt.c.build_id).where(
                    _attempt.c.id.in_(some),
                    _attempt.c.kind.in_([AttemptKind.BASELINE.value, AttemptKind.CHECK.value]),
                )
            ).scalars()
        )
    return frozenset(found)


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One kind of rows whose time is over: which, and how they go.

    Attributes:
        id: Column that names a row.
        where: What a row has to be; looked at again in the transaction that removes.
        order: Oldest first.
        remove: Takes away what the rows stand for.
        keep: Ids to leave alone.
    """

    id: sa.ColumnElement[Any]
    where: tuple[sa.ColumnElement[bool], ...]
    order: sa.ColumnElement[Any]
    remove: Callable[[sa.Connection, list[Any]], None]
    keep: frozenset[str] = frozenset()

    def find(self, tx: sa.Connection, *, limit: int = FOUND_AT_ONCE) -> list[Any]:
        """Ids whose time is over, oldest first; for reading, outside of any write."""
        # Kept ones stand at the front of the line for ever: look past them.
        query = sa.select(self.id).where(*self.where).order_by(self.order, self.id)
        found = tx.execute(query.limit(limit + len(self.keep))).scalars()
        return [one for one in found if one not in self.keep][:limit]

    def drop(self, tx: sa.Connection, some: Sequence[Any]) -> list[Any]:
        """Remove those of some ids whose time is still over; returns them."""
        query = sa.select(self.id).where(self.id.in_(some), *self.where).order_by(self.id)
        gone = [one for one in tx.execute(query).scalars() if one not in self.keep]
        if gone:
            self.remove(tx, gone)
        return gone


def logs(cut: LogCutOff, keep: frozenset[str], *, day: str) -> Tier:
    """Builds whose files are to go after the commit; pages then say `day`, `2026-11-23`."""
    failed = sa.func.coalesce(_build.c.result.notin_(_QUIET), sa.false())
    old = sa.or_(
        _build.c.finished_at < cut.failed,
        sa.and_(sa.not_(failed), _build.c.finished_at < cut.passed),
    )

    def remove(tx: sa.Connection, ids: list[Any]) -> None:
        tx.execute(sa.update(_build).where(_build.c.id.in_(ids)).values(logs=f"deleted {day}"))

    return Tier(
        id=_build.c.id,
        where=(_build.c.state.in_(ENDED), _build.c.logs == "kept", old, _FREE),
        order=_build.c.finished_at,
        remove=remove,
        keep=keep,
    )


def results(before: datetime, keep: frozenset[str]) -> Tier:
    """Builds that lose their attempts and outcomes."""
    return Tier(
        id=_build.c.id,
        where=(
            *(_build.c.state.in_(ENDED), _build.c.logs != "kept", _build.c.finished_at < before),
            *(sa.exists().where(_attempt.c.build_id == _build.c.id), _FREE),
        ),
        order=_build.c.finished_at,
        remove=_drop_attempts,
        keep=keep,
    )


def rows(before: datetime, keep_builds: frozenset[str]) -> Tier:
    """Buildsets that go with their builds and settled reviews.

    A set stays whole while one of its builds is kept, and while its patch set could be run
    again: a second run would have the mark of the first, and nobody would be told.
    """
    inner = sa.exists().where(_build.c.buildset_id == _set.c.id)
    kept = sa.or_(
        *(_build.c.logs == "kept", ~_FREE),
        *(_build.c.id.in_(some) for some in _chunks(sorted(keep_builds))),
    )
    owed = sa.exists().where(
        schema.outbox.c.buildset_id == _set.c.id, schema.outbox.c.state.in_(OPEN_REVIEW)
    )
    again = sa.exists().where(
        *(_change.c.connection == _set.c.connection, _change.c.number == _set.c.change_number),
        *(_change.c.patchset == _set.c.patchset, _change.c.status != "MERGED"),
    )
    ended_at = sa.func.coalesce(_set.c.finished_at, _set.c.created_at)
    return Tier(
        id=_set.c.id,
        where=(
            *(_set.c.state.in_(ENDED), _set.c.created_at < before, ended_at < before),
            *(~inner.where(kept), ~owed, ~again),
        ),
        order=_set.c.created_at,
        remove=_drop_sets,
    )


def events(before: datetime) -> Tier:
    """Events that were acted on.

    Of an open change stay the newest event, every patch set, and what a buildset names.
    The watermarks are not touched: a removed event is not asked for again.
    """
    is_open = sa.exists().where(
        *(_change.c.connection == _event.c.connection, _change.c.status == "NEW"),
        _change.c.number == _event.c.change_number,
    )
    other = _event.alias("later")
    later = sa.exists().where(
        *(other.c.connection == _event.c.connection, other.c.id > _event.c.id),
        other.c.change_number == _event.c.change_number,
    )
    # Sets by their change, which is indexed; their event is not.
    named = sa.exists().where(
        _set.c.change_number == _event.c.change_number, _set.c.event_id == _event.c.id
    )
    may_go = sa.or_(~is_open, sa.and_(later, _event.c.kind != "patchset-created", ~named))
    newest = sa.select(sa.func.max(other.c.id)).scalar_subquery()

    def remove(tx: sa.Connection, ids: list[Any]) -> None:
        numbers = sa.select(_event.c.change_number).where(_event.c.id.in_(ids))
        mine = sa.and_(
            _set.c.change_number.in_(tx.execute(numbers).scalars().all()), _set.c.event_id.in_(ids)
        )
        tx.execute(sa.update(_set).where(mine).values(event_id=None))
        tx.execute(sa.delete(_event).where(_event.c.id.in_(ids)))

    return Tier(
        id=_event.c.id,
        where=(
            *(_event.c.processed_at.is_not(None), _event.c.received_at < before),
            *(_event.c.id < newest, may_go, ~named.where(_set.c.state.notin_(ENDED))),
        ),
        order=_event.c.id,
        remove=remove,
    )


def told(before: datetime, reporters: Collection[str]) -> Tier:
    """Notices that no configured reporter is owed; the newest stays."""
    delivery, reporter = schema.delivery, schema.reporter
    owed = sa.exists().where(
        *(delivery.c.notice_id == _notice.c.id, delivery.c.state == "pending"),
        delivery.c.reporter.in_(reporters),
    )
    # A reporter that has not looked yet is owed it as well.
    unseen = sa.exists().where(reporter.c.name.in_(reporters), reporter.c.seen < _notice.c.id)
    newest = sa.select(sa.func.max(_notice.alias("newest").c.id)).scalar_subquery()

    def remove(tx: sa.Connection, ids: list[Any]) -> None:
        tx.execute(sa.delete(delivery).where(delivery.c.notice_id.in_(ids)))
        tx.execute(sa.delete(_notice).where(_notice.c.id.in_(ids)))

    return Tier(
        id=_notice.c.id,
        where=(_notice.c.id < newest, _notice.c.occurred_at < before, ~owed, ~unseen),
        order=_notice.c.id,
        remove=remove,
    )


def without_logs(
    tx: sa.Connection, build_ids: Iterable[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Of these builds: the ones whose logs are gone by their row, and the ones without a row."""
    wanted = frozenset(build_ids)
    kept: set[str] = set()
    gone: set[str] = set()
    for some in _chunks(sorted(wanted)):
        for row in tx.execute(sa.select(_build.c.id, _build.c.logs).where(_build.c.id.in_(some))):
            (kept if row.logs == "kept" else gone).add(row.id)
    return frozenset(gone), wanted - kept - gone


def _drop_sets(tx: sa.Connection, ids: list[Any]) -> None:
    builds = sa.select(_build.c.id).where(_build.c.buildset_id.in_(ids))
    _drop_attempts(tx, list(tx.execute(builds).scalars()))
    tx.execute(sa.delete(schema.outbox).where(schema.outbox.c.buildset_id.in_(ids)))
    tx.execute(sa.delete(_build).where(_build.c.buildset_id.in_(ids)))
    tx.execute(sa.delete(_set).where(_set.c.id.in_(ids)))


def _drop_attempts(tx: sa.Connection, build_ids: list[Any]) -> None:
    # Ids, not subqueries: a database without statistics would read whole tables for them.
    mine = sa.select(_attempt.c.id).where(_attempt.c.build_id.in_(build_ids))
    attempts = list(tx.execute(mine).scalars())
    if attempts:
        tx.execute(sa.delete(schema.outcome).where(schema.outcome.c.attempt_id.in_(attempts)))
        tx.execute(sa.delete(_attempt).where(_attempt.c.id.in_(attempts)))


def _chunks(items: list[str], size: int = 500) -> Iterable[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
