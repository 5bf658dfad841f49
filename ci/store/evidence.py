# SPDX-License-Identifier: Apache-2.0
"""Writes of the matrix: what tests showed of hypervisors, the newest word of each, for ever.

What counts is what the branch does: baselines without a stack, the last run of a patch set
once its change has merged, and reports that an operator read in. A patch's own run tells what
the patch does; until it is merged it must not turn a cell red for everybody.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.build import AttemptKind
from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature
from ci.model.result import Grade, Outcome, Result, Status
from ci.store import audit, schema
from ci.store.database import Database

UNSUPPORTED = "unsupported: "
"""Begins the message of a skipped test whose feature the system said it cannot do."""

SYSTEM, TITLE = "system", "system-title"
"""Facts of an attempt that say which column it tested."""

MAX_REASON, MAX_VERSION = 600, 300
_FEATURES = frozenset(one.value for one in Feature)
_COUNTED = (Result.SUCCESS.value, Result.FAILURE.value)
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Added:
    """What reading evidence in came to: new words, words that newer ones replaced, the rest."""

    new: int = 0
    renewed: int = 0
    known: int = 0


def add(tx: sa.Connection, evidence: Iterable[Evidence]) -> Added:
    """Keep the newest word per system, grade, feature, test and what it showed.

    The same again, or an older word, changes nothing.

    Args:
        tx: The transaction of what led to it.
        evidence: In any order; hostile text.
    """
    newest: dict[_Key, Evidence] = {}
    for one in sorted(evidence, key=lambda one: one.at):
        newest[_key(one)] = one
    there = _there(tx, sorted({one.system.key for one in newest.values()}))
    fresh = [one for key, one in newest.items() if key not in there]
    later = [(there[k][0], one) for k, one in newest.items() if k in there and one.at > there[k][1]]
    if fresh:
        tx.execute(sa.insert(schema.evidence), [_values(one) for one in fresh])
    if later:
        mine = schema.evidence.c.id == sa.bindparam("row")
        renewed = [{"row": row_id, **_values(one)} for row_id, one in later]
        tx.execute(sa.update(schema.evidence).where(mine), renewed)
    known = len(newest) - len(fresh) - len(later)
    return Added(new=len(fresh), renewed=len(later), known=known)


def read_in(
    database: Database, name: str, evidence: Sequence[Evidence], *, by: str, at: datetime
) -> Added:
    """Add a report, and say so in the audit log where it told anything new.

    Args:
        database: Where to.
        name: Of the report.
        evidence: What it says.
        by: Who read it in.
        at: Now.
    """
    with database.write() as tx:
        added = add(tx, evidence)
        if added.new or added.renewed:
            why = f"{added.new} new, {added.renewed} renewed, {added.known} known before"
            audit.note(tx, by=by, action="matrix-add", subject=f"report {name}", at=at, why=why)
    return added


def file(
    tx: sa.Connection,
    attempt_id: str,
    system: System | None,
    outcomes: Sequence[Outcome],
    *,
    at: datetime,
) -> None:
    """File what an attempt showed, in the transaction that stores its outcomes.

    Of which system it was is noted with every attempt; evidence comes of a baseline without a
    stack at once, of the others when `adopt` finds their change merged.

    Args:
        tx: That transaction.
        attempt_id: The attempt, finished with SUCCESS or FAILURE.
        system: What the suite says that it tested; None: nothing of the matrix.
        outcomes: Its tests.
        at: Now.
    """
    if system is None:
        return
    table, build, buildset = schema.attempt, schema.build, schema.buildset
    row = tx.execute(
        sa.select(table.c.kind, table.c.facts, table.c.grade, buildset.c.depends)
        .join(build, build.c.id == table.c.build_id)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(table.c.id == attempt_id)
    ).one()
    facts = {**row.facts, **system.versions, SYSTEM: system.key, TITLE: system.title}
    tx.execute(sa.update(table).where(table.c.id == attempt_id).values(facts=facts))
    if row.kind == AttemptKind.BASELINE.value and not row.depends:
        found = _system(facts, row.grade)
        add(tx, told(found, outcomes, at=at, source=attempt_id) if found else ())


def adopt(tx: sa.Connection, connection: str, change_number: int, patchset: int) -> int:
    """Take up what the last runs of a patch set showed: it has merged, so the branch does it too.

    A patch set that was tested on top of others is left out: what they were then need not be
    what merged.

    Returns:
        How many words that added or renewed.
    """
    table, build, buildset = schema.attempt, schema.build, schema.buildset
    rows = tx.execute(
        sa.select(table, buildset.c.depends)
        .join(build, build.c.id == table.c.build_id)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(
            buildset.c.connection == connection,
            buildset.c.change_number == change_number,
            buildset.c.patchset == patchset,
            table.c.kind != AttemptKind.BASELINE.value,
            table.c.result.in_(_COUNTED),
        )
        .order_by(table.c.started_at)
    ).all()
    last = {row.build_id: row for row in rows if not row.depends}
    evidence: list[Evidence] = []
    for row in last.values():
        if (system := _system(row.facts, row.grade)) is not None:
            outcomes = _outcomes(tx, row.id)
            evidence += told(system, outcomes, at=row.finished_at, source=row.id)
    added = add(tx, evidence)
    return added.new + added.renewed


def told(
    system: System, outcomes: Iterable[Outcome], *, at: datetime, source: str
) -> list[Evidence]:
    """What outcomes say of features; a skip for any reason of the lab's says nothing."""
    return [
        Evidence(
            system=system,
            feature=one.feature,
            shown=shown,
            test_id=one.test_id[:500],
            reason=one.message.removeprefix(UNSUPPORTED) if shown is not Shown.WORKS else "",
            at=at,
            source=source,
            duration_s=one.duration_s,
        )
        for one in outcomes
        if one.feature in _FEATURES and (shown := _shown(one)) is not None
    ]


