# SPDX-License-Identifier: Apache-2.0
"""The role relay: reviews to each connection, notices to each reporter."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ci.board import PULSE_S
from ci.layout import Connection, ReporterConfig
from ci.leadership import Leadership
from ci.notifier import NoticeRelay
from ci.relay import Relay
from ci.reporters.gerrit import GerritReporter
from ci.reporters.gerrit_rest import RestTransport
from ci.reporters.gerrit_ssh import SshTransport
from ci.reporters.notifier import Notifier
from ci.reporters.table import driver
from ci.roles import bells
from ci.roles.core import Core, Threads

RELAY, NOTIFY = "relay:", "notify:"

TELLING_S = 300.0
"""What receivers of notices may take in one turn."""


def make_relay(core: Core, connection: Connection, leadership: Leadership) -> Relay:
    """Who delivers what is owed to one connection, as long as this process leads."""
    return Relay(
        connection.name,
        core.database,
        core.clock,
        GerritReporter(
            [RestTransport(core.rests[connection.name]), SshTransport(connection)],
            connection.user,
            clock=core.clock,
        ),
        bell=core.bells[bells.owed(connection.name)],
        undelivered_after_s=core.layout.service.undelivered_after_s,
        sender=core.sender(leadership),
        leadership=leadership,
        telemetry=core.telemetry,
    )


def make_notifier(config: ReporterConfig) -> Notifier:
    """The driver of one reporter.

    Raises:
        ConfigError: Its secret is missing.
    """
    chosen = driver(config.driver)
    return chosen(chosen.Options.model_validate(config.options))


class _Looping(Protocol):
    """What one thread runs."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


class Delivering:
    """One relay or notifier with its thread. `start` and `stop` once each."""

    def __init__(self, core: Core, name: str, loop: _Looping, *, limit_s: float = PULSE_S) -> None:
        self._name, self._loop, self._limit_s = name, loop, limit_s
        self._threads = Threads(core.clock, core.board)

    def start(self) -> None:
        """Begin; returns at once."""
        self._threads.spawn(self._name, self._loop.run, limit_s=self._limit_s)

    def stop(self) -> None:
        """End, after what is in hand."""
        self._loop.stop()
        self._threads.join()


class RelayRole:
    """Delivers reviews and notices, wherever this process leads.

    Args:
        core: What it shares with the other roles.

    Raises:
        ConfigError: The secret of a reporter is missing.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._relays: dict[str, Relay] = {}
        self.reporters = tuple(config.name for config in core.layout.reporters)
        for config in core.layout.reporters:
            make_notifier(config).close()  # what is wrong is told now, not at the first win
            core.election.stand(f"{NOTIFY}{config.name}", self._notifier_of(config))
        for connection in core.layout.connections:
            name = connection.name
            core.election.stand(f"{RELAY}{name}", self._relay_of(connection))
            core.board.check(f"reviews to {name}", partial(self._standing, name))

    def stop(self) -> None:
        """End, after what is in hand."""
        self._core.election.resign(RELAY, NOTIFY)

    def _standing(self, connection: str) -> str:
        if not self._core.election.leads()[f"{RELAY}{connection}"]:
            return "standby: another process delivers, or is being elected"
        return self._relays[connection].standing()

    def _relay_of(self, connection: Connection) -> Callable[[Leadership], Delivering]:
        def make(leadership: Leadership) -> Delivering:
            relay = make_relay(self._core, connection, leadership)
            self._relays[connection.name] = relay
            return Delivering(self._core, f"relay-{connection.name}", relay)

        return make

    def _notifier_of(self, config: ReporterConfig) -> Callable[[Leadership], Delivering]:
        core = self._core

        def make(leadership: Leadership) -> Delivering:
            notifier = NoticeRelay(
                config,
                core.database,
                core.clock,
                make_notifier(config),
                bell=core.bells[bells.noticed(config.name)],
                sender=core.sender(leadership),
                leadership=leadership,
                telemetry=core.telemetry,
            )
            return Delivering(core, f"notifier-{config.name}", notifier, limit_s=TELLING_S)

        return make
