# SPDX-License-Identifier: Apache-2.0
"""Bells between processes, on PostgreSQL's NOTIFY and LISTEN: they save a poll, no more.

Nothing is sent inside a transaction of ours, and nobody waits for it to be sent: rings are
collected and sent by a thread of their own. One that is lost costs the second until the next
poll; after a connection was lost every bell rings once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from ci.backoff import Backoff
from ci.bell import Bell
from ci.board import turn
from ci.errors import HypervouchBug
from ci.log import get
from ci.store.database import Database

CHANNEL = "hypervouch"
LOOK_S = 1.0


class Wake:
    """Tells other processes of this process's rings, and hears theirs. Thread-safe.

    Args:
        database: PostgreSQL; on SQLite neither `listen` nor `run` may be called.
        on_ring: Called with the name of a bell that another process rang.
        on_gap: Called when rings may have been missed.
    """

    def __init__(
        self, database: Database, *, on_ring: Callable[[str], None], on_gap: Callable[[], None]
    ) -> None:
        self._database = database
        self._on_ring = on_ring
        self._on_gap = on_gap
        self._rung: set[str] = set()
        self._lock = threading.Lock()
        self._bell = Bell()
        self._stop = threading.Event()
        self._log = get("wake")

    def tell(self, name: str) -> None:
        """Ring a bell in the other processes, soon."""
        with self._lock:
            self._rung.add(name)
        self._bell.ring()

    def run(self) -> None:
        """Send rings until `stop`; the body of one thread."""
        self._again_and_again(self._send)

    def listen(self) -> None:
        """Hear rings until `stop`; the body of one thread."""
        self._again_and_again(self._hear)

    def stop(self) -> None:
        """End both."""
        self._stop.set()
        self._bell.ring()

    def _again_and_again(self, body: Callable[[Any, Backoff], None]) -> None:
        pauses = Backoff(first_s=0.5, most_s=5.0)
        while not self._stop.is_set():
            turn()
            try:
                with self._connection() as connection:
                    body(connection, pauses)
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                said = str(error).strip().partition("\n")[0]
                self._log.warning("no bells between processes", action="wait", reason=said)
                self._stop.wait(pauses.next_s())

    def _send(self, connection: Any, pauses: Backoff) -> None:
        while not self._stop.is_set():
            turn()
            if not self._bell.wait(30.0):
                continue
            with self._lock:
                rung, self._rung = self._rung, set()
            for name in sorted(rung):
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, name))
            pauses.reset()

    def _hear(self, connection: Any, pauses: Backoff) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        self._on_gap()
        pauses.reset()
        while not self._stop.is_set():
            turn()
            for one in connection.notifies(timeout=LOOK_S, stop_after=1):
                self._on_ring(one.payload)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of psycopg, out of the pool, that commits each statement by itself."""
        raw = self._database.engine.raw_connection()
        connection = raw.driver_connection
        raw.detach()  # the pool makes another in its place
        if connection is None:
            raise HypervouchBug("the pool gave no connection")
        try:
            connection.rollback()
            connection.autocommit = True
            yield connection
        finally:
            connection.close()
