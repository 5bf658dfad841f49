# SPDX-License-Identifier: Apache-2.0
"""The faults that other tests put before a review server: each does what it says."""

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from ci.sandbox.author import Pusher
from tests.kit.faulty_http import LOGIN_PAGE, FaultyHttp, Fronted, Rule, fronted
from tests.kit.sandbox_host import SandboxHost
from tests.kit.ssh_client import EventTap, run_ssh

pytestmark = pytest.mark.integration
VERSION = "/config/server/version"


@pytest.fixture
def faulty(sandbox_host: SandboxHost, tmp_path: Path) -> Iterator[Fronted]:
    with fronted(sandbox_host.ci, tmp_path) as made:
        yield made


@pytest.fixture
def client(faulty: Fronted) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=faulty.http.url, timeout=20.0) as made:
        yield made


def test_without_rules_everything_goes_through(
    faulty: Fronted, sandbox_host: SandboxHost, tmp_path: Path
) -> None:
    sandbox_host.create_project("faulty/through")
    author = Pusher(sandbox_host.admin, "faulty/through", tmp_path / "author")
    change = author.push_change("Fix", {"a": "1\n"})
    pusher = Pusher(faulty.server, "faulty/through", tmp_path / "ci")
    reply = pusher.review(change, "Done.", labels={"Verified": 1})
    assert reply["labels"] == {"Verified": 1}
    (posted,) = faulty.http.asked("POST", "/review$")
    assert (posted.status, posted.forwarded, posted.rule) == (200, True, None)
    assert b"Done." in posted.body
    assert run_ssh(faulty.server, "gerrit", "version").status == 0


def test_a_rule_counts_and_the_next_one_follows(faulty: Fronted, client: httpx.Client) -> None:
    faulty.http.add(
        Rule(path="version", status=503, count=2),
        Rule(method="GET", status=429, retry_after_s=7),
        Rule(method="POST", status=409),
    )
    answers = [client.get(VERSION) for _ in range(4)]
    assert [one.status_code for one in answers] == [503, 503, 429, 200]
    assert answers[2].headers["retry-after"] == "7"
    assert [one.forwarded for one in faulty.http.passed] == [False, False, False, True]
    faulty.http.clear()
    assert client.get(VERSION).status_code == 200


def test_a_login_page_answers_with_200(faulty: Fronted, client: httpx.Client) -> None:
    faulty.http.add(Rule(html=LOGIN_PAGE, count=0))
    for _ in range(3):
        answer = client.get(VERSION)
        assert answer.status_code == 200
        assert answer.text == LOGIN_PAGE
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_a_dropped_reply_was_done_all_the_same(
    faulty: Fronted, client: httpx.Client, sandbox_host: SandboxHost, tmp_path: Path
) -> None:
    sandbox_host.create_project("faulty/dropped")
    author = Pusher(sandbox_host.admin, "faulty/dropped", tmp_path / "author")
    change = author.push_change("Fix", {"a": "1\n"})
    faulty.http.add(Rule(method="POST", drop_reply=True))
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(
            f"/a/changes/{change.id}/revisions/current/review",
            json={"labels": {"Verified": 1}},
            auth=faulty.server.auth,
        )
    assert author.votes(change) == {faulty.server.user: 1}
    assert faulty.http.passed[-1].status == 0


def test_a_stall_delays_and_a_skew_moves_the_clock(faulty: Fronted, client: httpx.Client) -> None:
    faulty.http.add(Rule(stall_s=0.5), Rule(skew_s=3600))
    began = time.monotonic()
    assert client.get(VERSION).status_code == 200
    assert time.monotonic() - began >= 0.5
    date = parsedate_to_datetime(client.get(VERSION).headers["date"])
    assert abs(date.timestamp() - time.time() - 3600) < 30


def test_a_server_that_is_down_comes_back_at_the_same_port(
    faulty: Fronted, client: httpx.Client
) -> None:
    assert client.get(VERSION).status_code == 200
    faulty.http.down()
    with pytest.raises(httpx.TransportError):
        client.get(VERSION)
    with pytest.raises(httpx.ConnectError):
        client.get(VERSION)
    faulty.http.up()
    assert client.get(VERSION).status_code == 200


def test_a_server_that_cannot_be_reached_is_a_bad_gateway(tmp_path: Path) -> None:
    with FaultyHttp("http://127.0.0.1:1") as proxy:
        assert httpx.get(proxy.url).status_code == 502


def test_a_frozen_stream_stays_open_and_says_nothing(
    faulty: Fronted, sandbox_host: SandboxHost
) -> None:
    names = (f"faulty/nudge-{number}" for number in range(100))
    with EventTap(faulty.server, nudge=lambda: sandbox_host.create_project(next(names))) as tap:
        faulty.ssh.freeze()
        sandbox_host.create_project("faulty/frozen")
        with pytest.raises(AssertionError):
            tap.until(lambda one: one.get("projectName") == "faulty/frozen", timeout_s=0.5)
        faulty.ssh.thaw()
        tap.until(lambda one: one.get("projectName") == "faulty/frozen")
        assert faulty.ssh.cut() > 0
        assert tap.ended(timeout_s=10)


def test_ssh_can_be_refused(faulty: Fronted) -> None:
    faulty.ssh.down()
    assert run_ssh(faulty.server, "gerrit", "version").status == 255
    faulty.ssh.up()
    assert run_ssh(faulty.server, "gerrit", "version").status == 0
    assert faulty.ssh.connections == 1
