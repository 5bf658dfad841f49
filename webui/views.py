# SPDX-License-Identifier: Apache-2.0
"""How values read on a page: durations, times, words with a tone and an icon. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from ci.model.result import FailureClass, Judgement
from ci.store.reads.records import (
    AttemptDetail,
    BuildDetail,
    BuildRecord,
    BuildsetRecord,
    LeftRecord,
    OutcomeRecord,
    VoteRecord,
)
from webui.ansi import one_line, plain

GRADES = {
    "bare": "the real hypervisor, directly on the node's machine",
    "nested": "the real hypervisor, inside a virtual machine",
    "simulator": "somebody else's simulator of the real interface",
    "emulator": "our own stand-in: proves the client, not the hypervisor",
    "none": "no hypervisor was reached",
}
COUNTED = frozenset({FailureClass.REGRESSION, FailureClass.NEW_FAILING})
ATTEMPT_KINDS = {
    "check": "the patch on the branch tip",
    "repeat": "the patch again, on another lease",
    "baseline": "the branch tip without the patch",
}
NODE_TROUBLE = frozenset({"NODE_FAILURE", "TIMED_OUT", "POST_FAILURE"})
PHASES = {
    "merge": "merging onto the branch tip",
    "lease": "waiting for a node",
    "setup": "setting up",
    "run": "the suite runs",
    "collect": "results come home",
    "done": "about to be judged",
}
_TROUBLE = re.compile(
    r"\b(?:FAILED|FAILURE|ERRORS?|CRITICAL|Traceback|panic|fatal)\b|\b\w{0,60}Error:|^E {3}"
)


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A word with its tone (a CSS class) and its icon, so that colour never stands alone."""

    word: str
    tone: str
    icon: str


_GOOD, _BAD = ("good", "pass"), ("bad", "fail")
_WARN, _OFF = ("warn", "warn"), ("off", "stop")
_RUN, _WAIT = ("run", "run"), ("wait", "wait")
_LOOKS = {
    "SUCCESS": _GOOD,
    "FAILURE": _BAD,
    "MERGE_CONFLICT": _WARN,
    "CANCELED": _OFF,
    "SKIPPED": _OFF,
    "queued": _WAIT,
    "running": _RUN,
    "canceled": _OFF,
    "done": _GOOD,
    "connected": _GOOD,
    "connecting": _WAIT,
    "away": _BAD,
    "Good": _GOOD,
    "Unknown": _WAIT,
    "Bad": _BAD,
    "Looping": _BAD,
    "Maintenance": _OFF,
    "Retired": _OFF,
    "pass": _GOOD,
    "fail": _BAD,
    "error": _BAD,
    "skip": _OFF,
    "regression": _BAD,
    "new-failing": _BAD,
    "known": _WARN,
    "flaky": _WARN,
    "pending": _WAIT,
    "delivered": _GOOD,
    "dropped": _OFF,
    "held": _WARN,
    "draining": _WARN,
    "stopped": _OFF,
    "silent": _BAD,
}
_WORDS = {"pass": "passed", "fail": "failed", "skip": "skipped"}


def badge(key: str) -> Badge:
    """The badge of a result, state, class or test status; unknown words warn."""
    tone, icon = _LOOKS.get(key, _WARN)
    word = _WORDS.get(key, key).replace("_", " ").lower()
    return Badge(word=word[:1].upper() + word[1:], tone=tone, icon=icon)


_FATES = {
    "removed": Badge(word="Removed", tone="good", icon="pass"),
    "noted": Badge(word="Left alone", tone="off", icon="stop"),
    "stays": Badge(word="Still there", tone="bad", icon="fail"),
}


def fate_badge(fate: str) -> Badge:
    """What became of a thing that a build left."""
    return _FATES.get(fate) or badge(fate)


def worst_first(things: Sequence[LeftRecord]) -> tuple[LeftRecord, ...]:
    """What keeps a node out of work, then what was left alone, then what is gone."""
    rank = {"removed": 2, "noted": 1}
    return tuple(sorted(things, key=lambda one: rank.get(one.fate, 0)))


def build_badge(build: BuildRecord) -> Badge:
    """How a build stands: its result, or its state while it has none."""
    if build.cancel_reason and build.state == "running":
        return Badge(word="Stopping", tone="off", icon="stop")
    return badge(build.result or build.state)


