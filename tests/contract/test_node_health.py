# SPDX-License-Identifier: Apache-2.0
"""Health, holds and health jobs of nodes that several processes share: alike on both databases."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.cancel import CancelToken
from ci.clock import SystemClock
from ci.model.build import AttemptKind
from ci.scheduling import Needs
from ci.store import attempts, holds, node_health, schema
from ci.store.database import Database
from ci.store.moment import moment
from ci.store.reads import all_nodes
from nodes.pool import Care, NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider
from nodes.rounds import Rounds
from tests.kit.core import database_in, queue_buildset, rows

CLOCK = SystemClock()
CARE = Care(health_every=timedelta(days=1))


class Stays(DummyProvider):
    """A dummy whose machine stays."""

    @property
    def disposable(self) -> bool:
        return False


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)],
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = database_in(tmp_path)
    else:
        made = Database(request.getfixturevalue("ready_postgresql_url"))
    yield made
    made.close()


def pool(database: Database, folder: Path, worker: str) -> NodePool:
    options = {"name": "far", "label": "far", "slots": 1, "shared-dir": folder / "shared"}
    far = Stays(DummyOptions.model_validate(options), folder / worker)
    made = NodePool(
        database, CLOCK, {"far": (far,)}, lambda _: {}, term_s=60, worker=worker, care=CARE
    )
    made.register()
    return made


def node(database: Database) -> Any:
    return rows(database, schema.node, name="far-1")[0]


def test_one_process_alone_does_a_health_job(database, tmp_path):
    begun, seen = threading.Barrier(2, timeout=30), []

    def examine(*_: Any) -> dict[str, str]:
        seen.append(threading.current_thread().name)
        return {}

    def turn(worker: str) -> None:
        rounds = Rounds(pools[worker], examine)
        begun.wait()
        for name in pools[worker].owed_health():
            rounds.job(name)

    pools = {worker: pool(database, tmp_path, worker) for worker in ("a", "b")}
    threads = [threading.Thread(target=turn, args=(one,), name=one) for one in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen
    assert pools["a"].owed_health() == ()
    assert (node(database).state, node(database).holder) == ("Good", None)


def test_failures_that_two_processes_note_at_once_are_all_counted(database, tmp_path):
    pools = [pool(database, tmp_path, worker) for worker in ("a", "b")]

    def fail(of: NodePool, first: int) -> None:
        for number in range(5):
            of.note_failure("far-1", "x", change=f"g:{first + number}", tested=True)

    threads = [
        threading.Thread(target=fail, args=(one, 10 * place)) for place, one in enumerate(pools)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (node(database).failures, node(database).state) == (10, "Bad")
    assert len(rows(database, schema.notice)) == 1


def test_a_hold_that_one_process_finds_over_is_ended_once(database, tmp_path):
    first, second = (pool(database, tmp_path, worker) for worker in ("a", "b"))
    Rounds(first, lambda *_: {}).job("far-1")
    needs, token = Needs(label="far"), CancelToken()
    (lease,) = first.acquire(needs, holder="x", avoid=(), cancel=token)
    first.start(lease)
    with database.write() as tx:
        now = moment(tx, CLOCK)
        hour = timedelta(hours=1)
        holds.hold(tx, "far-1", by="ann", why="look", length=hour, now=now)
    first.give_back(lease)
    second.clean()
    assert first.slot("far-1").provider.leaked(frozenset()) == ("far-1",)
    (shown,) = all_nodes(database)
    assert (shown.use, shown.held_by) == ("held", "ann")
    with database.write() as tx:
        holds.give_back(tx, "far-1", by="ann", now=moment(tx, CLOCK))
    second.end_holds()
    first.end_holds()
    assert first.slot("far-1").provider.leaked(frozenset()) == ()
    assert (node(database).held_until, node(database).holder) == (None, None)
    assert second.owed_health() == ("far-1",)


def test_what_builds_left_is_shown_with_its_node(database, tmp_path):
    pool(database, tmp_path, "a")
    (build,) = queue_buildset(database, at=CLOCK.now())
    with database.write() as tx:
        made = attempts.begin(tx, build, AttemptKind.CHECK, at=CLOCK.now())
        attempts.close_open(tx, build, at=CLOCK.now())
        things = [{"node": "far-1", "kind": "guest", "name": "hv-a", "fate": "removed"}]
        node_health.left_behind(tx, made, things)
        node_health.left_behind(tx, made, things)
        node_health.left_behind(tx, "nobody", things)
    (shown,) = all_nodes(database)
    assert [(one.name, one.build_id) for one in shown.left_behind] == [("hv-a", build)] * 2
