# SPDX-License-Identifier: Apache-2.0
"""Keeps leases alive: one thread renews what this process holds, and fences what it cannot.

A lease is renewed at a third of its term; one that could not be renewed for two thirds of it is
given up: the attempt is told to end before anybody else may hold the node.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from ci.board import turn
from ci.cancel import CancelToken
from ci.clock import Clock
from ci.errors import BuildCanceled, LeaseLost, StorageError
from ci.model.node import Lease
from ci.store import leases
from ci.store.database import Database
from ci.store.moment import moment

TICK_S = 1.0


@dataclass(kw_only=True)
class _Held:
    """One lease that this process must keep alive."""

    lease: Lease
    build_id: str
    cancel: CancelToken
    renewed_at_s: float
    due_at_s: float = field(default=0.0)


class LeaseKeeper:
    """Renews leases. Thread-safe.

    Args:
        database: Where they are.
        clock: Where time comes from.
        term: How long a lease lasts without renewal.
    """

    def __init__(self, database: Database, clock: Clock, term: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._term = term
        self._held: dict[str, _Held] = {}  # by node
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextmanager
    def kept(self, lease: Lease, build_id: str, cancel: CancelToken) -> Iterator[None]:
        """Keep a lease alive for the length of a block."""
        now = self._clock.monotonic_s()
        with self._lock:
            self._held[lease.node] = _Held(
                lease=lease,
                build_id=build_id,
                cancel=cancel,
                renewed_at_s=now,
                due_at_s=now + self._term.total_seconds() / 3,
            )
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(lease.node, None)

    def held(self) -> int:
        """Leases that this process keeps alive."""
        with self._lock:
            return len(self._held)

    def keep_leases(self) -> None:
        """Renew what is held until `stop`; the body of one thread."""
        while not self._stop.wait(TICK_S):
            turn()
            with self._lock:
                held = list(self._held.values())
            for item in held:
                self._keep(item)

    def stop(self) -> None:
        """End `keep_leases`."""
        self._stop.set()

    def _keep(self, item: _Held) -> None:
        try:
            self._look(item, self._clock.monotonic_s())
        except StorageError as error:
            # The refusal itself may have taken long: a locked database waits.
            silent_s = self._clock.monotonic_s() - item.renewed_at_s
            if silent_s > self._term.total_seconds() * 2 / 3:
                item.cancel.cancel(
                    LeaseLost(
                        f"the lease on {item.lease.node} could not be renewed: {error.message}"
                    )
                )

    def _look(self, item: _Held, now: float) -> None:
        """See every tick whether the build is cancelled; renew at a third of the term."""
        if now < item.due_at_s:
            with self._database.read() as tx:
                reason = leases.cancel_reason(tx, item.build_id)
            if reason:
                item.cancel.cancel(BuildCanceled(reason))
            return
        with self._database.write() as tx:
            found = leases.renew(
                tx,
                item.lease,
                build_id=item.build_id,
                now=moment(tx, self._clock),
                term=self._term,
            )
        with self._lock:
            if self._held.get(item.lease.node) is not item:
                return  # given back meanwhile
        if not found.held:
            item.cancel.cancel(
                LeaseLost(f"somebody else holds {item.lease.node} by now: its lease ran out")
            )
        elif found.cancel_reason:
            item.cancel.cancel(BuildCanceled(found.cancel_reason))
        item.renewed_at_s = now
        item.due_at_s = now + self._term.total_seconds() / 3
