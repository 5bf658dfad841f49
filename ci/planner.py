# SPDX-License-Identifier: Apache-2.0
"""Step 3 of 9, build. Before: trigger. After: lease.

In: stored Events, the Layout and, where a file filter asks for it, the list of changed files.
Out: a Buildset with its Builds queued for each pipeline that starts, the builds of older
patch sets cancelled, and on the event's row the reason for yes and for no; all in one
transaction per event, so that a crash repeats the whole event or nothing of it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Protocol

import sqlalchemy as sa

from ci.backoff import Backoff
from ci.bell import Bell
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.gerrit.rest import RestError
from ci.layout import Layout
from ci.log import get
from ci.model.event import Event, EventKind
from ci.store import builds, events
from ci.store.builds import NewBuildset
from ci.store.database import Database
from ci.triggers import Decision, explain, match, needs_files

FILE_TRIES = 20
ENDS = {
    EventKind.CHANGE_ABANDONED: "the change was abandoned",
    EventKind.CHANGE_MERGED: "the change was merged",
}


class Server(Protocol):
    """What the planner asks a review server."""

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        """Paths that a patch set changes.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...

    def own_names(self) -> frozenset[str]:
        """Username and full name of our account there."""
        ...


class Planner:
    """Turns stored events into queued builds; the body of one thread.

    Args:
        database: Where events and builds live.
        clock: Where time comes from.
        layout: Gives the current layout; a reload swaps it.
        servers: By connection name, whom to ask.
        bell: Rung when an event was stored.
        on_queued: Called after builds were queued.
        on_cancel: Called with the ids of running builds that must stop, and why.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        layout: Callable[[], Layout],
        servers: Mapping[str, Server],
        *,
        bell: Bell,
        on_queued: Callable[[], None],
        on_cancel: Callable[[Sequence[str], str], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._layout = layout
        self._servers = servers
        self._bell = bell
        self._on_queued = on_queued
        self._on_cancel = on_cancel
        self._away: dict[str, tuple[float, Backoff]] = {}
        self._tries: dict[int, int] = {}
        self._stop = threading.Event()
        self._log = get("build")

    def run(self) -> None:
        """Plan events as they are stored, until `stop`."""
        while not self._stop.is_set():
            try:
                planned = self.plan_pending()
            except StorageError as error:
                self._log.error("planning waits", action="wait", reason=str(error))
                self._stop.wait(2.0)
                continue
            if not planned:
                self._bell.wait(1.0)

    def stop(self) -> None:
        """End `run` after the event in hand."""
        self._stop.set()
        self._bell.ring()

    def plan_pending(self) -> int:
        """Plan what is stored and can be planned now; returns how many events were."""
        now = self._clock.monotonic_s()
        away = [name for name, (until, _) in self._away.items() if until > now]
        planned = 0
        for event_id, event in events.unprocessed(self._database, skip_connections=away):
            if self._stop.is_set():
                break
            if event.connection not in away:
                if self._try(event_id, event):
                    planned += 1
                else:
                    away.append(event.connection)
        return planned

    def _try(self, event_id: int, event: Event) -> bool:
        """Plan one event; False when its server cannot be asked now, so it stays stored.

        A change that is gone is given up. One whose files the server never lists while it
        answers is planned without the list in the end: running too much is the safe side,
        and the events behind it must not wait for ever.
        """
        try:
            decisions = self._decide(event, with_files=self._tries.get(event_id, 0) < FILE_TRIES)
        except ReviewServerError as error:
            if not isinstance(error, RestError) or error.status == HTTPStatus.UNAUTHORIZED:
                self._postpone(event.connection, error)
                return False
            if error.status != HTTPStatus.NOT_FOUND:
                self._tries[event_id] = self._tries.get(event_id, 0) + 1
                self._postpone(event.connection, error)
                return False
            decisions = (Decision(pipeline="", starts=False, reason=error.message),)
        self._tries.pop(event_id, None)
        self._away.pop(event.connection, None)
        self._plan(event_id, event, decisions)
        return True

    def _postpone(self, connection: str, error: HypervouchError) -> None:
        _, backoff = self._away.get(connection, (0.0, Backoff()))
        self._away[connection] = (self._clock.monotonic_s() + backoff.next_s(), backoff)
        self._log.warning("planning waits for the server", connection=connection, reason=str(error))

    def _decide(self, event: Event, *, with_files: bool) -> tuple[Decision, ...]:
        layout = self._layout()
        if event.connection not in self._servers:
            reason = f"connection {event.connection} is no longer in the configuration"
            return (Decision(pipeline="", starts=False, reason=reason),)
        if event.kind is EventKind.CHANGE_RESTORED:
            event = replace(event, kind=EventKind.PATCHSET_CREATED)
        if event.patchset and not self._earlier_verdict(event):
            event = replace(event, patchset=replace(event.patchset, kind="REWORK"))
        server = self._servers[event.connection]
        own = server.own_names() if event.kind is EventKind.COMMENT_ADDED else frozenset()
        files = None
        if with_files and event.patchset and needs_files(event, layout):
            files = server.changed_files(
                event.change.project, event.change.number, event.patchset.revision
            )
        return match(event, layout, files, own)

    def _earlier_verdict(self, event: Event) -> bool:
        """Whether an older patch set was judged: only then may one of its kind be skipped.

        A patch set without code changes is skipped because Gerrit copies the vote to it;
        while there is no vote to copy, it has to be run.
        """
        if event.patchset is None or event.patchset.kind == "REWORK":
            return True
        with self._database.read() as tx:
            return builds.was_judged(
                tx,
                connection=event.connection,
                change_number=event.change.number,
                below_patchset=event.patchset.number,
            )

    def _plan(self, event_id: int, event: Event, decisions: Sequence[Decision]) -> None:
        at = self._clock.now()
        with self._database.write() as tx:
            said, stopped = self._apply(tx, event_id, event, decisions)
            events.mark_processed(tx, event_id, decision="\n".join(said), at=at)
        self._log.info(
            "event planned",
            action="plan",
            change=event.change.number,
            patchset=event.patchset.number if event.patchset else None,
            kind=event.kind.value,
            decision=" | ".join(said),
        )
        for reason, ids in stopped:
            self._on_cancel(ids, reason)
        self._on_queued()

    def _apply(
        self, tx: sa.Connection, event_id: int, event: Event, decisions: Sequence[Decision]
    ) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
        """Write what an event means; returns the sentences, and (reason, running builds)."""
        at = self._clock.now()
        number = event.patchset.number if event.patchset else 0
        if not any(d.starts for d in decisions) and self._unwatched(event):
            return explain(decisions), []
        newest = builds.upsert_change(tx, event.connection, event.change, number, at=at)
        if event.kind in ENDS:
            reason = ENDS[event.kind]
            ids = builds.cancel_builds(
                tx,
                connection=event.connection,
                change_number=event.change.number,
                reason=reason,
                at=at,
            )
            return [reason], [(reason, ids)]
        reason = f"patch set {newest} replaced this one"
        ids = builds.cancel_builds(
            tx,
            connection=event.connection,
            change_number=event.change.number,
            reason=reason,
            at=at,
            below_patchset=newest,
        )
        said = [self._start(tx, event_id, event, d, newest) for d in decisions]
        return said, [(reason, ids)]

    def _unwatched(self, event: Event) -> bool:
        return self._layout().project(event.change.project) is None

    def _start(
        self, tx: sa.Connection, event_id: int, event: Event, decision: Decision, newest: int
    ) -> str:
        """Queue the buildset of one decision; returns the sentence for the event's row."""
        patchset = event.patchset
        if not decision.starts or patchset is None:
            return explain([decision])[0]
        if patchset.number < newest:
            return (
                f"{decision.pipeline} does not start: patch set {patchset.number} is no longer "
                f"current, {newest} is."
            )
        layout = self._layout()
        made = builds.add_buildset(
            tx,
            NewBuildset(
                connection=event.connection,
                change=event.change,
                patchset=patchset,
                pipeline=decision.pipeline,
                jobs=[layout.job(name) for name in decision.jobs],
                event_id=event_id,
                reason=decision.reason,
            ),
            at=self._clock.now(),
        )
        if made is None:
            return f"{decision.pipeline} does not start: a run of this patch set is under way."
        return explain([decision])[0]
