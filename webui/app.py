# SPDX-License-Identifier: Apache-2.0
"""Step 9 of 9, page. Before: vote. After: nothing; people read.

In: rows and log files. Out: HTML and a JSON twin for every page. Readable without login and
without JavaScript; what is live comes by server-sent events.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from ci.board import HealthBoard
from ci.clock import Clock, SystemClock
from ci.log_mirror import Mirror
from ci.store.database import Database
from webui import problems, tail
from webui.headers import SecurityHeaders
from webui.health import health_routes
from webui.pages import Page
from webui.routes import (
    agreement,
    audit,
    build,
    build_log,
    builds,
    changes,
    checks,
    matrix,
    nodes,
    outbox,
    processes,
    service,
    status,
)
from webui.site import make_site
from webui.templating import HERE

PAGES: tuple[Page, ...] = (
    status.PAGE,
    builds.PAGE,
    build_log.PAGE,
    build.PAGE,
    changes.PATCHSET_PAGE,
    changes.PAGE,
    matrix.PAGE,
    matrix.CELL_PAGE,
    nodes.PAGE,
    processes.PAGE,
    agreement.PAGE,
    outbox.PAGE,
    audit.PAGE,
)


def create_app(
    database: Database,
    logs_dir: Path,
    service_url: str,
    *,
    notice: str = "",
    clock: Clock | None = None,
    operator_token: str = "",
    checks_origins: Iterable[str] = (),
    board: HealthBoard | None = None,
    registry: CollectorRegistry | None = None,
    mirror: Mirror | None = None,
    disk: Callable[[], str] = lambda: "",
) -> Starlette:
    """The web application.

    Args:
        database: Read; written only by an operator's button.
        logs_dir: Where builds leave their files: `<build>/<attempt>/console.log` and so on.
        service_url: Where people find this site, for absolute links.
        notice: Banner on every page, for instance that this is a demo; empty for none.
        clock: For relative times; the machine's own by default.
        operator_token: Lets operators act here; empty: the pages only show.
        checks_origins: Origins of the review servers whose pages may read the checks.
        board: What this process says of its health; by default that nothing runs here.
        registry: Its metrics; none by default.
        mirror: Brings logs that were written elsewhere; by default all are in `logs_dir`.
        disk: Says why this process starts no new builds for want of room; empty while it does.
    """
    board = board or HealthBoard(clock or SystemClock())
    app = Starlette(
        routes=_routes(board, registry or CollectorRegistry()),
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers=problems.HANDLERS,
    )
    app.state.site = make_site(
        database,
        logs_dir,
        service_url,
        notice=notice,
        clock=clock,
        operator_token=operator_token,
        checks_origins=checks_origins,
        mirror=mirror,
        disk=disk,
    )
    app.state.stopping = app.state.site.stopping
    app.state.streams = set()
    return app


def _routes(board: HealthBoard, registry: CollectorRegistry) -> list[BaseRoute]:
    routes: list[BaseRoute] = [
        *checks.ROUTES,
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
        *service.service_routes(PAGES),
        *health_routes(board, registry),
        tail.ROUTE,
        *build_log.RAW_ROUTES,
        changes.LOOK_UP,
        outbox.ACTION,
        *matrix.EXPORTS,
    ]
    for page in PAGES:
        routes.extend(page.routes())
    return routes
