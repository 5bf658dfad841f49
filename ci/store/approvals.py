# SPDX-License-Identifier: Apache-2.0
"""Writes of step 1: what others voted and reported on patch sets, newest by time.

Our own votes are not kept here: the outbox has them.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ci.model.event import Account, Approval, Event, EventKind
from ci.store import schema

REPORT = ""
"""In place of a label: a CI that only comments."""
CI_NAMES = frozenset({"zuul", "jenkins"})
_SAID = re.compile(r"Build (succeeded|failed)\b")


@dataclass(frozen=True, kw_only=True)
class _Vote:
    """One row as it should be, unless a newer one stands there."""

    connection: str
    change_number: int
    patchset: int
    account: str
    label: str
    name: str
    value: int
    said: str
    is_ci: bool
    at: datetime

    @property
    def place(self) -> tuple[int, int, str, str]:
        """What is unique within a connection."""
        return self.change_number, self.patchset, self.account, self.label


def record(tx: sa.Connection, events: Sequence[Event], *, own_username: str) -> None:
    """Note the votes and reports in these events; part of the caller's transaction.

    Args:
        tx: The transaction.
        events: Of one connection.
        own_username: Our account there.
    """
    votes = [one for event in events for one in _votes(event) if not _is(one.account, own_username)]
    if votes:
        _write(tx, votes)


def settle(
    tx: sa.Connection,
    connection: str,
    change_number: int,
    patchset: int,
    *,
    standing: Collection[Approval],
    as_of: datetime,
    own_username: str,
) -> None:
    """Make a patch set's votes those that the server showed; part of the caller's transaction.

    A vote that stands here and not there was taken away, unless it is newer than what was
    shown. One of that very second that came too late to be shown comes back the next time.

    Args:
        tx: The transaction.
        connection: Name of the connection.
        change_number: The change.
        patchset: Its newest patch set.
        standing: Every vote on it.
        as_of: Server's time of the last thing that happened to the change before that.
        own_username: Our account there.
    """
    found = _rows(tx, connection, [change_number])
    votes = []
    shown = set()
    for one in standing:
        account = _account(one.by)
        if not account or _is(account, own_username):
            continue
        shown.add((change_number, patchset, account, one.label))
        before = found.get((change_number, patchset, account, one.label))
        if before is None or before.value != one.value:
            at = one.granted_at or as_of
            votes.append(_vote(connection, change_number, patchset, one, at=at))
    _write(tx, votes)
    table = schema.approval
    for place, row in found.items():
        if place[1] == patchset and row.value and place not in shown and row.at <= as_of:
            tx.execute(sa.update(table).where(_at(connection, place)).values(value=0, at=as_of))


def _votes(event: Event) -> Iterator[_Vote]:
    if event.patchset is None:
        return
    number, patchset = event.change.number, event.patchset.number
    said, at = _said(event), event.occurred_at
    changed = [one for one in event.approvals if one.changed and _account(one.by)]
    for one in changed:
        yield _vote(event.connection, number, patchset, one, at=at, said=said)
    if said and not changed and _account(event.author):
        report = Approval(label=REPORT, value=0, by=event.author)
        yield _vote(event.connection, number, patchset, report, at=at, said=said)


def _said(event: Event) -> str:
    """What a CI's comment reports in its first line: `succeeded`, `failed`, or nothing."""
    if event.kind is not EventKind.COMMENT_ADDED or not _is_ci(event.author) or not event.texts:
        return ""
    found = _SAID.match(event.texts[0])
    return found[1] if found else ""


def _is_ci(account: Account) -> bool:
    return account.is_ci or bool({account.username.lower(), account.name.lower()} & CI_NAMES)


def _account(account: Account) -> str:
    return (account.username or account.name or account.email)[:255]


def _is(account: str, own_username: str) -> bool:
    return bool(own_username) and account == own_username


def _vote(
    connection: str, number: int, patchset: int, one: Approval, *, at: datetime, said: str = ""
) -> _Vote:
    return _Vote(
        connection=connection,
        change_number=number,
        patchset=patchset,
        account=_account(one.by),
        label=one.label,
        name=one.by.name[:255],
        value=one.value,
        said=said,
        is_ci=_is_ci(one.by),
        at=at,
    )


def _rows(
    tx: sa.Connection, connection: str, numbers: Collection[int]
) -> dict[tuple[int, int, str, str], sa.Row[Any]]:
    table = schema.approval
    rows = tx.execute(
        sa.select(table).where(table.c.connection == connection, table.c.change_number.in_(numbers))
    )
    return {(row.change_number, row.patchset, row.account, row.label): row for row in rows}


def _at(connection: str, place: tuple[int, int, str, str]) -> sa.ColumnElement[bool]:
    table = schema.approval
    number, patchset, account, label = place
    return sa.and_(
        table.c.connection == connection,
        table.c.change_number == number,
        table.c.patchset == patchset,
        table.c.account == account,
        table.c.label == label,
    )


def _write(tx: sa.Connection, votes: Sequence[_Vote]) -> None:
    """Insert or replace rows; of two in one second the later one stands."""
    newest: dict[tuple[int, int, str, str], _Vote] = {}
    for one in votes:
        if one.place not in newest or one.at >= newest[one.place].at:
            newest[one.place] = one
    if not newest:
        return
    connection = votes[0].connection
    found = _rows(tx, connection, {one.change_number for one in newest.values()})
    table = schema.approval
    fresh = [one for place, one in newest.items() if place not in found]
    if fresh:
        tx.execute(sa.insert(table), [_values(one) for one in fresh])
    for place, one in newest.items():
        if place in found and one.at >= found[place].at:
            tx.execute(sa.update(table).where(_at(connection, place)).values(**_values(one)))


def _values(one: _Vote) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _Vote.__dataclass_fields__}
