# SPDX-License-Identifier: Apache-2.0
"""A build survives its worker: real processes on each database, killed, frozen, cut off."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.engine import EngineRecords
from ci.store import processes, schema
from tests.kit.postgres import cluster
from tests.kit.workers import Workers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(params=["sqlite", "postgresql"])
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """What one worker must survive by itself, on either database."""
    there = request.param == "postgresql"
    made = Workers(tmp_path, request.getfixturevalue("ready_postgresql_url") if there else "-")
    yield made
    made.close()


@pytest.fixture
def workers(ready_postgresql_url: str, tmp_path: Path) -> Iterator[Workers]:
    """Several workers."""
    made = Workers(tmp_path, ready_postgresql_url)
    yield made
    made.close()


def test_killed_in_the_suite_it_goes_on_under_the_same_claim(alone):
    (build,) = alone.queue(seconds=1)
    first = alone.start("a")
    alone.until_running(build)
    first.kill()
    first.join()
    alone.start("a")
    alone.until_done(build)
    assert alone.attempts(build) == [("LOST", "a", 1), ("SUCCESS", "a", 1)]
    assert alone.votes() == 1


def test_cancelled_by_another_process_it_ends(workers):
    (build,) = workers.queue("hang")
    workers.start("a")
    workers.until_running(build)
    with workers.database.write() as tx:
        tx.execute(sa.update(schema.build).values(cancel_reason="superseded"))
    workers.until_done(build)
    assert workers.attempts(build) == [("CANCELED", "a", 1)]


def test_another_worker_takes_over_from_a_dead_one(workers):
    (build,) = workers.queue(seconds=1)
    first = workers.start("a", TERM_S=2)
    workers.until_running(build)
    first.kill()
    workers.start("b", TERM_S=2)
    workers.until_done(build)
    assert workers.attempts(build) == [("LOST", "a", 1), ("SUCCESS", "b", 2)]
    assert workers.votes() == 1
    records = EngineRecords(workers.folder, url=workers.url)
    workers.until(lambda: not records.of(["a"]), "records of the dead stayed")


def test_what_a_zombie_found_is_evidence_and_no_vote(workers):
    (build,) = workers.queue(seconds=1)
    frozen = workers.start("a", TERM_S=2)
    workers.until_running(build)
    os.kill(frozen.pid, signal.SIGSTOP)
    workers.start("b", TERM_S=2)
    workers.until_done(build)
    os.kill(frozen.pid, signal.SIGCONT)
    workers.until(lambda: "build left to its new holder" in workers.log("a"), "no zombie")
    (next_one,) = workers.queue()
    workers.until_done(next_one)
    assert workers.attempts(build) == [("LOST", "a", 1), ("SUCCESS", "b", 2)]
    assert workers.votes() == 2
    assert frozen.is_alive()  # it lives on, and works


def test_many_workers_run_each_build_once(workers):
    """Three start at once on an empty database: they race for its tables, and for the builds."""
    builds = workers.queue(builds=9)
    for name in ("a", "b", "c"):
        workers.start(name, TERM_S=6)
    workers.until_done(*builds)
    assert [[a[0] for a in workers.attempts(one)] for one in builds] == [["SUCCESS"]] * 9
    assert {workers.build(one).claim for one in builds} == {1}
    assert workers.votes() == 9


def test_a_drained_worker_ends_and_a_new_version_takes_the_queue(workers):
    running, *waiting = workers.queue(seconds=1, builds=3)
    old = workers.start("a", SLOTS=1, SKELETON="old")
    workers.until_running(running)
    with workers.database.write() as tx:
        assert processes.drain(tx, ["a"]) == ("a",)
    old.join(100)
    assert old.exitcode == 0
    assert workers.attempts(running) == [("SUCCESS", "a", 1)]
    assert [workers.build(one).state for one in waiting] == ["queued", "queued"]
    workers.start("b", SKELETON="new")
    workers.until_done(*waiting)
    assert {workers.build(one).worker for one in waiting} == {"b"}


def test_what_an_old_version_left_is_run_by_the_new_one(workers):
    (build,) = workers.queue(seconds=1)
    old = workers.start("a", TERM_S=2, SKELETON="old")
    workers.until_running(build)
    old.kill()
    old.join()
    workers.start("a", TERM_S=2, SKELETON="new")  # the same process, upgraded without a drain
    workers.until_done(build)
    assert [a[0] for a in workers.attempts(build)] == ["LOST", "SUCCESS"]
    assert workers.votes() == 1


def test_a_database_that_is_away_costs_time_and_no_build(tmp_path):
    with cluster(tmp_path / "pg") as server:
        made = Workers(tmp_path, server.make_database("site"))
        try:
            builds = made.queue(seconds=0.5, builds=10)
            for name in ("a", "b"):
                made.start(name, TERM_S=30)
            made.until(
                lambda: sum(made.build(b).state == "done" for b in builds) >= 2, "none began"
            )
            server.stop("immediate")
            time.sleep(4)
            server.start()
            made.until_done(*builds)
            ended = [[a[0] for a in made.attempts(one)] for one in builds]
            assert all(one[-1] == "SUCCESS" for one in ended), ended
            assert made.votes() == 10
        finally:
            made.close()
