# SPDX-License-Identifier: Apache-2.0
"""Which process does what only one may do: leases in `ci_leader`, taken, renewed and given up.

A lease is renewed at a third of its term. A holder that could not renew for two thirds of it
steps down by its own monotonic clock, before anybody else may take the lease. What the leader
runs is made anew at each win and stopped at each loss. Where only one process can exist
(SQLite) it leads without a lease.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import sqlalchemy as sa

from ci.backoff import Backoff
from ci.board import HealthBoard, beating, turn
from ci.clock import Clock
from ci.errors import StorageError
from ci.leadership import Leadership
from ci.log import get
from ci.store import leaders
from ci.store.database import Database
from ci.store.leaders import Lead
from ci.store.moment import moment

LOOK_S = 0.5
JOIN_S = 25.0


class Led(Protocol):
    """What a leader runs."""

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """End, after what is in hand."""
        ...


class Identity(Protocol):
    """The process that stands for election."""

    @property
    def name(self) -> str:
        """Stays over restarts."""
        ...

    @property
    def incarnation(self) -> str:
        """New at each start."""
        ...


class Candidate:
    """One lease that this process wants, and what it runs while it has it.

    Args:
        name: Of the lease: `listen:gerrit`.
        make: Makes what is led; called at each win.
        clock: Its `monotonic_s` decides when to step down.
    """

    def __init__(self, name: str, make: Callable[[Leadership], Led], clock: Clock) -> None:
        self.name = name
        self.renewed_s = 0.0
        self._make = make
        self._clock = clock
        self._won: Leadership | None = None
        self._led: Led | None = None
        self._under: Leadership | None = None  # what `_led` runs under
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lead-{name}", daemon=True)
        self._board: HealthBoard | None = None
        self._log = get("election").bind(lease=name)

    @property
    def won(self) -> Leadership | None:
        """The newest win, while it holds."""
        return self._won if self._won is not None and self._won.holds else None

    @property
    def leads(self) -> bool:
        """Whether what is led runs."""
        return self._led is not None

    @property
    def stopping(self) -> bool:
        """Whether it wants the lease no longer."""
        return self._stop.is_set()

    def start(self, board: HealthBoard | None = None) -> None:
        """Wait for a win; returns at once."""
        self._board = board
        self._thread.start()

    def elect(self, leadership: Leadership) -> None:
        """The lease was won."""
        self._won = leadership
        self._changed.set()

    def wake(self) -> None:
        """Look at once whether the lease is still held."""
        self._changed.set()

    def stop(self) -> None:
        """Stop what is led, for good; returns when it has ended."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def step(self) -> float:
        """Bring what runs in line with what was won; returns for how long that stands.

        Nothing here waits for the database: a lease is given up in time though it is away.
        """
        won = None if self._stop.is_set() else self.won
        if self._led is not None and won is not self._under:
            self._end()
        if self._led is None and won is not None:
            self._begin(won)
        return min(LOOK_S, won.left_s) if won is not None else LOOK_S

    def _begin(self, won: Leadership) -> None:
        self._log.info("elected", action="elected", token=won.token)
        self._led, self._under = self._make(won), won
        self._led.start()

    def _end(self) -> None:
        if not self._stop.is_set():
            self._log.warning("no longer the leader", action="lost")
        try:
            if self._led is not None:
                self._led.stop()
        finally:
            self._led = self._under = None

    def _run(self) -> None:
        with beating(self._board, f"lead {self.name}"):
            self._loop()

    def _loop(self) -> None:
        while not self._stop.is_set():
            turn()
            try:
                pause_s = self.step()
            except Exception:  # noqa: BLE001 - the loop edge: told, given up, and tried again
                self._log.exception("a bug in this program", action="lead")
                pause_s = 2.0
            self._changed.wait(pause_s)
            self._changed.clear()
        self.step()


