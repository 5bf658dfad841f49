# SPDX-License-Identifier: Apache-2.0
"""What `hypervouch matrix` prints and reads in: the matrix over an installation's evidence."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ci.clock import SystemClock
from ci.errors import ConfigError
from ci.listings import open_database
from ci.matrix import export, report
from ci.matrix.cells import WORDS, Cell, Column, Matrix, State, build, only
from ci.model.result import Grade
from ci.store import evidence
from ci.store.reads import all_evidence

WRITERS = {
    "json": export.to_json,
    "csv": export.to_csv,
    "ini": export.to_ini,
    "html": export.to_html,
}
TITLE_WIDTH, CELL_WIDTH, GAP = 34, 12, 1
PIPE_WIDTH = 240
MARKS = {
    State.COMPLETE: ("\u2714", "green"),
    State.PARTIAL: ("\u25d0", "yellow"),
    State.MISSING: ("\u2212", "red"),
    State.FAILING: ("\u2718", "red"),
    State.UNKNOWN: ("?", "dim"),
    State.NO_NODE: ("\u00b7", "dim"),
}
SHORT = {State.PARTIAL: "in part", State.MISSING: "cannot", State.UNKNOWN: "untested"}
LETTERS = {
    Grade.BARE: "b",
    Grade.NESTED: "n",
    Grade.SIMULATOR: "s",
    Grade.EMULATOR: "e",
    Grade.NONE: "",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which part of the matrix; see the options of `hypervouch matrix`."""

    against: int | None = None
    systems: tuple[str, ...] = ()
    group: str = ""
    differences: bool = False
    everything: bool = False


def show(config: Path, form: str, wanted: Wanted) -> None:
    """Print the matrix in one of the forms.

    Raises:
        ConfigError: Nothing was ever run, or there is no such system or group.
    """
    words = all_evidence(open_database(config))
    whole = build(words, now=SystemClock().now(), against=wanted.against)
    _refuse_unknown(whole, wanted)
    as_table = form == "table"
    part = only(
        whole,
        differences=wanted.differences,
        group=wanted.group,
        systems=wanted.systems,
        with_node=as_table and not wanted.systems and not wanted.everything,
    )
    if not as_table:
        click.echo(WRITERS[form](part), nl=False)
        return
    _print(part, wanted)


def add(config: Path, path: Path, *, by: str) -> str:
    """Read a report into the matrix; what it came to, in one line.

    Raises:
        ConfigError: It is no report, or nothing was ever run here.
    """
    now = SystemClock().now()
    name, words = report.read(path, now=now)
    added = evidence.read_in(open_database(config), name, words, by=by, at=now)
    return f"{name}: {added.new} new, {added.renewed} renewed, {added.known} known before"


def _refuse_unknown(whole: Matrix, wanted: Wanted) -> None:
    known = {column.key for column in whole.columns}
    if unknown := sorted(set(wanted.systems) - known):
        raise ConfigError(
            f"there is no system {unknown[0]}", hint=f"use one of {', '.join(sorted(known))}"
        )
    groups = sorted({line.group for line in whole.lines})
    if wanted.group and wanted.group not in groups:
        raise ConfigError(
            f"there is no group {wanted.group}", hint=f"use one of {', '.join(groups)}"
        )


def _print(matrix: Matrix, wanted: Wanted) -> None:
    if not matrix.columns or not matrix.lines:
        click.echo(
            "nothing differs" if wanted.differences else "there is no evidence yet", err=True
        )
        if not wanted.differences:
            click.echo("  see docs/reference/matrix.md: what counts as evidence", err=True)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    for places in _that_fit(len(matrix.columns), console.width):
        console.print(_table(matrix, places))
    if wanted.differences:
        for one in matrix.differences:
            console.print(_difference(one), style="yellow", markup=False)
    console.print(_legend())


def _that_fit(count: int, width: int) -> Iterator[range]:
    """Columns in as many tables, side by side as the terminal has room for."""
    room = max(1, (width - TITLE_WIDTH) // (CELL_WIDTH + GAP))
    for start in range(0, count, room):
        yield range(start, min(start + room, count))


def _table(matrix: Matrix, places: range) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    table.add_column("feature", width=TITLE_WIDTH - GAP, no_wrap=True)
    for place in places:
        table.add_column(_heading(matrix.columns[place]), width=CELL_WIDTH, overflow="fold")
    for line in matrix.lines:
        title = Text(line.title, overflow="ellipsis", no_wrap=True)
        table.add_row(title, *(_cell(line.cells[place]) for place in places))
    return table


def _heading(column: Column) -> Text:
    return Text(export.one_line(column.title, 60))


def _cell(cell: Cell) -> Text:
    mark, style = MARKS[cell.state]
    word = SHORT.get(cell.state, WORDS[cell.state])
    text = Text(f"{mark} {word}", style=style)
    if letter := LETTERS[cell.grade]:
        text.append(f" {letter}{'*' if cell.stale else ''}", style="dim")
    if cell.difference:
        text.stylize("bold reverse")
    return text


def _difference(cell: Cell) -> str:
    reason = export.one_line(cell.reason, 160)
    because = f": {reason}" if reason else ""
    return (
        f"{cell.feature} on {cell.system}: Nova {cell.against} says"
        f" {cell.declared[cell.against]}, here it {_verb(cell)}{because}"
    )


def _verb(cell: Cell) -> str:
    return "is not supported" if cell.state is State.MISSING else WORDS[cell.state]


def _legend() -> Text:
    grades = ", ".join(f"{letter} {grade}" for grade, letter in LETTERS.items() if letter)
    return Text(
        f"cannot: not supported; {grades}, * old; reversed: Nova declares something else",
        style="dim",
    )
