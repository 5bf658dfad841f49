# SPDX-License-Identifier: Apache-2.0
"""Votes, their rights and their survival, without a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.sandbox.calls import read_review
from ci.sandbox.changes import Refused, Remark, ReviewInput
from ci.sandbox.labels import CODE_REVIEW, VERIFIED, accepted, headline, permitted_range
from ci.sandbox.push import PushOptions, PushRefused, inherit, parse_options
from ci.sandbox.records import AccountRecord
from ci.sandbox.repositories import Commit, project_name
from ci.sandbox.rest_shapes import timestamp
from ci.sandbox.store import Store, password_digest, password_fits
from tests.kit.sandbox_desk import ADMIN, CI, OWNER, Desk, a_patchset


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def test_a_vote_is_stored_and_told(desk: Desk):
    assert desk.vote(1) == {"Verified": 1}
    (event,) = desk.events()
    assert event["comment"] == "Patch Set 1: Verified+1\n\ndone"
    change = desk.store.change(1)
    assert change is not None
    vote = change.vote_of("ci", "Verified", 1)
    assert vote is not None
    assert (vote.value, vote.tag, vote.copied) == (1, "t", False)


def test_taking_a_vote_back_is_told_with_a_minus(desk: Desk):
    desk.vote(-1)
    desk.vote(0)
    assert desk.events()[-1]["comment"] == "Patch Set 1: -Verified\n\ndone"


def test_saying_nothing_tells_nothing(desk: Desk):
    assert desk.changes.review(1, 1, CI, ReviewInput()) is None
    assert desk.changes.review(1, 1, CI, ReviewInput(labels={"Verified": 9})) == {}
    assert desk.events() == []


def test_inline_comments_are_counted(desk: Desk):
    remarks = (Remark(path="a", text="x", line=1), Remark(path="b", text="y"))
    desk.changes.review(1, 1, OWNER, ReviewInput(comments=remarks, message="see"))
    assert desk.events()[0]["comment"] == "Patch Set 1:\n\n(2 comments)\n\nsee"


def test_a_remark_on_the_patch_set_takes_the_message_place_in_the_event(desk: Desk):
    said = ReviewInput(
        message="see",
        labels={"Verified": 1},
        comments=(Remark(path="/PATCHSET_LEVEL", text="recheck"),),
    )
    desk.changes.review(1, 1, CI, said)
    assert desk.events()[0]["comment"] == "Patch Set 1:\n\nrecheck"
    change = desk.store.change(1)
    assert change is not None
    assert change.messages[-1].text == "Patch Set 1: Verified+1\n\n(1 comment)\n\nsee"


def test_the_state_survives_its_file(desk: Desk, tmp_path: Path):
    desk.vote(1)
    again = Store(tmp_path / "sandbox.sqlite")
    assert again.change(1) == desk.store.change(1)
    assert again.account("ci") == CI
    again.close()


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (lambda changes: changes.abandon(1, CI, ""), 403),
        (lambda changes: changes.restore(1, OWNER, ""), 409),
        (lambda changes: changes.submit(1, OWNER), 403),
        (lambda changes: changes.submit(1, ADMIN), 409),
        (lambda changes: changes.abandon(9, ADMIN, ""), 404),
        (lambda changes: changes.review(1, 9, CI, ReviewInput(message="x")), 404),
        (lambda changes: changes.review(1, 1, OWNER, ReviewInput(labels={"Verified": 1})), 403),
        (lambda changes: changes.review(1, 1, CI, ReviewInput(labels={"Code-Review": 2})), 403),
    ],
)
def test_what_is_refused(desk: Desk, act, status: int):
    with pytest.raises(Refused) as refused:
        act(desk.changes)
    assert refused.value.status == status
    assert desk.events() == []


def test_unknown_labels_and_values_are_dropped():
    assert accepted({"Verified": 1, "Nope": 1, "Code-Review": 7}) == {"Verified": 1}


def test_who_may_vote_what():
    assert permitted_range(CI, VERIFIED) == (-1, 1)
    assert permitted_range(OWNER, VERIFIED) is None
    assert permitted_range(OWNER, CODE_REVIEW) == (-1, 1)
    assert permitted_range(ADMIN, CODE_REVIEW) == (-2, 2)


def test_a_headline_names_votes_in_order():
    assert headline(3, {"Verified": -1, "Code-Review": 2}) == (
        "Patch Set 3: Code-Review+2 Verified-1"
    )


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("NO_CODE_CHANGE", "Copied Votes"),
        ("NO_CHANGE", "Copied Votes"),
        ("REWORK", "Outdated Votes"),
        ("TRIVIAL_REBASE", "Outdated Votes"),
    ],
)
def test_a_verified_vote_is_kept_by_a_new_message_only(desk: Desk, kind: str, title: str):
    desk.vote(1)
    change = desk.store.change(1)
    assert change is not None
    votes = inherit(change, a_patchset(2, kind))
    assert [one.copied for one in votes.copied] == [True] * (title == "Copied Votes")
    assert votes.told.startswith(f"\n\n{title}:\n* Verified+1 (copy condition: ")
    assert votes.told.count("Votes") == 1


def test_a_change_without_votes_inherits_nothing(desk: Desk):
    change = desk.store.change(1)
    assert change is not None
    assert inherit(change, a_patchset(2)).told == ""


def test_push_options():
    assert parse_options("") == PushOptions()
    assert parse_options("topic=xen,wip") == PushOptions(topic="xen", wip=True)
    assert parse_options("ready") == PushOptions(wip=False)
    assert parse_options("private,t=a,hashtag=b") == PushOptions(private=True, hashtags=("a", "b"))
    assert parse_options("remove-private") == PushOptions(private=False)
    with pytest.raises(PushRefused, match='"evil" is not a valid option'):
        parse_options("evil=1")


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("S\n\nChange-Id: I" + "a" * 40 + "\n", "I" + "a" * 40),
        ("S\n\nBody\n\nSigned-off-by: A\nChange-Id: I" + "b" * 40 + "\n", "I" + "b" * 40),
        ("S\n\nChange-Id: I" + "a" * 40 + "\n\nmore text\n", ""),
        ("S\n\nChange-Id: Inot\n", ""),
        ("S\n", ""),
    ],
)
def test_the_footer_names_the_change(message: str, found: str):
    commit = Commit(
        revision="1" * 40,
        tree="2" * 40,
        parents=(),
        author_name="",
        author_email="",
        message=message,
    )
    assert commit.change_id == found


def test_git_clients_spell_a_project_in_many_ways():
    assert {project_name(one) for one in ("a/b", "/a/b", "/a/b.git", "a/b.git/")} == {"a/b"}


@pytest.mark.parametrize(
    "fields",
    [{"labels": {"Verified": "x"}}, {"labels": [1]}, {"labels": {"V": None}}, {"comments": [1]}],
)
def test_a_review_of_wrong_types_is_refused(fields: dict[str, object]):
    with pytest.raises(Refused, match="Invalid application/json") as refused:
        read_review(fields)
    assert refused.value.status == 400


def test_a_review_is_read():
    said = read_review(
        {
            "message": "m",
            "labels": {"Verified": "1"},
            "tag": "t",
            "comments": {"f": [{"message": "why?", "line": 3, "unresolved": True}]},
        }
    )
    why = Remark(path="f", text="why?", line=3, unresolved=True)
    assert said == ReviewInput(message="m", labels={"Verified": 1}, tag="t", comments=(why,))
    assert read_review({"notify": "NONE"}).labels is None


def test_times_are_spelled_as_gerrit_does():
    assert timestamp(1_795_361_283.9) == "2026-11-22 15:28:03.000000000"


def test_passwords():
    salt, digest = password_digest("s3cret")
    account = AccountRecord(
        number=1, username="a", full_name="A", email="a@e.org", salt=salt, digest=digest
    )
    assert password_fits(account, "s3cret")
    assert not password_fits(account, "other")
    assert not password_fits(OWNER, "")
