# SPDX-License-Identifier: Apache-2.0
"""How values read on a page."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ci.store.database import Database
from ci.store.reads import build_detail
from ci.store.reads.records import BuildDetail
from tests.kit.core import database_in
from tests.kit.rows import NOW
from tests.kit.stories import Story, fill
from webui import ansi, views


@pytest.fixture
def lab(tmp_path):
    database = database_in(tmp_path)
    yield database, fill(database, tmp_path / "logs")
    database.close()


def detail_of(lab: tuple[Database, Story], name: str) -> BuildDetail:
    database, story = lab
    found = build_detail(database, getattr(story, name))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "\u2013"),
        (-3, "0.0s"),
        (0.04, "0.0s"),
        (3.44, "3.4s"),
        (59.99, "59.9s"),
        (60, "1m 00s"),
        (123.9, "2m 03s"),
        (3723, "1h 02m 03s"),
        (90_000, "25h 00m 00s"),
    ],
)
def test_duration(seconds, words):
    assert views.duration(seconds) == words


@pytest.mark.parametrize(
    ("ago_s", "words"),
    [
        (0, "now"),
        (12, "12 s ago"),
        (-48, "in 48 s"),
        (89, "89 s ago"),
        (600, "10 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 days ago"),
    ],
)
def test_relative(ago_s, words):
    assert views.relative(NOW - timedelta(seconds=ago_s), NOW) == words


def test_times_are_utc_and_say_so():
    assert views.utc(NOW) == "2026-11-22 17:41:00 UTC"
    assert views.utc(None) == "\u2013"
    assert views.clock_time("2026-11-22T17:41:00.123Z") == "17:41:00.123"
    assert views.clock_time("") == ""


def test_sizes():
    assert [views.size(n) for n in (0, 999, 1000, 18_420, 20_000_000, 3_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "18.4 kB",
        "20.0 MB",
        "3.0 GB",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("passed", "10 of 11 tests passed, 1 skipped."),
        ("regression", "This patch breaks 2 tests that the branch tip passes."),
        ("running", "Testing on qemu-1: the suite runs."),
        ("queued", "Waiting: no usable node of label xen: xen-1 is in Maintenance (new dom0)."),
        ("superseded", "Canceled: superseded by patch set 2."),
        ("conflict", "Does not merge onto master: conflicts in acme_virt/guest.py."),
    ],
)
def test_headline_is_one_plain_sentence(lab, name, words):
    assert views.headline(detail_of(lab, name)) == words


def test_headline_of_a_build_that_is_being_stopped(lab):
    detail = detail_of(lab, "running")
    stopping = replace(detail.build, cancel_reason="superseded by patch set 4")
    assert views.headline(replace(detail, build=stopping)) == "Stopping: superseded by patch set 4."
    assert views.build_badge(stopping).word == "Stopping"


def test_failing_tests_come_from_the_newest_attempt_of_the_patch(lab):
    found = views.failing(detail_of(lab, "regression"))
    assert [item.test_id.rpartition("::")[2] for item, _ in found] == [
        "test_memory_survives",
        "test_clock_goes_on",
    ]
    assert {attempt.kind for _, attempt in found} == {"repeat"}
    assert views.failing(detail_of(lab, "passed")) == ()


def test_compared_attempts_stand_in_the_order_of_the_judgement(lab):
    kinds = [attempt.kind for attempt in views.compared(detail_of(lab, "regression"))]
    assert kinds == ["check", "baseline", "repeat"]


def test_an_attempt_says_which_nodes_it_kept_away_from(lab):
    detail = detail_of(lab, "retried")
    first, *others = detail.attempts
    assert views.kept_away(detail, first) == ""
    elsewhere = replace(others[-1], node="qemu-9")
    assert f"Kept away from {first.node} (" in views.kept_away(detail, elsewhere)
    back = replace(others[-1], node=first.node)
    assert views.kept_away(detail, back).startswith(f"Back on {first.node}: no other")


def test_timeline_stays_inside_the_bar_and_follows_time(lab):
    for name in ("passed", "regression", "retried", "running", "conflict", "queued"):
        rows = views.timeline(detail_of(lab, name), NOW)
        spans = [span for _, row in rows for span in row]
        assert all(s.x >= 0 and s.width > 0 and s.x + s.width <= 1000 for s in spans), name
        assert [s.x for s in spans] == sorted(s.x for s in spans), name


def test_vote_words(lab):
    regression = detail_of(lab, "regression").buildset
    retried = detail_of(lab, "retried").buildset
    conflict = detail_of(lab, "conflict").buildset
    running = detail_of(lab, "running").buildset
    assert views.vote_words(regression.vote, regression, NOW) == "Verified -1, delivered 14 min ago"
    words = views.vote_words(retried.vote, retried, NOW)
    assert words == "Verified +1, still to be delivered after 2 tries"
    assert views.vote_words(conflict.vote, conflict, NOW) == "nothing was posted"
    assert views.vote_words(running.vote, running, NOW) == "no vote yet"


def test_buildset_without_a_vote_shows_what_stood_in_its_way(lab):
    assert views.buildset_badge(detail_of(lab, "conflict").buildset).word == "Merge conflict"
    assert views.buildset_badge(detail_of(lab, "regression").buildset).word == "Failed"
    assert views.buildset_badge(detail_of(lab, "retried").buildset).word == "Succeeded"
    assert views.buildset_badge(detail_of(lab, "superseded").buildset).word == "Canceled"


def test_badges_never_rest_on_colour_alone():
    for key in ("SUCCESS", "FAILURE", "TIMED_OUT", "never heard of it"):
        look = views.badge(key)
        assert look.word
        assert look.icon in {"pass", "fail", "warn", "run", "wait", "stop"}
    assert views.badge("RETRY_LIMIT").word == "Retry limit"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//x", "", "http://["])
def test_links_that_a_browser_must_not_follow(url):
    assert views.web_link(url) == ""


def test_sentence():
    assert views.sentence("no node is free") == "No node is free."
    assert views.sentence("review.example.org answered 503") == "review.example.org answered 503."
    assert views.sentence("really?!") == "Really?!"
    assert views.sentence(" \x1b[31m ") == ""


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("test_x \x1b[31mFAILED\x1b[0m", True),
        ("E   assert None", True),
        ("Traceback (most recent call last):", True),
        ("ValueError: no", True),
        ("0 failed, 3 passed", False),
        ("Everything fine", False),
        ("a" * 100_000, False),
    ],
)
def test_bad_news_in_a_log(text, bad):
    assert views.is_trouble(text) is bad


def test_colours_become_words_and_everything_else_goes():
    assert ansi.segments("\x1b[1;31mred\x1b[0m plain \x1b[92mgreen") == (
        ("ansi-bold ansi-red", "red"),
        ("", " plain "),
        ("ansi-green", "green"),
    )
    assert ansi.segments("a\x1b]0;title\x07b\x1b[2Jc\x00d\x9b5me\x1b") == (
        ("", "a"),
        ("", "b"),
        ("", "c" + "d"),
        ("", "e"),
    )
    assert ansi.segments("10%\r50%\r100%\r") == (("", "100%"),)
    assert ansi.segments("\x1b[38;5;31mx") == (("", "x"),)


def test_text_cannot_reverse_its_neighbours():
    assert ansi.one_line("user\u202egpj.exe\u2066 \n two") == "usergpj.exe two"
    assert ansi.plain("x" * 20, 5) == "xxxxx…"


def test_hostile_escapes_take_no_time():
    text = "\x1b[" * 20_000 + "\x1b]" * 20_000 + "\x1b[" + ";" * 50_000
    assert ansi.segments(text) is not None
    assert ansi.plain(text) is not None
