# SPDX-License-Identifier: Apache-2.0
"""How reviews read on a page: who says what, what is owed, where a change is."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ci.model.stack import Dependency
from ci.store.reads.records import ConnectionRecord, VoteRecord
from ci.store.reads.review_records import OwedRecord, PatchsetVote
from tests.kit.rows import NOW
from webui import review_views, views

THEIRS = PatchsetVote(
    who="Globex CI",
    account="globex",
    ours=False,
    is_ci=True,
    label="Verified",
    value=-1,
    opinion=-1,
    words="",
    agrees=True,
    buildset_id=None,
    at=NOW,
)
OURS = replace(THEIRS, who="check", ours=True, words="delivered", agrees=None, buildset_id="b")
OWED = OwedRecord(
    id=12,
    buildset_id="b",
    connection="review",
    project="acme/x",
    change_number=7,
    patchset=1,
    subject="",
    pipeline="check",
    recheck=0,
    label="Verified",
    value=-1,
    state="pending",
    transport="",
    tries=1,
    next_at=NOW,
    note="",
    created_at=NOW,
    settled_at=None,
)
ON = Dependency(
    project="acme/con sole", branch="m", number=9, patchset=2, revision="0" * 40, ref="r"
)


def test_the_path_of_a_change_names_its_server():
    assert review_views.change_path("review", 7, 2) == "/changes/7/2?connection=review"
    assert review_views.change_path("a b&c", 7) == "/changes/7?connection=a+b%26c"
    assert review_views.change_path(None, 7) == "/changes/7"


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://r.example.org/c/acme/x/+/7", "https://r.example.org/c/acme/con%20sole/+/9/2"),
        ("https://r.example.org/g/c/a/+/7/", "https://r.example.org/g/c/acme/con%20sole/+/9/2"),
        ("http://r.example.org:8080/7", "http://r.example.org:8080/c/acme/con%20sole/+/9/2"),
        ("http://r.example.org/#/c/7", "http://r.example.org/c/acme/con%20sole/+/9/2"),
        ("javascript:alert(1)//c/a/+/7", ""),
        ("https://r.example.org/", ""),
        ("", ""),
    ],
)
def test_where_gerrit_shows_a_dependency(url, link):
    assert review_views.gerrit_url(url, ON) == link


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://ci.example.org/builds/1", "/builds/1"),
        ("https://ci.example.org//evil.example", "/evil.example"),
        ("https://ci.example.org/\\evil.example", "/evil.example"),
        ("https://ci.example.org.evil.example/", ""),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_a_notice_leads_to_our_pages_only(url, path):
    assert review_views.own_path(url, "https://ci.example.org/") == path


@pytest.mark.parametrize(
    ("vote", "words"),
    [
        (THEIRS, "Verified -1"),
        (replace(THEIRS, value=0), "Verified taken away"),
        (replace(THEIRS, label="", value=0, words="failed"), "comment: failed"),
        (replace(THEIRS, label="", value=0), "comment"),
        (OURS, "Verified -1"),
        (replace(OURS, words="held"), "Verified -1, held"),
        (replace(OURS, label="", value=0), "comment without a vote"),
        (replace(OURS, label="", value=0, words="not posted"), "not posted"),
        (replace(OURS, words="running", label="", value=0), "running"),
        (replace(THEIRS, label="V\u202e\x1b[31m"), "V -1"),
    ],
)
def test_what_a_vote_says(vote, words):
    assert review_views.vote_says(vote) == words


def test_agreement_is_a_word_and_a_shape():
    looks = [
        review_views.agreement_badge(vote, (OURS,))
        for vote in (THEIRS, replace(THEIRS, agrees=False), replace(THEIRS, agrees=None))
    ]
    assert [(look.word, look.icon) for look in looks if look] == [
        ("Agrees", "equal"),
        ("Disagrees", "differ"),
        ("Says neither", "stop"),
    ]
    alone = review_views.agreement_badge(replace(THEIRS, agrees=None), ())
    assert alone is not None
    assert alone.word == "We have no verdict"
    assert review_views.agreement_badge(OURS, (OURS,)) is None
    assert review_views.agreement_badge(replace(THEIRS, is_ci=False), (OURS,)) is None


def test_what_may_be_done_with_a_review():
    assert review_views.commands(OWED) == ("retry", "drop")
    assert review_views.commands(replace(OWED, state="held")) == ("release", "drop")
    assert review_views.commands(replace(OWED, state="delivered")) == ()
    assert review_views.command_line("retry", 12) == "hypervouch outbox retry 12"
    assert review_views.command_line("drop", 12) == "hypervouch outbox drop 12 --why 'REASON'"
    assert {review_views.action_word(verb) for verb in ("retry", "drop", "release")} == {
        "Try now",
        "Drop",
        "Release",
    }


def test_lines_that_nobody_acted_on():
    quiet = ConnectionRecord(
        name="r",
        state="connected",
        message="",
        since=NOW,
        malformed=0,
        unknown=0,
        read_up_to=None,
    )
    assert review_views.counted_lines(quiet) == ""
    busy = replace(quiet, malformed=1, unknown=2)
    assert review_views.counted_lines(busy) == "1 unreadable line, 2 events of other types"


def test_a_held_vote_in_words():
    vote = VoteRecord(
        state="held",
        label="Verified",
        value=-1,
        tries=0,
        note="",
        next_at=NOW,
        created_at=NOW - timedelta(hours=1),
        settled_at=None,
    )
    words = views.vote_words(vote, None, NOW)  # type: ignore[arg-type]
    assert words == "Verified -1, held until an operator releases it"
