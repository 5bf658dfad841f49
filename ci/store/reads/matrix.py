# SPDX-License-Identifier: Apache-2.0
"""What the matrix is made of: every word that is kept, and where each came from."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ci.model.evidence import Evidence, Shown, System
from ci.model.result import Grade
from ci.store import schema
from ci.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Word:
    """One test's word on one feature of one system.

    Attributes:
        shown: `works`, `fails` or `unsupported`.
        grade: How real the system was.
        test_id: Which test; hostile text.
        reason: Why it fails or is not supported; hostile text.
        at: When it said so last.
        duration_s: Of the test then.
        versions: What stood behind the system then.
        source: Id of the attempt, or `report: NAME`.
        build_id: The build of that attempt while it is kept; None for a report.
        job: Its job.
    """

    shown: str
    grade: str
    test_id: str
    reason: str
    at: datetime
    duration_s: float
    versions: dict[str, str]
    source: str
    build_id: str | None
    job: str | None


def all_evidence(database: Database, system: str | None = None) -> tuple[Evidence, ...]:
    """Everything that is kept, or all of one system, in no order; one query."""
    table = schema.evidence
    query = sa.select(table)
    if system is not None:
        query = query.where(table.c.system == system)
    with database.read() as tx:
        rows = tx.execute(query).all()
    return tuple(
        Evidence(
            system=System(
                key=row.system,
                title=row.title,
                grade=Grade(row.grade),
                versions=dict(row.versions),
            ),
            feature=row.feature,
            shown=Shown(row.shown),
            test_id=row.test_id,
            reason=row.reason,
            at=row.at,
            source=row.source,
            duration_s=row.duration_s,
        )
        for row in rows
    )


def cell_words(database: Database, feature: str, system: str) -> tuple[Word, ...]:
    """All words on one feature of one system, newest first; one query."""
    table, attempt, build = schema.evidence, schema.attempt, schema.build
    query = (
        sa.select(table, build.c.id.label("build_id"), build.c.job_name.label("job"))
        .select_from(
            table.outerjoin(attempt, attempt.c.id == table.c.source).outerjoin(
                build, build.c.id == attempt.c.build_id
            )
        )
        .where(table.c.feature == feature, table.c.system == system)
        .order_by(table.c.at.desc(), table.c.test_id, table.c.grade)
    )
    with database.read() as tx:
        rows = tx.execute(query).all()
    return tuple(
        Word(
            shown=row.shown,
            grade=row.grade,
            test_id=row.test_id,
            reason=row.reason,
            at=row.at,
            duration_s=row.duration_s,
            versions=dict(row.versions),
            source=row.source,
            build_id=row.build_id,
            job=row.job,
        )
        for row in rows
    )
