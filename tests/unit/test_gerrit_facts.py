# SPDX-License-Identifier: Apache-2.0
"""A change as facts: only votes that were given to this patch set, and nothing hostile."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ci.gerrit.facts import change_facts, read_facts
from ci.gerrit.fields import MalformedEvent
from ci.gerrit.rest import RestError
from ci.model.event import Account
from tests.kit.fake_rest import client, reply

REVISION = "b" * 40
ANN = {"_account_id": 1, "name": "Ann", "email": "ann@example.org", "username": "ann"}
ZUUL = {"_account_id": 2, "name": "Zuul CI", "username": "zuul"}
UPLOADED, LATER = "2026-11-22 21:09:49.000000000", "2026-11-22 21:12:00.000000000"


def said(who: dict[str, Any], text: str, at: str = LATER, on: int = 2) -> dict[str, Any]:
    return {"author": who, "message": text, "date": at, "_revision_number": on}


def voted(who: dict[str, Any], value: int, at: str = LATER) -> dict[str, Any]:
    return {**who, "value": value, "date": at}


def source(*messages: dict[str, Any], **labels: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "project": "acme/virt",
        "branch": "main",
        "change_id": "I" + "a" * 40,
        "_number": 12,
        "subject": "Fix",
        "status": "NEW",
        "topic": "hv",
        "hashtags": ["ci", "a\x1b[2Jb"],
        "owner": ANN,
        "work_in_progress": True,
        "current_revision": REVISION,
        "revisions": {
            REVISION: {
                "_number": 2,
                "kind": "NO_CODE_CHANGE",
                "ref": "refs/changes/12/12/2",
                "created": UPLOADED,
                "uploader": ANN,
                "commit": {"message": "Fix\n\nIt was broken\n" + "x" * 9000},
            }
        },
        "labels": {name.replace("_", "-"): {"all": votes} for name, votes in labels.items()},
        "messages": list(messages),
    }


def test_all_of_a_change() -> None:
    found = read_facts(source(), "https://review.example.org/c/12")
    change, patchset = found.change, found.patchset
    assert (change.number, change.topic, change.owner) == (12, "hv", "ann")
    assert (change.owner_email, change.wip) == ("ann@example.org", True)
    assert change.hashtags == ("ci", "a[2Jb")
    assert change.message.startswith("Fix\n\nIt was broken\n")
    assert len(change.message) == 8_000
    assert (patchset.number, patchset.revision, patchset.kind) == (2, REVISION, "NO_CODE_CHANGE")
    assert found.uploaded_at == datetime(2026, 11, 22, 21, 9, 49, tzinfo=UTC)
    assert (found.approvals, found.copied) == ((), ())


def test_a_vote_has_its_message_on_this_patch_set() -> None:
    one = source(
        said(ZUUL, "Patch Set 2: Code-Review-1 Verified+1\n\nBuild succeeded"),
        Verified=[voted(ZUUL, 1), voted(ANN, 0), {**ANN, "value": None}],
    )
    (vote,) = read_facts(one, "").approvals
    assert (vote.label, vote.value, vote.by) == (
        "Verified",
        1,
        Account(username="zuul", name="Zuul CI"),
    )
    assert vote.granted_at == datetime(2026, 11, 22, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "message",
    [
        said(ZUUL, "Patch Set 1: Verified+1\n\ngood", on=1),
        said(ZUUL, "Patch Set 1: Verified+1\n\ngood", on=2),
        said(ZUUL, "Patch Set 2: Verified+1\n\ngood", at=UPLOADED),
        said(ZUUL, "Patch Set 2: Verified-1"),
        said(ZUUL, "Patch Set 2: -Verified"),
        said(ZUUL, "Patch Set 2:\n\nVerified+1"),
        said(ZUUL, "Patch Set 2:\n\nPatch Set 2: Verified+1"),
        said(ZUUL, "hello\nPatch Set 2: Verified+1"),
        said(ANN, "Patch Set 2: Verified+1"),
        said(ANN, "Uploaded patch set 2.\n\nCopied Votes:\n* Verified+1 (copy condition)"),
        {"message": "Patch Set 2: Verified+1", "date": LATER, "_revision_number": 2},
    ],
)
def test_without_it_the_vote_was_copied(message: dict[str, Any]) -> None:
    found = read_facts(source(message, Verified=[voted(ZUUL, 1)]), "")
    assert found.approvals == ()
    assert [(vote.label, vote.value) for vote in found.copied] == [("Verified", 1)]


def test_a_vote_may_come_with_the_push() -> None:
    one = source(
        said(ANN, "Uploaded patch set 2: Code-Review+1.", at=UPLOADED),
        Code_Review=[voted(ANN, 1, at=UPLOADED)],
    )
    assert [vote.label for vote in read_facts(one, "").approvals] == ["Code-Review"]


def test_accounts_are_told_apart_without_their_numbers() -> None:
    plain = {key: value for key, value in ZUUL.items() if key != "_account_id"}
    one = source(said(plain, "Patch Set 2: Verified+1"), Verified=[voted(plain, 1)])
    assert len(read_facts(one, "").approvals) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("current_revision",), "HEAD"),
        (("current_revision",), None),
        (("revisions",), {}),
        (("revisions", REVISION, "ref"), "refs/heads/main"),
        (("revisions", REVISION, "created"), "yesterday"),
        (("revisions", REVISION, "commit"), None),
        (("revisions", REVISION, "commit"), {"message": 7}),
        (("hashtags",), "ci"),
        (("messages",), "none"),
        (("labels", "Verified", "all"), "none"),
        (("labels", "Verified", "all"), [{"value": 1, "date": 7}]),
        (("project",), "../x"),
        (("owner",), []),
    ],
)
def test_what_cannot_be_read_is_refused(path: tuple[str, ...], value: object) -> None:
    broken = deepcopy(source(Verified=[voted(ZUUL, 1)]))
    place: dict[str, Any] = broken
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(MalformedEvent):
        read_facts(broken, "")


def test_it_is_asked_past_the_search_index() -> None:
    asked: list[str] = []

    def answer(request):
        asked.append(str(request.url))
        return reply(source())

    found = change_facts(client(answer), "acme/virt", 12)
    assert found.change.url == "https://review.example.org/c/acme/virt/+/12"
    (url,) = asked
    assert "/a/changes/acme%2Fvirt~12?" in url
    assert "o=MESSAGES" in url


def test_a_change_that_is_gone() -> None:

    with pytest.raises(RestError) as refused:
        change_facts(client(lambda _: httpx.Response(404, text="Not found")), "acme/virt", 12)
    assert refused.value.status == 404
