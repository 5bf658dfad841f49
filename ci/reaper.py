# SPDX-License-Identifier: Apache-2.0
"""Builds of workers that are gone go back into the queue; a chore of the elected process.

A worker is gone when nobody heard of it for its term, or it said itself that it stopped. What
it still writes afterwards is refused by the fence of its claim. Its nodes are not freed here:
their leases run out by themselves, and the next holder makes them clean first.
"""

from collections.abc import Callable
from datetime import timedelta

from ci.clock import Clock
from ci.engine import EngineRecords
from ci.log import get
from ci.model.build import Claim
from ci.store import attempts, orphans, processes, queue
from ci.store.database import Database
from ci.store.moment import moment

BATCH = 100
TURNS = 1000
FORGOTTEN = timedelta(days=7)
"""A process that was not heard of for so long and has nothing left is no longer listed."""


class Reaper:
    """Takes back what dead workers hold. Repeatable; two at once do no harm.

    Args:
        database: Where builds and processes are.
        clock: Where time comes from.
        records: The engine's records, of which those of dead claims are dropped.
        term_s: Seconds after its last beat when a process counts as dead.
        on_queued: Called when builds wait again.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        records: EngineRecords,
        *,
        term_s: float,
        on_queued: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._records = records
        self._term = timedelta(seconds=term_s)
        self._on_queued = on_queued
        self._log = get("reaper")
        self._idle_told = False

    def run(self) -> int:
        """Put back every build of a dead worker, until none is left; returns how many.

        Raises:
            StorageError: The database is away; the next turn goes on.
        """
        found = 0
        for _ in range(TURNS):
            taken = self._batch()
            if not taken:
                break
            found += len(taken)
        if found:
            self._on_queued()
        self._alarm()
        return found

    def clean(self) -> int:
        """Drop the engine's records that nobody goes on with; returns how many.

        Raises:
            StorageError: A database is away; the next turn goes on.
        """
        with self._database.write() as tx:
            processes.forget(tx, before=moment(tx, self._clock) - FORGOTTEN)
        records = self._records.of()
        with self._database.read() as tx:
            since = moment(tx, self._clock) - self._term
            alive = set(processes.alive(tx, since=since))
            current = orphans.current(tx, [one.claim for one in records])
        gone = [
            one
            for one in records
            if (one.executor not in alive or not one.current)
            and (one.finished or one.claim not in current)
        ]
        self._records.delete(gone)
        if gone:
            self._log.info("records of old claims dropped", action="clean", count=len(gone))
        return len(gone)

    def _batch(self) -> list[Claim]:
        with self._database.write() as tx:
            now = moment(tx, self._clock)
            found = orphans.orphans(tx, since=now - self._term, limit=BATCH)
            for one in found:
                queue.put_back(tx, one.claim.build_id, one.claim.number)
                attempts.close_open(tx, one.claim.build_id, at=now)
        for one in found:
            self._log.warning(
                "build taken back from a dead worker",
                action="reap",
                build=one.claim.build_id,
                claim=one.claim.number,
                worker=one.worker,
            )
        return [one.claim for one in found]

    def _alarm(self) -> None:
        """Say once that builds wait and nobody is there who runs builds."""
        with self._database.read() as tx:
            idle = orphans.nobody_works(tx, since=moment(tx, self._clock) - self._term)
        if idle and not self._idle_told:
            self._log.error(
                "builds wait, and no process runs any",
                action="idle",
                queued=idle,
                hint="start one with the role work: hypervouch serve or hypervouch work",
            )
        self._idle_told = bool(idle)
