# SPDX-License-Identifier: Apache-2.0
"""How this process is watched: health, metrics and traces, and where they are served."""

import shutil

from ci.errors import ConfigError, StorageError
from ci.layout import Layout
from ci.log import get, identify
from ci.presence import Presence
from ci.roles.core import Core
from ci.row_metrics import Known, RowMetrics
from ci.store.database import Database
from ci.store.reads import schema_found
from ci.store.schema import SCHEMA_VERSION
from webui.health import create_health_app
from webui.server import WebServer

MIB = 1 << 20


class Watch:
    """What outsiders may ask this process. `start` and `stop` once each.

    Args:
        core: Its board and its telemetry.
        listen: HOST:PORT of a server for these answers alone; empty for none. A process with
            pages serves them there as well.
    """

    def __init__(self, core: Core, *, listen: str = "") -> None:
        self._core = core
        self._log = get("serve")
        identify(core.board.name, core.board.roles)
        metrics = core.telemetry.metrics
        metrics.of_process(core.board, core.layout.service.state_dir, leads=core.election.leads)
        core.database.measure(metrics)
        metrics.registry.register(RowMetrics(core.database, core.clock, known_in(core.layout)))
        core.board.check("database", lambda: look_at_database(core.database))
        core.board.check("disk", lambda: look_at_disk(core.layout))
        core.board.check("presence", lambda: look_at_presence(core.presence))
        self._server: WebServer | None = None
        if listen:
            host, _, port = listen.rpartition(":")
            app = create_health_app(core.board, metrics.registry)
            self._server = WebServer(app, host=host.strip("[]"), port=int(port))

    @property
    def url(self) -> str:
        """Where it listens; empty where it does not."""
        return self._server.url if self._server else ""

    def start(self) -> None:
        """Answer.

        Raises:
            ConfigError: The address is taken or not ours.
        """
        if self._server:
            self._server.start()
            self._log.info("health is served", action="start", url=self.url)

    def stop(self) -> None:
        """Answer no more, and send the traces that are left."""
        if self._server:
            self._server.stop()
        self._core.telemetry.traces.close()
        self._core.board.close()


def known_in(layout: Layout) -> Known:
    """The values that labels of metrics may take."""
    labels = {one.label for one in layout.providers} | {one.node_label for one in layout.jobs}
    return Known(
        connections=sorted(one.name for one in layout.connections),
        labels=sorted(labels | {peer for one in layout.jobs for peer in one.peers}),
        reporters=sorted(one.name for one in layout.reporters),
    )


def look_at_database(database: Database) -> str:
    """Whether it answers, with the schema that this program knows.

    Raises:
        StorageError: It does not answer.
        ConfigError: It belongs to another version.
    """
    found = schema_found(database)
    if found != SCHEMA_VERSION:
        raise ConfigError(f"its schema has version {found}, this program needs {SCHEMA_VERSION}")
    return f"it answers, its schema has version {found}"


def look_at_presence(presence: Presence) -> str:
    """Whether this process may act: the others hear of it, and nobody took its name.

    Raises:
        StorageError: It keeps still.
        ConfigError: It has been told to take no more builds.
    """
    if presence.replaced:
        raise StorageError("another process runs under this name: this one keeps still")
    if presence.fenced:
        raise StorageError("no heartbeat could be written for too long: this process keeps still")
    if presence.draining:
        raise ConfigError(f"it is {presence.state}: it takes no more builds")
    return f"{presence.name} is heard of"


def look_at_disk(layout: Layout) -> str:
    """Whether new builds may write their logs.

    Raises:
        StorageError: Too little room is left.
    """
    service = layout.service
    try:
        free_mib = shutil.disk_usage(service.state_dir).free // MIB
    except OSError as error:
        raise StorageError(f"state-dir cannot be used: {error.strerror}") from error
    if free_mib < service.free_disk_mib:
        raise StorageError(
            f"{free_mib} MiB are free; new builds wait below {service.free_disk_mib} MiB"
        )
    return f"{free_mib} MiB are free"
