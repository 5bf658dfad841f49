# SPDX-License-Identifier: Apache-2.0
"""Asking Gerrit for the changes that others depend on: answers, refusals and outages."""

from typing import Any

import httpx
import pytest

from ci.errors import DependencyError, ReviewServerError
from ci.gerrit.lookup import GerritLookup
from tests.kit.fake_rest import REVISIONS, client, reply

CHANGE_ID = "I" + "a" * 40


def shown(number: int = 7, **more: Any) -> dict[str, Any]:
    """A change as Gerrit 3 shows it, at its second patch set."""
    current = {
        "_number": 2,
        "ref": f"refs/changes/{number:02d}/{number}/2",
        "commit": {"message": "Fix\n\nDepends-On: x\n"},
    }
    return {
        "_number": number,
        "project": "acme/virt",
        "branch": "main",
        "change_id": CHANGE_ID,
        "status": "NEW",
        "current_revision": REVISIONS[1],
        "revisions": {REVISIONS[1]: current},
        **more,
    }


def lookup(answer: httpx.Response | Exception) -> tuple[GerritLookup, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return GerritLookup(client(handler)), seen


def test_by_number_and_project_it_goes_past_the_search():
    asked, seen = lookup(reply(shown()))
    found = asked.by_number(7, "acme/virt")
    assert found is not None
    assert (found.status, found.message) == ("NEW", "Fix\n\nDepends-On: x\n")
    one = found.patchset
    assert (one.project, one.branch, one.number, one.patchset) == ("acme/virt", "main", 7, 2)
    assert (one.revision, one.ref, one.tip) == (REVISIONS[1], "refs/changes/07/7/2", "")
    assert seen[0].url.raw_path.startswith(b"/a/changes/acme%2Fvirt~7?o=CURRENT_REVISION")


def test_by_a_bare_number_it_searches_and_takes_that_number_only():
    asked, seen = lookup(reply([shown(8), shown(7)]))
    found = asked.by_number(7, "")
    assert found is not None
    assert found.patchset.number == 7
    assert seen[0].url.params["q"] == "change:7"
    assert lookup(reply([shown(8)]))[0].by_number(7, "") is None
    assert lookup(reply([]))[0].by_number(7, "") is None


def test_by_change_id_it_takes_all_of_that_id():
    other = shown(9, change_id="I" + "b" * 40)
    asked, seen = lookup(reply([shown(7), shown(8, status="MERGED"), other]))
    found = asked.by_change_id(CHANGE_ID)
    assert [(one.patchset.number, one.status) for one in found] == [(7, "NEW"), (8, "MERGED")]
    assert seen[0].url.params["q"] == f"change:{CHANGE_ID}"


@pytest.mark.parametrize("status", [403, 404])
def test_one_that_we_may_not_see(status):
    assert lookup(httpx.Response(status, text="no"))[0].by_number(7, "acme/virt") is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, text="no"),
        httpx.Response(500, text="no"),
        httpx.Response(429, text="no"),
        httpx.Response(200, text="<html>a login page</html>"),
        httpx.ConnectError("refused"),
    ],
)
def test_a_server_that_does_not_say_is_asked_again(answer):
    asked, _ = lookup(answer)
    for question in (
        lambda: asked.by_number(7, "acme/virt"),
        lambda: asked.by_number(7, ""),
        lambda: asked.by_change_id(CHANGE_ID),
    ):
        with pytest.raises(ReviewServerError) as error:
            question()
        assert error.value.retryable


@pytest.mark.parametrize(
    "wrong",
    [
        {"project": "-oProxyCommand=x"},
        {"branch": "../x"},
        {"current_revision": "HEAD"},
        {"current_revision": None},
        {"revisions": {}},
        {"revisions": {REVISIONS[1]: {"_number": 2, "ref": "refs/heads/main", "commit": {}}}},
        {"revisions": {REVISIONS[1]: {"_number": 2, "ref": "refs/changes/07/7/2"}}},
    ],
)
def test_what_git_may_not_be_asked_for_is_refused_in_words(wrong):
    asked, _ = lookup(reply(shown(**wrong)))
    with pytest.raises(DependencyError, match="cannot be read"):
        asked.by_number(7, "acme/virt")


def test_facts_come_with_votes_or_not_at_all():
    asked, seen = lookup(reply(shown(status="MERGED") | created()))
    facts = asked.facts("acme/virt", 7)
    assert facts is not None
    assert (facts.change.status, facts.patchset.revision) == ("MERGED", REVISIONS[1])
    assert "DETAILED_LABELS" in str(seen[0].url)
    assert lookup(httpx.Response(404, text="no"))[0].facts("acme/virt", 7) is None
    with pytest.raises(DependencyError, match="cannot be read"):
        lookup(reply(shown(branch="../x")))[0].facts("acme/virt", 7)
    with pytest.raises(ReviewServerError) as error:
        lookup(httpx.Response(401, text="no"))[0].facts("acme/virt", 7)
    assert error.value.retryable


def created() -> dict[str, Any]:
    """The current revision with its date."""
    source = shown()
    source["revisions"][REVISIONS[1]]["created"] = "2026-11-22 15:28:04.000000000"
    return {"revisions": source["revisions"]}


def test_a_message_of_a_megabyte_is_cut():
    source = shown()
    source["revisions"][REVISIONS[1]]["commit"]["message"] = "x" * 1_000_000
    found = lookup(reply(source))[0].by_number(7, "acme/virt")
    assert found is not None
    assert len(found.message) < 300_000
