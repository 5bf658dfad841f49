# SPDX-License-Identifier: Apache-2.0
"""A job on several nodes: one lease each, all told to the suite, all given back."""

import json

import pytest

from ci import attempt
from ci.errors import NodeUnavailable
from ci.store import schema
from tests.kit.core import FakeCheckout, ScriptedRunner, job, lab, queue_buildset, rows

GOOD = "write-junit r.xml pass=2"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch):
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


@pytest.fixture
def told(monkeypatch):
    """What each step's environment said of peers."""
    found: list[str] = []
    kept = attempt.peers_env

    def note(peers):
        env = kept(peers)
        found.append(env.get("HYPERVOUCH_PEERS", ""))
        return env

    monkeypatch.setattr(attempt, "peers_env", note)
    return found


def test_a_suite_learns_its_peers_and_all_are_given_back(tmp_path, told):
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=3)
    (build,) = queue_buildset(made.database, job(peers=["lab", "lab"]), at=made.clock.now())
    made.drive(build)
    assert made.kinds(build) == [("check", "SUCCESS")]
    (row,) = rows(made.database, schema.attempt)
    (peers,) = map(json.loads, told)
    names = [peer["node"] for peer in row.peers]
    assert [peer["name"] for peer in peers] == names
    assert {row.node, *names} == {"lab-1", "lab-2", "lab-3"}
    assert set(peers[0]) == {"name", "label", "host", "port", "user"}
    found = rows(made.database, schema.node)
    assert [(node.holder, node.state) for node in found] == [(None, "Good")] * 3


def test_a_job_of_one_node_is_told_of_none(tmp_path, told):
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD))
    (build,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build)
    assert told == [""]


def test_a_peer_that_does_not_come_up_is_blamed_itself(tmp_path, monkeypatch):
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=2)
    (build,) = queue_buildset(
        made.database, job(peers=["lab"], **{"node-attempts": 1}), at=made.clock.now()
    )
    start = made.pool.start

    def fail(lease):
        if lease.node == "lab-2":
            raise NodeUnavailable("no banner", retryable=True)
        return start(lease)

    monkeypatch.setattr(made.pool, "start", fail)
    made.drive(build)
    assert ("check", "NODE_FAILURE") in made.kinds(build)
    found = {node.name: node for node in rows(made.database, schema.node)}
    assert found["lab-2"].failures >= 1
    assert found["lab-1"].failures == 0
    assert [node.holder for node in found.values()] == [None, None]
