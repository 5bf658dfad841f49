# SPDX-License-Identifier: Apache-2.0
"""The role work: claims builds, leases nodes and runs suites on them."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path

from ci.checkout import Checkout, Remote
from ci.dispatcher import Dispatcher
from ci.engine import Engine
from ci.errors import HypervouchError, StorageError
from ci.gerrit.lookup import GerritLookup
from ci.janitor import Janitor
from ci.layout import Connection, Layout, ProviderConfig
from ci.log import get
from ci.log_mirror import folder_bytes
from ci.maintenance import closed_now
from ci.model.node import Endpoint
from ci.roles import bells
from ci.roles.core import STOP_S, Core, Threads
from ci.roles.spares import SpareKeeper
from ci.stacking import Place, Stacking
from ci.store import processes, queue
from ci.worker import Worker
from nodes import health_job
from nodes.health import preflight
from nodes.health_guest import booting
from nodes.leftovers import Leftovers
from nodes.pool import Care, NodePool
from nodes.providers.base import Provider
from nodes.providers.table import driver
from nodes.reach import connecting
from nodes.rounds import Examine, Rounds

MEASURE_EVERY_S = 300
PROBE_EVERY_S = 60
CLEAN_EVERY_S = 60
RECONCILE_EVERY_S = 30
FORGET_EVERY_S = 600
SHARED_NODES = "shared-nodes"
TIDY_EVERY_S = 3600
ROOM_EVERY_S = 5


def care_of(layout: Layout, home: Path) -> Care:
    """How the configuration wants nodes to be looked after."""
    service = layout.service
    every = service.node_health_every_s
    return Care(
        pinned={one.name: one.pinned for one in layout.providers},
        scratch={one.name: one.scratch for one in layout.providers},
        health_every=timedelta(seconds=every) if every else None,
        looping_after=service.node_looping_after,
        leftovers=Leftovers(connecting(home / "hypervisors")),
    )


def examine_of(layout: Layout, home: Path) -> Examine:
    """The full look at a node, with a guest where its provider asks for one."""
    guests = {one.name for one in layout.providers if one.health_guest}
    trial = booting(connecting(home / "hypervisors"))

    def examine(endpoint: Endpoint, provider: str) -> dict[str, str]:
        return health_job.examine(endpoint, trial if provider in guests else None)

    return examine


class _Keeper:
    """Who leads here probes and cleans the nodes that all workers share, by its own chores."""

    def start(self) -> None:
        """Nothing: the chores of `WorkRole` ask who leads."""

    def stop(self) -> None:
        """Nothing."""


class WorkRole:
    """Runs builds in this process.

    Args:
        core: What it shares with the other roles.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._threads = Threads(core.clock, core.board)
        self._janitor = Janitor(telemetry=core.telemetry, board=core.board)
        self._log = get("serve")
        self._full = False
        service = core.layout.service
        self._providers = self._make_providers()
        self.pool = NodePool(
            core.database,
            core.clock,
            self._by_label(),
            preflight,
            term_s=service.lease_s,
            url=service.url,
            worker=core.name,
            tags={one.name: one.tags for one in core.layout.providers},
            closed=self._nodes_in_maintenance,
            leads=lambda: core.election.leads().get(SHARED_NODES, False),
            care=care_of(core.layout, core.home),
        )
        self._rounds = Rounds(self.pool, examine_of(core.layout, core.home))
        self.spares = SpareKeeper(core.database, self._by_label())
        core.election.stand(SHARED_NODES, lambda _: _Keeper())
        self.engine = Engine(
            core.home,
            slots=service.worker_slots,
            executor=core.name,
            url=core.database.full_url() if core.database.shared else "",
        )
        self.checkouts = {c.name: self._make_checkout(c) for c in core.layout.connections}
        self.worker = self._make_worker()
        self.dispatcher = Dispatcher(
            core.database,
            core.clock,
            self.engine,
            worker=core.name,
            slots=service.worker_slots,
            bell=core.bells[bells.QUEUED],
            layout=lambda: core.layout,
            halted=self._halted,
            telemetry=core.telemetry,
        )
        core.telemetry.metrics.leases_held.set_function(self.pool.held)
        core.board.check("slots", self._look_at_slots)
        core.board.check("room", self._look_at_room)

    def _halted(self) -> bool:
        core = self._core
        full = bool(core.keeping.guard.reason())
        return full or core.presence.draining or core.presence.fenced

    def drained(self) -> bool:
        """Whether it was told to take no more builds, and has none left."""
        core = self._core
        if not core.presence.draining or self.worker.busy():
            return False
        try:
            with core.database.read() as tx:
                return not queue.running(tx, core.name)
        except StorageError:
            return False

    def _tell_room(self) -> None:
        """Let whoever explains why builds wait know whether there is room here."""
        core, full = self._core, bool(self._core.keeping.guard.reason())
        if full is not self._full:
            slots = 0 if full else core.layout.service.worker_slots
            with core.database.write() as tx:
                processes.set_room(tx, core.name, core.presence.incarnation, slots)
            self._full = full

    def _look_at_room(self) -> str:
        reason = self._core.keeping.guard.reason()
        if reason:
            raise StorageError(reason)
        return "new builds may write their logs"

    def _measure_logs(self) -> None:
        folder = self._core.layout.service.state_dir / "logs"
        self._core.telemetry.metrics.log_bytes.set(folder_bytes(folder))

    def _look_at_slots(self) -> str:
        slots = self._core.layout.service.worker_slots
        return f"{self.worker.busy()} of {slots} slots are busy"

    def hold(self) -> None:
        """Make this the one process that runs builds in its home, before anything is started.

        Raises:
            ConfigError: Another process does.
        """
        self.engine.hold()

    def start(self) -> None:
        """Begin; what an earlier process left is taken up again."""
        core = self._core
        core.cancel_here = self.worker.cancel
        core.presence.on_fenced = self.worker.fence
        self.pool.register()
        self.pool.clean()
        self.engine.start(self.worker)
        self.dispatcher.reconcile()
        self._threads.spawn("lease-keeper", self.pool.keep_leases)
        self._threads.spawn("node-health", self._rounds.run)
        self._threads.spawn("prepare", self._prepare, limit_s=None)
        self._threads.spawn("spares", self.spares.run, limit_s=None)
        self._threads.spawn("dispatcher", self.dispatcher.run)
        for name, body in self._core.keeping.bodies():
            self._threads.spawn(name, body, limit_s=None)
        for seconds, name, chore in self._core.keeping.chores():
            self._janitor.every(seconds, name, chore)
        for name, checkout in self.checkouts.items():
            self._janitor.every(TIDY_EVERY_S, f"tidy {name}", checkout.tidy)
        self._janitor.every(ROOM_EVERY_S, "room", self._tell_room)
        self._janitor.every(MEASURE_EVERY_S, "measure logs", self._measure_logs)
        self._janitor.every(PROBE_EVERY_S, "probe", self.pool.probe)
        self._janitor.every(CLEAN_EVERY_S, "clean", self.pool.clean)
        self._janitor.every(RECONCILE_EVERY_S, "reconcile", self.dispatcher.reconcile)
        self._janitor.every(FORGET_EVERY_S, "forget", self.dispatcher.forget)
        self._janitor.start()

    def stop(self) -> None:
        """End; what runs is run again by the next process that can."""
        self.dispatcher.stop()
        self._core.election.resign(SHARED_NODES)
        self._janitor.stop()
        self._rounds.stop()
        self.worker.stop()
        self._wait_for_worker()
        self.spares.stop()
        self._core.keeping.stop()
        self.pool.stop()
        self._threads.join()
        self.engine.stop()

    def _nodes_in_maintenance(self) -> Collection[str]:
        return closed_now(self._core.layout.maintenance, self._core.clock.now()).nodes

    def _wait_for_worker(self) -> None:
        clock = self._core.clock
        deadline = clock.monotonic_s() + STOP_S
        while self.worker.busy() and clock.monotonic_s() < deadline:
            clock.sleep(0.05)

    def _make_providers(self) -> list[tuple[ProviderConfig, Provider]]:
        made = []
        for config in self._core.layout.providers:
            chosen = driver(config.driver)
            options = chosen.Options.model_validate(config.options)
            made.append((config, chosen(options, self._core.home / "nodes" / config.name)))
        return made

    def _by_label(self) -> dict[str, tuple[Provider, ...]]:
        found: dict[str, tuple[Provider, ...]] = {}
        for config, provider in self._providers:
            found[config.label] = (*found.get(config.label, ()), provider)
        return found

    def _make_worker(self) -> Worker:
        core = self._core
        return Worker(
            core.database,
            core.clock,
            me=core.presence,
            layout=lambda: core.layout,
            checkouts=self.checkouts,
            stacking=self._make_stacking(self.checkouts),
            pool=self.pool,
            logs=core.logs,
            secrets=list(core.passwords.values()),
            on_verdict=core.bells.ring_owed,
            on_free=lambda: core.bells.ring(bells.QUEUED),
            telemetry=core.telemetry,
        )

    def _make_stacking(self, checkouts: Mapping[str, Checkout]) -> Stacking:
        core = self._core
        places = {
            c.name: Place(
                server=GerritLookup(core.rests[c.name]),
                checkout=checkouts[c.name],
                bases=(c.url, f"https://{c.server}/"),
            )
            for c in core.layout.connections
        }
        return Stacking(core.database, lambda: core.layout, places)

    def _make_checkout(self, connection: Connection) -> Checkout:
        return Checkout(
            self._core.home / "git" / connection.name,
            Remote(
                transport=connection.git,
                url=connection.url,
                server=connection.server,
                port=connection.port,
                user=connection.user,
                password=self._core.passwords[connection.name],
                key_file=connection.key_file,
                known_hosts=connection.known_hosts,
            ),
        )

    def _prepare(self) -> None:
        """Make what nodes need (images); a provider that cannot says so on its nodes."""
        for config, provider in self._providers:
            try:
                provider.prepare()
            except HypervouchError as error:
                self._log.error(
                    "provider not ready", action="prepare", provider=config.name, reason=str(error)
                )
                for node in self.pool.names_of(provider):
                    self.pool.quarantine(node, str(error))
        self._core.bells.ring(bells.QUEUED)
