# SPDX-License-Identifier: Apache-2.0
"""`/`: what the installation is doing now."""

from starlette.requests import Request

from ci.store.reads import status_overview
from ci.store.reads.records import StatusOverview
from webui.pages import Loaded, Page
from webui.site import Site


def _load(request: Request, site: Site) -> Loaded:  # noqa: ARG001
    return Loaded(record=status_overview(site.database))


PAGE = Page(
    path="/",
    name="status",
    template="status.html",
    document=StatusOverview,
    load=_load,
    summary="Connections, running and waiting builds with why each waits, nodes, newest verdicts.",
)
