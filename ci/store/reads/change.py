# SPDX-License-Identifier: Apache-2.0
"""One change: every patch set, what ran for it, who voted, and why something did not run."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.features import feature_counts
from ci.store.reads.records import BuildsetRecord, ChangeDetail, EventRecord, PatchsetRecord
from ci.store.reads.rows import buildset_records, event_records, select_buildsets
from ci.store.reads.votes import approvals_of, votes_of

BUILDSETS_SHOWN = 200
EVENTS_SHOWN = 500
_WAITS = re.compile(r"(\S+) waits for ")


def change_detail(
    database: Database, number: int, *, connection: str | None = None
) -> ChangeDetail | None:
    """All about a change; None where it is unknown.

    Args:
        database: Where it is.
        number: Gerrit's number.
        connection: Which server; by default the one that spoke of this number last.
    """
    table = schema.change
    with database.read() as tx:
        known = (
            tx.execute(
                sa.select(table)
                .where(table.c.number == number)
                .order_by(table.c.updated_at.desc(), table.c.connection)
            )
            .mappings()
            .all()
        )
        chosen = next((row for row in known if connection in {None, row["connection"]}), None)
        if chosen is None:
            return None
        return _detail(tx, chosen, tuple(row["connection"] for row in known if row is not chosen))


def _detail(tx: sa.Connection, row: Mapping[Any, Any], elsewhere: tuple[str, ...]) -> ChangeDetail:
    connection, number, newest = row["connection"], row["number"], row["patchset"]
    buildsets = _buildsets(tx, connection, number)
    events = _events(tx, connection, number)
    facts = {name: value for name, value in row.items() if name not in {"patchset", "seen_at"}}
    return ChangeDetail(
        **facts,
        **_told(tx, connection, number),
        newest_patchset=newest,
        patchsets=_patchsets(
            newest if row["status"] == "NEW" else None,
            {newest},
            buildsets,
            events,
            approvals_of(tx, connection, number),
        ),
        events=tuple(item for item in events if item.patchset is None),
        elsewhere=elsewhere,
        seen_here=_seen(tx, connection, {one.number for item in buildsets for one in item.depends}),
        features=feature_counts(tx, [build.id for item in buildsets for build in item.builds]),
    )


def _buildsets(tx: sa.Connection, connection: str, number: int) -> tuple[BuildsetRecord, ...]:
    table = schema.buildset
    return buildset_records(
        tx,
        select_buildsets()
        .where(table.c.connection == connection, table.c.change_number == number)
        .order_by(table.c.created_at.desc(), table.c.pipeline)
        .limit(BUILDSETS_SHOWN),
    )


def _events(tx: sa.Connection, connection: str, number: int) -> tuple[EventRecord, ...]:
    """The newest events of a change, oldest first."""
    table = schema.event
    query = (
        sa.select(table)
        .where(table.c.connection == connection, table.c.change_number == number)
        .order_by(table.c.id.desc())
        .limit(EVENTS_SHOWN)
    )
    return tuple(reversed(event_records(tx, query)))


def _told(tx: sa.Connection, connection: str, number: int) -> dict[str, Any]:
    """What only events tell of a change: topic, hashtags, whether it is work in progress."""
    table = schema.event
    query = (
        sa.select(table.c.payload)
        .where(table.c.connection == connection, table.c.change_number == number)
        .order_by(table.c.occurred_at.desc(), table.c.id.desc())
        .limit(1)
    )
    payload = tx.execute(query).scalar()
    change = payload.get("change") if isinstance(payload, dict) else None
    told = change if isinstance(change, dict) else {}
    return {
        "topic": str(told.get("topic") or ""),
        "hashtags": tuple(str(one) for one in told.get("hashtags") or ()),
        "wip": bool(told.get("wip")),
    }


def _seen(tx: sa.Connection, connection: str, numbers: set[int]) -> tuple[int, ...]:
    """Which of these changes have a page here."""
    table = schema.change
    if not numbers:
        return ()
    query = sa.select(table.c.number).where(
        table.c.connection == connection, table.c.number.in_(numbers)
    )
    return tuple(sorted(tx.execute(query).scalars()))


def _patchsets(
    current: int | None,
    known: set[int],
    buildsets: Sequence[BuildsetRecord],
    events: Sequence[EventRecord],
    approvals: Mapping[int, Sequence[sa.Row[Any]]],
) -> tuple[PatchsetRecord, ...]:
    """Newest first; `current` is the one that may still start something."""
    ran: dict[int, list[BuildsetRecord]] = defaultdict(list)
    told: dict[int, list[EventRecord]] = defaultdict(list)
    for buildset in buildsets:
        ran[buildset.patchset].append(buildset)
    for event in events:
        if event.patchset is not None:
            told[event.patchset].append(event)
    return tuple(
        PatchsetRecord(
            number=number,
            buildsets=tuple(ran[number]),
            events=tuple(told[number]),
            votes=votes_of(ran[number], approvals.get(number, ())),
            waits=waiting(told[number], ran[number]) if number == current else (),
        )
        for number in sorted(known | set(ran) | set(told) | set(approvals), reverse=True)
    )


def waiting(events: Sequence[EventRecord], buildsets: Sequence[BuildsetRecord]) -> tuple[str, ...]:
    """Decisions that wait for something, one line per pipeline, unless it has started since.

    Args:
        events: Of one patch set, oldest first; a decision has a line per pipeline.
        buildsets: What ran for it.
    """
    lines: dict[str, str] = {}
    for event in events:
        for line in (event.decision or "").splitlines():
            found = _WAITS.match(line)
            if found is None:
                continue
            pipeline = found[1]
            started = any(
                item.pipeline == pipeline and item.created_at >= event.occurred_at
                for item in buildsets
            )
            lines.pop(pipeline, None)
            if not started:
                lines[pipeline] = line
    return tuple(lines.values())
