# SPDX-License-Identifier: Apache-2.0
"""What ran for one patch set, as programs ask for it."""

from dataclasses import dataclass

import sqlalchemy as sa

from ci.model.result import Judgement
from ci.model.verdict_json import judgement_from_json
from ci.store import schema
from ci.store.database import Database
from ci.store.reads.change import waiting
from ci.store.reads.records import BuildsetRecord
from ci.store.reads.rows import buildset_records, event_records, select_buildsets

BUILDSETS_READ = 100
EVENTS_READ = 200


@dataclass(frozen=True, kw_only=True)
class PatchsetRuns:
    """The runs of one patch set.

    Attributes:
        buildsets: Oldest first.
        judgements: By build, for those that are judged.
        waits: Why a pipeline has not started yet and may later, one sentence each.
    """

    buildsets: tuple[BuildsetRecord, ...]
    judgements: dict[str, Judgement]
    waits: tuple[str, ...]


def patchset_runs(
    database: Database, connection: str, number: int, patchset: int
) -> PatchsetRuns | None:
    """What ran for a patch set; None where the connection is unknown. Six queries.

    Args:
        database: Where it is.
        connection: Name of the connection.
        number: Change number; one that nobody watches has no runs.
        patchset: Patch set number.
    """
    table, event, build = schema.buildset, schema.event, schema.build
    named = schema.connection_state
    with database.read() as tx:
        if not tx.execute(sa.select(named.c.name).where(named.c.name == connection)).first():
            return None
        newest_first = buildset_records(
            tx,
            select_buildsets()
            .where(
                table.c.connection == connection,
                table.c.change_number == number,
                table.c.patchset == patchset,
            )
            .order_by(table.c.created_at.desc(), table.c.id)
            .limit(BUILDSETS_READ),
        )
        judged = tx.execute(
            sa.select(build.c.id, build.c.judgement).where(
                build.c.buildset_id.in_([item.id for item in newest_first])
            )
        )
        judgements = {row.id: judgement_from_json(row.judgement) for row in judged if row.judgement}
        told = event_records(
            tx,
            sa.select(event)
            .where(
                event.c.connection == connection,
                event.c.change_number == number,
                event.c.patchset == patchset,
            )
            .order_by(event.c.id.desc())
            .limit(EVENTS_READ),
        )
    return PatchsetRuns(
        buildsets=tuple(reversed(newest_first)),
        judgements=judgements,
        waits=waiting(tuple(reversed(told)), newest_first),
    )
