# SPDX-License-Identifier: Apache-2.0
"""What a worker writes of its builds: each row only while the build is its own.

The fence is checked in the transaction that writes. A worker that was frozen, cut off, or
started anew elsewhere finds here that its time is over: what it found is kept as evidence.
While the database is away every write waits: an outage costs time, never a build.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ci import observed
from ci.backoff import Backoff
from ci.cancel import CancelToken
from ci.clock import Clock
from ci.errors import ClaimLost, LeaseLost, StorageError
from ci.log import get
from ci.model.build import AttemptKind, Claim
from ci.model.node import Lease
from ci.model.result import Result
from ci.store import attempts, leases
from ci.store.attempts import AttemptEnd, BuildOrder, Fence
from ci.store.database import Database
from ci.store.moment import moment

T = TypeVar("T")


class Stopping(BaseException):
    """This process is going down: the step must not count as done.

    Not an Exception, so that nothing on the way takes it for a result: the engine finds the
    build unfinished at the next start and runs the step again.
    """


class Myself(Protocol):
    """This process as the others see it; `ci.presence.Presence` is one."""

    @property
    def name(self) -> str:
        """What it is called, also after a restart."""
        ...

    @property
    def incarnation(self) -> str:
        """New at each start."""
        ...

    @property
    def fenced(self) -> bool:
        """Whether it must keep still: others may take it for dead."""
        ...


@dataclass(frozen=True, kw_only=True)
class Running:
    """One attempt in hand.

    Attributes:
        attempt_id: Its id.
        kind: Why it runs.
        order: The build.
        fence: What must still be so for anything of it to be written.
        cancel: Ends it early.
    """

    attempt_id: str
    kind: AttemptKind
    order: BuildOrder
    fence: Fence
    cancel: CancelToken


class AttemptRows:
    """Writes rows of attempts under a claim. Thread-safe.

    Args:
        database: Where they are.
        clock: Where time comes from.
        me: This process.
        stop: Set when this process goes down: nothing waits any longer.
    """

    def __init__(
        self, database: Database, clock: Clock, me: Myself, *, stop: threading.Event
    ) -> None:
        self._database = database
        self._clock = clock
        self._me = me
        self._stop = stop
        self._log = get("run")

    def fence(self, build_id: str, claim: int) -> Fence:
        """What this process stands on for a claim that it made."""
        return Fence(
            claim=Claim(build_id, claim), worker=self._me.name, incarnation=self._me.incarnation
        )

    def order(self, fence: Fence) -> BuildOrder | None:
        """The build; None where there is none, or the claim has ended.

        Raises:
            Stopping: This process goes down.
        """
        order = self.patiently(lambda: attempts.load(self._database, fence.claim.build_id))
        if order and (order.worker, order.claim) != (fence.worker, fence.claim.number):
            self.superseded(fence, "its claim has ended")
            return None
        return order

    def superseded(self, fence: Fence, reason: str) -> None:
        """Say that a build is left to whoever has it now."""
        self._log.warning(
            "build left to its new holder",
            action="superseded",
            build=fence.claim.build_id,
            claim=fence.claim.number,
            reason=reason,
        )

    def begin(self, fence: Fence, kind: AttemptKind) -> str:
        """Begin an attempt; returns its id.

        Raises:
            ClaimLost: The build is another worker's by now.
            StorageError: The database is away.
        """
        with self._database.write() as tx:
            attempts.guard(tx, fence)
            return attempts.begin(
                tx,
                fence.claim.build_id,
                kind,
                at=self._clock.now(),
                worker=fence.worker,
                claim=fence.claim.number,
            )

    def note(self, running: Running, **values: object) -> None:
        """Write down how far an attempt is; waits for the database until it is cancelled.

        Raises:
            ClaimLost: The build is another worker's by now.
            HypervouchError: The cause of its cancel.
        """

        def write() -> None:
            with self._database.write() as tx:
                attempts.guard(tx, running.fence)
                attempts.update(tx, running.attempt_id, **values)

        observed.noted(values)
        self.patiently(write, running.cancel)

    def settle(self, running: Running, end: AttemptEnd, held: Sequence[Lease]) -> None:
        """Write outcomes that count: claim and leases hold in the same transaction.

        Raises:
            LeaseLost: They do not; the outcomes were kept as evidence.
            HypervouchError: The cause of its cancel.
        """

        def write() -> LeaseLost | None:
            with self._database.write() as tx:
                attempts.guard(tx, running.fence)
                now, leases_now = self._clock.now(), moment(tx, self._clock)
                gone = [one for one in held if not leases.holds(tx, one, now=leases_now)]
                lost = _ran_out(gone[0]) if gone else None
                attempts.finish(
                    tx, running.attempt_id, _as_lost(end, lost) if lost else end, at=now
                )
                return lost

        try:
            lost = self.patiently(write, running.cancel)
        except LeaseLost as error:  # the claim's, or this process was cut off
            self._keep_evidence(running.attempt_id, end, error)
            raise
        if lost:
            raise lost

    def finish(self, running: Running, end: AttemptEnd) -> None:
        """Close an attempt; one that was settled stays as it is.

        Raises:
            ClaimLost: The build is another worker's by now; kept as evidence.
            Stopping: This process goes down.
        """

        def write() -> None:
            with self._database.write() as tx:
                attempts.guard(tx, running.fence)
                attempts.finish(tx, running.attempt_id, end, at=self._clock.now())

        try:
            self.patiently(write)
        except ClaimLost as error:
            self._keep_evidence(running.attempt_id, end, error)
            raise

    def patiently(self, work: Callable[[], T], cancel: CancelToken | None = None) -> T:
        """Repeat until the database takes it.

        Raises:
            Stopping: This process goes down.
            HypervouchError: The cause of `cancel`, where one is given.
        """
        backoff = Backoff(first_s=1.0, most_s=10.0)
        while True:
            try:
                return work()
            except StorageError as error:
                self._log.error("a build waits for the database", action="wait", reason=str(error))
                if cancel:
                    cancel.wait(backoff.next_s())
                    cancel.check()
                elif self._stop.wait(backoff.next_s()):
                    raise Stopping from error

    def _keep_evidence(self, attempt_id: str, end: AttemptEnd, why: LeaseLost) -> None:
        try:
            with self._database.write() as tx:
                attempts.keep_evidence(tx, attempt_id, end, why.message, at=self._clock.now())
        except StorageError as error:
            self._log.warning("evidence not kept", action="evidence", reason=str(error))


def unheard() -> LeaseLost:
    """Why a process that nobody has heard of for too long ends its attempts."""
    return LeaseLost(
        "this process could not say for two thirds of a term that it lives",
        hint="look whether the database was away, or this machine stood still",
    )


def _ran_out(lease: Lease) -> LeaseLost:
    return LeaseLost(
        f"lease {lease.token} on {lease.node} ran out under this attempt",
        hint="raise lease-s, or look why this machine stood still",
    )


def _as_lost(end: AttemptEnd, why: LeaseLost) -> AttemptEnd:
    """The same outcomes as evidence."""
    return replace(end, result=Result.LOST, error=why.message, hint=why.hint)
