# SPDX-License-Identifier: Apache-2.0
"""Step 1 of 9, event. Before: Gerrit. After: trigger.

In: lines of `stream-events`, and rows of the catch-up query after every connect. Out: one
stored Event per fact, with the watermark moved in the same transaction. The stream has no
replay, so the watermark stands still until the catch-up of a new connection is done: a crash
in between reads the gap again.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from ci.backoff import Backoff
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.gerrit.parse import Ignored, MalformedEvent, parse_line
from ci.log import get
from ci.model.event import Event, EventKind
from ci.store import events
from ci.store.database import Database

SETTLED_S = 10.0


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

    def missed(self, since: datetime) -> Iterator[Event]:
        """What happened to watched projects since then and a little before, oldest first."""
        ...


StreamFactory = Callable[[Callable[[bytes], None], Callable[[], None]], Stream]


class Listener:
    """Keeps one connection's events coming, whatever happens to the connection.

    Args:
        name: The connection.
        database: Where events go.
        clock: Where time comes from.
        open_stream: Makes a Stream out of (on_line, on_connected).
        history: Asked after every connect, and by a chore.
        own_username: Our account there: its comments are not events to us.
        on_stored: Called when a new event was stored.
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
    ) -> None:
        self.name = name
        self._database = database
        self._clock = clock
        self._open_stream = open_stream
        self._history = history
        self._own_username = own_username
        self._on_stored = on_stored
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
        backoff = Backoff(most_s=10.0)
        while not self._stop.is_set():
            self._open_gap()
            self._connected_at_s = 0.0
            error = self._listen()
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

    def stop(self) -> None:
        """End `run` promptly."""
        self._stop.set()
        if self._stream:
            self._stream.stop()

    def _listen(self) -> str:
        """One connection's life; returns why it ended."""
        self._state("connecting", "")
        self._stream = self._open_stream(self.take_line, self._connected)
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
        self._connected_at_s = self._clock.monotonic_s()
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
        """Store one line of the stream; the reader waits while the disk is full."""
        try:
            event = parse_line(line, self.name)
        except MalformedEvent as error:
            self._log.warning("line skipped", action="malformed", reason=str(error))
            self._patiently(lambda: events.count_line(self._database, self.name, malformed=True))
            return
        if isinstance(event, Event) and self._is_echo(event):
            return
        if isinstance(event, Ignored):
            self._patiently(lambda: events.count_line(self._database, self.name, malformed=False))
            return
        self._patiently(lambda: self._store(event))

    def _is_echo(self, event: Event) -> bool:
        """Whether it is our own comment coming back: every review of ours does."""
        return event.kind is EventKind.COMMENT_ADDED and event.author.username == self._own_username

    def _store(self, event: Event) -> None:
        if events.watermark(self._database, self.name) is None:
            # The first event ever is where history begins, should we die before the catch-up.
            events.advance_watermark(self._database, self.name, event.occurred_at)
        new = events.store(
            self._database,
            event,
            received_at=self._clock.now(),
            move_watermark=self._caught_up.is_set(),
        )
        if new:
            self._on_stored()

    def _patiently(self, write: Callable[[], None]) -> None:
        """Repeat a write until the disk takes it; what is unread stays with the server."""
        backoff = Backoff()
        while not self._stop.is_set():
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
        with self._catching_up:
            gap = self._gap
            until = self._history.server_time()
            since = events.watermark(self._database, self.name)
            found = 0
            if since is not None:
                for event in self._history.missed(since):
                    if self._is_echo(event):
                        continue
                    found += events.store(
                        self._database,
                        event,
                        received_at=self._clock.now(),
                        move_watermark=False,
                    )
            events.advance_watermark(self._database, self.name, until)
            self._close_gap(gap)
        if found:
            self._on_stored()
        self._log.info("caught up", action="catch-up", found=found)
        return found

    def _state(self, state: str, message: str) -> None:
        try:
            events.set_connection_state(
                self._database, self.name, state, message, at=self._clock.now()
            )
        except StorageError as error:
            self._log.error("state not written", action="state", reason=str(error))
        if message:
            self._log.warning("connection", action=state, reason=message)
