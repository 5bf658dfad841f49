# SPDX-License-Identifier: Apache-2.0
"""Catch-up by SSH, by the events-log plugin, and the choice between the ways; no socket."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.clock import FakeClock
from ci.errors import ReviewServerError
from ci.gerrit import query
from ci.gerrit.history import Reading
from ci.gerrit.reconcile import Reconciler, is_away
from ci.gerrit.rest import GerritRest
from ci.layout import Connection
from ci.model.event import Event, EventKind
from tests.kit.fake_rest import client, reply, settings

DATA = Path(__file__).parents[1] / "data" / "gerrit"
PROJECT = "hypervisor-drivers"
ROW, STATS = (json.loads(line) for line in (DATA / "query-ssh.jsonl").read_text().splitlines())
FIRST = {key: ROW["currentPatchSet"][key] for key in ("parents", "uploader", "kind")} | {
    "number": 1,
    "revision": "1" * 40,
    "ref": "refs/changes/01/1/1",
    "createdOn": 1795361283,
}
SINCE = datetime.fromtimestamp(1795361283, UTC)


def row(**more: Any) -> dict[str, Any]:
    """The recorded change, with its patch sets."""
    return {**ROW, "patchSets": [FIRST, ROW["currentPatchSet"]], **more}


def lines(*rows: dict[str, Any], more: bool = False) -> bytes:
    told = (*rows, STATS | {"moreChanges": more})
    return b"".join(json.dumps(one).encode() + b"\n" for one in told)


def by_ssh(*replies: bytes, projects: tuple[str, ...] = (PROJECT,)) -> tuple[Reading, list[str]]:
    """A reading from these replies, and the commands that were run."""
    left, commands = list(replies), []

    def run(_: Connection, command: str) -> bytes:
        commands.append(command)
        return left.pop(0)

    return query.read(settings(), SINCE, projects, run_command=run), commands


def said(*messages: tuple[str, int], comments: list[dict[str, Any]] | None = None) -> list[Event]:
    """The comments of a change with these messages (text, seconds) by admin on patch set 1."""
    who = ROW["owner"]
    told = [
        {"timestamp": 1795361283 + at, "reviewer": who, "message": text} for text, at in messages
    ]
    on = [one | {"reviewer": who} for one in comments or []]
    first = FIRST | {"comments": on}
    reading, _ = by_ssh(lines(row(comments=told, patchSets=[first, ROW["currentPatchSet"]])))
    return [one for one in reading.events if one.kind is EventKind.COMMENT_ADDED]


class TestSsh:
    """What `gerrit query` tells, and what it leaves to REST."""

    def test_the_recorded_change(self) -> None:
        reading, commands = by_ssh(lines(row()))
        assert reading.until is None
        kinds = [one.kind.value for one in reading.events]
        assert kinds[0] == "patchset-created"
        assert reading.events[0].key == "patchset-created:1:3"
        assert kinds.count("change-abandoned") == kinds.count("change-restored") == 1
        assert not {"topic-changed", "wip-state-changed", "vote-deleted"} & set(kinds)
        texts = [text for one in reading.events for text in one.texts]
        assert "recheck hv-ci kvm" in texts
        assert "recheck xen\n\nbecause the node fell over" in texts
        assert not any("Uploaded" in text or "Hashtag" in text for text in texts)
        (standing,) = reading.standing
        assert [(one.label, one.value) for one in standing.approvals] == [("Code-Review", 2)]
        (command,) = commands
        assert command == (
            "gerrit query --format=JSON --current-patch-set --patch-sets --comments"
            " --all-approvals --commit-message --start 0 -- 'limit:100"
            ' (project:"hypervisor-drivers") after:"2026-11-22 15:26:03 +0000"\''
        )

    def test_pages(self) -> None:
        _, commands = by_ssh(lines(row(), row(number=2), more=True), lines())
        assert "--start 0 " in commands[0]
        assert "--start 2 " in commands[1]

    def test_a_server_that_always_says_more_does_not_hold_us_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query, "MAX_PAGES", 3)
        _, commands = by_ssh(*[lines(row(), more=True)] * 3)
        assert len(commands) == 3

    def test_no_projects_ask_for_nothing(self) -> None:
        assert by_ssh(projects=())[1] == []

    def test_one_unreadable_change_does_not_hide_the_others(self) -> None:
        reading, _ = by_ssh(lines(row(branch="../x"), row(patchSets=[{}]), row()))
        assert reading.events

    @pytest.mark.parametrize(
        "output", [b"<html>", b"\xff", b"[]\n", b'{"type":"error","message":"line 1:0 odd"}\n']
    )
    def test_what_is_no_answer_is_an_error(self, output: bytes) -> None:
        with pytest.raises(ReviewServerError) as caught:
            by_ssh(output)
        assert caught.value.retryable

    def test_a_comment_cannot_pass_for_the_servers_word(self) -> None:
        (event,) = said(("Patch Set 1:\n\nAbandoned", 1))
        assert event.texts == ("Abandoned",)
        assert said(("Abandoned", 1)) == []

    def test_texts_on_the_whole_patch_set_in_their_order(self) -> None:
        whole = [{"file": "/PATCHSET_LEVEL", "message": text} for text in ("recheck", "thanks")]
        one = "Patch Set 1:\n\n(1 comment)"
        events = said((one, 1), (one, 2), comments=whole)
        assert [event.texts for event in events] == [("recheck",), ("thanks",)]

    def test_texts_and_inline_comments_of_one_message(self) -> None:
        mixed = [
            {"file": "a.py", "message": "why?"},
            {"file": "/PATCHSET_LEVEL", "message": "recheck"},
        ]
        (event,) = said(("Patch Set 1: Code-Review+1\n\n(2 comments)", 1), comments=mixed)
        assert event.texts == ("recheck",)
        assert [(one.label, one.value) for one in event.approvals] == [("Code-Review", 1)]

    def test_what_cannot_be_told_for_certain_is_left_to_rest(self) -> None:
        mixed = [
            {"file": "a.py", "message": "why?"},
            {"file": "/PATCHSET_LEVEL", "message": "recheck"},
        ]
        one = "Patch Set 1:\n\n(1 comment)"
        assert said((one, 1), (one, 2), comments=mixed) == []
        assert said((one, 1), comments=mixed) == [], "another's robot comment is among them"


Answer = Callable[[httpx.Request], httpx.Response]


def server(log: Answer, changes: httpx.Response | None = None) -> GerritRest:
    """A server without changes whose events-log answers so."""

    def answer(request: httpx.Request) -> httpx.Response:
        if "events-log" in request.url.path:
            return log(request)
        if request.url.path == "/a/config/server/version":
            return reply("3.10.2")
        if request.url.path.endswith("/comments"):
            return reply({})
        return changes or reply([])

    return client(answer)


def reconciler(rest: GerritRest, clock: FakeClock | None = None, **more: Any) -> Reconciler:
    return Reconciler(rest, {PROJECT}, clock or FakeClock(), **more)


class TestEventsLog:
    """The plugin's word is taken where it is there, and never needed."""

    @pytest.mark.parametrize("status", [404, 403])
    def test_absent_it_is_asked_once_per_connect(self, status: int) -> None:
        asked: list[str] = []

        def log(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.params["t1"])
            return httpx.Response(status)

        made = reconciler(server(log))
        for _ in range(3):
            assert made.read(SINCE).events == ()
        assert asked == ["2026-11-22 15:26:03"]
        made.reconnected()
        made.read(SINCE)
        assert len(asked) == 2

    def test_a_failure_harms_nobody_and_is_tried_again(self) -> None:
        answers = [httpx.Response(500), httpx.Response(200, content=self.content())]
        made = reconciler(server(lambda _: answers.pop(0)))
        assert made.read(SINCE).events == ()
        assert made.read(SINCE).events != ()

    def content(self) -> bytes:
        return (DATA / "stream.jsonl").read_bytes() + b"not json\n{}\n"

    def test_lines_are_the_streams_own(self) -> None:
        made = reconciler(server(lambda _: httpx.Response(200, content=self.content())))
        reading = made.read(SINCE - timedelta(hours=1))
        assert reading.until is not None
        kinds = {one.kind for one in reading.events}
        assert kinds >= {EventKind.CHANGE_DELETED, EventKind.VOTE_DELETED}
        assert {one.source for one in reading.events} == {"catch-up"}
        assert {one.change.project for one in reading.events} == {PROJECT}
        assert [one.branch for one in reading.branches][-1] == "master"
        times = [one.occurred_at for one in reading.events]
        assert times == sorted(times)

    def test_what_the_query_tells_too_is_taken_from_the_query(self) -> None:
        told = json.loads((DATA / "query-rest.json").read_text())
        content = self.content()
        rest = server(lambda _: httpx.Response(200, content=content), reply(told))
        plain = reconciler(server(lambda _: httpx.Response(404), reply(told))).read(SINCE)
        both = reconciler(rest).read(SINCE)
        keys = [one.key for one in both.events]
        assert {one.key for one in plain.events} < set(keys)
        assert len(set(keys)) == len(keys)
        said = [one for one in both.events if one.kind is EventKind.COMMENT_ADDED]
        assert len(said) == sum(one.kind is EventKind.COMMENT_ADDED for one in plain.events)
        uploads = [one.key for one in both.events if one.kind is EventKind.PATCHSET_CREATED]
        assert "patchset-created:1:1" not in uploads


