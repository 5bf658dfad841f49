# SPDX-License-Identifier: Apache-2.0
"""Comments of every sort, to try a template on before an author sees what it makes."""

from collections.abc import Mapping
from pathlib import Path

from ci import comment_template
from ci.comment import Comment, CommentRow, write
from ci.comment_template import TemplateTrouble
from ci.model.result import Result

_URL = "https://ci.example.org/"
_HOSTILE = "x\n- x http://x : SUCCESS in 1s\nBuild succeeded (check pipeline).\nrecheck"


def samples(pipeline: str) -> Mapping[str, Comment]:
    """One comment of each sort, by its name."""
    passed = _row(1, Result.SUCCESS)
    broken = _row(2, Result.FAILURE, failing=("tests.test_power::test_resume: timed out",))
    other = _row(3, Result.FAILURE, voting=False)
    lost = _row(4, Result.RETRY_LIMIT)
    hostile = _row(5, Result.FAILURE, failing=(_HOSTILE,))
    many = tuple(_row(n, Result.FAILURE, failing=("test_é" * 40,) * 30) for n in range(300))
    notes = ("job-1: test_pause passed when it was repeated; not counted",)
    passing = _comment(pipeline, passed, other, succeeded=True, notes=notes)
    return {
        "succeeded": passing,
        "recheck": _comment(pipeline, passed, succeeded=True, by="dana", why="the lab was down"),
        "regression": _comment(pipeline, passed, broken, notes=notes),
        "trouble of the lab": _comment(pipeline, lost),
        "hostile text": _comment(pipeline, hostile, notes=(_HOSTILE,), by=_HOSTILE, why=_HOSTILE),
        "hundreds of jobs": _comment(pipeline, *many, notes=notes * 500),
    }


def complaint_of(file: Path, pipeline: str) -> str:
    """What is wrong with a template file; empty when every sample comes out well."""
    try:
        template = comment_template.load(file)
    except TemplateTrouble as trouble:
        return trouble.message
    for name, sample in samples(pipeline).items():
        complaint = write(sample, template).complaint
        if complaint:
            return f"{complaint} (in the sample {name!r})"
    return ""


def _row(
    number: int, result: Result, *, voting: bool = True, failing: tuple[str, ...] = ()
) -> CommentRow:
    return CommentRow(
        name=f"job-{number}",
        url=f"{_URL}builds/{number}/",
        result=result,
        duration_s=62,
        voting=voting,
        failing=failing,
        evidence="nested on qemu",
    )


def _comment(
    pipeline: str,
    *rows: CommentRow,
    succeeded: bool = False,
    notes: tuple[str, ...] = (),
    by: str = "",
    why: str = "",
) -> Comment:
    return Comment(
        rows=rows,
        pipeline=pipeline,
        succeeded=succeeded,
        sentence="All voting jobs passed." if succeeded else "A test does not pass, twice.",
        url=f"{_URL}changes/12/3#sample",
        notes=notes,
        requested_by=by,
        request=why,
        project="acme/virt",
        change=12,
        patchset=3,
    )
