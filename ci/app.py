# SPDX-License-Identifier: Apache-2.0
"""The composition root: the only module that knows every role and starts them."""

from collections.abc import Collection, Sequence
from pathlib import Path

from ci import settings
from ci.clock import Clock, SystemClock
from ci.config_items import complaints
from ci.errors import ConfigError
from ci.layout import Layout, ProviderConfig, ReporterConfig
from ci.log import get
from ci.reporters.table import driver as notifier_driver
from ci.roles.chores import ChoresRole
from ci.roles.core import ALL, LISTEN, RELAY, WEB, WORK, Core
from ci.roles.listen import ListenRole
from ci.roles.relay import RelayRole
from ci.roles.watch import Watch
from ci.roles.web import WebRole
from ci.roles.work import WorkRole
from ci.store.database import Database
from nodes.providers.table import driver

__all__ = ["ALL", "App", "check_driver", "load_layout"]


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


class App:
    """One process of an installation: its roles, started and stopped together.

    Args:
        layout: What to do.
        clock: Where time comes from.
        roles: Of `ALL`.
        name: Of this process; empty for the only one on its state directory.
        notice: Banner on every page, for a demo.
        health: HOST:PORT for `/healthz`, `/readyz` and `/metrics` alone; the configuration's
            `health-listen` by default.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Clock | None = None,
        *,
        roles: Collection[str] = ALL,
        name: str = "",
        notice: str = "",
        health: str = "",
    ) -> None:
        self.layout = layout
        self.roles = tuple(role for role in ALL if role in roles)
        database = Database.of(layout.service)
        if not database.shared and self.roles != ALL:
            raise ConfigError(
                "these roles meet in PostgreSQL, and this installation has SQLite",
                hint="give the key database, or run all of them with `hypervouch serve`",
            )
        home = _home(layout, self.roles, name if database.shared else "")
        self.core = Core(
            layout,
            clock or SystemClock(),
            database=database,
            home=home,
            roles=self.roles,
            name=name,
        )
        self._watch = Watch(self.core, listen=health or layout.service.health_listen or "")
        self._web = WebRole(self.core, notice=notice) if WEB in self.roles else None
        self._relay = RelayRole(self.core) if RELAY in self.roles else None
        self._work = WorkRole(self.core) if WORK in self.roles else None
        self._listen = ListenRole(self.core) if LISTEN in self.roles else None
        self._chores = ChoresRole(self.core) if set(self.roles) - {WEB} else None
        self._log = get("serve")

    @property
    def drained(self) -> bool:
        """Whether nothing is left to do here: it only ran builds, and was told to drain."""
        return self.roles == (WORK,) and self._work is not None and self._work.drained()

    @property
    def database(self) -> Database:
        """Where everything is written down."""
        return self.core.database

    @property
    def url(self) -> str:
        """Where its pages are; empty without the role web."""
        return self._web.url if self._web else ""

    @property
    def failure(self) -> str:
        """Why this process has to end; empty while it need not."""
        return self.core.failure

    @property
    def told_of_notices(self) -> tuple[str, ...]:
        """Names of the reporters that this process may tell."""
        return self._relay.reporters if self._relay else ()

    def kill_machine(self, node: str) -> None:
        """End a node's machine under whoever holds it, as a power cut would; for the demo."""
        if self._work:
            self._work.pool.kill_machine(node)

    def start(self) -> None:
        """Start every role; what an earlier process left is taken up again.

        Raises:
            ConfigError: The operator has to mend something first.
            StorageError: The disk does not take the first write.
        """
        self.core.start()
        if self._work:
            self._work.hold()
        self._watch.start()
        if self._web:
            self._web.start()
        if self._work:
            self._work.start()
        self.core.election.start()
        self._log.info("started", action="start", url=self.url, roles=list(self.roles))

    def stop(self) -> None:
        """Stop every role in the flow's order; what runs is taken up by the next start."""
        for role in (self._listen, self._chores, self._work, self._relay, self._web):
            if role:
                role.stop()
        self._watch.stop()
        self.core.stop()
        self._log.info("stopped", action="stop")


def _home(layout: Layout, roles: Sequence[str], name: str) -> Path:
    """Where a process keeps what is its own; several may run on one state directory."""
    state_dir = layout.service.state_dir
    if name:
        return state_dir / "processes" / name
    return state_dir if tuple(roles) == ALL else state_dir / "processes" / "-".join(roles)