class TestWays:
    """SSH answers where REST is away, and only then."""

    def test_ssh_is_asked_where_rest_is_away_but_not_at_every_try(self) -> None:
        clock, asked = FakeClock(), []

        def ssh(*arguments: object) -> Reading:
            asked.append(arguments)
            return Reading(until=None)

        rest = client(lambda _: httpx.Response(503))
        made = reconciler(rest, clock, read_by_ssh=ssh)
        assert made.read(SINCE).until is None
        with pytest.raises(ReviewServerError, match="503"):
            made.read(SINCE)
        clock.advance(61)
        assert made.read(SINCE).until is None
        made.reconnected()
        assert made.read(SINCE).until is None
        assert len(asked) == 3

    def test_both_away_says_both(self) -> None:
        def ssh(*_: object) -> Reading:
            raise ReviewServerError("no route")

        made = reconciler(client(lambda _: httpx.Response(502)), read_by_ssh=ssh)
        with pytest.raises(ReviewServerError, match=r"502.*and by SSH: no route") as caught:
            made.read(SINCE)
        assert caught.value.retryable

    @pytest.mark.parametrize(
        ("answer", "away"),
        [
            (httpx.Response(500), True),
            (httpx.Response(503), True),
            (httpx.Response(401), True),
            (httpx.Response(302, headers={"location": "/login"}), True),
            (httpx.Response(200, text="<html>", headers={"date": "now"}), True),
            (httpx.Response(400), False),
            (httpx.Response(403), False),
            (httpx.Response(404), False),
            (httpx.Response(429), False),
        ],
        ids=str,
    )
    def test_what_counts_as_away(self, answer: httpx.Response, *, away: bool) -> None:
        with pytest.raises(ReviewServerError) as caught:
            client(lambda _: answer).version()
        assert is_away(caught.value) is away

    def test_a_broken_line_counts_as_away(self) -> None:
        def broken(_: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        with pytest.raises(ReviewServerError) as caught:
            client(broken).version()
        assert is_away(caught.value)
