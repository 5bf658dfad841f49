# SPDX-License-Identifier: Apache-2.0
"""One change: every patch set, what ran for it, what was voted, and why something did not run."""

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database
from ci.store.reads.records import BuildsetRecord, ChangeDetail, EventRecord, PatchsetRecord
from ci.store.reads.rows import buildset_records, event_records, select_buildsets

BUILDSETS_SHOWN = 200
EVENTS_SHOWN = 500


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
        buildsets = _buildsets(tx, chosen["connection"], number)
        events = _events(tx, chosen["connection"], number)
    facts = {name: value for name, value in chosen.items() if name != "patchset"}
    return ChangeDetail(
        **facts,
        newest_patchset=chosen["patchset"],
        patchsets=_patchsets(chosen["patchset"], buildsets, events),
        events=tuple(item for item in events if item.patchset is None),
        elsewhere=tuple(row["connection"] for row in known if row is not chosen),
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


def _patchsets(
    newest: int, buildsets: Sequence[BuildsetRecord], events: Sequence[EventRecord]
) -> tuple[PatchsetRecord, ...]:
    ran: dict[int, list[BuildsetRecord]] = defaultdict(list)
    told: dict[int, list[EventRecord]] = defaultdict(list)
    for buildset in buildsets:
        ran[buildset.patchset].append(buildset)
    for event in events:
        if event.patchset is not None:
            told[event.patchset].append(event)
    return tuple(
        PatchsetRecord(number=number, buildsets=tuple(ran[number]), events=tuple(told[number]))
        for number in sorted({newest, *ran, *told}, reverse=True)
    )