def buildset_badge(buildset: BuildsetRecord) -> Badge:
    """How a buildset stands: its verdict, or its state while it has none."""
    verdict = buildset.verdict
    if verdict is None:
        return badge("canceled" if buildset.state == "done" else buildset.state)
    if verdict.succeeded:
        return Badge(word="Succeeded", tone="good", icon="pass")
    if verdict.vote and verdict.vote.value < 0:
        return Badge(word="Failed", tone="bad", icon="fail")
    culprits = (build for build in buildset.builds if build.voting and build.result != "SUCCESS")
    culprit = next(culprits, None)
    return build_badge(culprit) if culprit else Badge(word="No verdict", tone="warn", icon="warn")


def duration(seconds: float | None) -> str:
    """`1h 02m 03s`, `2m 03s`, `3.4s`; a dash for None."""
    if seconds is None:
        return "\u2013"
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest_s = divmod(rest, 60)
    if hours:
        return f"{hours}h {minutes:02d}m {rest_s:02d}s"
    if minutes:
        return f"{minutes}m {rest_s:02d}s"
    return f"{int(max(0.0, seconds) * 10) / 10:.1f}s"


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from start to end, or None where either is missing."""
    return (end - start).total_seconds() if start and end else None


def took(build: BuildRecord, now: datetime) -> str:
    """How long a build has run or ran; a dash before it starts."""
    if build.started_at is None:
        return duration(None)
    return duration(between(build.started_at, build.finished_at or now))


def utc(at: datetime | None) -> str:
    """`2026-11-22 17:41:00 UTC`; a dash for None."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at else "\u2013"


def relative(at: datetime | None, now: datetime) -> str:
    """`3 min ago`, `in 48 s`; a dash for None."""
    if at is None:
        return "\u2013"
    seconds = (now - at).total_seconds()
    size = abs(seconds)
    for limit, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if size < limit:
            amount = f"{round(size / unit_s)} {unit}"
            break
    else:
        amount = f"{round(size / 86_400)} days"
    if size < 1:
        return "now"
    return f"{amount} ago" if seconds > 0 else f"in {amount}"


def size(size_bytes: int) -> str:
    """`512 B`, `18.4 kB`, `20.0 MB`."""
    if size_bytes < 1000:  # noqa: PLR2004
        return f"{size_bytes} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size_bytes < 999.95 * factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / 1e9:.1f} GB"


def count(amount: int, noun: str) -> str:
    """`1 test`, `11 tests`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def web_link(url: str) -> str:
    """The URL if a browser may follow it, else nothing: events are hostile."""
    try:
        return url if urlsplit(url).scheme in {"http", "https"} else ""
    except ValueError:
        return ""


def clock_time(stamp: str) -> str:
    """The time of day out of a log line's ISO time."""
    return stamp[11:23].rstrip("Z")


def is_trouble(text: str) -> bool:
    """Whether a log line looks like bad news."""
    return _TROUBLE.search(plain(text, 2000)) is not None


def line_class(text: str) -> str:
    """`trouble` for bad news, `own` for lines that this program added, else nothing."""
    if text.startswith("# "):
        return "own"
    return "trouble" if is_trouble(text) else ""


def sentence(text: str) -> str:
    """One clean line that starts with a capital (or a host, a file, a name) and ends in a stop."""
    line = one_line(text, 600)
    if not line:
        return ""
    named = any(mark in line.split(" ")[0] for mark in "./_-")
    start = line[:1] if named else line[:1].upper()
    return start + line[1:] + ("" if line.endswith((".", "!", "?", "\u2026")) else ".")


def headline(detail: BuildDetail) -> str:
    """The verdict of a build and its reason, one plain sentence."""
    build = detail.build
    if build.state == "queued":
        return sentence(f"Waiting: {build.waiting or 'its turn comes soon'}")
    if build.state == "running":
        if build.cancel_reason:
            return sentence(f"Stopping: {build.cancel_reason}")
        where = f" on {build.node}" if build.node else ""
        return sentence(f"{_purpose(build)}{where}: {PHASES.get(build.phase, 'starting')}")
    if build.state == "canceled":
        return sentence(f"Canceled: {build.reason or build.cancel_reason or ''}".rstrip(": "))
    return sentence(_short_reason(detail.judgement, build.reason) or "finished without a word")


def _purpose(build: BuildRecord) -> str:
    return {
        "repeat": "Repeating the failed run",
        "baseline": "Testing the branch tip for comparison",
    }.get(build.attempt_kind, "Testing")


def _short_reason(judgement: Judgement | None, reason: str) -> str:
    """The reason without the test names where those are listed right below it."""
    if judgement is None:
        return reason
    said, _, names = judgement.reason.partition(": ")
    listed = any(finding.test_id in names for finding in judgement.findings)
    return said if listed else judgement.reason


def value_words(label: str | None, value: int | None) -> str:
    """`Verified +1`, or that there is no vote."""
    return f"{one_line(label, 100)} {value:+d}" if label and value else "comment without a vote"


