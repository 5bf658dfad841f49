# SPDX-License-Identifier: Apache-2.0
"""`/builds/ID/log`: a console log through a window, and the raw files of an attempt."""

from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ci.store.pins import keeping
from ci.store.reads.records import AttemptDetail
from webui.headers import SANDBOX
from webui.logs import LogWindow
from webui.pages import Loaded, Page
from webui.routes import params
from webui.routes.build import find
from webui.site import Site, site_of

WINDOW_LINES = 1000
_SNIFFED_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class LogDocument:
    """A window of the console log of one attempt."""

    build_id: str
    attempt_id: str
    raw_url: str
    window: LogWindow


def _attempt(request: Request, attempts: tuple[AttemptDetail, ...]) -> AttemptDetail:
    wanted = params.text(request, "attempt")
    if not attempts:
        raise HTTPException(404, "This build has not been tried on a node, so it has no log.")
    if wanted is None:
        return attempts[-1]
    found = next((item for item in attempts if wanted in {item.id, str(item.number)}), None)
    if found is None:
        raise HTTPException(404, "This build has no such attempt.")
    return found


def _kept(site: Site, build_id: str) -> None:
    """Make sure that retention has left the files of a build.

    Raises:
        HTTPException: 410, with the day on which they went.
    """
    day, _ = keeping(site.database, build_id)
    if day:
        raise HTTPException(410, f"The logs of this build were removed on {day}, by retention.")


def _load(request: Request, site: Site) -> Loaded:
    detail = find(request, site)
    attempt = _attempt(request, detail.attempts)
    _kept(site, detail.build.id)
    path = site.logs.console(detail.build.id, attempt.id)
    if path is None:
        raise HTTPException(404, "This attempt has no console log: none yet, or not published yet.")
    line = params.number(request, "line")
    first = params.number(request, "from") or (max(1, line - 20) if line else 1)
    raw = f"builds/{detail.build.id}/attempts/{attempt.id}/console.log"
    live = detail.build.state == "running" and attempt is detail.attempts[-1]
    window = site.logs.window(path, first, WINDOW_LINES, complete=live)
    record = LogDocument(
        build_id=detail.build.id,
        attempt_id=attempt.id,
        raw_url=site.service_url + raw,
        window=window,
    )
    more = {
        "build": detail.build,
        "attempt": attempt,
        "attempts": detail.attempts,
        "size_lines": WINDOW_LINES,
        "follows": live and first <= window.total + 1 and window.last >= window.total,
    }
    return Loaded(record=record, more=more)


def _console(request: Request) -> Response:
    site, build_id = site_of(request), request.path_params["build_id"]
    _kept(site, build_id)
    path = site.logs.console(build_id, request.path_params["attempt_id"])
    if path is None:
        raise HTTPException(404, "There is no such console log.")
    return FileResponse(path, headers=_raw(), media_type="text/plain; charset=utf-8")


def _artifact(request: Request) -> Response:
    found = request.path_params
    _kept(site_of(request), found["build_id"])
    path = site_of(request).logs.artifact(found["build_id"], found["attempt_id"], found["path"])
    if path is None:
        raise HTTPException(404, "There is no such artifact.")
    if _is_text(path):
        return FileResponse(path, headers=_raw(), media_type="text/plain; charset=utf-8")
    return FileResponse(
        path, headers=_raw(), media_type="application/octet-stream", filename=path.name
    )


def _raw() -> dict[str, str]:
    return {"Content-Security-Policy": SANDBOX, "Cache-Control": "no-cache"}


def _is_text(path: Path) -> bool:
    """Whether the beginning of a file is text that a browser can show as such."""
    with path.open("rb") as file:
        start = file.read(_SNIFFED_BYTES)
    if b"\0" in start:
        return False
    try:
        start[:-4].decode("utf-8") if len(start) == _SNIFFED_BYTES else start.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(start) == _SNIFFED_BYTES and error.start > len(start) - 8
    return True


RAW_ROUTES = (
    Route("/builds/{build_id}/attempts/{attempt_id}/console.log", _console, name="console"),
    Route("/builds/{build_id}/attempts/{attempt_id}/artifacts/{path:path}", _artifact),
)
PAGE = Page(
    path="/builds/{build_id}/log",
    name="log",
    template="log.html",
    document=LogDocument,
    load=_load,
    summary=f"Up to {WINDOW_LINES} lines of an attempt's console log.",
    query=(
        ("attempt", "Id or number of the attempt; the newest by default"),
        ("from", "First line; 1 by default"),
        ("line", "A line that must be in the window"),
    ),
)
