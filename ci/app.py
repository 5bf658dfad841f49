# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only module that knows every implementation and starts threads."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ci import settings
from ci.bell import Bell
from ci.checkout import Checkout, Remote
from ci.clock import Clock, SystemClock
from ci.collect import LogStore
from ci.config_items import complaints
from ci.dispatcher import Dispatcher
from ci.engine import Engine
from ci.errors import ConfigError, HypervouchError
from ci.gerrit.facts import change_facts
from ci.gerrit.lookup import GerritLookup
from ci.gerrit.reconcile import Reconciler
from ci.gerrit.rest import GerritRest
from ci.gerrit.stream import EventStream
from ci.janitor import Janitor
from ci.layout import Connection, Layout, ProviderConfig, ReporterConfig, TriggerKind, VotePolicy
from ci.listener import Listener, Stream
from ci.log import get
from ci.model.event import EventKind
from ci.model.facts import ChangeFacts
from ci.notifier import NoticeRelay
from ci.planner import Planner
from ci.relay import Relay
from ci.reporters.gerrit import GerritReporter
from ci.reporters.gerrit_rest import RestTransport
from ci.reporters.gerrit_ssh import SshTransport
from ci.reporters.table import driver as notifier_driver
from ci.stacking import Place, Stacking
from ci.store.database import Database
from ci.worker import MIB, Worker
from nodes.health import preflight
from nodes.pool import NodePool
from nodes.providers.base import Provider
from nodes.providers.table import driver
from webui.app import create_app
from webui.server import WebServer

PROBE_EVERY_S = 60
LOOK_EVERY_S = 10
CLEAN_EVERY_S = 60
RECONCILE_EVERY_S = 30
FORGET_EVERY_S = 600
STOP_S = 20.0
STARTED_BY = {
    EventKind.PATCHSET_CREATED: TriggerKind.PATCHSET_CREATED,
    EventKind.COMMENT_ADDED: TriggerKind.RECHECK,
}


def check_driver(
    config: ProviderConfig | ReporterConfig,
) -> list[tuple[tuple[str | int, ...], str]]:
    """What a driver's own model says of its options: list of (keys, message)."""
    of_reporter = isinstance(config, ReporterConfig)
    try:
        chosen = notifier_driver(config.driver) if of_reporter else driver(config.driver)
        model = chosen.Options
    except ConfigError as error:
        return [(("driver",), str(error))]
    return list(complaints(model, config.options))


def load_layout(path: Path) -> Layout:
    """The layout of a configuration, with the options of every driver checked.

    Raises:
        ConfigError: With every mistake found.
    """
    return settings.load(path, check_driver)


class _Server:
    """What the planner asks one review server."""

    def __init__(self, rest: GerritRest, connection: Connection) -> None:
        self._rest, self._connection = rest, connection
        self._own: frozenset[str] = frozenset()

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        return self._rest.changed_files(project, number, revision)

    def facts(self, project: str, number: int) -> ChangeFacts:
        return change_facts(self._rest, project, number)

    def own_names(self) -> frozenset[str]:
        if not self._own:
            name = self._rest.account_self().name
            self._own = frozenset({self._connection.user, name} - {""})
        return self._own


def _reporting(
    layout: Layout, connection: Connection
) -> dict[str, dict[EventKind, frozenset[str]]]:
    """By project that some pipeline of a connection watches, who reports after which event."""
    found = {}
    for project in layout.projects:
        used = [layout.pipeline(name) for name in project.pipelines]
        mine = [one.name for one in used if one.connection == connection.name]
        if mine:
            telling = [
                one
                for one in (layout.effective(name, project.name) for name in mine)
                if one.policy is not VotePolicy.SILENT
            ]
            found[project.name] = {
                kind: frozenset(one.name for one in telling if trigger in one.trigger)
                for kind, trigger in STARTED_BY.items()
            }
    return found


