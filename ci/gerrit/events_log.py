# SPDX-License-Identifier: Apache-2.0
"""The events-log plugin, where a server has it: the stream's own lines, read afterwards.

It tells what state does not show, such as pushes past review and changes that are gone. Never
needed: a server without it, or that hides it from us, is not asked again until the next
connect.

Source: https://gerrit.googlesource.com/plugins/events-log/
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus

from ci.errors import ReviewServerError
from ci.gerrit.fields import MalformedEvent
from ci.gerrit.history import SOURCE, Reading
from ci.gerrit.parse import Ignored, parse_line
from ci.gerrit.rest import GerritRest, RestError
from ci.log import get as get_logger
from ci.model.event import BranchMoved, Event, EventKind
from ci.model.event_key import TOLERANCE_S, same_fact

ABSENT = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED})
MOST_LINES = 100_000

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What the plugin told of watched projects, oldest first."""

    events: tuple[Event, ...] = ()
    branches: tuple[BranchMoved, ...] = ()


class EventsLog:
    """One server's events-log, for as long as it is known to be there. Thread-safe.

    Args:
        rest: The server.
        connection_name: Goes into the Events.
    """

    def __init__(self, rest: GerritRest, connection_name: str) -> None:
        self._rest = rest
        self._name = connection_name
        self._absent = False

    def ask_again(self) -> None:
        """The server may have changed: it is asked once more."""
        self._absent = False

    def read(self, begin: datetime, projects: Collection[str]) -> Logged:
        """What it kept since then; nothing where there is no such plugin or it fails.

        Args:
            begin: As the query's; what is told begins a little later, because the stream dates
                an event later than a query does: what lies between is the query's.
            projects: Only these.
        """
        if self._absent:
            return Logged()
        try:
            content = self._rest.logged_events(begin)
        except RestError as error:
            self._absent = error.status in ABSENT
            if not self._absent:
                log.warning(
                    "events-log not read", action="skip", connection=self._name, error=str(error)
                )
            return Logged()
        except ReviewServerError as error:
            log.warning(
                "events-log not read", action="skip", connection=self._name, error=str(error)
            )
            return Logged()
        return self._parsed(content, begin + timedelta(seconds=TOLERANCE_S), projects)

    def _parsed(self, content: bytes, begin: datetime, projects: Collection[str]) -> Logged:
        told: list[Event | BranchMoved] = []
        bad = 0
        for line in content.splitlines()[:MOST_LINES]:
            try:
                one = parse_line(plain(line), self._name)
            except MalformedEvent:
                bad += 1
                continue
            if isinstance(one, Ignored) or one.occurred_at < begin:
                continue
            project = one.project if isinstance(one, BranchMoved) else one.change.project
            if project in projects:
                told.append(one)
        if bad:
            log.warning(
                "events-log lines skipped", action="skip", connection=self._name, malformed=bad
            )
        told.sort(key=lambda one: one.occurred_at)
        return Logged(
            events=tuple(replace(one, source=SOURCE) for one in told if isinstance(one, Event)),
            branches=tuple(one for one in told if isinstance(one, BranchMoved)),
        )


def plain(line: bytes) -> bytes:
    """A line with project names where the plugin may write them as objects."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(value, dict):
        return line
    for place in (value.get("change"), value.get("refUpdate")):
        if isinstance(place, dict) and isinstance(place.get("project"), dict):
            place["project"] = place["project"].get("name")
    return json.dumps(value).encode()


def with_logged(reading: Reading, logged: Logged) -> Reading:
    """A reading with what only the log tells.

    Where both tell a fact the query's word stands, for its date is the one that the next
    query gives again. Of patch sets only the newest counts.
    """
    newest = {one.change_number: one.patchset for one in reading.standing}
    asked: dict[tuple[EventKind, int], list[str]] = {}
    for one in reading.events:
        asked.setdefault((one.kind, one.change.number), []).append(one.key)
    more = [
        one
        for one in logged.events
        if not _outdated(one, newest)
        and not any(same_fact(one.key, key) for key in asked.get((one.kind, one.change.number), ()))
    ]
    return replace(
        reading,
        events=tuple(sorted((*reading.events, *more), key=lambda one: one.occurred_at)),
        branches=(*logged.branches, *reading.branches),
    )


def _outdated(event: Event, newest: dict[int, int]) -> bool:
    return (
        event.kind is EventKind.PATCHSET_CREATED
        and event.patchset is not None
        and event.patchset.number < newest.get(event.change.number, 0)
    )
