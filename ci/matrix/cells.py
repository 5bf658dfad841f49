# SPDX-License-Identifier: Apache-2.0
"""Evidence becomes cells: what each system can do today, how real that is, and what Nova says.

The newest word of each test on each grade counts. Where real evidence (bare, nested) is there,
what a simulator or our own emulator showed decides nothing: it is kept in the history. The same
goes for what a hypervisor alone told, where a test that may ask a guest has a word.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from ci.matrix import nova
from ci.model.evidence import Evidence, Shown
from ci.model.feature import Feature
from ci.model.result import Grade

STALE_DAYS = 30
"""Evidence that is older is called old; a test that was not seen for so long while others of its
cell were no longer counts."""

GRADES = (Grade.BARE, Grade.NESTED, Grade.SIMULATOR, Grade.EMULATOR, Grade.NONE)
_RANK = {grade: rank for rank, grade in enumerate(GRADES)}
REAL = frozenset({Grade.BARE, Grade.NESTED})
_TOLD = re.compile(r"(^|[./])test_told(\.py)?::")
"""Tests of the compute suite that ask no guest, by their names in reports and in JUnit."""


class State(StrEnum):
    """What a cell says."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    MISSING = "missing"
    FAILING = "failing"
    UNKNOWN = "unknown"
    NO_NODE = "no node"


WORDS = {
    State.COMPLETE: "works",
    State.PARTIAL: "works in part",
    State.MISSING: "not supported",
    State.FAILING: "fails",
    State.UNKNOWN: "not tested",
    State.NO_NODE: "no node",
}
"""Each state as people read it."""

