# SPDX-License-Identifier: Apache-2.0
"""`/changes/N` and `/changes/N/PS`: what we did about a change, and why not more."""

from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ci.store.reads import change_detail
from ci.store.reads.records import ChangeDetail
from webui.pages import Loaded, Page
from webui.review_views import change_path
from webui.routes import params
from webui.site import Site

_QUERY = (("connection", "Which review server, where several know this number"),)


def _find(request: Request, site: Site) -> ChangeDetail:
    found = change_detail(
        site.database,
        params.path_number(request, "number"),
        connection=params.text(request, "connection"),
    )
    if found is None:
        raise HTTPException(404, "No pipeline here has watched this change.")
    return found


def _load(request: Request, site: Site) -> Loaded:
    return Loaded(record=_find(request, site), more={"only": None})


def _load_patchset(request: Request, site: Site) -> Loaded:
    change, wanted = _find(request, site), params.path_number(request, "patchset")
    shown = tuple(item for item in change.patchsets if item.number == wanted)
    if not shown:
        raise HTTPException(404, "Nothing is known here of this patch set.")
    return Loaded(record=replace(change, patchsets=shown), more={"only": wanted})


def _look_up(request: Request) -> Response:
    """Where the search field leads."""
    number = params.number(request, "number")
    there = change_path(params.text(request, "connection"), number) if number else "/builds"
    return RedirectResponse(there, status_code=303)


LOOK_UP = Route("/changes", _look_up, name="look-up")
PAGE = Page(
    path="/changes/{number}",
    name="change",
    template="change.html",
    document=ChangeDetail,
    load=_load,
    summary="All patch sets of a change: events, decisions, builds, verdicts, votes.",
    query=_QUERY,
)
PATCHSET_PAGE = Page(
    path="/changes/{number}/{patchset}",
    name="patchset",
    template="change.html",
    document=ChangeDetail,
    load=_load_patchset,
    summary="The same for one patch set.",
    query=_QUERY,
)
