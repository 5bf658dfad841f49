# SPDX-License-Identifier: Apache-2.0
"""What a comment says, before it has its words: all of it harmless, and as much as asked for.

Pure. `prepare` turns hostile text into lines that forge nothing; `Prepared.at` gives the
first so many parts of it: rows before failing tests, those before evidence, that before notes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ci.comment_words import LOOK, WORDS, duration, harmless, name_of, sounds_good
from ci.model.result import Result

MAX_FAILING_PER_ROW = 20
MAX_NOTES = 400  # more never fit


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
        evidence: Grade and hypervisor behind the result; hostile text, empty for none.
    """

    name: str
    url: str
    result: Result
    duration_s: float | None = None
    voting: bool = True
    failing: tuple[str, ...] = ()
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Comment:
    """Everything that a comment is made of; texts may be hostile.

    Attributes:
        rows: One per job, in the order to show; at least one.
        pipeline: Its name, ASCII letters, digits and underscores only.
        succeeded: Whether the first line says so; it does not where no row may then be shown.
        sentence: One sentence of prose.
        url: Absolute address of the page with everything; always kept.
        notes: Further sentences after the rows.
        recheck: What to write to run it again.
        requested_by: Who asked for this run; empty when a patch set started it.
        request: The reason they gave.
        project: Gerrit project.
        change: Its number.
        patchset: The one that was tested.
    """

    rows: tuple[CommentRow, ...]
    pipeline: str
    succeeded: bool
    sentence: str
    url: str
    notes: tuple[str, ...] = ()
    recheck: str = "recheck"
    requested_by: str = ""
    request: str = ""
    project: str = ""
    change: int = 0
    patchset: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job as a template sees it.

    Attributes:
        line: The whole row, to be written as it is.
        name: Job name.
        url: Link of the row.
        result: Its word, for instance `SUCCESS`.
        took: For instance `2m 03s`; empty where it did not run.
        voting: Whether it counts.
        failing: Names of failing tests, as many as are shown.
        more: Failing tests that are not shown.
        evidence: Grade and hypervisor, or empty.
    """

    line: str
    name: str
    url: str
    result: str
    took: str
    voting: bool
    failing: tuple[str, ...] = ()
    more: int = 0
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a template may use; every text is harmless and stands on one line.

    Attributes:
        header: The first line.
        sentence: What the outcome means.
        url: The page with everything; has to stand in the comment.
        request: Who asked for this run and why, or empty.
        rows: As many as are shown.
        notes: As many as are shown.
        cut: What was left out for want of space, or empty.
        recheck: What to write to run it again.
        succeeded: Whether the first line says so.
        pipeline: Its name.
        project: Gerrit project.
        change: Its number.
        patchset: The one that was tested.
    """

    header: str
    sentence: str
    url: str
    request: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    cut: str
    recheck: str
    succeeded: bool
    pipeline: str
    project: str
    change: int
    patchset: int


Part = tuple[str, int]


class Prepared:
    """A comment whose parts can be shown up to any number.

    Args:
        whole: With all rows and notes, and with every failing test that may be shown.
        failing: How many tests fail in each row, shown or not.
        left_out: Whether something was dropped before.
    """

    def __init__(self, whole: Content, failing: Sequence[int], *, left_out: bool) -> None:
        self.whole = whole
        self._failing = failing
        self._left_out = left_out
        self._parts = [*_parts(whole)]

    def bound(self, limit_bytes: int) -> int:
        """How many parts can fit at most, by their own length; at least one."""
        sizes = accumulate(len(self._text(part).encode()) + 1 for part in self._parts)
        return max(1, sum(size <= limit_bytes for size in sizes))

    def at(self, count: int) -> Content:
        """The content with its first `count` parts."""
        whole, shown = self.whole, Counter(self._parts[:count])
        rows = tuple(
            replace(
                row,
                failing=row.failing[: shown["failing", place]],
                more=self._failing[place] - shown["failing", place],
                evidence=row.evidence if shown["evidence", place] else "",
            )
            for place, row in enumerate(whole.rows[:count])
        )
        notes = tuple(note for place, note in enumerate(whole.notes) if shown["note", place])
        return replace(whole, rows=rows, notes=notes, cut=self._cut(count, len(rows)))

    def _cut(self, count: int, rows: int) -> str:
        missing = len(self.whole.rows) - rows
        if missing:
            return f"{missing} more {'job is' if missing == 1 else 'jobs are'} on the page."
        return "More is on the page." if self._left_out or count < len(self._parts) else ""

    def _text(self, part: Part) -> str:
        kind, place = part
        if kind == "note":
            return self.whole.notes[place]
        row = self.whole.rows[place]
        return {"row": row.line, "evidence": row.evidence}.get(kind, "")


