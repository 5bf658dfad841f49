# SPDX-License-Identifier: Apache-2.0
"""What a process says of itself over HTTP: the truth, quickly, and nothing secret."""

import threading
import time

import httpx
import pytest

from ci.board import HealthBoard
from ci.clock import FakeClock, SystemClock
from ci.errors import StorageError
from ci.metrics import Metrics
from ci.roles.watch import look_at_database
from ci.telemetry import Telemetry
from tests.kit.core import database_in
from tests.kit.lab import client_of
from webui.health import create_health_app
from webui.server import WebServer


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def board(clock):
    made = HealthBoard(clock, name="ci1", roles=("work", "relay"))
    yield made
    made.close()


@pytest.fixture
def client(board):
    with client_of(create_health_app(board, Telemetry().metrics.registry)) as made:
        yield made


def test_a_process_whose_loops_turn_is_well(board, client):
    board.pulse("dispatcher")
    answer = client.get("/healthz")
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "ok")
    assert (body["process"], body["roles"]) == ("ci1", ["work", "relay"])
    assert [(one["name"], one["ok"]) for one in body["loops"]] == [("dispatcher", True)]
    assert answer.headers["cache-control"] == "no-store"


def test_a_loop_that_stands_still_makes_it_ill_and_is_named(board, client, clock):
    board.pulse("dispatcher", limit_s=60)
    began = clock.now()
    clock.advance(61)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    [loop] = answer.json()["loops"]
    assert (loop["name"], loop["ok"]) == ("dispatcher", False)
    assert loop["since"] == began.isoformat(timespec="seconds")


def test_a_process_that_cannot_work_is_alive_and_not_ready(board, client):
    def look():
        raise StorageError("the database could not be read: disk I/O error", hint="look at it")

    board.check("database", look)
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "failing")
    [check] = answer.json()["checks"]
    assert check["message"] == "the database could not be read: disk I/O error"


def test_an_older_schema_is_not_ready(board, client, tmp_path):
    database = database_in(tmp_path)
    board.check("database", lambda: look_at_database(database))
    assert client.get("/readyz").status_code == 200
    with database.write() as tx:
        tx.exec_driver_sql("UPDATE ci_schema SET version = 2")
    board.check("database", lambda: look_at_database(database))
    answer = client.get("/readyz")
    database.close()
    assert answer.status_code == 503
    assert "version 2" in answer.json()["checks"][0]["message"]


def test_metrics_come_as_prometheus_wants_them(client):
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE hypervouch_claims_total counter" in answer.text


def test_a_process_without_pages_serves_them_and_waits_for_nobody():
    board, free = HealthBoard(SystemClock(), name="ci1"), threading.Event()
    board.check("database", lambda: (free.wait(20) and "") or "")
    server = WebServer(create_health_app(board, Metrics().registry))
    server.start()
    try:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as client:
            assert client.get("/").status_code == 404
            began = time.monotonic()
            assert client.get("/readyz").status_code == 503
            assert time.monotonic() - began < 5
            assert client.get("/healthz").status_code == 200
    finally:
        free.set()
        server.stop()
        board.close()