class Election:
    """Every lease that one process wants.

    Lifecycle: `stand` for each, `start` once, `resign` in any order, `stop` at the end.

    Args:
        database: Where the leases are.
        clock: Where time comes from.
        identity: Name and incarnation of this process.
        term_s: Seconds after the last renewal when others may take a lease.
        board: Shows whether its threads still turn.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        identity: Identity,
        *,
        term_s: float,
        board: HealthBoard | None = None,
    ) -> None:
        self._board = board
        self._database = database
        self._clock = clock
        self._identity = identity
        self._term = timedelta(seconds=term_s)
        self._holds_s = term_s * 2 / 3
        self._renew_s = term_s / 3
        self._candidates: list[Candidate] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="election", daemon=True)
        self._log = get("election")

    def stand(self, name: str, make: Callable[[Leadership], Led]) -> Candidate:
        """Want a lease; before `start`."""
        made = Candidate(name, make, self._clock)
        self._candidates.append(made)
        return made

    def start(self) -> None:
        """Take what is free, and go on wanting the rest; returns after the first look."""
        for one in self._candidates:
            if not self._database.shared:
                one.elect(Leadership.sole(one.name))
            one.start(self._board)
        if self._database.shared and self._candidates:
            self._thread.start()

    def run(self) -> None:
        """Renew and take leases until `stop`; the body of one thread."""
        with beating(self._board, "election"):
            self._loop()

    def leads(self) -> dict[str, bool]:
        """For each lease that this process wants, whether it does the work of it now."""
        return {one.name: one.leads for one in self._candidates}

    def _loop(self) -> None:
        pauses = Backoff(first_s=0.5, most_s=2.0)
        while not self._stop.is_set():
            turn()
            try:
                self.turn()
            except StorageError as error:
                self._log.error("election waits", action="wait", reason=str(error))
                self._stop.wait(pauses.next_s())
            else:
                pauses.reset()
                self._stop.wait(LOOK_S)

    def turn(self) -> None:
        """Renew what is due and take what is free, in one transaction if there is any.

        Raises:
            StorageError: The database is away; what is held runs out by itself.
        """
        wanted = [(one, one.won) for one in self._candidates]
        with self._database.read() as tx:
            rows, now = leaders.listing(tx), moment(tx, self._clock)
        due = [(one, won) for one, won in wanted if won is not None and self._is_due(one)]
        free = [
            one
            for one, won in wanted
            if won is None and not one.stopping and self._is_free(one, rows, now)
        ]
        if not due and not free:
            return
        # Before the transaction begins: however long it takes, the term counts from here.
        began_s = self._clock.monotonic_s()
        with self._database.write() as tx:
            now = moment(tx, self._clock)
            kept = [(one, won, self._renew(tx, won, now)) for one, won in due]
            taken = [(one, self._take(tx, one, now)) for one in free]
        for one, won, held in kept:
            self._renewed(one, won, held=held, began_s=began_s)
        for one, token in taken:
            if token is not None:
                one.renewed_s = began_s
                until_s = began_s + self._holds_s
                one.elect(Leadership(one.name, token, self._clock, until_s=until_s))

    def _is_due(self, one: Candidate) -> bool:
        return self._clock.monotonic_s() - one.renewed_s >= self._renew_s

    def _is_free(self, one: Candidate, rows: Mapping[str, Lead], now: datetime) -> bool:
        """Whether it can be taken, and what this process led before has ended."""
        row = rows.get(one.name)
        return not one.leads and (row is None or row.is_free(self._identity.name, now=now))

    def _renew(self, tx: sa.Connection, won: Leadership, now: datetime) -> bool:
        return leaders.renew(
            tx,
            won.name,
            token=won.token,
            incarnation=self._identity.incarnation,
            now=now,
            term=self._term,
        )

    def _take(self, tx: sa.Connection, one: Candidate, now: datetime) -> int | None:
        return leaders.take(
            tx,
            one.name,
            holder=self._identity.name,
            incarnation=self._identity.incarnation,
            now=now,
            term=self._term,
        )

    def _renewed(self, one: Candidate, won: Leadership, *, held: bool, began_s: float) -> None:
        if held and won.holds:
            one.renewed_s = began_s
            won.prolong(began_s + self._holds_s)
        else:
            won.end()
            one.wake()

    def resign(self, *names: str) -> None:
        """Stop what is led and give the leases back, of all names that begin so; repeatable."""
        chosen = [one for one in self._candidates if one.name.startswith(names or ("",))]
        for one in chosen:
            one.stop()
        given = [one.won for one in chosen if one.won is not None and one.won.token]
        if given:
            self._give_back(given)

    def _give_back(self, given: Sequence[Leadership]) -> None:
        try:
            with self._database.write() as tx:
                now = moment(tx, self._clock)
                for won in given:
                    leaders.release(tx, won.name, token=won.token, now=now)
        except StorageError as error:
            self._log.warning("leases run out by themselves", action="resign", reason=str(error))
        for won in given:
            won.end()

    def stop(self) -> None:
        """Give up everything; repeatable."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)
        self.resign()
