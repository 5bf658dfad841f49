# SPDX-License-Identifier: Apache-2.0
"""From rows to records: each function asks once for a whole set, never once a row."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from ci.model.stack import stack_from_json
from ci.model.verdict_json import verdict_from_json
from ci.store import schema
from ci.store.reads.records import BuildRecord, BuildsetRecord, EventRecord, VoteRecord


def names_of(record: type[Any], *, without: set[str]) -> tuple[str, ...]:
    """Fields of a record that a row has under the same name."""
    return tuple(item.name for item in fields(record) if item.name not in without)


_BUILDSET_NAMES = names_of(BuildsetRecord, without={"verdict", "vote", "builds", "depends"})
_VOTE_NAMES = names_of(VoteRecord, without={"note"})
_EVENT_NAMES = names_of(EventRecord, without={"author"})
_B, _S, _C, _A = schema.build, schema.buildset, schema.change, schema.attempt

BUILD_COLUMNS = (
    _B.c.id,
    _B.c.buildset_id,
    _S.c.connection,
    _S.c.project,
    _S.c.branch,
    _S.c.change_number,
    _S.c.patchset,
    sa.func.coalesce(_C.c.subject, "").label("subject"),
    sa.func.coalesce(_C.c.owner, "").label("owner"),
    _S.c.pipeline,
    _S.c.recheck,
    _B.c.job_name.label("job"),
    _B.c.node_label,
    _B.c.voting,
    _B.c.state,
    _B.c.waiting,
    _B.c.position,
    _B.c.eta_at,
    _B.c.cancel_reason,
    _B.c.result,
    _B.c.failure_class,
    _B.c.reason,
    _B.c.queued_at,
    _B.c.started_at,
    _B.c.finished_at,
)

_CHANGE_OF_BUILDSET = sa.and_(_C.c.connection == _S.c.connection, _C.c.number == _S.c.change_number)


def select_builds() -> sa.Select[Any]:
    """Builds joined with their buildset and change; the caller adds where, order, limit."""
    return sa.select(*BUILD_COLUMNS).select_from(
        _B.join(_S, _B.c.buildset_id == _S.c.id).outerjoin(_C, _CHANGE_OF_BUILDSET)
    )


def build_records(tx: sa.Connection, query: sa.Select[Any]) -> tuple[BuildRecord, ...]:
    """Run a query made by `select_builds` and add what the newest attempts say: two queries."""
    rows = tx.execute(query).mappings().all()
    places = _places(tx, [row["id"] for row in rows])
    return tuple(BuildRecord(**row, **places.get(row["id"], {})) for row in rows)


def _places(tx: sa.Connection, build_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per build: number of attempts, the last one's kind and phase, the last known place."""
    if not build_ids:
        return {}
    query = (
        sa.select(_A.c.build_id, _A.c.kind, _A.c.phase, _A.c.node, _A.c.grade, _A.c.hypervisor)
        .where(_A.c.build_id.in_(build_ids))
        .order_by(_A.c.build_id, _A.c.number)
    )
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"attempts": 0})
    for build_id, kind, phase, node, grade, hypervisor in tx.execute(query):
        place = found[build_id]
        place["attempts"] += 1
        place["attempt_kind"], place["phase"] = kind, phase
        if node:
            place["node"] = node
        if grade != "none":
            place["grade"], place["hypervisor"] = grade, hypervisor
    return found


def select_buildsets() -> sa.Select[Any]:
    """Buildsets joined with their change and their vote; see `buildset_records`."""
    out = schema.outbox
    return sa.select(
        _S,
        sa.func.coalesce(_C.c.subject, "").label("subject"),
        sa.func.coalesce(_C.c.owner, "").label("owner"),
        *(column.label(f"vote_{column.name}") for column in _vote_columns()),
    ).select_from(
        _S.outerjoin(_C, _CHANGE_OF_BUILDSET).outerjoin(out, out.c.buildset_id == _S.c.id)
    )


def _vote_columns() -> tuple[sa.Column[Any], ...]:
    out = schema.outbox
    return (
        out.c.state,
        out.c.label,
        out.c.value,
        out.c.tries,
        out.c.error,
        out.c.next_at,
        out.c.created_at,
        out.c.settled_at,
    )


def buildset_records(tx: sa.Connection, query: sa.Select[Any]) -> tuple[BuildsetRecord, ...]:
    """Run a query made by `select_buildsets` and add all their builds: three queries."""
    rows = tx.execute(query).mappings().all()
    builds: dict[str, list[BuildRecord]] = defaultdict(list)
    mine = select_builds().where(_B.c.buildset_id.in_([row["id"] for row in rows]))
    if rows:
        for build in build_records(tx, mine.order_by(_B.c.job_name, _B.c.id)):
            builds[build.buildset_id].append(build)
    return tuple(_buildset(row, tuple(builds[row["id"]])) for row in rows)


def _buildset(row: Any, builds: tuple[BuildRecord, ...]) -> BuildsetRecord:
    return BuildsetRecord(
        **{name: row[name] for name in _BUILDSET_NAMES},
        verdict=verdict_from_json(row["verdict"]) if row["verdict"] else None,
        vote=_vote(row),
        builds=builds,
        depends=stack_from_json(row["depends"] or []),
    )


def _vote(row: Any) -> VoteRecord | None:
    if row["vote_state"] is None:
        return None
    return VoteRecord(**{name: row[f"vote_{name}"] for name in _VOTE_NAMES}, note=row["vote_error"])


def event_records(tx: sa.Connection, query: sa.Select[Any]) -> tuple[EventRecord, ...]:
    """Run a query over whole `ci_event` rows."""
    return tuple(
        EventRecord(**{name: row[name] for name in _EVENT_NAMES}, author=_author(row["payload"]))
        for row in tx.execute(query).mappings()
    )


def _author(payload: Any) -> str:
    author = payload.get("author") if isinstance(payload, dict) else None
    if not isinstance(author, dict):
        return ""
    return str(author.get("username") or author.get("name") or "")
