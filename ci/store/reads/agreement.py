# SPDX-License-Identifier: Apache-2.0
"""How often other CIs and we say the same: our last verdict against their last vote."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.model.verdict_json import verdict_from_json
from ci.store import schema
from ci.store.database import Database
from ci.store.reads.review_records import AgreementPage, AgreementRow, Disagreement
from ci.store.reads.votes import OUR_FAULTS, our_opinion, their_opinion

VOTES_READ = 50_000
DIFFER_SHOWN = 50

_Patchset = tuple[str, int, int]


@dataclass(kw_only=True)
class _Tally:
    """What is counted for one other CI on one project."""

    name: str
    newest_at: datetime
    both: int = 0
    agree: int = 0
    differ: list[Disagreement] = field(default_factory=list)


def agreement_page(database: Database, *, now: datetime, days: int = 30) -> AgreementPage:
    """Agreement per other CI and project; two queries.

    Args:
        database: Where the votes are.
        now: End of the window.
        days: Its length.
    """
    since = now - timedelta(days=days)
    with database.read() as tx:
        votes = _votes(tx, since)
        ours = _ours(tx, since) if votes else {}
    seen: set[tuple[_Patchset, str]] = set()
    tallies: dict[tuple[str, str, str], _Tally] = {}
    for row in votes:
        place = (row.connection, row.change_number, row.patchset)
        opinion = their_opinion(row.value, row.said)
        mine = ours.get(place)
        if not opinion or mine is None or (place, row.account) in seen:
            continue
        seen.add((place, row.account))
        project, subject, own = mine
        key = (row.connection, project, row.account)
        tally = tallies.setdefault(key, _Tally(name=row.name, newest_at=row.at))
        _count(tally, row, subject, own, opinion)
    return AgreementPage(
        days=days,
        since=since,
        rows=tuple(_row(*key, tallies[key]) for key in sorted(tallies)),
        complete=len(votes) < VOTES_READ,
    )


def _votes(tx: sa.Connection, since: datetime) -> list[sa.Row[Any]]:
    """What other CIs said, newest first."""
    table = schema.approval
    query = (
        sa.select(table)
        .where(table.c.is_ci, table.c.at >= since)
        .order_by(table.c.at.desc(), table.c.account, table.c.label)
        .limit(VOTES_READ)
    )
    return list(tx.execute(query))


def _ours(tx: sa.Connection, since: datetime) -> dict[_Patchset, tuple[str, str, int]]:
    """Project, subject and our last opinion by patch set, of changes that others judged too."""
    table, build, change, vote = schema.buildset, schema.build, schema.change, schema.approval
    broke = sa.exists().where(
        build.c.buildset_id == table.c.id, build.c.voting, build.c.failure_class.in_(OUR_FAULTS)
    )
    # A list made once and joined: an EXISTS per run was read by the wrong index, for 25 s.
    judged = (
        sa.select(vote.c.connection, vote.c.change_number)
        .where(vote.c.is_ci, vote.c.at >= since)
        .distinct()
        .subquery()
    )
    query = (
        sa.select(
            table.c.connection,
            table.c.change_number,
            table.c.patchset,
            table.c.project,
            table.c.verdict,
            sa.func.coalesce(change.c.subject, "").label("subject"),
            broke.label("broke"),
        )
        .select_from(
            judged.join(
                table,
                sa.and_(
                    table.c.change_number == judged.c.change_number,
                    table.c.connection == judged.c.connection,
                ),
            ).outerjoin(
                change,
                sa.and_(
                    change.c.connection == table.c.connection,
                    change.c.number == table.c.change_number,
                ),
            )
        )
        .where(table.c.state == "done")
        .order_by(table.c.created_at)
    )
    found: dict[_Patchset, tuple[str, str, int]] = {}
    for row in tx.execute(query):
        verdict = verdict_from_json(row.verdict) if row.verdict else None
        opinion = our_opinion(verdict, broke=bool(row.broke))
        if opinion:
            place = (row.connection, row.change_number, row.patchset)
            found[place] = (row.project, row.subject, opinion)
    return found


def _count(tally: _Tally, row: sa.Row[Any], subject: str, ours: int, theirs: int) -> None:
    tally.both += 1
    if ours == theirs:
        tally.agree += 1
        return
    tally.differ.append(
        Disagreement(
            connection=row.connection,
            change_number=row.change_number,
            patchset=row.patchset,
            subject=subject,
            ours=ours,
            theirs=theirs,
            at=row.at,
        )
    )


def _row(connection: str, project: str, account: str, tally: _Tally) -> AgreementRow:
    sides: dict[int, int] = defaultdict(int)
    for one in tally.differ:
        sides[one.ours] += 1
    return AgreementRow(
        connection=connection,
        project=project,
        account=account,
        name=tally.name or account,
        both=tally.both,
        agree=tally.agree,
        only_they_failed=sides[1],
        only_we_failed=sides[-1],
        newest_at=tally.newest_at,
        differ=tuple(tally.differ[:DIFFER_SHOWN]),
    )
