# SPDX-License-Identifier: Apache-2.0
"""Step 4 of 9, lease. Before: build. After: run.

In: a set of node labels and who asks. Out: a Lease on each node with a fencing token, and the
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

from ci.board import turn
from ci.cancel import CancelToken, Deadline
from ci.clock import Clock
from ci.errors import BuildCanceled, HypervouchError, LeaseLost, StorageError
from ci.log import get
from ci.model.node import Endpoint, Lease, NodeState
from ci.notice_texts import quarantine_notice
from ci.scheduling import Needs
from ci.store import leases, notices, pauses
from ci.store.database import Database
from ci.store.leases import Asker
from ci.store.moment import moment
from nodes.ending import Ending
from nodes.inventory import Inventory, Slot
from nodes.providers.base import Provider

QUARANTINE_AFTER = 3
TEARDOWN_S = 60.0
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
        worker: Name of this process.
        tags: What jobs may require of a provider's nodes, by its name.
        closed: Gives the nodes that are in maintenance now.
        leads: Whether this process looks after the nodes that all share.
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
        worker: str = "",
        tags: Mapping[str, tuple[str, ...]] | None = None,
        closed: Callable[[], Collection[str]] = tuple,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._url = url
        self._clock = clock
        self._preflight = preflight
        self._term = timedelta(seconds=term_s)
        self._worker = worker
        self._closed = closed
        self._leads = leads
        self._inventory = Inventory(
            providers, worker=worker, shared=database.shared, tags=tags or {}
        )
        self._held: dict[str, _Held] = {}  # by node
        self._busy: dict[str, int] = {}  # nodes this process works with, by token; 0: a probe
        self._lock = threading.Lock()
        self._freed = threading.Condition()
        self._stop = threading.Event()
        self._log = get("lease")

    def register(self) -> None:
        """Make the rows of all slots; free what an earlier incarnation of this process held.

        All processes have the same configuration: what it no longer has is retired for all.
        """
        with self._database.write() as tx:
            for slot in self._inventory.all():
                leases.register(
                    tx,
                    name=slot.name,
                    label=slot.label,
                    provider=slot.provider.name,
                    tags=slot.tags,
                    worker=self._worker if slot.bound else None,
                )
            names = [slot.name for slot in self._inventory.all()]
            leases.retire_missing(tx, names, worker=self._worker)
            freed = leases.release_all(tx, self._worker if self._database.shared else None)
        if freed:
            self._log.info("leases of an earlier process were ended", action="free", count=freed)

    def clean(self) -> None:
        """Throw away machines that run without a lease.

        A node that other processes use is leased for that moment, so that none of them can.
        """
        with self._lock:
            busy = frozenset(self._busy)
        for provider in self._inventory.providers():
            slots = self._inventory.of_provider(provider)
            mine = frozenset(local for local, slot in slots.items() if slot.name in busy)
            for local in provider.leaked(mine):
                slot = slots[local]
                if slot.name in self._busy:  # leased while the provider looked
                    continue
                if slot.bound or not self._database.shared:
                    self._clean(slot)
                elif self._leads():
                    self._clean_shared(slot)

    def _clean(self, slot: Slot) -> None:
        self._log.warning("a machine without a lease was ended", action="clean", node=slot.name)
        slot.provider.stop(slot.local)

    def _clean_shared(self, slot: Slot) -> None:
        with self._database.write() as tx:
            lease = leases.take_one(tx, slot.name, self._asker(tx, "clean"))
        if lease is None:
            return
        try:
            self._clean(slot)
        finally:
            with self._database.write() as tx:
                leases.release(tx, lease)

    def _asker(self, tx: sa.Connection, holder: str) -> Asker:
        now = moment(tx, self._clock)  # machines may differ: a lease has one time
        return Asker(holder=holder, worker=self._worker, now=now, term=self._term)

    def names_of(self, provider: Provider) -> tuple[str, ...]:
        """The nodes of a provider, as all processes know them."""
        return tuple(slot.name for slot in self._inventory.of_provider(provider).values())

    def acquire(
        self,
        needs: Needs,
        *,
        holder: str,
        avoid: Collection[str],
        patience_s: float = 0.0,
        cancel: CancelToken,
    ) -> tuple[Lease, ...]:
        """Wait for a set of usable nodes and lease it, the whole set at once.

        Args:
            needs: What the job asks for.
            holder: Id of the attempt.
            avoid: Nodes where this build was before; used only when there is no other.
            patience_s: Seconds to wait for another one to be free, or for the avoided ones to
                recover, before one of these is taken after all.
            cancel: Ends the wait.

        Returns:
            One lease a node, the first node's first.

        Raises:
            HypervouchError: The token's cause.
        """
        strict_until_s = self._clock.monotonic_s() + patience_s
        while True:
            cancel.check()
            with self._database.write() as tx:
                asker = self._asker(tx, holder)
                taken = leases.take(
                    tx,
                    needs,
                    asker,
                    avoid=avoid,
                    closed={*pauses.closed(tx, at=asker.now).nodes, *self._closed()},
                    strict=self._clock.monotonic_s() < strict_until_s,
                )
                for lease in taken:  # before the commit: what is leased is never seen as leaked
                    self._mark(lease.node, lease.token)
            if taken:
                return taken
            with self._freed:
                self._freed.wait(0.5)

    def start(self, lease: Lease) -> Endpoint:
        """Make the machine of a leased node and look at it before it is handed out.

        Raises:
            NodeUnavailable: It did not come up, or it is not fit.
        """
        slot = self._inventory.of(lease.node)
        endpoint = slot.provider.start(slot.local, lease.holder)
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

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still the node's newest and has not run out."""
        with self._database.read() as tx:
            return leases.holds(tx, lease, now=moment(tx, self._clock))

    def give_back(
        self, lease: Lease, *, deadline: Deadline | None = None, unclean: str = ""
    ) -> None:
        """End the machine, then the lease: nobody gets the node while it is still busy.

        Whoever `kept` the lease keeps it meanwhile. A machine that did not end in time, or that
        stays with something on it that could not be ended, is taken out of work. Under a stale
        token the machine is somebody else's, and stays.

        Args:
            lease: Which.
            deadline: When to wait for the machine's end no longer.
            unclean: What could not be ended there; counts where the machine itself stays.
        """
        ending: Ending | None = None
        try:
            if self._still_newest(lease):
                slot = self._inventory.of(lease.node)
                ending = Ending(
                    slot.provider, slot.local, lambda: self._unmark(lease.node, lease.token)
                )
                trouble = ending.wait(TEARDOWN_S if deadline is None else deadline.left_s)
                if not trouble and unclean and not slot.provider.disposable:
                    trouble = unclean
                if trouble:
                    self.quarantine(lease.node, f"its teardown failed: {trouble}")
                with self._lock:  # from here on nobody renews it
                    self._held.pop(lease.node, None)
                with self._database.write() as tx:
                    leases.release(tx, lease)
        finally:
            if ending is None or not ending.goes_on:
                self._unmark(lease.node, lease.token)
            with self._freed:
                self._freed.notify_all()

    def _still_newest(self, lease: Lease) -> bool:
        """Whether nobody leased the node since; gives the machine's end a term of its own."""
        try:
            with self._database.write() as tx:
                now = moment(tx, self._clock)
                return leases.prolong(tx, lease, now=now, term=self._term)
        except StorageError:
            # On a file, who cannot write cannot have leased it either.
            return not self._database.shared or self._surely_stands(lease)

    def _surely_stands(self, lease: Lease) -> bool:
        """Whether a lease stands by the time since its last renewal, whatever clocks say."""
        with self._lock:
            item = self._held.get(lease.node)
        if item is None or item.lease is not lease:
            return False  # a machine that is left behind is found and ended later
        return self._clock.monotonic_s() - item.renewed_at_s < self._term.total_seconds()

    def _end_machine(self, node: str) -> None:
        slot = self._inventory.of(node)
        try:
            slot.provider.stop(slot.local)
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
        slot = self._inventory.of(node)
        slot.provider.stop(slot.local)

    def probe(self) -> None:
        """Try the machines of quarantined nodes; one that is fit again returns to work.

        Nobody leases a Bad node, so none is needed for the probe. What several processes share
        is probed by one of them.
        """
        for name in self._quarantined():
            if name in self._busy:  # its machine is still being ended
                continue
            slot = self._inventory.of(name)
            self._mark(name, 0)
            try:
                self._preflight(slot.provider.start(slot.local, "probe"))
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
        known = [self._inventory.of(name) for name in bad if name in self._inventory]
        return tuple(slot.name for slot in known if slot.bound or self._leads())

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
