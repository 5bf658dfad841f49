# SPDX-License-Identifier: Apache-2.0
"""The list of builds, newest first, page by page."""

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.records import BuildFilter, BuildsPage, FilterChoices
from ci.store.reads.rows import build_records, select_builds

Cursor = tuple[datetime, str]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST_MICROSECONDS = 4_000_000_000 * 1_000_000


def parse_cursor(text: str) -> Cursor:
    """The place in the list that a `next` value names.

    Raises:
        ValueError: It is not such a value.
    """
    micros, _, build_id = text.partition("-")
    if not (micros.isascii() and micros.isdigit() and build_id and len(text) <= 64):  # noqa: PLR2004
        raise ValueError("not a cursor")
    if int(micros) > _LATEST_MICROSECONDS:
        raise ValueError("not a cursor")
    return _EPOCH + int(micros) * _MICROSECOND, build_id


def _cursor(at: datetime, build_id: str) -> str:
    return f"{(at - _EPOCH) // _MICROSECOND}-{build_id}"


def builds_page(
    database: Database, wanted: BuildFilter, *, after: Cursor | None = None, limit: int = 50
) -> BuildsPage:
    """Up to `limit` builds, newest first, that pass the filter; two queries.

    Args:
        database: Where they are.
        wanted: Which builds.
        after: Start below this place; from the top by default.
        limit: Builds on a page.
    """
    table = schema.build
    query = select_builds().where(*_conditions(wanted))
    if after is not None:
        query = query.where(sa.tuple_(table.c.queued_at, table.c.id) < sa.tuple_(*_typed(after)))
    query = query.order_by(table.c.queued_at.desc(), table.c.id.desc()).limit(limit + 1)
    with database.read() as tx:
        found = build_records(tx, query)
    more = found[limit - 1] if len(found) > limit else None
    return BuildsPage(
        builds=found[:limit],
        filter=wanted,
        next=_cursor(more.queued_at, more.id) if more else None,
    )


def _typed(after: Cursor) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    return sa.literal(after[0], schema.UtcDateTime()), sa.literal(after[1])


def _conditions(wanted: BuildFilter) -> list[sa.ColumnElement[bool]]:
    build, buildset = schema.build, schema.buildset
    columns: dict[str, sa.Column[Any]] = {
        "project": buildset.c.project,
        "job": build.c.job_name,
        "label": build.c.node_label,
        "result": build.c.result,
        "state": build.c.state,
        "change": buildset.c.change_number,
        "connection": buildset.c.connection,
    }
    values = vars(wanted)
    return [column == values[name] for name, column in columns.items() if values[name] is not None]


def filter_choices(database: Database, *, limit: int = 200) -> FilterChoices:
    """The projects, jobs, node labels and connections that have builds, in order of name."""
    build, buildset = schema.build, schema.buildset
    with database.read() as tx:
        projects, jobs, labels, connections = (
            tuple(tx.execute(sa.select(column).distinct().order_by(column).limit(limit)).scalars())
            for column in (
                buildset.c.project,
                build.c.job_name,
                build.c.node_label,
                buildset.c.connection,
            )
        )
    return FilterChoices(projects=projects, jobs=jobs, labels=labels, connections=connections)
