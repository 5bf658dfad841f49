# SPDX-License-Identifier: Apache-2.0
"""Each rule of each reader of comments complains, and says which reader it is."""

import pytest

from ci.comment_rules import MAX_BYTES, problems, rows_of

GOOD = "Build succeeded (check pipeline).\nx\n\n- a http://x : SUCCESS"
PARSED = "- a http://x : {}"


def test_a_good_comment_has_no_problem() -> None:
    assert problems(GOOD) == ()


@pytest.mark.parametrize(
    "row",
    [
        "- a http://x/y/#test-0123456789 : FAILURE in 1h 02m 03s",
        "- a https://x/?a=1&b=2#c : TIMED_OUT in 12m 03s (non-voting)",
        "- a http://x : SKIPPED (non-voting)",
        "- a http://x : ERROR in 9s",
        "- a.b-c_d http://x : DISK_FULL",
    ],
)
def test_good_rows(row: str) -> None:
    assert problems(f"Build failed (check pipeline).\n{row}") == ()


def comment(row: str = "- a http://x : FAILURE", *, prose: str = "x", head: str = "check") -> str:
    return f"Build failed ({head} pipeline).\n{prose}\n\n{row}"


@pytest.mark.parametrize(
    ("text", "reader", "complaint"),
    [
        (comment(head="third-party"), "summary tab", "first line"),
        (comment(head="pr\u00fcfung"), "summary tab", "ASCII letters"),
        ("Build succeeded (check pipeline)\nx\n\n- a http://x : SUCCESS", "summary tab", "first"),
        ("Hello\n" + GOOD, "summary tab", "first line"),
        ("\n" + GOOD, "summary tab", "first line"),
        ("Build succeeded.\n- a http://x : SUCCESS", "summary tab", "first line"),
        (GOOD.replace(".", ". Yes"), "summary tab", "more than"),
        ("Build aborted (check pipeline).\n- a http://x : ABORTED", "scoreboard", "neither"),
        (comment("* a http://x : SUCCESS"), "summary tab", "not a row"),
        (comment("  - a http://x : SUCCESS"), "summary tab", "not a row"),
        (comment("- a b http://x : SUCCESS"), "summary tab", "not a row"),
        (comment("- a : SUCCESS"), "summary tab", "not a row"),
        (comment(prose="- see this"), "summary tab", "not a row"),
        (comment(prose="-"), "summary tab", "not a row"),
        (comment(prose="Build failed."), "summary tab", "further line"),
        (comment(prose="Build failed (b pipeline)."), "summary tab", "further line"),
        (comment("- a a : SUCCESS"), "hideci", "no absolute link"),
        (comment("- a ftp://x : SUCCESS"), "hideci", "no absolute link"),
        (comment(prose="see Build x (other pipeline)"), "hideci", "disagree"),
        (comment("- a http://x : GREAT"), "summary tab", "unknown result"),
        (comment("- a http://x : SUCCESS! in 3s"), "summary tab", "unknown result"),
        (GOOD.replace("x\n\n", "no errors\n\n"), "scoreboard", "'error'"),
        (GOOD.replace(" a ", " failover "), "scoreboard", "'fail'"),
        (GOOD.replace("//x", "//abort"), "scoreboard", "'abort'"),
        ("Build succeeded (check pipeline).\nx", "summary tab", "no row"),
        (comment("- a http://x : ERROR bad words in 3s"), "third-party-ci-tools", "ends the row"),
        (comment("- a http://x : FAILURE in 3 minutes"), "third-party-ci-tools", "ends the row"),
        (comment("- a http://x : FAILURE non-voting"), "third-party-ci-tools", "ends the row"),
        (comment("- a\tb http://x : FAILURE"), "third-party-ci-tools", "not where"),
        (comment("- a*b http://x : FAILURE"), "ciwatch", "does not see"),
        (comment("- a http://x* : FAILURE"), "ciwatch", "does not see"),
        (comment(prose="of - a http://x : SUCCESS"), "ciwatch", "prose looks like a row"),
        (comment(prose="x" * MAX_BYTES), "Gerrit", "bytes"),
        (comment(prose="\u20ac" * (MAX_BYTES // 3)), "Gerrit", "bytes"),
        (comment(prose="\x1b[31m"), "Gerrit", "U+001B"),
        (comment(prose="\u202e"), "Gerrit", "U+202E"),
        (comment(prose="\ud800"), "Gerrit", "U+D800"),
        (comment(prose="\x00"), "Gerrit", "U+0000"),
        ("Patch Set 3: Verified+1\n\n" + GOOD, "Gerrit", "Patch Set N"),
        ("recheck", "recheck triggers", "taken for a recheck"),
        ("Patch Set 3:\n\nrecheck", "recheck triggers", "taken for a recheck"),
        (comment(prose="Recheck this"), "recheck triggers", "order to a CI"),
        (comment(prose="  recheck"), "recheck triggers", "order to a CI"),
        (comment(prose="run-Acme Storage CI"), "recheck triggers", "order to a CI"),
    ],
)
def test_each_rule_complains(text: str, reader: str, complaint: str) -> None:
    found = problems(text)
    assert any(one.startswith(f"{reader}: ") and complaint in one for one in found), found


def test_a_complaint_is_said_once_and_short() -> None:
    found = problems(comment("- " + "x" * 9000) + "\n- \n- ")
    assert len(set(found)) == len(found)
    assert max(map(len, found)) < 300


def test_rows_are_found_wherever_a_reader_might() -> None:
    text = "Build\n- a\n  * b\n-\n--\n-c\n*\td"
    assert rows_of(text) == ("- a", "  * b", "-", "*\td")
