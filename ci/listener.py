# SPDX-License-Identifier: Apache-2.0
"""Step 1 of 9, event. Before: Gerrit. After: trigger.

In: lines of `stream-events`, and rows of the catch-up query after every connect. Out: one
stored Event per fact, with the watermark moved in the same transaction. The stream has no
replay, so the watermark stands still until the catch-up of a new connection is done: a crash
in between reads the gap again. Dates are the server's own throughout; our clock only measures
how long it was silent.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from ci.backoff import Backoff
from ci.board import turn
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.gerrit.history import Reading
from ci.gerrit.parse import Ignored, MalformedEvent, parse_line
from ci.log import get
from ci.metrics import silence_of
from ci.model.event import BranchMoved, Event, EventKind
from ci.store import approvals, branches, events
from ci.store.database import Database
from ci.telemetry import Telemetry

SETTLED_S = 10.0
SILENCE_S = 60.0
CHUNK = 200
"""Caught-up events stored in one transaction."""


class Stream(Protocol):
    """A live subscription to one server's events."""

    def run_once(self) -> None:
        """Connect and read until the stream ends or `stop` is called.

        Raises:
            HypervouchError: It could not be opened, or broke.
        """
        ...

    def stop(self) -> None:
        """End `run_once` soon; from any thread."""
        ...


class History(Protocol):
    """Who can tell what happened while nobody listened."""

    def server_time(self) -> datetime:
        """The server's own clock, aware, UTC."""
        ...

    def reconnected(self) -> None:
        """The stream was opened anew."""
        ...

    def read(self, since: datetime) -> Reading:
        """What happened to watched projects since then and a little before."""
        ...


Owed = Mapping[str, Mapping[EventKind, Collection[str]]]
StreamFactory = Callable[[Callable[[Sequence[bytes]], None], Callable[[], None]], Stream]


