# SPDX-License-Identifier: Apache-2.0
"""What the doctor reads off the rows, on both kinds of database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from ci.clock import SystemClock
from ci.doctor_rows import looks
from ci.errors import HypervouchError
from ci.store import processes, schema
from tests.kit.core import layout, queue_buildset


@pytest.fixture
def examine(database):
    def look():
        found = {}
        for what, ask in looks(layout(), database, SystemClock()):
            try:
                found[what] = ("good", ask())
            except HypervouchError as error:
                found[what] = ("bad", error.message) if error.hint else ("without a hint", "")
        return found

    return look


def register(database, name, *, late_s=0, version="1", roles=("work",)):
    with database.write() as tx:
        processes.register(
            tx,
            name=name,
            incarnation="1",
            roles=roles,
            host="lab1",
            pid=1,
            version=version,
            slots=4,
            at=SystemClock().now() - timedelta(seconds=late_s),
        )


def test_an_installation_that_is_well(database, examine):
    register(database, "ci1")
    found = examine()
    assert {how for how, _ in found.values()} == {"good"}
    assert "ci1 (work) on lab1" in found["processes"][1]


def test_silent_processes_and_different_versions_are_told(database, examine):
    register(database, "ci1")
    register(database, "ci2", version="2")
    assert examine()["processes"][0] == "bad"
    assert "different versions run: 1, 2" in examine()["processes"][1]
    register(database, "ci2", late_s=3600)
    assert "nothing is heard of ci2" in examine()["processes"][1]


def test_builds_that_nobody_can_run_or_runs_are_told(database, examine):
    (build,) = queue_buildset(database, at=SystemClock().now())
    assert examine()["queued builds"] == ("bad", "no usable node can ever take some: 1 for lab")
    table = schema.build
    with database.write() as tx:
        tx.execute(sa.update(table).where(table.c.id == build).values(state="running", worker="x"))
    assert examine()["running builds"] == ("bad", f"no living process runs {build} of x")


def test_a_lease_that_nobody_has_is_told(database, examine):
    register(database, "ci1")
    with database.write() as tx:
        tx.execute(
            sa.insert(schema.leader).values(
                name="listen:gerrit",
                holder="ci0",
                incarnation="1",
                token=3,
                expires_at=SystemClock().now() - timedelta(seconds=90),
            )
        )
    assert examine()["leaders"] == ("bad", "nobody does listen:gerrit")