MEANINGS = {
    State.COMPLETE: "every test of it passed when it ran last",
    State.PARTIAL: "some tests of it passed, others failed or are not supported",
    State.MISSING: "the system says that it cannot do this",
    State.FAILING: "no test of it passed, and one failed",
    State.UNKNOWN: "this system was tested, this feature of it was not",
    State.NO_NODE: "nobody has shown us this system: there is no evidence of any kind",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One feature of one system.

    Attributes:
        feature: Key of the row.
        system: Key of the column.
        state: What the newest words say together; a word of `State`.
        grade: How real the evidence is that the state rests on; the most real one of it.
        tests: Tests that counted.
        passed: How many of them passed when they ran last.
        last_at: Newest word, of any test that counted.
        last_pass_at: Newest time that a test passed, even if it fails since.
        reason: Why it fails or is not supported; hostile text.
        source: Where the deciding word came from: an attempt's id, or `report: NAME`.
        stale: Whether the newest word is older than the matrix's `stale_days`.
        versions: What exactly stood behind the newest word.
        declared: Nova's word by year, `complete`, `partial`, `missing` or `unknown`.
        difference: `proved` although declared missing, `refuted` although declared, or empty.
        against: The year whose declaration that is; empty where Nova declares nothing.
    """

    feature: str
    system: str
    state: State
    grade: Grade = Grade.NONE
    tests: int = 0
    passed: int = 0
    last_at: datetime | None = None
    last_pass_at: datetime | None = None
    reason: str = ""
    source: str = ""
    stale: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    difference: str = ""
    against: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One system.

    Attributes:
        key: Nova's key where it has one, else ours.
        title: For people.
        grades: Of its evidence, most real first; empty: no node.
        versions: Of its newest evidence.
        last_at: Time of that.
        declared: Years whose table has it.
    """

    key: str
    title: str
    grades: tuple[Grade, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    last_at: datetime | None = None
    declared: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One feature over all systems.

    Attributes:
        feature: Nova's key.
        title: Nova's.
        status: Nova's: `mandatory`, `optional`, `choice(...)`, `condition(...)`.
        group: First part of the key: `operation`, `guest`, `console`, `storage`, `networking`.
        cells: In the order of the columns.
    """

    feature: str
    title: str
    status: str
    group: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The whole of it, or what a filter left.

    Attributes:
        made_at: When.
        stale_days: Age from which evidence counts as old.
        against: Year that is compared with; empty: the newest that has the cell.
        columns: Those with evidence first, each stand-in followed by what it stands in for.
        lines: In Nova's order.
    """

    made_at: datetime
    stale_days: int
    against: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def differences(self) -> tuple[Cell, ...]:
        """Cells in which evidence and Nova's declaration differ."""
        return tuple(one for line in self.lines for one in line.cells if one.difference)


def build(
    evidence: Iterable[Evidence],
    *,
    now: datetime,
    against: int | None = None,
    stale_days: int = STALE_DAYS,
) -> Matrix:
    """The matrix of all that is known.

    Args:
        evidence: The newest word of each test, in any order.
        now: For what is old.
        against: Year of Nova's table to compare with; None: the newest that has the cell.
        stale_days: Age from which evidence counts as old.
    """
    by_system: dict[str, list[Evidence]] = defaultdict(list)
    by_cell: dict[tuple[str, str], list[Evidence]] = defaultdict(list)
    for one in evidence:
        by_system[one.system.key].append(one)
        by_cell[one.feature, one.system.key].append(one)
    columns = _columns(by_system)
    term = timedelta(days=stale_days)
    lines = []
    for key in _features():
        cells = [
            cell(key, column, by_cell.get((key, column.key), ()), now=now, term=term)
            for column in columns
        ]
        lines.append(_line(key, [_compared(one, against) for one in cells]))
    return Matrix(
        made_at=now,
        stale_days=stale_days,
        against=str(against or ""),
        columns=columns,
        lines=tuple(lines),
    )


def cell(
    feature: str, column: Column, words: Sequence[Evidence], *, now: datetime, term: timedelta
) -> Cell:
    """One cell out of everything that was shown there; not yet compared with Nova's table."""
    declared = nova.says(feature, column.key)
    counted = counting(words, term)
    if not counted:
        state = State.UNKNOWN if column.grades else State.NO_NODE
        return Cell(feature=feature, system=column.key, state=state, declared=declared)
    good = [one for one in counted if one.shown is Shown.WORKS]
    bad = [one for one in counted if one.shown is Shown.FAILS]
    deciding = good or bad or counted
    newest = max(counted, key=_age)
    trouble = bad or [one for one in counted if one.shown is Shown.UNSUPPORTED]
    told = max(trouble or deciding, key=_age)
    return Cell(
        feature=feature,
        system=column.key,
        state=_state(good, bad, counted),
        grade=min((one.system.grade for one in deciding), key=_RANK.__getitem__),
        tests=len({one.test_id for one in counted}),
        passed=len({one.test_id for one in good} - {one.test_id for one in trouble}),
        last_at=newest.at,
        last_pass_at=max((one.at for one in words if one.shown is Shown.WORKS), default=None),
        reason=told.reason if trouble else "",
        source=told.source,
        stale=now - newest.at > term,
        versions=newest.system.versions,
        declared=declared,
    )


def counting(words: Sequence[Evidence], term: timedelta) -> list[Evidence]:
    """The newest word of each test on each grade, without what no longer counts.

    However old a guest's word is, none of a hypervisor alone takes its place.
    """
    newest: dict[tuple[Grade, str], Evidence] = {}
    for one in sorted(words, key=_age):
        newest[one.system.grade, one.test_id] = one
    found = list(newest.values())
    if any(one.system.grade in REAL for one in found):
        found = [one for one in found if one.system.grade in REAL]
    found = [one for one in found if not _TOLD.search(one.test_id)] or found
    last = max((one.at for one in found), default=None)
    return [one for one in found if last is not None and last - one.at <= term]


def only(
    matrix: Matrix,
    *,
    differences: bool = False,
    group: str = "",
    systems: Sequence[str] = (),
    with_node: bool = False,
) -> Matrix:
    """The part of a matrix that somebody asks for.

    Args:
        matrix: The whole.
        differences: Only rows and columns with a difference.
        group: Only rows of this group.
        systems: Only these columns.
        with_node: Only columns with evidence.
    """
    differing = {one.system for one in matrix.differences}
    kept = [
        place
        for place, column in enumerate(matrix.columns)
        if (not systems or column.key in systems)
        and (not with_node or column.grades)
        and (not differences or column.key in differing)
    ]
    lines = (
        replace(line, cells=tuple(line.cells[place] for place in kept))
        for line in matrix.lines
        if not group or line.group == group
    )
    return replace(
        matrix,
        columns=tuple(matrix.columns[place] for place in kept),
        lines=tuple(
            line for line in lines if not differences or any(one.difference for one in line.cells)
        ),
    )


def _state(good: Sequence[Evidence], bad: Sequence[Evidence], every: Sequence[Evidence]) -> State:
    if good:
        return State.COMPLETE if len(good) == len(every) else State.PARTIAL
    return State.FAILING if bad else State.MISSING


def _compared(one: Cell, against: int | None) -> Cell:
    """With the difference to Nova's word, where real evidence gives one."""
    year = str(against) if against else max(one.declared, default="")
    said = one.declared.get(year, "")
    if not said:
        return one
    difference = ""
    if one.grade in REAL:
        if said == "missing" and one.state in {State.COMPLETE, State.PARTIAL}:
            difference = "proved"
        elif said in {"complete", "partial"} and one.state in {State.FAILING, State.MISSING}:
            difference = "refuted"
    return replace(one, difference=difference, against=year)


def _columns(by_system: Mapping[str, Sequence[Evidence]]) -> tuple[Column, ...]:
    """Systems with evidence, most real and best known first, then the rest of Nova's tables.

    Beside a stand-in is the column that it stands in for.
    """
    shown = [_column(key, words) for key, words in by_system.items()]
    shown.sort(key=lambda one: (_RANK[one.grades[0]], -len(by_system[one.key]), one.key))
    rest = {
        key: Column(key=key, title=title, declared=_years(key))
        for key, title in nova.drivers().items()
        if key not in by_system
    }
    found = []
    for one in shown:
        found.append(one)
        original = rest.pop(nova.STAND_INS.get(one.key, ""), None)
        if original is not None:
            found.append(original)
    return (*found, *rest.values())


def _column(key: str, words: Sequence[Evidence]) -> Column:
    newest = max(words, key=_age)
    return Column(
        key=key,
        title=nova.drivers().get(key) or newest.system.title or key,
        grades=tuple(sorted({one.system.grade for one in words}, key=_RANK.__getitem__)),
        versions=newest.system.versions,
        last_at=newest.at,
        declared=_years(key),
    )


def _years(driver: str) -> tuple[str, ...]:
    return tuple(str(year) for year in nova.YEARS if driver in nova.declared(year).drivers)


def _features() -> list[str]:
    """Every row, in Nova's order.

    2015's `operation.service-control.wtf.com` is none: Nova itself did not know what it means.
    """
    known, ours = nova.rows(), {one.value for one in Feature}
    return [*(key for key in known if key in ours), *(key for key in ours if key not in known)]


def _line(key: str, cells: Iterable[Cell]) -> Line:
    row = nova.rows().get(key)
    return Line(
        feature=key,
        title=row.title if row else key,
        status=row.status if row else "optional",
        group=key.partition(".")[0],
        cells=tuple(cells),
    )


def _age(one: Evidence) -> tuple[datetime, str]:
    return one.at, one.shown
