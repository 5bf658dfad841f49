# SPDX-License-Identifier: Apache-2.0
"""Step 4 of 9, lease. Before: build. After: run.

In: a set of node labels and who asks. Out: a Lease on each node with a fencing token, and the
Endpoint of a machine that was just made ready. Who keeps leases alive is
`nodes.lease_keeping`; who stays in work is for `nodes.health_book` to say.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa

from ci.cancel import CancelToken, Deadline
from ci.clock import Clock
from ci.errors import HypervouchError, NodeUnavailable, StorageError
from ci.log import get
from ci.model.node import Endpoint, Lease
from ci.scheduling import Needs
from ci.store import holds, leases, node_health, pauses
from ci.store.database import Database
from ci.store.leases import Asker
from ci.store.moment import moment
from nodes import holding
from nodes.daemons import check_pins
from nodes.ending import Ending
from nodes.health import one_login
from nodes.health_book import QUARANTINE_AFTER, HealthBook, due_for_probe, facts_of
from nodes.inventory import Inventory, Slot
from nodes.lease_keeping import LeaseKeeper
from nodes.leftovers import Leftovers, Thing, trouble_of
from nodes.likeness import likeness
from nodes.providers.base import Provider
from nodes.reach import place_of

__all__ = ["QUARANTINE_AFTER", "Care", "NodePool"]

TEARDOWN_S = 60.0

Preflight = Callable[[Endpoint], dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Care:
    """What the configuration says of looking after nodes, by provider's name where it differs.

    Attributes:
        pinned: Versions that nodes must have: patterns by name of the fact.
        scratch: Directories of nodes that belong to builds: what is new there is removed.
        health_every: How often a node that stays has a full health job; None: never.
        looping_after: Failures in a row, before any test, that make a node Looping.
        leftovers: Looks at what builds leave behind; None: nobody does.
    """

    pinned: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scratch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    health_every: timedelta | None = None
    looping_after: int = 3
    leftovers: Leftovers | None = None


@dataclass(frozen=True, kw_only=True)
class _Before:
    """A node as it was when it was handed out."""

    endpoint: Endpoint
    things: frozenset[Thing]


class NodePool(LeaseKeeper):
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
        care: How nodes are looked after.

    Attributes:
        book: What is found of the nodes.
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
        care: Care = Care(),
    ) -> None:
        super().__init__(database, clock, timedelta(seconds=term_s))
        self._preflight = preflight
        self._worker = worker
        self._closed = closed
        self._leads = leads
        self._care = care
        self.book = HealthBook(database, clock, url=url, looping_after=care.looping_after)
        self._inventory = Inventory(
            providers, worker=worker, shared=database.shared, tags=tags or {}
        )
        self._before: dict[str, _Before] = {}  # by node, of hand-outs that are under way
        self._busy: dict[str, int] = {}  # nodes this process works with, by token; 0: a probe
        self._freed = threading.Condition()
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
        """Throw away machines that run without a lease, unless somebody holds them.

        A node that other processes use is leased for that moment, so that none of them can.
        """
        with self._database.read() as tx:
            held = holds.names(tx)
        with self._lock:
            busy = frozenset(self._busy) | held
        for provider in self._inventory.providers():
            slots = self._inventory.of_provider(provider)
            mine = frozenset(local for local, slot in slots.items() if slot.name in busy)
            for local in self._leaked(provider, mine):
                slot = slots[local]
                if slot.name in self._busy:  # leased while the provider looked
                    continue
                if slot.bound or not self._database.shared:
                    self._clean(slot)
                elif self._leads():
                    self._clean_shared(slot)

    def _leaked(self, provider: Provider, mine: frozenset[str]) -> tuple[str, ...]:
        """What a provider finds; nothing where it cannot look, which the next turn does again."""
        try:
            return provider.leaked(mine)
        except HypervouchError as error:
            self._log.warning(
                "leaked machines cannot be looked for",
                action="clean",
                provider=provider.name,
                why=str(error),
            )
            return ()

    def _clean(self, slot: Slot) -> None:
        self._log.warning("a machine without a lease was ended", action="clean", node=slot.name)
        try:
            slot.provider.stop(slot.local)
        except HypervouchError as error:  # the next turn finds it again
            self._log.warning(
                "a leaked machine could not be ended",
                action="clean",
                node=slot.name,
                why=str(error),
            )

    def _clean_shared(self, slot: Slot) -> None:
        with self._database.write() as tx:
            lease = leases.take_one(tx, slot.name, self._asker(tx, "clean"))
        if lease is None:
            return
        try:
            with self._database.read() as tx:
                if slot.name in holds.names(tx):  # since we looked
                    return
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
        like: str = "",
    ) -> tuple[Lease, ...]:
        """Wait for a set of usable nodes and lease it, the whole set at once.

        Args:
            needs: What the job asks for.
            holder: Id of the attempt.
            avoid: Nodes where this build was before; used only when there is no other.
            patience_s: Seconds to wait for another one to be free, or for the avoided ones to
                recover, before one of these is taken after all.
            cancel: Ends the wait.
            like: Likeness that the node should have: what it ran on before, for a comparison.

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
                    closed={
                        *pauses.closed(tx, at=asker.now).nodes,
                        *self._closed(),
                        *self._due(tx),  # its health job comes first
                    },
                    strict=self._clock.monotonic_s() < strict_until_s,
                    like=like,
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
        with one_login():
            try:
                self.look(slot, endpoint)
            finally:
                self._note_hand_out(slot.name, endpoint)
            leftovers = self._care.leftovers
            if leftovers is not None and slot.alone:
                things = leftovers.look(endpoint, self._scratch(slot))
                self._before[slot.name] = _Before(endpoint=endpoint, things=things)
        return endpoint

    def look(self, slot: Slot, endpoint: Endpoint) -> None:
        """The preflight of a machine, and the versions that its provider pins.

        Raises:
            NodeUnavailable: It is not fit.
        """
        endpoint.facts.update(self._preflight(endpoint))
        check_pins(slot.name, endpoint.facts, self._care.pinned.get(slot.provider.name, {}))

    def _note_hand_out(self, node: str, endpoint: Endpoint) -> None:
        """What the node is, and how one gets there; nothing waits for a database that is away."""
        same = likeness(endpoint.grade, endpoint.hypervisor, endpoint.facts)
        facts = facts_of({**endpoint.facts, leases.LIKENESS: same})
        with suppress(StorageError), self._database.write() as tx:
            node_health.put(tx, node, facts=facts, held_login=holding.login(endpoint))

    def _scratch(self, slot: Slot) -> tuple[str, ...]:
        return self._care.scratch.get(slot.provider.name, ())

    def note_failure(
        self, node: str, reason: str, *, change: str = "", tested: bool = False
    ) -> None:
        """Count a failure against a node; see `HealthBook.failed`."""
        self.book.failed(node, reason, change=change, tested=tested)

    def quarantine(self, node: str, reason: str) -> None:
        """Take a node out of work until a probe finds it fit."""
        self.book.quarantine(node, reason)

    def note_success(self, node: str) -> None:
        """A node carried a build to its end: it is good, whatever was counted before."""
        self.book.succeeded(node)

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still the node's newest and has not run out."""
        with self._database.read() as tx:
            return leases.holds(tx, lease, now=moment(tx, self._clock))

    def give_back(
        self,
        lease: Lease,
        *,
        deadline: Deadline | None = None,
        unclean: str = "",
        failed: bool = False,
    ) -> None:
        """End the machine, then the lease: nobody gets the node while it is still busy.

        What the build left on a machine that stays is looked for before. A node that somebody
        holds keeps its machine as it is, and only loses its lease.

        Whoever `kept` the lease keeps it meanwhile. A machine that did not end in time, or that
        stays with something on it that could not be ended, is taken out of work. Under a stale
        token the machine is somebody else's, and stays.

        Args:
            lease: Which.
            deadline: When to wait for the machine's end no longer.
            unclean: What could not be ended there; counts where the machine itself stays.
            failed: Whether the build failed: sets off a hold that waits for that.
        """
        ending: Ending | None = None
        try:
            if self._still_newest(lease):
                slot = self._inventory.of(lease.node)
                if self._is_kept(lease, failed=failed):
                    return
                ending = Ending(
                    slot.provider,
                    slot.local,
                    lambda: self._unmark(lease.node, lease.token),
                    first=lambda: self._tidy(lease, slot),
                )
                trouble = ending.wait(TEARDOWN_S if deadline is None else deadline.left_s)
                if not trouble and unclean and not slot.provider.disposable:
                    trouble = unclean
                if trouble:
                    self.quarantine(lease.node, f"its teardown failed: {trouble}")
                self._release(lease, gone=slot.provider.disposable)
            elif self._busy.get(lease.node) == lease.token:  # nobody here has it by now
                self._before.pop(lease.node, None)
        finally:
            if ending is None or not ending.goes_on:
                self._unmark(lease.node, lease.token)
            with self._freed:
                self._freed.notify_all()

    def _release(self, lease: Lease, *, gone: bool = False) -> None:
        """End a lease; where its machine is `gone`, nobody can log in there any more."""
        with self._lock:  # from here on nobody renews it
            self._held.pop(lease.node, None)
        with self._database.write() as tx:
            leases.release(tx, lease)
            if gone:
                node_health.put(tx, lease.node, held_login="")

    def _is_kept(self, lease: Lease, *, failed: bool) -> bool:
        """Whether somebody holds the node; then only its lease ends, in the same transaction."""
        try:
            with self._database.write() as tx:
                now = moment(tx, self._clock)
                if not holds.begins(tx, lease.node, failed=failed, now=now):
                    return False
                leases.release(tx, lease)
        except StorageError:
            return False
        with self._lock:
            self._held.pop(lease.node, None)
        self._log.info("node is kept for somebody", action="hold", node=lease.node)
        return True

    def _tidy(self, lease: Lease, slot: Slot) -> None:
        """Find and remove what a build left on a machine that stays.

        Raises:
            NodeUnavailable: It does not answer, or something is left that cannot be removed.
        """
        before = self._before.pop(slot.name, None)
        if before is None or self._care.leftovers is None:
            return
        with one_login():
            self._settle(lease, slot, before, self._care.leftovers)

    def _settle(self, lease: Lease, slot: Slot, before: _Before, leftovers: Leftovers) -> None:
        place = place_of(before.endpoint)
        others = [one.endpoint for one in tuple(self._before.values())]
        alone = not place or place not in map(place_of, others)
        if not alone:
            self._log.warning(
                "not looked for what a build left: another node has the same hypervisor",
                action="leftovers",
                node=slot.name,
            )
        scratch = self._scratch(slot)
        left = leftovers.settle(before.endpoint, before.things, scratch, alone=alone)
        if not left:
            return
        with suppress(StorageError), self._database.write() as tx:
            records = [one.record(slot.name) for one in left]
            node_health.left_behind(tx, lease.holder, records)
        if trouble := trouble_of(left):
            raise NodeUnavailable(trouble, hint="remove it by hand")
        self._preflight(before.endpoint)

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
            self.quarantine(node, f"its machine could not be ended: {error.message}")

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
        is probed by one of them. Nodes that owe a health job are left to it.
        """
        for name in self._quarantined():
            if name in self._busy:  # its machine is still being ended
                continue
            self._mark(name, 0)
            try:
                self.probe_one(name)
            finally:
                self._unmark(name, 0)

    def probe_one(self, name: str) -> str:
        """Start a node, put it through the preflight, end it; returns what is wrong with it."""
        slot = self._inventory.of(name)
        trouble = ""
        try:
            self.look(slot, slot.provider.start(slot.local, "probe"))
        except HypervouchError as error:
            trouble = error.message
        self.book.probed(name, trouble)
        self._end_machine(name)
        return trouble

    def _quarantined(self) -> tuple[str, ...]:
        now = self._clock.now()
        with self._database.read() as tx:
            found = node_health.standings(tx, leases.out_of_work(tx))
        return tuple(
            one.name
            for one in found
            if due_for_probe(one, now)
            and self.is_mine(one.name)
            and not (one.health_tries and self.health_slots([one.name]))
        )

    def is_mine(self, name: str) -> bool:
        """Whether it is this process that looks after a node."""
        return name in self._inventory and (self._inventory.of(name).bound or self._leads())

    def slot(self, name: str) -> Slot:
        """The slot of a node's name; KeyError for one that this process does not reach."""
        return self._inventory.of(name)

    def health_slots(self, names: Collection[str] | None = None) -> tuple[str, ...]:
        """Of some or all nodes those that have health jobs: they stay, and the layout wants it."""
        if self._care.health_every is None:
            return ()
        return tuple(
            slot.name
            for slot in self._inventory.all()
            if not slot.provider.disposable and (names is None or slot.name in names)
        )

    def _due(self, tx: sa.Connection) -> tuple[str, ...]:
        names, every = self.health_slots(), self._care.health_every
        if not names or every is None:
            return ()
        return node_health.due(tx, names, now=moment(tx, self._clock), every=every)

    def owed_health(self) -> tuple[str, ...]:
        """Nodes that this process has to put through a health job now.

        Those in work whose last one is too long ago, and those that failed one and are to be
        tried again.
        """
        now = self._clock.now()
        with self._database.read() as tx:
            due = set(self._due(tx))
            out = node_health.standings(tx, self.health_slots(leases.out_of_work(tx)))
        due |= {one.name for one in out if one.health_tries and due_for_probe(one, now)}
        return tuple(sorted(name for name in due if self.is_mine(name)))

    @contextmanager
    def borrow(self, name: str, holder: str) -> Iterator[Lease | None]:
        """Lease a node by name for what is no build; None while somebody has or holds it."""
        lease = None
        with self._database.write() as tx:
            if holds.of(tx, name).until is None:
                lease = leases.take_one(tx, name, self._asker(tx, holder))
            if lease is not None:
                self._mark(name, lease.token)
        if lease is None:
            yield None
            return
        try:
            with self.kept(lease, "", CancelToken()):
                yield lease
        finally:
            self._release(lease)
            self._unmark(name, lease.token)
            with self._freed:
                self._freed.notify_all()

    def end_holds(self) -> None:
        """Give the nodes back whose hold is over: tidy, end the machine, then forget the hold."""
        with self._database.read() as tx:
            over = holds.over(tx, now=moment(tx, self._clock))
        for name in over:
            if self.is_mine(name):
                self._end_hold(name)

    def _end_hold(self, name: str) -> None:
        with self._database.write() as tx:
            lease = leases.take_one(tx, name, self._asker(tx, "hold"))
            if lease is None:
                return  # the build that had it still runs
            self._mark(name, lease.token)
            holds.clear(tx, name)
            # What somebody worked on by hand is looked at as a whole before the next build.
            node_health.put(tx, name, health_at=None, held_login="")
        self._log.info("a hold is over", action="hold", node=name)
        with self.kept(lease, "", CancelToken()):
            self.give_back(lease)
