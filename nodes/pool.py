# SPDX-License-Identifier: Apache-2.0
"""Step 4 of 9, lease. Before: build. After: run.

In: a node label and who asks. Out: a Lease on one node with a fencing token, and the
Endpoint of a machine that was just made ready. A lease is renewed at a third of its term;
one that could not be renewed for two thirds of it fences itself: the attempt is told to end
before anybody else may hold the node.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa

from ci.cancel import CancelToken
from ci.clock import Clock
from ci.errors import BuildCanceled, HypervouchError, LeaseLost, StorageError
from ci.log import get
from ci.model.node import Endpoint, Lease, NodeState
from ci.notice_texts import quarantine_notice
from ci.store import leases, notices
from ci.store.database import Database
from nodes.providers.base import Provider

QUARANTINE_AFTER = 3
TICK_S = 1.0

Preflight = Callable[[Endpoint], dict[str, str]]


@dataclass(kw_only=True)
class _Held:
    """One lease that this process must keep alive."""

    lease: Lease
    build_id: str
    cancel: CancelToken
    renewed_at_s: float
    due_at_s: float = field(default=0.0)


class NodePool:
    """Every node of this installation, whoever provides it. Thread-safe.

    Args:
        database: Where leases and health live.
        clock: Where time comes from.
        providers: By label; several providers may serve one label.
        preflight: Looks at a node before it is handed out.
        term_s: Seconds a lease lasts without renewal.
        url: Base URL of our pages, for notices.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        providers: Mapping[str, tuple[Provider, ...]],
        preflight: Preflight,
        *,
        term_s: float,
        url: str = "",
    ) -> None:
        self._database = database
        self._url = url
        self._clock = clock
        self._preflight = preflight
        self._term = timedelta(seconds=term_s)
        self._owners = {
            node: (label, provider)
            for label, group in providers.items()
            for provider in group
            for node in provider.node_names()
        }
        self._held: dict[str, _Held] = {}
        self._busy: dict[str, int] = {}  # nodes this process works with, by token; 0: a probe
        self._lock = threading.Lock()
        self._freed = threading.Condition()
        self._stop = threading.Event()
        self._log = get("lease")

    def register(self) -> None:
        """Make the rows of all slots; free what a dead process of this machine still held."""
        with self._database.write() as tx:
            for name, (label, provider) in self._owners.items():
                leases.register(tx, name=name, label=label, provider=provider.name)
            leases.retire_missing(tx, list(self._owners))
            freed = leases.release_all(tx)
        if freed:
            self._log.info("leases of an earlier process were ended", action="free", count=freed)

    def clean(self) -> None:
        """Throw away machines that run without a lease."""
        with self._lock:
            busy = frozenset(self._busy)
        for provider in {p.name: p for _, p in self._owners.values()}.values():
            for node in provider.leaked(busy):
                if node in self._busy:  # leased while the provider looked
                    continue
                self._log.warning("a machine without a lease was ended", action="clean", node=node)
                provider.stop(node)

    def capacity(self, label: str) -> int:
        """Nodes that a label has, busy ones included."""
        return sum(1 for mine, _ in self._owners.values() if mine == label)

    def acquire(
        self,
        label: str,
        *,
        holder: str,
        avoid: Collection[str],
        patience_s: float = 0.0,
        cancel: CancelToken,
    ) -> Lease:
        """Wait for a usable node of a label and lease it.

        Args:
            label: What the job asks for.
            holder: Id of the attempt.
            avoid: Nodes where this build was before; used only when there is no other.
            patience_s: Seconds to wait for another one to be free, or for the avoided ones to
                recover, before one of these is taken after all.
            cancel: Ends the wait.

        Raises:
            HypervouchError: The token's cause.
        """
        strict_until_s = self._clock.monotonic_s() + patience_s
        while True:
            cancel.check()
            with self._database.write() as tx:
                lease = leases.take(
                    tx,
                    label=label,
                    holder=holder,
                    avoid=avoid,
                    strict=self._clock.monotonic_s() < strict_until_s,
                    now=self._clock.now(),
                    term=self._term,
                )
                if lease:  # before the commit: what is leased is never seen as leaked
                    self._mark(lease.node, lease.token)
            if lease:
                return lease
            with self._freed:
                self._freed.wait(0.5)

    def start(self, lease: Lease) -> Endpoint:
        """Make the machine of a leased node and look at it before it is handed out.

        Raises:
            NodeUnavailable: It did not come up, or it is not fit.
        """
        _, provider = self._owners[lease.node]
        endpoint = provider.start(lease.node, lease.holder)
        endpoint.facts.update(self._preflight(endpoint))
        return endpoint

    def note_failure(self, node: str, reason: str) -> None:
        """Count a failure against a node; the third in a row quarantines it."""
        with self._database.write() as tx:
            failures = leases.failures_of(tx, node) + 1
            if failures >= QUARANTINE_AFTER:
                self._take_out(tx, node, reason, failures)
            else:
                leases.set_health(
                    tx,
                    name=node,
                    state=NodeState.UNKNOWN,
                    reason=reason,
                    failures=failures,
                    now=self._clock.now(),
                )
        self._log.warning(
            "node failed", action="health", node=node, failures=failures, reason=reason
        )

    def quarantine(self, node: str, reason: str) -> None:
        """Take a node out of work until a probe finds it fit."""
        with self._database.write() as tx:
            self._take_out(tx, node, reason, QUARANTINE_AFTER)

    def _take_out(self, tx: sa.Connection, node: str, reason: str, failures: int) -> None:
        """Quarantine a node; one that was fit before gets a notice."""
        now = self._clock.now()
        label = leases.label_when_fit(tx, node)
        leases.set_health(
            tx, name=node, state=NodeState.BAD, reason=reason, failures=failures, now=now
        )
        if label is not None:
            notice = quarantine_notice(
                node, label=label, reason=reason, failures=failures, url=self._url, at=now
            )
            notices.add(tx, notice)

    def note_success(self, node: str) -> None:
        """A node carried a build to its end: it is good, whatever was counted before."""
        with self._database.write() as tx:
            leases.set_health(
                tx,
                name=node,
                state=NodeState.GOOD,
                reason="",
                failures=0,
                now=self._clock.now(),
            )

    @contextmanager
    def kept(self, lease: Lease, build_id: str, cancel: CancelToken) -> Iterator[None]:
        """Keep a lease alive for the length of a block."""
        now = self._clock.monotonic_s()
        with self._lock:
            self._held[lease.holder] = _Held(
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
                self._held.pop(lease.holder, None)

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still the node's newest and has not run out."""
        with self._database.read() as tx:
            return leases.holds(tx, lease, now=self._clock.now())

    def give_back(self, lease: Lease) -> None:
        """End the machine, then the lease: nobody gets the node while it is still busy.

        Under a stale token the machine is somebody else's, and stays.
        """
        try:
            if self._still_newest(lease):
                self._end_machine(lease.node)
                with self._database.write() as tx:
                    leases.release(tx, lease)
        finally:
            self._unmark(lease.node, lease.token)
            with self._freed:
                self._freed.notify_all()

    def _still_newest(self, lease: Lease) -> bool:
        """Whether nobody leased the node since; gives the machine's end a term of its own."""
        try:
            with self._database.write() as tx:
                return leases.prolong(tx, lease, now=self._clock.now(), term=self._term)
        except StorageError:
            return True  # who cannot write cannot have leased it either

    def _end_machine(self, node: str) -> None:
        _, provider = self._owners[node]
        try:
            provider.stop(node)
        except HypervouchError as error:
            self.note_failure(node, f"its machine could not be ended: {error.message}")

    def _mark(self, node: str, token: int) -> None:
        with self._lock:
            self._busy[node] = token

    def _unmark(self, node: str, token: int) -> None:
        with self._lock:
            if self._busy.get(node) == token:
                del self._busy[node]

    def kill_machine(self, node: str) -> None:
        """End a node's machine under whoever holds it: what a power cut would do."""
        _, provider = self._owners[node]
        provider.stop(node)

    def probe(self) -> None:
        """Try the machines of quarantined nodes; one that is fit again returns to work.

        Nobody leases a Bad node, so none is needed for the probe.
        """
        for name in self._quarantined():
            _, provider = self._owners[name]
            self._mark(name, 0)
            try:
                self._preflight(provider.start(name, "probe"))
            except HypervouchError as error:
                self.note_failure(name, error.message)
            else:
                self.note_success(name)
            finally:
                self._end_machine(name)
                self._unmark(name, 0)

    def _quarantined(self) -> tuple[str, ...]:
        with self._database.read() as tx:
            bad = leases.in_state(tx, NodeState.BAD)
        return tuple(name for name in bad if name in self._owners)

    def keep_leases(self) -> None:
        """Renew what is held until `stop`; the body of one thread."""
        while not self._stop.wait(TICK_S):
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
                now=self._clock.now(),
                term=self._term,
            )
        if not found.held:
            item.cancel.cancel(
                LeaseLost(f"somebody else holds {item.lease.node} by now: its lease ran out")
            )
        elif found.cancel_reason:
            item.cancel.cancel(BuildCanceled(found.cancel_reason))
        item.renewed_at_s = now
        item.due_at_s = now + self._term.total_seconds() / 3
