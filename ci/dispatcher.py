# SPDX-License-Identifier: Apache-2.0
"""Between steps 3 and 4: each worker takes queued builds for itself, where there is room.

Room is what the node label has: a build never occupies the engine only to wait for a node
that others hold. Our rows are the queue; the engine makes what was started durable. A crash
between the two is mended by `reconcile`.

A build that waits for a review server which is away uses no node: it takes no room, and further
builds of that server's changes wait in the queue, so that other servers' go on.
"""

import threading
from collections.abc import Callable
from typing import Any

from ci import observed
from ci.bell import Bell
from ci.board import turn
from ci.clock import Clock
from ci.engine import Engine
from ci.errors import StorageError
from ci.layout import Layout
from ci.log import get
from ci.maintenance import closed_now
from ci.model.build import Claim
from ci.store import queue
from ci.store.database import Database
from ci.store.moment import moment
from ci.telemetry import Telemetry


class Dispatcher:
    """Starts builds in this process; the body of one thread.

    Args:
        database: Where the queue is.
        clock: Where time comes from.
        engine: Runs them.
        worker: Name of this process.
        slots: Builds that it may run at once, over all labels.
        bell: Rung when a build was queued or ended.
        layout: Gives the current layout: limits of labels, maintenance.
        halted: Whether this process must take no more just now.
        telemetry: Where claims are counted.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        engine: Engine,
        *,
        worker: str,
        slots: int,
        bell: Bell,
        layout: Callable[[], Layout] | None = None,
        halted: Callable[[], bool] = lambda: False,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._database = database
        self._clock = clock
        self._engine = engine
        self._worker = worker
        self._slots = slots
        self._bell = bell
        self._layout = layout
        self._halted = halted
        self._starting = threading.Lock()
        self._stop = threading.Event()
        self._log = get("build")

    def run(self) -> None:
        """Start builds as there is room, until `stop`."""
        while not self._stop.is_set():
            turn()
            try:
                self.dispatch()
            except StorageError as error:
                self._log.error("starting builds waits", action="wait", reason=str(error))
                self._stop.wait(2.0)
            self._bell.wait(1.0)

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()
        self._bell.ring()

    def dispatch(self) -> int:
        """Start what there is room for; returns how many builds were started."""
        started = 0
        with self._starting:
            while not self._stop.is_set() and not self._halted():
                claim = self._next()
                if claim is None:
                    break
                self._engine.submit(claim)
                observed.claimed(
                    self._telemetry, self._database, claim.build_id, at=self._clock.now()
                )
                started += 1
        return started

    def reconcile(self) -> int:
        """Start again what should run here and does not; returns how many builds."""
        with self._starting:
            with self._database.read() as tx:
                lost = self._engine.unknown(queue.running(tx, self._worker))
            self._engine.forget(lost)
            for claim in lost:
                self._log.warning("build taken up again", action="reconcile", build=claim.build_id)
                self._engine.submit(claim)
        return len(lost)

    def forget(self) -> int:
        """Drop the engine's records of what ended; returns how many.

        Not while `reconcile` submits one of them anew: its new record would be dropped.
        """
        with self._starting:
            ended = self._engine.finished()
            self._engine.forget(ended)
        return len(ended)

    def _next(self) -> Claim | None:
        """Claim one build; the lock that all writers share is taken only when there is one."""
        with self._database.read() as tx:
            at = moment(tx, self._clock)
            wanted: dict[str, Any] = {"worker": self._worker, "slots": self._slots, "at": at}
            if self._layout is not None:
                layout = self._layout()
                wanted["limits"] = layout.label_slots
                wanted["closed"] = closed_now(layout.maintenance, at)
            if not queue.could_start(tx, **wanted):
                return None
        with self._database.write() as tx:
            return queue.claim_next(tx, **wanted)
