# SPDX-License-Identifier: Apache-2.0
"""The comment, held against the real expressions of the programs that read it."""

import re

import pytest

from ci.comment import (
    Comment,
    CommentRow,
    duration,
    harmless,
    problems,
    row_line,
    write,
)
from ci.comment_rules import (
    CIWATCH_ROW,
    FORBIDDEN_WHEN_SUCCEEDED,
    MAX_BYTES,
    RESULT_WORDS,
    SUMMARY_HEADER,
    SUMMARY_ROW,
)
from ci.model.result import Result

URL = "https://ci.example.org/buildsets/17"


def row(name: str = "xen-smoke", result: Result = Result.SUCCESS, **more: object) -> CommentRow:
    values: dict[str, object] = {
        "url": f"https://ci.example.org/builds/{name}/",
        "duration_s": 3723.4,
    }
    return CommentRow(name=name, result=result, **(values | more))  # type: ignore[arg-type]


def written(*rows: CommentRow, **more: object) -> str:
    values: dict[str, object] = {
        "succeeded": True,
        "pipeline": "check",
        "sentence": "All is well.",
        "url": URL,
    }
    return write(Comment(rows=rows, **(values | more))).text  # type: ignore[arg-type]


def test_succeeded_comment_word_for_word() -> None:
    assert written(row(), row("kvm", Result.SKIPPED, duration_s=None)) == (
        "Build succeeded (check pipeline).\n"
        f"All is well. {URL}\n"
        "\n"
        "- xen-smoke https://ci.example.org/builds/xen-smoke/ : SUCCESS in 1h 02m 03s\n"
        "- kvm https://ci.example.org/builds/kvm/ : SKIPPED"
    )


def test_failed_comment_names_tests_recheck_and_links() -> None:
    text = written(
        row("xen", Result.FAILURE, failing=("test_a.T::test_resume",)),
        row("kvm", voting=False, duration_s=62),
        succeeded=False,
        sentence="1 test that passed before did not.",
        recheck="recheck xen",
    )
    assert text == (
        "Build failed (check pipeline).\n"
        f"1 test that passed before did not. {URL}\n"
        "\n"
        "- xen https://ci.example.org/builds/xen/ : FAILURE in 1h 02m 03s\n"
        "- kvm https://ci.example.org/builds/kvm/ : SUCCESS in 1m 02s (non-voting)\n"
        "\n"
        "Failing in xen:\n"
        "  test_a.T::test_resume\n"
        "Each link above opens the build: its first failing test, the whole log, the artifacts.\n"
        'To run it again, write a comment that begins with "recheck xen".'
    )
    assert problems(text) == ()


@pytest.mark.parametrize("result", Result)
def test_every_result_has_a_word_that_readers_know(result: Result) -> None:
    line = row_line(row(result=result))
    found = SUMMARY_ROW.match(line)
    assert found is not None
    assert found["result"] in RESULT_WORDS
    assert found["time"] == "1h 02m 03s"
    assert problems(written(row(result=result), succeeded=False)) == ()


def test_results_of_ours_are_translated() -> None:
    words = {one: row_line(row(result=one)).split()[4] for one in Result}
    assert words[Result.MERGE_CONFLICT] == "MERGER_FAILURE"
    assert words[Result.LOST] == words[Result.CANCELED] == "ABORTED"
    assert words[Result.TIMED_OUT] == "TIMED_OUT"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.6, "1s"), (59.6, "1m 00s"), (3600, "1h 00m 00s"), (360_000, "100h 00m 00s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_succeeded_holds_no_word_of_failure_wherever_it_comes_from() -> None:
    text = written(
        row(),
        row("other", Result.FAILURE, voting=False),
        sentence="Known failures only.",
        notes=["test_resume failed before, too", "test_pause is flaky"],
    )
    assert not FORBIDDEN_WHEN_SUCCEEDED.search(text)
    assert problems(text) == ()
    assert "FAILURE" not in text
    assert "\nDid not pass, has no vote: other https://ci.example.org/builds/other/\n" in text
    assert "test_pause is flaky" in text
    assert "More notes are on the page." in text
    assert URL in text.splitlines()[1]


def test_a_non_voting_job_with_an_unlucky_name_is_named_by_its_link_alone() -> None:
    unlucky = row("abort-test", Result.FAILURE, voting=False, url="https://ci.example.org/b/2/")
    text = written(row(), unlucky)
    assert text.endswith("\nDid not pass, has no vote: https://ci.example.org/b/2/")
    assert problems(text) == ()


def test_rows_are_kept_before_prose() -> None:
    failing = tuple(f"tests.test_{'é' * 100}_{number}" for number in range(20))
    rows = [row(f"job-{number}", Result.FAILURE, failing=failing) for number in range(60)]
    text = written(*rows, succeeded=False)
    assert len(text.encode()) <= MAX_BYTES
    assert sum(line.startswith("- ") for line in text.splitlines()) == 60
    assert text.endswith("More is on the page.")
    assert problems(text) == ()


def test_too_many_rows_are_counted() -> None:
    text = written(
        *(row(f"job-{number}", Result.FAILURE) for number in range(500)), succeeded=False
    )
    assert len(text.encode()) <= MAX_BYTES
    assert re.search(r"\d+ more jobs are on the page\.$", text)
    assert problems(text) == ()


def test_many_failing_tests_of_one_job_are_counted() -> None:
    failing = tuple(f"test_{number}" for number in range(50))
    text = written(row("xen", Result.FAILURE, failing=failing), succeeded=False)
    assert "  test_19\n" in text
    assert "test_20\n" not in text
    assert "and 30 more on the page" in text


def test_each_job_shows_a_failing_test_before_any_shows_its_second() -> None:
    failing = tuple(f"test_{'x' * 100}_{number}" for number in range(20))
    rows = [row(f"job-{number}", Result.FAILURE, failing=failing) for number in range(60)]
    text = written(*rows, succeeded=False)
    assert text.count("Failing in job-") == 60
    assert text.count("  and 19 more on the page") + text.count("  and 18 more on the page") == 60


def test_notes_are_cut_before_failing_tests() -> None:
    broken = row("xen", Result.FAILURE, failing=("test_resume",))
    text = written(broken, succeeded=False, notes=["n" * 300] * 100)
    assert "  test_resume\n" in text
    assert 40 < text.count("n" * 300) < 50
    assert len(text.encode()) > MAX_BYTES - 400
    assert text.endswith("More is on the page.")


def test_the_cut_is_the_same_each_time() -> None:
    rows = [row(f"job-{n}", Result.FAILURE, failing=("é" * n,) * 30) for n in range(1, 200)]
    assert written(*rows, succeeded=False) == written(*rows, succeeded=False)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("failover", "fa1lover"),
        ("ERROR-abort", "ERR0R-ab0rt"),
        ("not_registered", "n0t_reg1stered"),
    ],
)
def test_a_job_that_passed_is_not_lost_for_its_name(name: str, shown: str) -> None:
    text = written(row(name))
    assert f"- {shown} https://ci.example.org/builds/" in text
    assert f"- {name} " in written(row(name), succeeded=False)


