# SPDX-License-Identifier: Apache-2.0
"""The server in its thread: start, a live page while a build runs, stop."""

import json
import socket
import threading

import httpx
import pytest
import sqlalchemy as sa

from ci.errors import ConfigError
from ci.store import schema
from tests.kit.lab import make_lab
from webui.server import WebServer


@pytest.fixture
def lab(tmp_path):
    made = make_lab(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def server(lab):
    made = WebServer(lab.app)
    made.start()
    yield made
    made.stop()


def events(lines):
    """Server-sent events as (kind, data) pairs."""
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def finish(lab):
    with lab.database.write() as tx:
        mine = schema.attempt.c.id == lab.story.running_attempt
        tx.execute(sa.update(schema.attempt).where(mine).values(phase="done", state="done"))
        own = schema.build.c.id == lab.story.running
        tx.execute(sa.update(schema.build).where(own).values(state="done", result="SUCCESS"))


def test_it_answers_on_a_port_of_its_choice(server):
    answer = httpx.get(f"{server.url}healthz", trust_env=False)
    assert answer.json()["status"] == "ok"
    assert "server" not in answer.headers


def test_a_running_build_is_followed_to_its_end(lab, server):
    log = lab.rows.attempt_dir(lab.story.running, lab.story.running_attempt) / "console.log"
    url = f"{server.url}builds/{lab.story.running}/stream"
    seen = []
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream(
            "GET", url, params={"attempt": lab.story.running_attempt, "line": 12}
        ) as answer,
    ):
        stream = events(answer.iter_lines())
        with log.open("ab") as out:
            out.write(b"2026-11-22T17:41:01.000Z | <b>\x1b[31mFAILED\x1b[0m\nnot yet a li")
        kind, data = next(stream)
        assert kind == "log"
        assert data["lines"] == [
            [12, "17:41:01.000", [["", "<b>"], ["ansi-red", "FAILED"]], "trouble"]
        ]
        with log.open("ab") as out:
            out.write(b"ne\n")
        finish(lab)
        seen = [kind for kind, _ in stream]
    assert seen[-1] == "done"
    assert {"log", "state"} <= set(seen)


def test_stop_ends_live_pages_and_is_repeatable(lab, server):
    ended = threading.Event()
    url = f"{server.url}builds/{lab.story.running}/stream"
    started = threading.Event()

    def follow():
        with (
            httpx.Client(trust_env=False, timeout=30) as client,
            client.stream("GET", url) as answer,
        ):
            for _ in answer.iter_lines():
                started.set()
        ended.set()

    reader = threading.Thread(target=follow)
    reader.start()
    assert started.wait(10)
    server.stop()
    server.stop()
    assert ended.wait(10)
    reader.join(5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)
    assert not lab.app.state.streams


def test_a_taken_port_is_one_clear_error(lab):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            WebServer(lab.app, port=port).start()
