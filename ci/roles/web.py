# SPDX-License-Identifier: Apache-2.0
"""The role web: the pages, and nothing else."""

from ci import settings
from ci.roles.core import Core
from webui.app import create_app
from webui.server import WebServer


class WebRole:
    """Serves the pages of this installation.

    Args:
        core: What it shares with the other roles.
        notice: Banner on every page, for a demo.
    """

    def __init__(self, core: Core, *, notice: str = "") -> None:
        service = core.layout.service
        host, _, port = service.listen.rpartition(":")
        token = service.operator_token
        pages = create_app(
            core.database,
            service.state_dir / "logs",
            service.url,
            notice=notice,
            operator_token=settings.resolve_secret(token) if token else "",
            checks_origins=service.checks_origins,
            board=core.board,
            registry=core.telemetry.metrics.registry,
            mirror=core.keeping.mirror,
            disk=core.keeping.guard.reason,
        )
        self.server = WebServer(pages, host=host, port=int(port))

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            ConfigError: The address is taken or not ours.
        """
        self.server.start()

    def stop(self) -> None:
        """End live pages, finish what is being answered."""
        self.server.stop()
