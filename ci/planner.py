# SPDX-License-Identifier: Apache-2.0
"""Step 3 of 9, build. Before: trigger. After: lease.

In: stored Events, the Layout and, where a file filter asks for it, the list of changed files.
Out: a Buildset with its Builds queued for each pipeline that starts, the builds of older
patch sets cancelled, and on the event's row the reason for yes and for no; all in one
transaction per event, so that a crash repeats the whole event or nothing of it.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus

import sqlalchemy as sa

from ci import observed
from ci.backoff import Backoff
from ci.bell import Bell
from ci.board import turn
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.gerrit.rest import RestError
from ci.inquiry import Answer, Inquiry, Server
from ci.layout import Layout
from ci.log import get
from ci.model.event import Event, EventKind
from ci.recheck import printable
from ci.store import backlog, builds, changes, events, evidence, history
from ci.store.builds import NewBuildset
from ci.store.changes import Standing
from ci.store.database import Database
from ci.telemetry import Telemetry
from ci.triggers import Decision, explain

__all__ = ["Planner", "Server"]

ASK_TRIES = 20
DELETED = "DELETED"
REQUEST = "request"
ENDS = {
    EventKind.CHANGE_ABANDONED: "the change was abandoned",
    EventKind.CHANGE_MERGED: "the change was merged",
    EventKind.CHANGE_DELETED: "the change was deleted",
}


@dataclass(kw_only=True)
class _Applied:
    """What one event came to, inside its transaction.

    Attributes:
        said: Sentences for the event's row.
        stopped: List of (reason, ids of running builds that must stop).
        made: Ids of the buildsets that were queued.
    """

    said: list[str] = field(default_factory=list)
    stopped: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


class Planner:
    """Turns stored events into queued builds; the body of one thread.

    A server that is silent keeps its planner waiting, so each connection has one of its own.

    Args:
        database: Where events and builds live.
        clock: Where time comes from.
        layout: Gives the current layout; a reload swaps it.
        servers: By connection name, whom to ask.
        bell: Rung when an event was stored.
        only: The connection whose events are planned; empty for all.
        skip: Connections whose events are not.
        on_queued: Called after builds were queued.
        on_cancel: Called with the ids of running builds that must stop, and why.
        telemetry: Where what was planned is traced.
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
        only: str = "",
        skip: Collection[str] = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._database = database
        self._clock = clock
        self._layout = layout
        self._inquiry = Inquiry(database, layout, servers)
        self._bell = bell
        self._only = only
        self._skip = tuple(skip)
        self._on_queued = on_queued
        self._on_cancel = on_cancel
        self._away: dict[str, tuple[float, Backoff]] = {}
        self._tries: dict[int, int] = {}
        self._missed: dict[str, int] = {}  # by connection, open buildsets of missed events
        self._stop = threading.Event()
        self._log = get("build")

    def run(self) -> None:
        """Plan events as they are stored, until `stop`."""
        while not self._stop.is_set():
            turn()
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
        if self._missed:
            self._missed = backlog.open_missed(self._database)
        planned = 0
        found = backlog.to_plan(
            self._database, only=self._only, skip=[*self._skip, *away], paced=self._paced()
        )
        for event_id, event in found:
            if self._stop.is_set():
                break
            turn()
            if event.connection in away or self._must_wait(event):
                continue
            if self._try(event_id, event):
                planned += 1
            else:
                away.append(event.connection)
        return planned

    def _paced(self) -> list[str]:
        """Connections whose missed events have as many builds open as they may."""
        most = {one.name: one.catch_up_builds for one in self._layout().connections}
        return [name for name, count in self._missed.items() if count >= most.get(name, count + 1)]

    def _must_wait(self, event: Event) -> bool:
        """Whether a missed event has to wait for builds of other missed ones to end."""
        if event.source != backlog.MISSED or event.kind in backlog.ENDS:
            return False
        if not self._missed:
            self._missed = {event.connection: 0, **backlog.open_missed(self._database)}
        return event.connection in self._paced()

    def _try(self, event_id: int, event: Event) -> bool:
        """Plan one event; False when its server cannot be asked now, so it stays stored.

        A change that is gone is given up. One of which the server never tells while it
        answers is planned without: what has unknown files runs, what has unknown votes does
        not, and the events behind it need not wait for ever.
        """
        began = self._clock.now()
        try:
            ask = self._tries.get(event_id, 0) < ASK_TRIES
            answer = self._inquiry.decide(event, ask=ask)
        except ReviewServerError as error:
            if not isinstance(error, RestError) or error.status == HTTPStatus.UNAUTHORIZED:
                self._postpone(event.connection, error)
                return False
            if error.status != HTTPStatus.NOT_FOUND:
                self._tries[event_id] = self._tries.get(event_id, 0) + 1
                self._postpone(event.connection, error)
                return False
            gone = Decision(pipeline="", starts=False, reason=error.message)
            answer = Answer(decisions=(gone,), change=event.change, patchset=event.patchset)
        self._tries.pop(event_id, None)
        self._away.pop(event.connection, None)
        self._plan(event_id, event, answer, began=began)
        return True

    def _postpone(self, connection: str, error: HypervouchError) -> None:
        _, backoff = self._away.get(connection, (0.0, Backoff()))
        self._away[connection] = (self._clock.monotonic_s() + backoff.next_s(), backoff)
        self._log.warning(
            "planning waits for the server",
            action="wait",
            connection=connection,
            reason=str(error),
        )

    def _plan(self, event_id: int, event: Event, answer: Answer, *, began: datetime) -> None:
        event = replace(event, change=answer.change, patchset=answer.patchset)
        at = self._clock.now()
        with self._database.write() as tx:
            if not events.is_unprocessed(tx, event_id):
                self._log.info("event was planned by another process", action="leave", id=event_id)
                return
            applied = self._apply(tx, event_id, event, answer.decisions)
            events.mark_processed(tx, event_id, decision="\n".join(applied.said), at=at)
        if event.source == backlog.MISSED and applied.made:
            self._missed[event.connection] = self._missed.get(event.connection, 0) + len(
                applied.made
            )
        self._log.info(
            "event planned",
            action="plan",
            change=event.change.number,
            patchset=event.patchset.number if event.patchset else None,
            kind=event.kind.value,
            decision=" | ".join(applied.said),
        )
        observed.planned(
            self._telemetry.traces, event, applied.made, began=began, at=self._clock.now()
        )
        for reason, ids in applied.stopped:
            self._on_cancel(ids, reason)
        self._on_queued()

    def _apply(
        self, tx: sa.Connection, event_id: int, event: Event, decisions: Sequence[Decision]
    ) -> _Applied:
        """Write what an event means."""
        if not any(d.starts for d in decisions) and self._unwatched(event):
            return _Applied(said=explain(decisions))
        change = event.change
        if event.kind is EventKind.CHANGE_DELETED:
            change = replace(change, status=DELETED)
        standing = changes.note(
            tx,
            event.connection,
            change,
            event.patchset.number if event.patchset else 0,
            seen_at=_server_date(event),
            at=self._clock.now(),
        )
        if event.kind in ENDS:
            return self._end(tx, event, standing)
        reason = f"patch set {standing.newest} replaced this one"
        ids = builds.cancel_builds(
            tx,
            connection=event.connection,
            change_number=change.number,
            reason=reason,
            at=self._clock.now(),
            below_patchset=standing.newest,
        )
        applied = _Applied(stopped=[(reason, ids)])
        for decision in decisions:
            made, sentence = self._start(tx, event_id, event, decision, standing)
            if made:
                applied.made.append(made)
            applied.said.append(sentence)
        return applied

    def _unwatched(self, event: Event) -> bool:
        return self._layout().project(event.change.project) is None

    def _end(self, tx: sa.Connection, event: Event, standing: Standing) -> _Applied:
        """Cancel the builds of a change that ended, unless it was taken up again since."""
        reason = ENDS[event.kind]
        restored = standing.overtaken and standing.status not in changes.CLOSED
        if event.kind is EventKind.CHANGE_ABANDONED and restored:
            return _Applied(said=[f"{reason}, and taken up again since"])
        ids = builds.cancel_builds(
            tx,
            connection=event.connection,
            change_number=event.change.number,
            reason=reason,
            at=self._clock.now(),
        )
        if event.kind is EventKind.CHANGE_MERGED:
            merged = event.patchset.number if event.patchset else standing.newest
            evidence.adopt(tx, event.connection, event.change.number, merged)
        return _Applied(said=[reason], stopped=[(reason, ids)])

    def _start(
        self,
        tx: sa.Connection,
        event_id: int,
        event: Event,
        decision: Decision,
        standing: Standing,
    ) -> tuple[str, str]:
        """Queue the buildset of one decision; returns its id or nothing, and what the row says."""
        patchset = event.patchset
        if not decision.starts or patchset is None:
            return "", explain([decision])[0]
        refusal = self._hindrance(tx, event, decision, standing)
        if refusal:
            return "", f"{decision.pipeline} does not start: {refusal}."
        layout, recheck = self._layout(), decision.recheck
        only_first = decision.only_first or event.kind is EventKind.PATCHSET_CREATED
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
                requested_by=_requester(event) if recheck else "",
                request=recheck.reason if recheck else "",
                made_up=event.source == backlog.MISSED,
                occurred_at=_server_date(event),
            ),
            at=self._clock.now(),
            only_first=only_first,
        )
        if made is None:
            why = "ran before" if only_first else "is under way, or began after this was said"
            return "", f"{decision.pipeline} does not start: a run of this patch set {why}."
        return made, explain([decision])[0]

    def _hindrance(
        self, tx: sa.Connection, event: Event, decision: Decision, standing: Standing
    ) -> str:
        """What stored rows say against a start; empty when nothing."""
        number = event.patchset.number if event.patchset else 0
        if number < standing.newest:
            return f"patch set {number} is no longer current, {standing.newest} is"
        if standing.closed_since:
            return f"change {event.change.number} was closed since ({standing.status})"
        if decision.recheck is None or event.source == REQUEST:
            return ""
        limit = self._layout().pipeline(decision.pipeline).recheck_limit
        allowed_at = history.next_recheck_at(
            tx,
            connection=event.connection,
            pipeline=decision.pipeline,
            requested_by=_requester(event),
            count=limit.count,
            per_s=limit.per_s,
            at=self._clock.now(),
        )
        if allowed_at is None:
            return ""
        return (
            f"{_requester(event)} had {limit.count} rechecks within {limit.per_s} s; the next is "
            f"allowed at {allowed_at:%Y-%m-%d %H:%M:%S} UTC"
        )


def _server_date(event: Event) -> datetime | None:
    """The event's date, unless our own clock gave it: the two are never compared."""
    return None if event.source == REQUEST else event.occurred_at


def _requester(event: Event) -> str:
    author = event.author
    return printable(author.username or author.email or author.name or "somebody")[:255]
