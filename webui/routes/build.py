# SPDX-License-Identifier: Apache-2.0
"""`/builds/ID`: one build, verdict and reason first."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ci.store.evidence import SYSTEM
from ci.store.pins import Pin, keeping
from ci.store.reads import build_detail
from ci.store.reads.matrix import all_evidence
from ci.store.reads.records import AttemptDetail, BuildDetail
from webui import feature_views, views
from webui.feature_views import FeatureTrials
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
        logs_removed: Day on which retention removed the logs, `2026-11-23`; empty while kept.
        unpublished: Whether an ended attempt's files are not readable here yet.
        pin: Why retention leaves this build alone; None where it is not pinned.
        features: What its last run showed of the matrix's features; None where it tried none.
    """

    url: str
    headline: str
    detail: BuildDetail
    files: tuple[AttemptFiles, ...]
    logs_removed: str = ""
    unpublished: bool = False
    pin: Pin | None = None
    features: FeatureTrials | None = None


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


def _files(site: Site, attempt: AttemptDetail, *, kept: bool) -> AttemptFiles:
    build_id, attempt_id = attempt.build_id, attempt.id
    base = f"{site.service_url}builds/{build_id}/attempts/{attempt_id}/"
    has_log = kept and site.logs.has_console(build_id, attempt_id)
    return AttemptFiles(
        attempt_id=attempt_id,
        console_url=f"{base}console.log" if has_log else None,
        artifacts_url=f"{base}artifacts/",
        artifacts=site.logs.artifacts(build_id, attempt_id) if kept else (),
    )


def _tail(site: Site, detail: BuildDetail) -> tuple[str, LogWindow | None]:
    """The newest attempt and the end of its log."""
    if not detail.attempts:
        return "", None
    attempt_id = detail.attempts[-1].id
    path = site.logs.console(detail.build.id, attempt_id)
    live = detail.build.state == "running"
    return attempt_id, site.logs.tail(path, TAIL_LINES, complete=live) if path else None


def _features(site: Site, detail: BuildDetail) -> FeatureTrials | None:
    run = feature_views.last_run(detail)
    system = run.facts.get(SYSTEM) if run else None
    return feature_views.trials(detail, all_evidence(site.database, system) if system else ())


def _load(request: Request, site: Site) -> Loaded:
    detail = find(request, site)
    build_id = detail.build.id
    removed, pin = keeping(site.database, build_id)
    attempt_id, tail = ("", None) if removed else _tail(site, detail)
    record = BuildDocument(
        url=f"{site.service_url}builds/{build_id}",
        headline=views.headline(detail),
        detail=detail,
        files=tuple(_files(site, attempt, kept=not removed) for attempt in detail.attempts),
        logs_removed=removed,
        unpublished=any(
            attempt.finished_at and not site.logs.published(build_id, attempt.id)
            for attempt in detail.attempts
        )
        and not removed,
        pin=pin,
        features=_features(site, detail),
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
    summary="One build: verdict, failing tests, features, attempts compared, files.",
)
