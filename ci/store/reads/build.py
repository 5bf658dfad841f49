# SPDX-License-Identifier: Apache-2.0
"""One build: what it tests, its attempts with their outcomes, why it was judged so."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ci.model.verdict_json import judgement_from_json
from ci.store import schema
from ci.store.database import Database
from ci.store.reads.records import (
    AttemptDetail,
    BuildDetail,
    BuildPulse,
    LeftRecord,
    OutcomeCounts,
    OutcomeRecord,
)
from ci.store.reads.rows import buildset_records, names_of, select_buildsets

OUTCOME_LIMIT = 10_000
_ATTEMPT_NAMES = names_of(AttemptDetail, without={"facts", "counts", "outcomes", "left_behind"})
_BAD = ("fail", "error")
_COUNT_NAMES = {"pass": "passed", "fail": "failed", "error": "errors", "skip": "skipped"}


def build_detail(database: Database, build_id: str) -> BuildDetail | None:
    """Everything about one build; None where there is no such build. A fixed number of queries."""
    build, change = schema.build, schema.change
    with database.read() as tx:
        own = tx.execute(
            sa.select(build.c.buildset_id, build.c.judgement).where(build.c.id == build_id)
        ).first()
        if own is None:
            return None
        buildset = buildset_records(
            tx, select_buildsets().where(schema.buildset.c.id == own.buildset_id)
        )[0]
        about = tx.execute(
            sa.select(change.c.url, change.c.status, change.c.patchset).where(
                change.c.connection == buildset.connection,
                change.c.number == buildset.change_number,
            )
        ).first()
        table = schema.attempt
        attempts = _attempts(tx, table.c.build_id == build_id)
        judgement = judgement_from_json(own.judgement) if own.judgement else None
        compared = judgement.attempts_compared if judgement else ()
        borrowed = _attempts(tx, sa.and_(table.c.id.in_(compared), table.c.build_id != build_id))
    return BuildDetail(
        build=next(item for item in buildset.builds if item.id == build_id),
        buildset=buildset,
        attempts=attempts,
        borrowed=borrowed,
        judgement=judgement,
        siblings=tuple(item for item in buildset.builds if item.id != build_id),
        change_url=about.url if about else "",
        change_status=about.status if about else "",
        newest_patchset=about.patchset if about else buildset.patchset,
    )


def _attempts(tx: sa.Connection, wanted: sa.ColumnElement[bool]) -> tuple[AttemptDetail, ...]:
    table = schema.attempt
    rows = tx.execute(sa.select(table).where(wanted).order_by(table.c.number)).mappings().all()
    ids = [row["id"] for row in rows]
    counts, outcomes = _counts(tx, ids), _outcomes(tx, ids)
    return tuple(_attempt(row, counts[row["id"]], outcomes[row["id"]]) for row in rows)


def _attempt(row: Any, counts: dict[str, int], outcomes: list[OutcomeRecord]) -> AttemptDetail:
    return AttemptDetail(
        **{name: row[name] for name in _ATTEMPT_NAMES},
        facts={str(name): str(value) for name, value in (row["facts"] or {}).items()},
        counts=OutcomeCounts(**counts),
        outcomes=tuple(outcomes),
        left_behind=tuple(LeftRecord(**one) for one in row["left_behind"] or ()),
    )


def _counts(tx: sa.Connection, attempt_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    table = schema.outcome
    query = (
        sa.select(table.c.attempt_id, table.c.status, sa.func.count())
        .where(table.c.attempt_id.in_(attempt_ids))
        .group_by(table.c.attempt_id, table.c.status)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for attempt_id, status, count in tx.execute(query):
        found[attempt_id][_COUNT_NAMES[status]] = count
    return found


def _outcomes(tx: sa.Connection, attempt_ids: Sequence[str]) -> dict[str, list[OutcomeRecord]]:
    """Outcomes per attempt, failing first; passing ones come without their captured output."""
    table = schema.outcome
    bad = table.c.status.in_(_BAD)
    rank = sa.case((bad, 0), (table.c.status == "skip", 1), else_=2)
    query = (
        sa.select(
            table.c.attempt_id,
            table.c.test_id,
            table.c.status,
            table.c.duration_s,
            table.c.message,
            sa.case((bad, table.c.details), else_="").label("details"),
            table.c.feature,
        )
        .where(table.c.attempt_id.in_(attempt_ids))
        .order_by(rank, table.c.id)
        .limit(OUTCOME_LIMIT)
    )
    found: dict[str, list[OutcomeRecord]] = defaultdict(list)
    for attempt_id, *values in tx.execute(query):
        test_id, status, duration_s, message, details, feature = values
        found[attempt_id].append(
            OutcomeRecord(
                test_id=test_id,
                status=status,
                duration_s=duration_s,
                message=message,
                details=details,
                feature=feature,
            )
        )
    return found


def build_pulse(database: Database, build_id: str) -> BuildPulse | None:
    """What a live page asks for twice a second; one query. None where there is no such build."""
    build, attempt, out = schema.build, schema.attempt, schema.outbox
    query = (
        sa.select(
            build.c.state,
            build.c.result,
            build.c.waiting,
            build.c.cancel_reason,
            attempt.c.id.label("attempt_id"),
            attempt.c.phase,
            attempt.c.state.label("attempt_state"),
            out.c.state.label("vote_state"),
        )
        .select_from(
            build.outerjoin(attempt, attempt.c.build_id == build.c.id).outerjoin(
                out, out.c.buildset_id == build.c.buildset_id
            )
        )
        .where(build.c.id == build_id)
        .order_by(attempt.c.number.desc())
        .limit(1)
    )
    with database.read() as tx:
        row = tx.execute(query).first()
    if row is None:
        return None
    return BuildPulse(
        build_id=build_id,
        state=row.state,
        result=row.result,
        phase=row.phase or "",
        attempt_id=row.attempt_id,
        mark="|".join(map(str, row)),
        finished=row.state in {"done", "canceled"},
    )
