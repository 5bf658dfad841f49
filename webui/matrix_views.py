# SPDX-License-Identifier: Apache-2.0
"""How the matrix reads: badges for states and words, where its links lead. Pure."""

from collections.abc import Sequence
from urllib.parse import quote

from ci.matrix.cells import MEANINGS, WORDS, Cell, Column, Matrix, State
from ci.matrix.export import evidence_words
from ci.model.result import Grade
from ci.store.reads.matrix import Word
from webui.views import Badge

__all__ = [
    "DECLARED",
    "cell_path",
    "column_groups",
    "column_id",
    "counts",
    "difference_words",
    "evidence_words",
    "legend",
    "shown_badge",
    "state_badge",
]

_LOOKS = {
    State.COMPLETE: ("good", "pass"),
    State.PARTIAL: ("warn", "half"),
    State.MISSING: ("off", "stop"),
    State.FAILING: ("bad", "fail"),
    State.UNKNOWN: ("off", "ask"),
    State.NO_NODE: ("off", "none"),
}
_SHOWN = {"works": State.COMPLETE, "fails": State.FAILING, "unsupported": State.MISSING}
DECLARED = {
    "complete": "complete",
    "partial": "in part",
    "missing": "missing",
    "unknown": "unknown",
}
"""Nova's words, as the table writes them."""


def state_badge(state: State) -> Badge:
    """The badge of a cell's state."""
    tone, icon = _LOOKS[state]
    word = WORDS[state]
    return Badge(word=word[:1].upper() + word[1:], tone=tone, icon=icon)


def shown_badge(word: Word) -> Badge:
    """The badge of what one test showed."""
    return state_badge(_SHOWN[word.shown])


def legend() -> tuple[tuple[Badge, str], ...]:
    """Every state with what it means."""
    return tuple((state_badge(state), MEANINGS[state]) for state in State)


def cell_path(cell: Cell) -> str:
    """The page of a cell."""
    return f"/matrix/{quote(cell.feature, safe='')}/{quote(cell.system, safe='')}"


def column_groups(columns: Sequence[Column]) -> tuple[tuple[str, tuple[Column, ...]], ...]:
    """Columns by what stands behind them, for jumping to one; groups without any are left out."""
    names = ("Real", "Simulated", "Grade not told", "No node")
    groups: dict[str, list[Column]] = {name: [] for name in names}
    for column in columns:
        groups[_group(column)].append(column)
    return tuple((name, tuple(found)) for name, found in groups.items() if found)


def column_id(key: str) -> str:
    """Where a column stands on the page; keys may hold anything."""
    return f"column-{quote(key, safe='').replace('%', '.')}"


def _group(column: Column) -> str:
    if not column.grades:
        return "No node"
    if {Grade.BARE, Grade.NESTED} & {*column.grades}:
        return "Real"
    return "Grade not told" if {*column.grades} == {Grade.NONE} else "Simulated"


def difference_words(cell: Cell) -> str:
    """What stands against Nova's word; empty where nothing does."""
    if not cell.difference:
        return ""
    here = "it is shown to work" if cell.difference == "proved" else "it does not work"
    said = DECLARED.get(cell.declared[cell.against], cell.declared[cell.against])
    return f"Nova {cell.against} declares this {said}; here {here}"


def counts(matrix: Matrix) -> dict[str, int]:
    """Systems and features with evidence, cells that work, and differences."""
    cells = [cell for line in matrix.lines for cell in line.cells]
    return {
        "systems": sum(1 for column in matrix.columns if column.grades),
        "features": sum(1 for line in matrix.lines if any(c.last_at for c in line.cells)),
        "works": sum(1 for cell in cells if cell.state is State.COMPLETE),
        "differences": sum(1 for cell in cells if cell.difference),
    }