def _shown(one: Outcome) -> Shown | None:
    if one.status is Status.PASS:
        return Shown.WORKS
    if one.status.bad:
        return Shown.FAILS
    return Shown.UNSUPPORTED if one.message.startswith(UNSUPPORTED) else None


def _system(facts: Mapping[str, Any], grade: str) -> System | None:
    """The column that an attempt tested; its grade is what the provider knows, not the suite."""
    if not facts.get(SYSTEM) or grade == Grade.NONE.value:
        return None
    versions = {k: str(v)[:MAX_VERSION] for k, v in facts.items() if k not in {SYSTEM, TITLE}}
    return System(
        key=str(facts[SYSTEM]),
        title=str(facts.get(TITLE, "")),
        grade=Grade(grade),
        versions=versions,
    )


def _outcomes(tx: sa.Connection, attempt_id: str) -> list[Outcome]:
    table = schema.outcome
    query = sa.select(table).where(table.c.attempt_id == attempt_id, table.c.feature != "")
    return [
        Outcome(
            test_id=row.test_id,
            status=Status(row.status),
            duration_s=row.duration_s,
            message=row.message,
            feature=row.feature,
        )
        for row in tx.execute(query.order_by(table.c.id))
    ]


def _there(tx: sa.Connection, systems: Sequence[str]) -> dict[_Key, tuple[int, datetime]]:
    """Ids and times of the words of some systems that are kept already."""
    table = schema.evidence
    columns = (table.c.system, table.c.grade, table.c.feature, table.c.test_id, table.c.shown)
    rows = tx.execute(
        sa.select(table.c.id, table.c.at, *columns).where(table.c.system.in_(systems))
    )
    return {(r.system, r.grade, r.feature, r.test_id, r.shown): (r.id, r.at) for r in rows}


def _key(one: Evidence) -> _Key:
    """As the row will have it: what no database stores is replaced before it is compared."""
    parts = (one.system.key, one.system.grade, one.feature, one.test_id, one.shown)
    system, grade, feature, test_id, shown = (_stored(str(part)) for part in parts)
    return system, grade, feature, test_id, shown


def _stored(text: str) -> str:
    return schema.Words().process_bind_param(text, None) or ""


def _values(one: Evidence) -> dict[str, Any]:
    return {
        "system": one.system.key,
        "title": " ".join(one.system.title.split())[:120],
        "grade": one.system.grade.value,
        "versions": one.system.versions,
        "feature": str(one.feature),
        "test_id": one.test_id,
        "shown": one.shown.value,
        "reason": " ".join(one.reason.split())[:MAX_REASON],
        "at": one.at,
        "source": one.source,
        "duration_s": one.duration_s,
    }