def vote_words(vote: VoteRecord | None, buildset: BuildsetRecord, now: datetime) -> str:
    """What became of the vote, in words."""
    if vote is None:
        if buildset.verdict is None:
            return "no vote yet" if buildset.finished_at is None else "no vote"
        return "nothing was posted"
    what = value_words(vote.label, vote.value)
    if vote.state == "delivered":
        return f"{what}, delivered {relative(vote.settled_at, now)}"
    if vote.state == "dropped":
        return sentence(f"{what}, not delivered: {vote.note}").rstrip(".")
    if vote.state == "held":
        return f"{what}, held until an operator releases it"
    tries = f" after {count(vote.tries, 'try').replace('trys', 'tries')}" if vote.tries else ""
    return f"{what}, still to be delivered{tries}"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a timeline: `x` and `width` in thousandths of the whole."""

    phase: str
    words: str
    x: int
    width: int


def timeline(detail: BuildDetail, now: datetime) -> tuple[tuple[str, tuple[Span, ...]], ...]:
    """Rows of (label, spans): waiting in the queue, then each attempt with its phases."""
    build = detail.build
    end = build.finished_at or now
    whole = max((end - build.queued_at).total_seconds(), 0.001)

    def span(phase: str, start: datetime, stop: datetime) -> Span:
        x = round(1000 * (start - build.queued_at) / timedelta(seconds=whole))
        width = round(1000 * (stop - start) / timedelta(seconds=whole))
        words = f"{phase} {duration(between(start, stop))}"
        x = min(max(x, 0), 996)
        return Span(phase=phase, words=words, x=x, width=max(4, min(width, 1000 - x)))

    first = build.started_at or end
    rows: list[tuple[str, tuple[Span, ...]]] = [
        ("queue", (span("queue", build.queued_at, max(first, build.queued_at)),))
    ]
    rows += [
        (
            f"{attempt.kind} #{attempt.number}",
            tuple(span(phase, *times) for phase, *times in _phases(attempt, now)),
        )
        for attempt in detail.attempts
    ]
    return tuple(rows)


def _phases(attempt: AttemptDetail, now: datetime) -> Iterator[tuple[str, datetime, datetime]]:
    end = attempt.finished_at or now
    marks = [
        ("node", attempt.started_at),
        ("setup", attempt.leased_at),
        ("suite", attempt.suite_started_at),
    ]
    known = [(phase, at) for phase, at in marks if at is not None]
    ends = [at for _, at in known[1:]] + [end]
    for (phase, start), stop in zip(known, ends, strict=True):
        yield phase, start, max(start, stop)


def failing(detail: BuildDetail) -> tuple[tuple[OutcomeRecord, AttemptDetail], ...]:
    """Bad outcomes of the newest attempt of the patch itself that has any.

    Those that count stand first: the comment links to one of them, and a page shows not all.
    """
    findings = detail.judgement.findings if detail.judgement else ()
    counted = {f.test_id for f in findings if f.failure_class in COUNTED}
    for attempt in reversed(detail.attempts):
        bad = [item for item in attempt.outcomes if item.status in {"fail", "error"}]
        if attempt.kind != "baseline" and bad:
            bad.sort(key=lambda item: item.test_id not in counted)
            return tuple((item, attempt) for item in bad)
    return ()


def compared(detail: BuildDetail) -> tuple[AttemptDetail, ...]:
    """Attempts that the judgement rests on, or all of them before there is one."""
    every = (*detail.attempts, *detail.borrowed)
    ids = detail.judgement.attempts_compared if detail.judgement else ()
    rank = {attempt_id: place for place, attempt_id in enumerate(ids)}
    chosen = [attempt for attempt in every if attempt.id in rank]
    return tuple(sorted(chosen, key=lambda attempt: rank[attempt.id])) or every


def kept_away(detail: BuildDetail, attempt: AttemptDetail) -> str:
    """Which nodes an attempt avoided and why; empty where none had failed before it."""
    failed = {
        one.node: f"{one.node} ({one.result} in {one.kind} #{one.number})"
        for one in detail.attempts
        if attempt.build_id == one.build_id
        and one.number < attempt.number
        and one.node
        and one.result in NODE_TROUBLE
    }
    if not attempt.node or not failed:
        return ""
    if attempt.node in failed:
        return f"Back on {attempt.node}: no other usable node has its label"
    return f"Kept away from {', '.join(failed.values())}"


def status_of(attempt: AttemptDetail, test_id: str) -> str:
    """How a test ended in an attempt; empty where it did not run."""
    return next((item.status for item in attempt.outcomes if item.test_id == test_id), "")
