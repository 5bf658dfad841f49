# SPDX-License-Identifier: Apache-2.0
"""Several processes over one database: each uses its own nodes, and all share the rest."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.cancel import CancelToken
from ci.clock import FakeClock
from ci.model.node import NodeState
from ci.scheduling import Needs
from ci.store import leases, schema
from ci.store.database import Database
from nodes.pool import NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider
from tests.kit.core import rows

CLOCK = FakeClock()


def pool(
    database: Database, folder: Path, worker: str, *, leads: bool = True, slots: int = 1
) -> NodePool:
    """The pool of a process with nodes of its own, and nodes that all share."""
    own = DummyProvider(DummyOptions(name="own", label="own", slots=slots), folder / worker)
    options = {"name": "far", "label": "far", "slots": slots, "shared-dir": folder / "shared"}
    far = DummyProvider(DummyOptions.model_validate(options), folder / worker / "far")
    made = NodePool(
        database,
        CLOCK,
        {"own": (own,), "far": (far,)},
        lambda _: {},
        term_s=60,
        worker=worker,
        tags={"far": ("big",)},
        leads=lambda: leads,
    )
    made.register()
    return made


def take(of: NodePool, label: str, holder: str, **fields):
    token = CancelToken()
    (lease,) = of.acquire(Needs(label=label, **fields), holder=holder, avoid=(), cancel=token)
    return lease


@pytest.fixture
def two(ready_postgresql_url, tmp_path):
    """Two processes on one PostgreSQL."""
    database = Database(ready_postgresql_url)
    yield database, pool(database, tmp_path, "a"), pool(database, tmp_path, "b", leads=False)
    database.close()


pytestmark = pytest.mark.integration


def test_names_of_machine_bound_nodes_do_not_collide(two):
    database, *_ = two
    found = {row.name: (row.worker, row.tags) for row in rows(database, schema.node)}
    assert found == {"own-1@a": ("a", []), "own-1@b": ("b", []), "far-1": (None, ["big"])}


def test_each_leases_its_own_and_all_share_the_rest(two):
    _, first, second = two
    assert take(first, "own", "x").node == "own-1@a"
    assert take(second, "own", "y").node == "own-1@b"
    assert take(first, "far", "z", requires=frozenset({"big"})).node == "far-1"


def test_a_start_frees_and_retires_only_what_is_its_own(two, tmp_path):
    database, first, second = two
    take(first, "far", "x")
    take(second, "own", "y")
    pool(database, tmp_path, "b")
    held = {row.name: row.holder for row in rows(database, schema.node)}
    assert held == {"own-1@a": None, "own-1@b": None, "far-1": "x"}
    assert {row.state for row in rows(database, schema.node)} == {NodeState.UNKNOWN.value}


def test_cleaning_leaves_the_machine_that_another_process_holds(two):
    _, first, second = two
    lease = take(second, "far", "x")
    second.start(lease)
    first.clean()
    assert second.holds(lease)
    assert second._inventory.of("far-1").provider.alive("far-1")


def test_only_who_leads_cleans_and_probes_what_all_share(two):
    database, first, second = two
    lease = take(second, "far", "x")
    second.start(lease)
    with database.write() as tx:
        tx.execute(sa.update(schema.node).values(holder=None, expires_at=None))
        leases.set_health(
            tx, name="far-1", state=NodeState.BAD, reason="x", failures=3, now=CLOCK.now()
        )
    machine = second._inventory.of("far-1").provider
    second._busy.clear()
    second.clean()
    second.probe()
    assert machine.alive("far-1")
    assert rows(database, schema.node, name="far-1")[0].state == "Bad"
    first.clean()
    assert not machine.alive("far-1")
    first.probe()
    assert rows(database, schema.node, name="far-1")[0].state == "Good"
