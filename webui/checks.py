# SPDX-License-Identifier: Apache-2.0
"""Runs of a patch set in the words of Gerrit's checks API. Pure.

Names, values and limits of the fields are Gerrit's, so they are in its case. Times are ISO 8601
text, which our plugin turns into dates. There are no actions: what can be done is a link.

Source: the Gerrit project, polygerrit-ui/app/api/checks.ts.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ci.model.result import Judgement, TestFinding
from ci.store.reads.records import BuildRecord, BuildsetRecord
from ci.store.reads.runs import PatchsetRuns
from webui import review_views, views
from webui.ansi import one_line

FINDINGS_SHOWN = 20
_SUMMARY = 120
_MESSAGE = 1000
_STATUS = {"queued": "SCHEDULED", "running": "RUNNING"}
_CATEGORY = {
    "pass": "SUCCESS",
    "regression": "ERROR",
    "new-failing": "ERROR",
    "known": "INFO",
    "flaky": "INFO",
    "canceled": "INFO",
}
_TAGS = {
    "regression": ("REGRESSION", "pink", "passes on the branch, and fails with this patch, twice"),
    "new-failing": ("NEW_FAILING", "pink", "a test that the branch does not have, failing twice"),
    "known": ("KNOWN", "yellow", "fails on the branch as well"),
    "flaky": ("FLAKY", "yellow", "failed, then passed on the same commit"),
    "infra": ("INFRA_ERROR", "brown", "trouble of the lab, not of the patch"),
    "empty": ("INFRA_ERROR", "brown", "the suite ran no test: trouble of the lab"),
    "conflict": ("MERGE_CONFLICT", "brown", "does not merge onto its branch"),
    "dependency": ("DEPENDENCY", "brown", "a Depends-On cannot be followed"),
}


def response(found: PatchsetRuns, sha: str | None, base: str) -> dict[str, Any]:
    """The answer to one fetch of Gerrit's page.

    Args:
        found: What ran.
        sha: Only runs of this commit; None for all.
        base: URL of our pages, with its slash.
    """
    buildsets = [item for item in found.buildsets if sha in {None, item.revision}]
    names = _check_names(buildsets)
    runs = [
        _run(item, build, names[item.pipeline, build.job], found.judgements.get(build.id), base)
        for item in buildsets
        for build in item.builds
    ]
    answer: dict[str, Any] = {"responseCode": "OK", "runs": runs}
    if found.waits:
        answer["summaryMessage"] = one_line(" ".join(found.waits), 300)
    if buildsets:
        answer["links"] = [_link(_change_url(buildsets[-1], base), "All runs of this change")]
    return answer


def _check_names(buildsets: list[BuildsetRecord]) -> dict[tuple[str, str], str]:
    """A name per pipeline and job: the job's alone where one pipeline has it."""
    pairs = {(item.pipeline, build.job) for item in buildsets for build in item.builds}
    shared = Counter(job for _, job in pairs)
    return {
        (pipeline, job): one_line(f"{job} ({pipeline})" if shared[job] > 1 else job, 200)
        for pipeline, job in pairs
    }


def _run(
    item: BuildsetRecord, build: BuildRecord, name: str, judgement: Judgement | None, base: str
) -> dict[str, Any]:
    label = item.vote.label if item.vote else None
    if label is None and item.verdict and item.verdict.vote:
        label = item.verdict.vote.label
    status = _STATUS.get(build.state, "COMPLETED")
    fields: dict[str, Any] = {
        "change": build.change_number,
        "patchset": build.patchset,
        "attempt": build.recheck + 1,
        "externalId": build.id,
        "checkName": name,
        "checkDescription": _description(item, build),
        "checkLink": _change_url(item, base),
        "status": status,
        "statusDescription": _status_words(build),
        "statusLink": f"{base}builds/{build.id}",
        "labelName": one_line(label, 100) if label and build.voting else None,
        "scheduledTimestamp": _time(build.queued_at),
        "startedTimestamp": _time(build.started_at),
        "finishedTimestamp": _time(build.finished_at),
        "results": list(_results(build, judgement, base)) if status == "COMPLETED" else [],
    }
    return {key: value for key, value in fields.items() if value is not None}