def _parts(whole: Content) -> Iterator[Part]:
    rows = whole.rows
    yield from (("row", place) for place in range(len(rows)))
    for depth in range(MAX_FAILING_PER_ROW):  # each row's first one, then each row's second
        yield from (
            ("failing", place) for place, row in enumerate(rows) if depth < len(row.failing)
        )
    yield from (("evidence", place) for place, row in enumerate(rows) if row.evidence)
    yield from (("note", place) for place in range(len(whole.notes)))


def row_line(row: CommentRow, name: str | None = None) -> str:
    """The row of one job."""
    took = "" if row.duration_s is None else f" in {duration(row.duration_s)}"
    voting = "" if row.voting else " (non-voting)"
    return f"- {name or row.name} {row.url} : {WORDS[row.result]}{took}{voting}"


def prepare(comment: Comment) -> Prepared:
    """Make everything harmless.

    In a succeeded comment a row or note that would need a word of failure is replaced by one
    that points to the page.
    """
    good = [row for row in comment.rows if sounds_good(WORDS[row.result])]
    succeeded = comment.succeeded and bool(good)
    shown = good if succeeded else list(comment.rows)
    aside = _set_aside(comment.rows) if succeeded else []
    notes = [*aside, *_notes(comment.notes, succeeded=succeeded)]
    sentence = harmless(comment.sentence)
    if succeeded and not sounds_good(sentence):
        sentence = "See the page for what was found."
    whole = Content(
        header=f"Build {'succeeded' if succeeded else 'failed'} ({comment.pipeline} pipeline).",
        sentence=sentence,
        url=comment.url,
        request=_request(comment, succeeded=succeeded),
        rows=tuple(_row(row, succeeded=succeeded) for row in shown),
        notes=tuple(notes[:MAX_NOTES]),
        cut="",
        recheck=comment.recheck,
        succeeded=succeeded,
        pipeline=comment.pipeline,
        project=comment.project,
        change=comment.change,
        patchset=comment.patchset,
    )
    failing = [0 if succeeded else len(row.failing) for row in shown]
    return Prepared(whole, failing, left_out=len(notes) > MAX_NOTES)


def _row(row: CommentRow, *, succeeded: bool) -> Row:
    name = name_of(row.name, succeeded=succeeded)
    evidence = harmless(row.evidence)
    return Row(
        line=row_line(row, name),
        name=name,
        url=row.url,
        result=WORDS[row.result],
        took="" if row.duration_s is None else duration(row.duration_s),
        voting=row.voting,
        failing=()
        if succeeded
        else tuple(harmless(test) or "a test without a name" for test in _first(row.failing)),
        evidence="" if succeeded and not sounds_good(evidence) else evidence,
    )


def _first(failing: Sequence[str]) -> Sequence[str]:
    return failing[:MAX_FAILING_PER_ROW]


def _set_aside(rows: Sequence[CommentRow]) -> list[str]:
    """One line for each row that is not shown; its link stays."""
    lines = []
    for row in rows:
        if not sounds_good(WORDS[row.result]):
            name = f"{row.name} " if sounds_good(row.name) else ""
            lines.append(f"Did not pass, has no vote: {name}{row.url}")
    return lines


def _notes(notes: Sequence[str], *, succeeded: bool) -> list[str]:
    clean = [note for note in map(harmless, notes[: MAX_NOTES + 1]) if note]
    if not succeeded:
        return clean
    kept = [note for note in clean if sounds_good(note)]
    return [*kept, *(["More notes are on the page."] if len(kept) < len(clean) else [])]


def _request(comment: Comment, *, succeeded: bool) -> str:
    """Who asked for this run, and why, as far as a succeeded comment can hold it."""
    if not comment.requested_by:
        return ""
    who, why = harmless(comment.requested_by), harmless(comment.request)
    lines = [f"Run again as asked by {who}: {comment.request[:LOOK]}"] if why else []
    lines = [harmless(line) for line in (*lines, f"Run again as asked by {who}.")]
    lines.append("Run again as asked on the review.")
    return next(line for line in lines if not succeeded or sounds_good(line))