def test_a_comment_without_a_row_that_may_be_shown_has_not_succeeded() -> None:
    text = written(row(result=Result.NODE_FAILURE))
    assert text.startswith("Build failed (check pipeline).\n")
    assert problems(text) == ()


@pytest.mark.parametrize(
    ("by", "why", "line"),
    [
        ("dana", "the lab was down", "Run again as asked by dana: the lab was down"),
        ("dana", "", "Run again as asked by dana."),
        ("dana", "recheck flaky", "Run again as asked by dana: recheck flaky"),
        ("dana", "bug: it failed with an error", "Run again as asked by dana."),
        ("failover-bot", "because", "Run again as asked on the review."),
        ("- x http://x : SUCCESS\n", "y", "Run again as asked by x http://x: SUCCESS: y"),
    ],
)
def test_who_asked_for_a_run_and_why(by: str, why: str, line: str) -> None:
    text = written(row(), requested_by=by, request=why)
    assert text.split("\n")[2] == line
    assert problems(text) == ()


def test_nobody_asked_for_a_patch_set() -> None:
    assert "asked" not in written(row(), requested_by="", request="ignored")


def test_a_reason_may_say_failure_where_the_comment_does() -> None:
    text = written(row(), succeeded=False, requested_by="dana", request="it failed")
    assert "\nRun again as asked by dana: it failed\n" in text


def test_the_evidence_of_each_job_is_named() -> None:
    assert "\nxen-smoke: evidence nested on qemu" in written(row(evidence="nested on qemu"))
    assert "evidence" not in written(row(evidence="nested on failbox"))


HOSTILE = [
    "- forged http://evil.example/ : SUCCESS in 1s",
    "x - forged http://evil.example/ : SUCCESS",
    "x * forged http://evil.example/ : : : SUCCESS",
    "x - forged http://evil.example/ :",
    "a\n- forged http://evil.example/ : SUCCESS",
    "Build succeeded (check pipeline).",
    "a\nBuild succeeded (gate pipeline).",
    "Build aborted.",
    "recheck",
    "  Recheck-xen bug",
    "- recheck",
    "run-Acme Storage CI",
    "Patch Set 4: Verified-1",
    "\u202e\x00\x1b[2J\ud800",
    "* bullet",
    "-",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: repr(text)[:30])
def test_hostile_text_forges_nothing(hostile: str) -> None:
    text = written(
        row("xen", Result.FAILURE, failing=(hostile,)),
        succeeded=False,
        sentence=hostile,
        notes=[hostile],
        requested_by=hostile,
        request=hostile,
    )
    assert problems(text) == ()
    assert len(CIWATCH_ROW.findall(text)) == 1
    assert len(SUMMARY_HEADER.findall(text)) == 1
    assert problems(written(row(), sentence=hostile, notes=[hostile])) == ()


def test_a_test_keeps_its_name_though_it_begins_like_an_order() -> None:
    assert harmless("recheck_power::test_a") == "recheck_power::test_a"
    assert harmless("run-power::test_a") == "run-power::test_a"
    assert harmless("recheck please") == "said: recheck please"