class Listener:
    """Keeps one connection's events coming, whatever happens to the connection.

    Args:
        name: The connection.
        database: Where events go.
        clock: Where time comes from.
        open_stream: Makes a Stream out of (on_lines, on_connected).
        history: Asked after every connect, and by a chore.
        own_username: Our account there: its comments are not events to us.
        on_stored: Called when a new event was stored.
        owed: By project that is watched here, which pipelines report after which kind of event.
        silence_s: After so long without a line `check_silence` asks the server.
        telemetry: Where lines and catch-ups are counted.
    """

    def __init__(
        self,
        name: str,
        database: Database,
        clock: Clock,
        open_stream: StreamFactory,
        history: History,
        *,
        own_username: str,
        on_stored: Callable[[], None],
        owed: Owed | None = None,
        silence_s: float = SILENCE_S,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.name = name
        self._metrics = (telemetry or Telemetry()).metrics
        self._database = database
        self._clock = clock
        self._open_stream = open_stream
        self._history = history
        self._own_username = own_username
        self._on_stored = on_stored
        self._owed = owed or {}
        self._silence_s = silence_s
        self._heard_at_s = clock.monotonic_s()  # or when it was asked, see `check_silence`
        self._line_at_s = self._heard_at_s
        self._begun = False  # there is a watermark; none is ever taken away
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._gap = 0  # counts connects: a catch-up closes only gaps older than itself
        self._gap_lock = threading.Lock()
        self._catching_up = threading.Lock()
        self._connected_at_s = 0.0
        self._stream: Stream | None = None
        self._log = get("event").bind(connection=name)

    def run(self) -> None:
        """Connect, listen, connect again, until `stop`; the body of one thread."""
        silence_of(self._metrics, self.name, self.silent_s)
        backoff = Backoff(most_s=10.0)
        while not self._stop.is_set():
            turn()
            self._open_gap()
            self._connected_at_s = 0.0
            error = self._listen()
            self._metrics.connected.labels(self.name).set(0)
            if (
                self._connected_at_s
                and self._clock.monotonic_s() - self._connected_at_s > SETTLED_S
            ):
                backoff.reset()
            if self._stop.is_set():
                break
            pause_s = backoff.next_s()
            self._state("away", f"{error}; next try in {pause_s:.0f} s")
            self._stop.wait(pause_s)
        self._metrics.silence.remove(self.name)

    def silent_s(self) -> float:
        """Seconds since the last line, or since the stream was opened."""
        return self._clock.monotonic_s() - self._line_at_s

    def standing(self) -> str:
        """That all events are here up to now.

        Raises:
            ReviewServerError: They are not, and why.
        """
        if not self._connected_at_s:
            raise ReviewServerError("the event stream is not open")
        if not self._caught_up.is_set():
            raise ReviewServerError("the event stream is open, missed events are being read")
        return f"the event stream is open and caught up, last line {self.silent_s():.0f} s ago"

    def stop(self) -> None:
        """End `run` promptly."""
        self._stop.set()
        if self._stream:
            self._stream.stop()

    def _listen(self) -> str:
        """One connection's life; returns why it ended."""
        self._state("connecting", "")
        self._stream = self._open_stream(self.take_lines, self._connected)
        if self._stop.is_set():
            return "stopped"
        try:
            self._stream.run_once()
        except HypervouchError as error:
            return str(error)
        return "the server closed the stream"

    def _connected(self) -> None:
        """The subscription stands: nothing is missed from here on, so ask for what was.

        Called again when the server says that it dropped events.
        """
        self._open_gap()
        self._history.reconnected()
        now_s = self._clock.monotonic_s()
        self._connected_at_s = self._heard_at_s = self._line_at_s = now_s
        self._metrics.connected.labels(self.name).set(1)
        self._state("connected", "")
        threading.Thread(
            target=self._catch_up_until_done, name=f"catch-up-{self.name}", daemon=True
        ).start()

    def _open_gap(self) -> None:
        """From now on the watermark stands still, until a catch-up that begins later is done."""
        with self._gap_lock:
            self._gap += 1
            self._caught_up.clear()

    def _close_gap(self, gap: int) -> None:
        with self._gap_lock:
            if gap == self._gap:
                self._caught_up.set()

    def take_line(self, line: bytes) -> None:
        """Store one line of the stream; see `take_lines`."""
        self.take_lines([line])

    def take_lines(self, lines: Sequence[bytes]) -> None:
        """Store lines of the stream, all in one go; the reader waits while the disk is full."""
        self._heard_at_s = self._line_at_s = self._clock.monotonic_s()
        self._metrics.lines.labels(self.name).inc(len(lines))
        told: list[Event | BranchMoved] = []
        malformed = unknown = 0
        for line in lines:
            try:
                one = parse_line(line, self.name)
            except MalformedEvent as error:
                self._log.warning("line skipped", action="malformed", reason=str(error))
                malformed += 1
                continue
            if isinstance(one, Ignored):
                unknown += not one.expected
            elif self._is_wanted(one):
                told.append(one)
        if told:
            self._patiently(lambda: self._store(told))
        ignored = len(lines) - malformed - unknown - len(told)
        self._count(malformed=malformed, unknown=unknown, ignored=ignored)
        if malformed or unknown:
            self._patiently(
                lambda: events.count_lines(
                    self._database, self.name, malformed=malformed, unknown=unknown
                )
            )

    def _is_wanted(self, told: Event | BranchMoved) -> bool:
        """Not our own comments coming back, and no branches of projects nobody watches."""
        if isinstance(told, BranchMoved):
            return told.project in self._owed
        return not self._is_echo(told)

    def _is_echo(self, event: Event) -> bool:
        """Whether it is our own comment coming back: every review of ours does."""
        return event.kind is EventKind.COMMENT_ADDED and event.author.username == self._own_username

    def _store(self, told: Sequence[Event | BranchMoved]) -> None:
        if not self._begun:
            if events.watermark(self._database, self.name) is None:
                # The first event ever is where history begins, should we die before the catch-up.
                events.advance_watermark(self._database, self.name, told[0].occurred_at)
            self._begun = True
        new = events.store_all(
            self._database,
            told,
            received_at=self._clock.now(),
            move_watermark=self._caught_up.is_set(),
            own_username=self._own_username,
        )
        self._count(stored=new, known=len(told) - new)
        if new:
            self._on_stored()

    def _count(self, **outcomes: int) -> None:
        for outcome, count in outcomes.items():
            if count:
                self._metrics.events.labels(self.name, outcome).inc(count)

    def _patiently(self, write: Callable[[], None]) -> None:
        """Repeat a write until the disk takes it; what is unread stays with the server."""
        backoff = Backoff()
        while not self._stop.is_set():
            turn()
            try:
                write()
            except StorageError as error:
                self._log.error("event waits", action="wait", reason=str(error))
                self._stop.wait(backoff.next_s())
            else:
                return

    def _catch_up_until_done(self) -> None:
        backoff = Backoff()
        mine = self._stream
        while not self._stop.is_set() and self._stream is mine:
            try:
                self.catch_up()
            except (ReviewServerError, StorageError) as error:
                pause_s = backoff.next_s()
                self._state("connected", f"catch-up waits: {error}")
                self._stop.wait(pause_s)
            else:
                self._state("connected", "")
                return

    def catch_up(self) -> int:
        """Ask for what happened since the watermark and store what is new.

        On the very first start there is no watermark: it is set to now, since history is
        not tested.

        Returns:
            How many events were new.

        Raises:
            ReviewServerError: The server did not answer; nothing is lost by trying again.
            StorageError: The disk did not take it; likewise.
        """
        with self._catching_up, self._metrics.catch_up(self.name):
            gap = self._gap
            since = events.watermark(self._database, self.name)
            if since is None:
                reading = Reading(until=self._history.server_time())
            else:
                reading = self._history.read(since)
            found, until = self._take_reading(reading), reading.until
            if until is None:
                raise ReviewServerError(
                    f"REST does not answer; by SSH {found} new events were found, and whatever"
                    " SSH does not tell waits for REST",
                    retryable=True,
                )
            events.advance_watermark(self._database, self.name, until)
            self._close_gap(gap)
        self._metrics.caught_up.labels(self.name).inc(found)
        self._log.info("caught up", action="catch-up", found=found)
        return found

    def check_silence(self) -> None:
        """Catch up if the stream has told nothing for so long; a chore.

        A quiet night and a subscription that died unnoticed look alike. Whatever the listening
        thread does or does not do meanwhile, this needs nothing of it.

        Raises:
            ReviewServerError: The server did not answer; nothing is lost by trying again.
            StorageError: The disk did not take it; likewise.
        """
        quiet_s = self._clock.monotonic_s() - self._heard_at_s
        if quiet_s < self._silence_s or self._catching_up.locked():
            return
        self._heard_at_s = self._clock.monotonic_s()
        self.catch_up()

    def _take_reading(self, reading: Reading) -> int:
        """Store what a reading tells; returns how many events were new."""
        answered = dict(self._answered(reading))
        wanted = [one for one in reading.events if not self._is_echo(one)]
        found = 0
        for first in range(0, len(wanted), CHUNK):
            found += events.store_all(
                self._database,
                wanted[first : first + CHUNK],
                received_at=self._clock.now(),
                move_watermark=False,
                own_username=self._own_username,
                answered=answered,
            )
        if found:
            self._on_stored()
        self._settle(reading)
        return found

    def _answered(self, reading: Reading) -> Iterable[tuple[str, str]]:
        """Events that every pipeline reported on already, with that as their decision.

        Our rows may be those of a backup, and the reports younger than it. Where a pipeline
        is still owing all are run again, and those that reported find their own words there.
        """
        for event in reading.events:
            by = reading.answered.get(event.key, frozenset())
            owed = set(self._owed.get(event.change.project, {}).get(event.kind, ()))
            if owed and owed <= by:
                yield event.key, f"reported already by {', '.join(sorted(owed))}."

    def _settle(self, reading: Reading) -> None:
        for first in range(0, len(reading.standing), CHUNK):
            with self._database.write() as tx:
                for one in reading.standing[first : first + CHUNK]:
                    approvals.settle(
                        tx,
                        self.name,
                        one.change_number,
                        one.patchset,
                        standing=one.approvals,
                        as_of=one.as_of,
                        own_username=self._own_username,
                    )
        if reading.branches:
            with self._database.write() as tx:
                branches.record(tx, [one for one in reading.branches if self._is_wanted(one)])

    def _state(self, state: str, message: str) -> None:
        try:
            events.set_connection_state(
                self._database, self.name, state, message, at=self._clock.now()
            )
        except StorageError as error:
            self._log.error("state not written", action="state", reason=str(error))
        if message:
            self._log.warning("connection", action=state, reason=message)
