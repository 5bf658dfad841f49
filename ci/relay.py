# SPDX-License-Identifier: Apache-2.0
"""Step 8 of 9, vote. Before: judge. After: page.

In: Outbox rows, each written in one transaction with its Verdict. Out: a review on Gerrit.
Delivery is at least once and every reporter reads back before it posts, so what appears is
exactly one. A dead server stops only its own rows: each connection has a relay of its own.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from ci.backoff import Backoff
from ci.bell import Bell
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.log import get
from ci.model.review import Review
from ci.reporters.base import Delivery, Reporter
from ci.store import outbox
from ci.store.database import Database

PARALLEL = 4
REFUSED_S = 300.0  # a missing right is mended by people
_STATES = {
    Delivery.DELIVERED: "delivered",
    Delivery.ALREADY_THERE: "delivered",
    Delivery.STALE: "dropped",
}


class Relay:
    """Delivers what is owed to one connection; the body of one thread.

    Args:
        connection: Its name.
        database: Where the outbox is.
        clock: Where time comes from.
        reporter: How to tell.
        bell: Rung when a row was written.
    """

    def __init__(
        self,
        connection: str,
        database: Database,
        clock: Clock,
        reporter: Reporter,
        *,
        bell: Bell,
    ) -> None:
        self._connection = connection
        self._database = database
        self._clock = clock
        self._reporter = reporter
        self._bell = bell
        self._stop = threading.Event()
        self._away = Backoff(first_s=1.0)
        self._log = get("vote").bind(connection=connection)

    def run(self) -> None:
        """Deliver rows as they come, until `stop`."""
        with ThreadPoolExecutor(PARALLEL, f"relay-{self._connection}") as threads:
            while not self._stop.is_set():
                try:
                    done = self.deliver_due(threads)
                except StorageError as error:
                    self._log.error("delivery waits", action="wait", reason=str(error))
                    self._stop.wait(2.0)
                    continue
                if not done:
                    self._bell.wait(1.0)

    def stop(self) -> None:
        """End `run` after the rows in hand."""
        self._stop.set()
        self._bell.ring()

    def deliver_due(self, threads: ThreadPoolExecutor) -> int:
        """Try the oldest row of each change whose time has come; returns how many."""
        with self._database.read() as tx:
            rows = outbox.due(tx, connection=self._connection, now=self._clock.now())
        batch: dict[int, sa.Row[Any]] = {}
        for row in rows:
            batch.setdefault(row.change_number, row)
        list(threads.map(self._try, batch.values()))
        return len(batch)

    def _try(self, row: sa.Row[Any]) -> None:
        """Deliver one row, or put it off with the reason."""
        try:
            delivery, note = self._reporter.deliver(self._review(row))
        except ReviewServerError as error:
            self._postpone(row, str(error), self._away.next_s())
            return
        except HypervouchError as error:
            self._postpone(row, str(error), REFUSED_S)
            return
        except Exception as error:  # noqa: BLE001 - the loop edge: a bug costs time, never a vote
            self._log.exception("a bug in this program", action="bug", change=row.change_number)
            self._postpone(row, f"a bug: {type(error).__name__}: {error}", REFUSED_S)
            return
        self._away.reset()
        if delivery is Delivery.REFUSED:
            self._postpone(row, note, REFUSED_S)
        else:
            self._settle(row, _STATES[delivery], note)

    def _review(self, row: sa.Row[Any]) -> Review:
        return Review(
            project=row.project,
            change_number=row.change_number,
            patchset=row.patchset,
            revision=row.revision,
            tag=row.tag,
            marker=row.marker,
            message=row.message,
            label=row.label,
            value=row.value or 0,
        )

    def _settle(self, row: sa.Row[Any], state: str, note: str) -> None:
        with self._database.write() as tx:
            outbox.settle(tx, row.id, state=state, note=note, at=self._clock.now())
        self._log.info(
            "review settled",
            action=state,
            change=row.change_number,
            patchset=row.patchset,
            label=row.label,
            value=row.value,
            note=note,
        )

    def _postpone(self, row: sa.Row[Any], reason: str, pause_s: float) -> None:
        """Owe it still; what was refused waits for somebody to mend a right."""
        next_at = self._clock.now() + timedelta(seconds=pause_s)
        with self._database.write() as tx:
            outbox.postpone(tx, row.id, error=reason, next_at=next_at)
        self._log.warning(
            "review put off",
            action="retry",
            change=row.change_number,
            tries=row.tries + 1,
            reason=reason,
        )
