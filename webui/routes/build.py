# SPDX-License-Identifier: Apache-2.0
"""`/builds/ID`: one build, verdict and reason first."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ci.store.reads import build_detail
from ci.store.reads.records import BuildDetail
from webui import views
from webui.logs import Artifact, LogWindow
from webui.pages import Loaded, Page
from webui.site import Site

TAIL_LINES = 40


@dataclass(frozen=True, kw_only=True)
class AttemptFiles:
    """What an attempt left on disk.

    Attributes:
        console_url: Absolute address of the raw console log; None where there is none.
        artifacts_url: Absolute address that artifact paths are appended to.
    """

    attempt_id: str
    console_url: str | None
    artifacts_url: str
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, kw_only=True)
class BuildDocument:
    """One build as its page shows it.

    Attributes:
        url: Absolute address of the page.
        headline: Verdict and reason in one sentence.
        files: Per attempt, oldest first.
    """

    url: str
    headline: str
    detail: BuildDetail
    files: tuple[AttemptFiles, ...]


def find(request: Request, site: Site) -> BuildDetail:
    """The build that the path names.

    Raises:
        HTTPException: 404, there is none.
    """
    build_id = request.path_params["build_id"]
    detail = build_detail(site.database, build_id) if len(build_id) <= 64 else None  # noqa: PLR2004
    if detail is None:
        raise HTTPException(404, "There is no such build.")
    return detail


def _files(site: Site, build_id: str, attempt_id: str) -> AttemptFiles:
    base = f"{site.service_url}builds/{build_id}/attempts/{attempt_id}/"
    has_log = site.logs.console(build_id, attempt_id) is not None
    return AttemptFiles(
        attempt_id=attempt_id,
        console_url=f"{base}console.log" if has_log else None,
        artifacts_url=f"{base}artifacts/",
        artifacts=site.logs.artifacts(build_id, attempt_id),
    )


def _tail(site: Site, detail: BuildDetail) -> tuple[str, LogWindow | None]:
    """The newest attempt and the end of its log."""
    if not detail.attempts:
        return "", None
    attempt_id = detail.attempts[-1].id
    path = site.logs.console(detail.build.id, attempt_id)
    live = detail.build.state == "running"
    return attempt_id, site.logs.tail(path, TAIL_LINES, complete=live) if path else None


def _load(request: Request, site: Site) -> Loaded:
    detail = find(request, site)
    build_id = detail.build.id
    attempt_id, tail = _tail(site, detail)
    record = BuildDocument(
        url=f"{site.service_url}builds/{build_id}",
        headline=views.headline(detail),
        detail=detail,
        files=tuple(_files(site, build_id, attempt.id) for attempt in detail.attempts),
    )
    more = {
        "tail": tail,
        "tail_attempt": attempt_id,
        "failing": views.failing(detail),
        "compared": views.compared(detail),
        "timeline": views.timeline(detail, site.clock.now()),
    }
    return Loaded(record=record, more=more)


PAGE = Page(
    path="/builds/{build_id}",
    name="build",
    template="build.html",
    document=BuildDocument,
    load=_load,
    summary="One build: verdict, failing tests, attempts compared, files.",
)
