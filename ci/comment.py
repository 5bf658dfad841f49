# SPDX-License-Identifier: Apache-2.0
"""The report comment, in the one form that every program which reads such comments accepts.

`compose` writes it, `problems` proves it. Pure; names of tests and their
messages are hostile text and cannot forge a row or a first line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ci.comment_rules import FORBIDDEN_WHEN_SUCCEEDED, MAX_BYTES, problems
from ci.model.result import Result

__all__ = ["WORDS", "CommentRow", "compose", "duration", "harmless", "problems", "row_line"]

WORDS = {
    Result.SUCCESS: "SUCCESS",
    Result.FAILURE: "FAILURE",
    Result.SKIPPED: "SKIPPED",
    Result.TIMED_OUT: "TIMED_OUT",
    Result.CANCELED: "ABORTED",
    Result.NODE_FAILURE: "NODE_FAILURE",
    Result.RETRY_LIMIT: "RETRY_LIMIT",
    Result.POST_FAILURE: "POST_FAILURE",
    Result.MERGE_CONFLICT: "MERGER_FAILURE",
    Result.LOST: "ABORTED",
    Result.ERROR: "ERROR",
}
"""Our results in the words that the readers know."""

_LINE_LIMIT = 300
_MAX_FAILING_PER_ROW = 20
_COLONS = re.compile(r"(?: :)+ ")
_HEADER = re.compile(r"build (?=\w+ \(|\w+\.)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CommentRow:
    """One job in the comment.

    Attributes:
        name: Job name, without blanks.
        url: Absolute address of the build's page.
        result: How it ended.
        duration_s: Seconds; None where it did not run.
        voting: Whether it counts.
        failing: Names of the failing tests, first line of each; hostile text.
    """

    name: str
    url: str
    result: Result
    duration_s: float | None = None
    voting: bool = True
    failing: tuple[str, ...] = ()


def compose(
    rows: Sequence[CommentRow],
    *,
    pipeline: str,
    succeeded: bool,
    sentence: str,
    url: str,
    notes: Sequence[str] = (),
    recheck: str = "recheck",
) -> str:
    r"""Write the comment.

    Rows are kept before prose where the space does not suffice. In a succeeded comment a row
    or note that would need a word of failure is replaced by one that points to the page.

    Args:
        rows: One per job, in the order to show.
        pipeline: Its name, `\w+` only.
        succeeded: Whether the first line says so.
        sentence: One sentence of prose; hostile text is allowed.
        url: Absolute address of the page with everything; always kept.
        notes: Further sentences after the rows; hostile text is allowed.
        recheck: What to write to run it again.

    Returns:
        At most MAX_BYTES bytes of UTF-8, without a line end at its end.
    """
    prose = harmless(sentence)
    if succeeded and FORBIDDEN_WHEN_SUCCEEDED.search(prose):
        prose = "See the page for what was found."
    head = f"Build {'succeeded' if succeeded else 'failed'} ({pipeline} pipeline)."
    shown = [row for row in rows if not succeeded or _sounds_good(row)]
    head = f"{head}\n{f'{prose} {url}'.strip()}\n"
    extras = _clean_notes(notes) if succeeded else _explanations(shown, notes, recheck)
    if len(shown) < len(rows):
        extras = [*_set_aside(rows, shown), *extras]
    return _fitted(head, [row_line(row) for row in shown], extras)


def row_line(row: CommentRow) -> str:
    """The row of one job."""
    took = "" if row.duration_s is None else f" in {duration(row.duration_s)}"
    voting = "" if row.voting else " (non-voting)"
    return f"- {row.name} {row.url} : {WORDS[row.result]}{took}{voting}"


def duration(seconds: float) -> str:
    """Seconds as `1h 02m 03s`, `2m 03s` or `3s`."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m {left:02d}s"
    return f"{minutes}m {left:02d}s" if minutes else f"{left}s"


def harmless(text: str) -> str:
    """Hostile text as part of one line, unable to look like a row or a first line of ours."""
    printable = "".join(one if one.isprintable() else " " for one in text)
    flat = " ".join(printable.split())[:_LINE_LIMIT]
    return _HEADER.sub("build: ", _COLONS.sub(": ", flat)).lstrip("-*> ")


def _sounds_good(row: CommentRow) -> bool:
    return not FORBIDDEN_WHEN_SUCCEEDED.search(WORDS[row.result])


def _set_aside(rows: Sequence[CommentRow], shown: Sequence[CommentRow]) -> list[str]:
    """One line for each row that is not shown; the link stays, our own marker may be in it."""
    lines = []
    for row in rows:
        if row not in shown:
            unlucky = FORBIDDEN_WHEN_SUCCEEDED.search(row.name)
            lines.append(f"Did not pass, has no vote: {'' if unlucky else row.name + ' '}{row.url}")
    return lines


def _clean_notes(notes: Sequence[str]) -> list[str]:
    clean = [harmless(note) for note in notes]
    kept = [note for note in clean if note and not FORBIDDEN_WHEN_SUCCEEDED.search(note)]
    if len(kept) < len(clean):
        kept.append("More notes are on the page.")
    return kept


def _explanations(rows: Sequence[CommentRow], notes: Sequence[str], recheck: str) -> list[str]:
    lines: list[str] = []
    for row in rows:
        if row.failing:
            lines += _failing_tests(row)
    lines += [note for note in map(harmless, notes) if note]
    return [
        *lines,
        "Each link above opens the build: its first failing test, the whole log, the artifacts.",
        f'To run it again, write a comment that begins with "{recheck}".',
    ]


def _failing_tests(row: CommentRow) -> list[str]:
    # Indented by two blanks: Gerrit shows such lines as they are, and no reader of bullets
    # takes them for a row.
    shown = [f"  {harmless(name)}" for name in row.failing[:_MAX_FAILING_PER_ROW]]
    more = len(row.failing) - len(shown)
    return [
        f"Failing in {row.name}:",
        *shown,
        *([f"  and {more} more on the page"] if more else []),
    ]


def _fitted(head: str, rows: Sequence[str], extras: Sequence[str]) -> str:
    """As many rows as fit, then as much of the rest as fits, line by line."""
    room = MAX_BYTES - len(head.encode()) - 500  # for the lines that say what was cut
    kept: list[str] = []
    for row in rows:
        room -= len(row.encode()) + 1
        if room < 0:
            break
        kept.append(row)
    if len(kept) < len(rows):
        extras = [f"{len(rows) - len(kept)} more jobs are on the page."]
    tail: list[str] = []
    for line in extras:
        room -= len(line.encode()) + 1
        if room < 0 and tail:
            tail.append("More is on the page.")
            break
        tail.append(line)
    parts = [head, "\n".join(kept), *(["", "\n".join(tail)] if tail else [])]
    return "\n".join(parts).rstrip("\n")
