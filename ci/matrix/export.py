# SPDX-License-Identifier: Apache-2.0
"""The matrix for others: JSON, CSV, one HTML file that needs nothing else, and Nova's own ini.

Reasons and titles may be hostile: each form has its own way out of its syntax, and a
spreadsheet must not take a cell for a formula.
"""

import csv
import io
import re
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from pydantic import TypeAdapter

from ci.matrix import nova
from ci.matrix.cells import MEANINGS, WORDS, Cell, Column, Line, Matrix, State

FORMULA = ("=", "+", "-", "@", "\t", "\r")
NOVA_WORDS = {
    State.COMPLETE: "complete",
    State.PARTIAL: "partial",
    State.MISSING: "missing",
    State.FAILING: "missing",
    State.UNKNOWN: "unknown",
    State.NO_NODE: "unknown",
}
"""Nova knows four words; why it is one of them stands in the notes."""

CSV_COLUMNS = (
    "feature",
    "title",
    "group",
    "status",
    "system",
    "system_title",
    "state",
    "grade",
    "passed",
    "tests",
    "last_pass_at",
    "last_at",
    "stale",
    "reason",
    "source",
    *(f"nova_{year}" for year in nova.YEARS),
    "difference",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def to_json(matrix: Matrix) -> str:
    """The same document as `/matrix.json`."""
    return TypeAdapter(Matrix).dump_json(matrix, indent=1).decode() + "\n"


def to_csv(matrix: Matrix) -> str:
    """One line a cell, after a line of headings; times are ISO 8601 in UTC."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for line in matrix.lines:
        for column, cell in zip(matrix.columns, line.cells, strict=True):
            writer.writerow([_harmless(value) for value in _csv_values(line, column, cell)])
    return out.getvalue()


def to_html(matrix: Matrix) -> str:
    """One file with its style in it; no script, nothing to load."""
    return _template().render(
        matrix=matrix, words=WORDS, meanings=MEANINGS, states=list(State), one_line=one_line
    )


def to_ini(matrix: Matrix) -> str:
    """The form of Nova's `support-matrix.ini`: what evidence shows, with how in the notes.

    Only systems with evidence are in it. What fails is `missing` to Nova, whose notes say so.
    """
    shown = [place for place, column in enumerate(matrix.columns) if column.grades]
    parts = [
        "# Made by Hypervouch out of the results of tests. Each `driver-notes` says how real the",
        "# hypervisor was, and when that was. Titles and notes of features are Nova's,",
        "# Copyright (C) 2014 Red Hat, Inc. and the Nova contributors, Apache License 2.0.",
        "",
    ]
    for place in shown:
        column = matrix.columns[place]
        parts += [f"[driver.{column.key}]", f"title={_ini(column.title)}", ""]
    for line in matrix.lines:
        parts += [f"[{line.feature}]", f"title={_ini(line.title)}", f"status={_ini(line.status)}"]
        row = nova.rows().get(line.feature)
        if row and row.notes:
            parts.append(f"notes={_ini(row.notes)}")
        parts.append(f"cli={_ini(';'.join(row.cli if row else ()))}")
        for place in shown:
            cell = line.cells[place]
            parts.append(f"driver.{cell.system}={NOVA_WORDS[cell.state]}")
            if notes := evidence_words(cell):
                parts.append(f"driver-notes.{cell.system}={_ini(notes)}")
        parts.append("")
    return "\n".join(parts)


def evidence_words(cell: Cell) -> str:
    """What stands behind a cell, in a line of its own; empty where there is nothing."""
    if cell.last_at is None:
        return ""
    count = f"{cell.passed} of {cell.tests} tests passed" if cell.tests > 1 else "one test"
    said = f"{WORDS[cell.state]}, {cell.grade}, {count}, {cell.last_at:%Y-%m-%d}"
    old = ", old" if cell.stale else ""
    reason = one_line(cell.reason)
    return f"{said}{old}: {reason}" if reason else f"{said}{old}"


def one_line(text: str, most: int = 600) -> str:
    """Hostile text without control characters, and not longer than that."""
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= most else f"{line[: most - 1]}\u2026"


def _ini(text: str) -> str:
    """A value that configparser reads back, with or without interpolation of `%`.

    It is one line, so no part of it begins a section, a key or a comment.
    """
    return one_line(text, 4_000).replace("%", "%%")


def _harmless(value: object) -> str:
    text = one_line(str(value))
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv_values(line: Line, column: Column, cell: Cell) -> tuple[object, ...]:
    return (
        line.feature,
        line.title,
        line.group,
        line.status,
        column.key,
        column.title,
        cell.state,
        "" if cell.last_at is None else cell.grade,
        cell.passed,
        cell.tests,
        cell.last_pass_at.isoformat() if cell.last_pass_at else "",
        cell.last_at.isoformat() if cell.last_at else "",
        "yes" if cell.stale else "",
        cell.reason,
        cell.source,
        *(cell.declared.get(str(year), "") for year in nova.YEARS),
        cell.difference,
    )


@cache
def _template() -> Template:
    text = files("ci.matrix").joinpath("matrix.html.j2").read_text(encoding="utf-8")
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return made.from_string(text)