class App:
    """One installation in one process: every role of the flow, started and stopped together.

    Args:
        layout: What to do.
        clock: Where time comes from.
        notice: Banner on every page, for a demo.
    """

    def __init__(self, layout: Layout, clock: Clock | None = None, *, notice: str = "") -> None:
        self.layout = layout
        self.clock = clock or SystemClock()
        service = layout.service
        self.database = Database.in_directory(service.state_dir)
        self.logs = LogStore(
            service.state_dir / "logs",
            limit_bytes=service.log_limit_mib * MIB,
            free_bytes=service.free_disk_mib * MIB,
        )
        self._log = get("serve")
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._planned = {connection.name: Bell() for connection in layout.connections}
        self._queued = Bell()
        self._owed: dict[str, Bell] = {}
        self._rests: dict[str, GerritRest] = {}
        self._passwords: dict[str, str] = {}
        for connection in layout.connections:
            password = settings.resolve_secret(connection.password)
            self._passwords[connection.name] = password
            self._rests[connection.name] = GerritRest(connection, password)
            self._owed[connection.name] = Bell()
        self._servers = {c.name: _Server(self._rests[c.name], c) for c in layout.connections}
        self._providers = self._make_providers()
        self.pool = NodePool(
            self.database,
            self.clock,
            self._by_label(),
            preflight,
            term_s=service.lease_s,
            url=service.url,
        )
        self.engine = Engine(service.state_dir, slots=service.worker_slots)
        self.worker = self._make_worker()
        self.dispatcher = Dispatcher(
            self.database,
            self.clock,
            self.engine,
            slots=service.worker_slots,
            bell=self._queued,
        )
        self.planners = [self._make_planner(only=name) for name in self._planned]
        self._leftovers = self._make_planner(skip=list(self._planned))
        self.listeners = [self._make_listener(c) for c in layout.connections]
        self.relays = [self._make_relay(c) for c in layout.connections]
        self._noticed = {config.name: Bell() for config in layout.reporters}
        self.notifiers = {c.name: self._make_notifier(c) for c in layout.reporters}
        self.janitor = Janitor(threads=4 + 2 * len(layout.connections))
        self.web = self._make_web(notice)

    def start(self) -> None:
        """Start every role; what an earlier process left is taken up again.

        Raises:
            ConfigError: The operator has to mend something first.
            StorageError: The disk does not take the first write.
        """
        self.layout.service.state_dir.mkdir(parents=True, exist_ok=True)
        self.database.create()
        self.engine.hold()
        self.web.start()
        for notifier in self.notifiers.values():
            notifier.register()  # before the first notice can be written
        self.pool.register()
        self.pool.clean()
        self.engine.start(self.worker)
        self.dispatcher.reconcile()
        self._spawn("lease-keeper", self.pool.keep_leases)
        self._spawn("prepare", self._prepare)
        self._spawn("dispatcher", self.dispatcher.run)
        for name, planner in zip(self._planned, self.planners, strict=True):
            self._spawn(f"planner-{name}", planner.run)
        for listener in self.listeners:
            self._spawn(f"listener-{listener.name}", listener.run)
        for relay, connection in zip(self.relays, self.layout.connections, strict=True):
            self._spawn(f"relay-{connection.name}", relay.run)
        for name, notifier in self.notifiers.items():
            self._spawn(f"notifier-{name}", notifier.run)
        self._start_chores()
        self._log.info("started", action="start", url=self.web.url)

    def stop(self) -> None:
        """Stop every role in the flow's order; what runs is taken up by the next start."""
        for listener in self.listeners:
            listener.stop()
        for planner in (*self.planners, self._leftovers):
            planner.stop()
        self.dispatcher.stop()
        self.janitor.stop()
        self.worker.stop()
        self._wait_for_worker()
        for relay in self.relays:
            relay.stop()
        for notifier in self.notifiers.values():
            notifier.stop()
        self.pool.stop()
        self._ended.set()
        for thread in self._threads:
            thread.join(STOP_S)
        self.engine.stop()
        self.web.stop()
        for rest in self._rests.values():
            rest.close()
        self.database.close()
        self._log.info("stopped", action="stop")

    def _wait_for_worker(self) -> None:
        deadline = self.clock.monotonic_s() + STOP_S
        while self.worker.busy() and self.clock.monotonic_s() < deadline:
            self.clock.sleep(0.05)

    def _make_providers(self) -> list[tuple[ProviderConfig, Provider]]:
        made = []
        for config in self.layout.providers:
            chosen = driver(config.driver)
            options = chosen.Options.model_validate(config.options)
            state = self.layout.service.state_dir / "nodes" / config.name
            made.append((config, chosen(options, state)))
        return made

    def _by_label(self) -> dict[str, tuple[Provider, ...]]:
        found: dict[str, tuple[Provider, ...]] = {}
        for config, provider in self._providers:
            found[config.label] = (*found.get(config.label, ()), provider)
        return found

    def _make_web(self, notice: str) -> WebServer:
        service = self.layout.service
        host, _, port = service.listen.rpartition(":")
        token = service.operator_token
        pages = create_app(
            self.database,
            service.state_dir / "logs",
            service.url,
            notice=notice,
            operator_token=settings.resolve_secret(token) if token else "",
            checks_origins=service.checks_origins,
        )
        return WebServer(pages, host=host, port=int(port))

    def _make_worker(self) -> Worker:
        checkouts = {c.name: self._make_checkout(c) for c in self.layout.connections}
        return Worker(
            self.database,
            self.clock,
            layout=lambda: self.layout,
            checkouts=checkouts,
            stacking=self._make_stacking(checkouts),
            pool=self.pool,
            logs=self.logs,
            secrets=list(self._passwords.values()),
            on_verdict=self._ring_relays,
            on_free=self._queued.ring,
        )

    def _make_stacking(self, checkouts: Mapping[str, Checkout]) -> Stacking:
        places = {
            c.name: Place(
                server=GerritLookup(self._rests[c.name]),
                checkout=checkouts[c.name],
                bases=(c.url, f"https://{c.server}/"),
            )
            for c in self.layout.connections
        }
        return Stacking(self.database, lambda: self.layout, places)

    def _ring_relays(self) -> None:
        for bell in (*self._owed.values(), *self._noticed.values()):
            bell.ring()

    def _make_checkout(self, connection: Connection) -> Checkout:
        return Checkout(
            self.layout.service.state_dir / "git" / connection.name,
            Remote(
                transport=connection.git,
                url=connection.url,
                server=connection.server,
                port=connection.port,
                user=connection.user,
                password=self._passwords[connection.name],
                key_file=connection.key_file,
                known_hosts=connection.known_hosts,
            ),
        )

    def _make_listener(self, connection: Connection) -> Listener:
        def open_stream(
            on_lines: Callable[[Sequence[bytes]], None], on_up: Callable[[], None]
        ) -> Stream:
            return EventStream(connection, on_lines, on_up)

        owed = _reporting(self.layout, connection)
        return Listener(
            connection.name,
            self.database,
            self.clock,
            open_stream,
            Reconciler(self._rests[connection.name], owed, self.clock),
            own_username=connection.user,
            on_stored=self._planned[connection.name].ring,
            owed=owed,
            silence_s=connection.silence_s,
        )

    def _make_planner(self, *, only: str = "", skip: Sequence[str] = ()) -> Planner:
        return Planner(
            self.database,
            self.clock,
            lambda: self.layout,
            self._servers,
            bell=self._planned.get(only) or Bell(),
            on_queued=self._queued.ring,
            on_cancel=self.worker.cancel,
            only=only,
            skip=skip,
        )

    def _make_relay(self, connection: Connection) -> Relay:
        return Relay(
            connection.name,
            self.database,
            self.clock,
            GerritReporter(
                [RestTransport(self._rests[connection.name]), SshTransport(connection)],
                connection.user,
                clock=self.clock,
            ),
            bell=self._owed[connection.name],
            undelivered_after_s=self.layout.service.undelivered_after_s,
        )

    def _make_notifier(self, config: ReporterConfig) -> NoticeRelay:
        chosen = notifier_driver(config.driver)
        return NoticeRelay(
            config,
            self.database,
            self.clock,
            chosen(chosen.Options.model_validate(config.options)),
            bell=self._noticed[config.name],
        )

    def _prepare(self) -> None:
        """Make what nodes need (images); a provider that cannot says so on its nodes."""
        for config, provider in self._providers:
            try:
                provider.prepare()
            except HypervouchError as error:
                self._log.error("provider not ready", provider=config.name, reason=str(error))
                for node in provider.node_names():
                    self.pool.quarantine(node, str(error))
        self._queued.ring()

    def _start_chores(self) -> None:
        for connection, listener in zip(self.layout.connections, self.listeners, strict=True):
            self.janitor.every(
                connection.catch_up_every_s, f"catch-up {connection.name}", listener.catch_up
            )
            self.janitor.every(LOOK_EVERY_S, f"silence {connection.name}", listener.check_silence)
        # Events of connections that left the configuration are answered, too.
        self.janitor.every(RECONCILE_EVERY_S, "leftovers", self._leftovers.plan_pending)
        self.janitor.every(PROBE_EVERY_S, "probe", self.pool.probe)
        self.janitor.every(CLEAN_EVERY_S, "clean", self.pool.clean)
        self.janitor.every(RECONCILE_EVERY_S, "reconcile", self.dispatcher.reconcile)
        self.janitor.every(FORGET_EVERY_S, "forget", self.dispatcher.forget)
        self.janitor.start()

    def _spawn(self, name: str, body: Callable[[], Any]) -> None:
        thread = threading.Thread(target=self._guarded, args=(name, body), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, name: str, body: Callable[[], Any]) -> None:
        """The loop edge of each long-running thread: a bug is told, and the thread goes on."""
        while not self._ended.is_set():
            try:
                body()
            except Exception:  # noqa: BLE001 - told with its traceback, and tried again
                self._log.exception("a bug in this program", action=name)
                self._ended.wait(2.0)
            else:
                return
