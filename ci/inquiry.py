# SPDX-License-Identifier: Apache-2.0
"""What the planner finds out before it decides on an event: nothing that would not matter.

A plain new patch set is decided from its event alone. Stored rows are looked at for reruns and
for kinds that are skipped, the server is asked only where a filter or a rule wants to know.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ci.layout import Layout
from ci.model.change import Change, Patchset
from ci.model.event import Event, EventKind
from ci.model.facts import ChangeFacts
from ci.store import history
from ci.store.database import Database
from ci.triggers import Decision, Known, Need, match, needs

_ROUNDS = 6


class Server(Protocol):
    """What the planner asks a review server."""

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        """Paths that a patch set changes.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...

    def facts(self, project: str, number: int) -> ChangeFacts:
        """A change as it is now, with the votes on its current patch set.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...

    def own_names(self) -> frozenset[str]:
        """Username and full name of our account there.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The decisions on an event, and the change as far as it was found out for them."""

    decisions: tuple[Decision, ...]
    change: Change
    patchset: Patchset | None


class Inquiry:
    """Decides on events, and asks for what that takes.

    Args:
        database: What ran before.
        layout: Gives the current layout.
        servers: By connection name, whom to ask.
    """

    def __init__(
        self, database: Database, layout: Callable[[], Layout], servers: Mapping[str, Server]
    ) -> None:
        self._database = database
        self._layout = layout
        self._servers = servers

    def decide(self, event: Event, *, ask: bool = True) -> Answer:
        """What an event starts.

        Args:
            event: What happened.
            ask: Whether the server is asked. Without, a patch set whose files are unknown
                runs, and one whose votes are unknown does not.

        Raises:
            ReviewServerError: The server did not say what has to be known.
        """
        layout = self._layout()
        server = self._servers.get(event.connection)
        if server is None:
            reason = f"connection {event.connection} is no longer in the configuration"
            return _answer(event, Known(), (Decision(pipeline="", starts=False, reason=reason),))
        own = self._own(event, layout, server)
        known = Known()
        for _ in range(_ROUNDS):
            decisions = match(event, layout, known, own)
            wanted = needs(decisions) - ({Need.FILES, Need.FACTS} if not ask else set())
            if not wanted:
                break
            known = self._find_out(event, layout, server, known, wanted)
        return _answer(event, known, decisions)

    def _own(self, event: Event, layout: Layout, server: Server) -> frozenset[str]:
        """Names of our accounts on the server that the event came from."""
        if event.kind is not EventKind.COMMENT_ADDED:
            return frozenset()
        urls = {one.url for one in layout.connections if one.name == event.connection}
        users = {one.user for one in layout.connections if one.url in urls}
        return server.own_names() | users

    def _find_out(
        self, event: Event, layout: Layout, server: Server, known: Known, wanted: frozenset[Need]
    ) -> Known:
        """One round: rows first, since they may make it needless to ask the server."""
        change = event.change
        patchset = event.patchset or (known.facts.patchset if known.facts else None)
        if patchset and wanted & {Need.RUNS, Need.JUDGED}:
            kinds = {p.name: p.skip_kinds for p in layout.pipelines}
            at = (event.connection, change.number, patchset.number)
            with self._database.read() as tx:
                return replace(
                    known,
                    has_run=history.ran(tx, *at),
                    unjudged=history.unjudged(tx, *at, kinds),
                )
        if Need.FACTS in wanted:
            return replace(known, facts=server.facts(change.project, change.number))
        if patchset and Need.FILES in wanted:
            files = server.changed_files(change.project, change.number, patchset.revision)
            return replace(known, files=files)
        return known


def _answer(event: Event, known: Known, decisions: tuple[Decision, ...]) -> Answer:
    facts, told = known.facts, event.patchset
    if facts is None or (told is not None and told.number != facts.patchset.number):
        return Answer(decisions=decisions, change=event.change, patchset=told)
    return Answer(decisions=decisions, change=facts.change, patchset=facts.patchset)