def _description(item: BuildsetRecord, build: BuildRecord) -> str:
    text = f"Pipeline {item.pipeline} on nodes {build.node_label}"
    if item.requested_by:
        why = f": {item.request}" if item.request else ""
        text += f"; asked for by {item.requested_by}{why}"
    return one_line(text, 300)


def _status_words(build: BuildRecord) -> str:
    if build.state == "queued":
        return one_line(build.waiting or "its turn comes soon", 200)
    if build.state == "running":
        where = f" on {build.node}" if build.node else ""
        return one_line(f"{views.PHASES.get(build.phase, 'starting')}{where}", 200)
    if build.started_at and build.finished_at:
        return f"took {views.duration(views.between(build.started_at, build.finished_at))}"
    return ""


def _results(
    build: BuildRecord, judgement: Judgement | None, base: str
) -> Iterator[dict[str, Any]]:
    """One result per failing test, first those that count; or one for the whole build."""
    findings = sorted(
        judgement.findings if judgement else (),
        key=lambda one: _CATEGORY.get(one.failure_class, "WARNING") != "ERROR",
    )
    for place, finding in enumerate(findings[:FINDINGS_SHOWN]):
        yield _finding(build, finding, place, base)
    left = len(findings) - FINDINGS_SHOWN
    if not findings or left > 0:
        word = f"{left} more tests failed" if left > 0 else _short(build)
        yield {
            "externalId": build.id,
            "category": _category(build.failure_class or "", voting=build.voting),
            "summary": one_line(word, _SUMMARY),
            "message": one_line(build.reason or build.cancel_reason or "", _MESSAGE),
            "tags": _tags(build, build.failure_class or ""),
            "links": _links(build, base),
            "codePointers": [],
        }


def _short(build: BuildRecord) -> str:
    reason = build.reason or build.cancel_reason or ""
    return views.sentence(reason) or views.build_badge(build).word


def _finding(build: BuildRecord, finding: TestFinding, place: int, base: str) -> dict[str, Any]:
    message = ". ".join(text for text in (finding.message, finding.reason) if text)
    return {
        "externalId": f"{build.id}/{place}",
        "category": _category(finding.failure_class, voting=build.voting),
        "summary": _tail(one_line(finding.test_id, 2000)),
        "message": one_line(message, _MESSAGE),
        "tags": _tags(build, finding.failure_class),
        "links": _links(build, base),
        "codePointers": [],
    }


def _tail(test_id: str) -> str:
    """The end of a test's name: its module is the least of it."""
    return test_id if len(test_id) <= _SUMMARY else f"\u2026{test_id[1 - _SUMMARY :]}"


def _category(failure_class: str, *, voting: bool) -> str:
    category = _CATEGORY.get(failure_class, "WARNING")
    return "WARNING" if category == "ERROR" and not voting else category


def _tags(build: BuildRecord, failure_class: str) -> list[dict[str, str]]:
    tags = []
    if failure_class in _TAGS:
        name, color, tooltip = _TAGS[failure_class]
        tags.append({"name": name, "tooltip": tooltip, "color": color})
    label = one_line(build.node_label, 60)
    tags.append({"name": label, "tooltip": "label of the nodes", "color": "gray"})
    if build.grade != "none":
        tooltip = views.GRADES.get(build.grade, "how real the hypervisor is")
        tags.append({"name": build.grade, "tooltip": tooltip, "color": "cyan"})
    if not build.voting:
        tags.append({"name": "NON_VOTING", "tooltip": "does not count", "color": "gray"})
    return tags


def _links(build: BuildRecord, base: str) -> list[dict[str, Any]]:
    page = f"{base}builds/{build.id}"
    links = [_link(page, "Verdict, failing tests and files")]
    if build.attempts:
        log = _link(f"{page}/log", "Console log", icon="code", primary=False)
        links.append(log)
    return links


def _link(
    url: str, tooltip: str, *, icon: str = "external", primary: bool = True
) -> dict[str, Any]:
    return {"url": url, "tooltip": tooltip, "primary": primary, "icon": icon}


def _change_url(item: BuildsetRecord, base: str) -> str:
    path = review_views.change_path(item.connection, item.change_number, item.patchset)
    return base.removesuffix("/") + path


def _time(at: datetime | None) -> str | None:
    """As a browser's `new Date` reads it."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
