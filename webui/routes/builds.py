# SPDX-License-Identifier: Apache-2.0
"""`/builds`: all builds, newest first, filtered and page by page."""

from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ci.model.result import Result
from ci.store.reads import builds_page, parse_cursor
from ci.store.reads.builds import Cursor
from ci.store.reads.records import BuildFilter, BuildsPage
from webui.pages import Loaded, Page
from webui.routes import params
from webui.site import Site

STATES = ("queued", "running", "done", "canceled")
DEFAULT_LIMIT = 50
MOST = 200
_QUERY = (
    ("project", "Only this Gerrit project"),
    ("job", "Only this job"),
    ("label", "Only this node label, so one hypervisor"),
    ("result", "Only this result: " + ", ".join(Result)),
    ("state", "Only this state: " + ", ".join(STATES)),
    ("change", "Only this change number"),
    ("connection", "Only this review server"),
    ("after", "Value of `next` of the page before"),
    ("limit", f"Builds on a page, 1 to {MOST}; {DEFAULT_LIMIT} by default"),
)


def _filter(request: Request) -> BuildFilter:
    result, state = params.text(request, "result"), params.text(request, "state")
    if result is not None and result not in set(Result):
        raise HTTPException(400, f"result must be one of {', '.join(Result)}.")
    if state is not None and state not in STATES:
        raise HTTPException(400, f"state must be one of {', '.join(STATES)}.")
    return BuildFilter(
        project=params.text(request, "project"),
        job=params.text(request, "job"),
        label=params.text(request, "label"),
        result=result,
        state=state,
        change=params.number(request, "change"),
        connection=params.text(request, "connection"),
    )


def _cursor(request: Request) -> Cursor | None:
    text = params.text(request, "after")
    try:
        return parse_cursor(text) if text else None
    except ValueError as error:
        raise HTTPException(400, "after must be the `next` of an earlier page.") from error


def _load(request: Request, site: Site) -> Loaded:
    wanted, after = _filter(request), _cursor(request)
    limit = params.number(request, "limit", most=MOST) or DEFAULT_LIMIT
    page = builds_page(site.database, wanted, after=after, limit=limit)
    kept = {name: value for name, value in vars(wanted).items() if value is not None}
    if limit != DEFAULT_LIMIT:
        kept["limit"] = limit
    more = {
        "choices": site.choices.get(),
        "results": tuple(Result),
        "states": STATES,
        "older": "?" + urlencode(kept | {"after": page.next}) if page.next else "",
        "newest": "?" + urlencode(kept) if after else "",
    }
    return Loaded(record=page, more=more)


PAGE = Page(
    path="/builds",
    name="builds",
    template="builds.html",
    document=BuildsPage,
    load=_load,
    summary="Builds, newest first.",
    query=_QUERY,
)
