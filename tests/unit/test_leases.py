# SPDX-License-Identifier: Apache-2.0
"""Step 4: tokens only grow, an expired lease can be taken, a stale token does nothing."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ci.clock import FakeClock
from ci.model.node import Lease, NodeState
from ci.scheduling import Needs
from ci.store import leases, schema
from ci.store.leases import Asker
from tests.kit.core import database_in, queue_buildset, rows

TERM = timedelta(seconds=60)
T = TypeVar("T")


class Shelf:
    """Node rows and a clock."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.clock, self.database = FakeClock(), database_in(folder)
        for name in names or ("n1",):
            self.do(leases.register, name=name, label="lab", provider="p")

    def do(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.database.write() as tx:
            return work(tx, *args, **kwargs)

    def take(self, holder: str, *avoid: str, strict: bool = False) -> Lease | None:
        taken = self.take_set(Needs(label="lab"), holder, *avoid, strict=strict)
        return taken[0] if taken else None

    def take_set(
        self, needs: Needs, holder: str, *avoid: str, strict: bool = False, **more: Any
    ) -> tuple[Lease, ...]:
        worker = more.pop("worker", "w1")
        asker = Asker(holder=holder, worker=worker, now=self.clock.now(), term=TERM)
        return self.do(leases.take, needs, asker, avoid=avoid, strict=strict, **more)

    def renew(self, lease: Lease, build_id: str = "b") -> leases.Renewal:
        return self.do(leases.renew, lease, build_id=build_id, now=self.clock.now(), term=TERM)

    def holds(self, lease: Lease) -> bool:
        with self.database.read() as tx:
            return leases.holds(tx, lease, now=self.clock.now())

    def node(self, name: str = "n1") -> Any:
        return rows(self.database, schema.node, name=name)[0]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_one_holder_at_a_time_and_a_larger_token_each_time(shelf):
    tokens = []
    for number in range(3):
        lease = shelf.take(f"a{number}")
        assert shelf.take("other") is None
        tokens.append(lease.token)
        assert shelf.do(leases.release, lease)
    assert tokens == [1, 2, 3]


def test_the_token_grows_over_a_restart(shelf, tmp_path):
    shelf.take("a")
    assert shelf.do(leases.release_all) == 1
    shelf.database.close()
    again = Shelf(tmp_path)
    assert again.take("b").token == 2


def test_an_expired_lease_can_be_taken_and_not_a_moment_earlier(shelf):
    shelf.take("a")
    shelf.clock.advance(59.9)
    assert shelf.take("b") is None
    shelf.clock.advance(0.1)
    assert shelf.take("b").token == 2


def test_a_renewed_one_cannot(shelf):
    lease = shelf.take("a")
    for _ in range(5):
        shelf.clock.advance(50)
        assert shelf.renew(lease).held
    assert shelf.take("b") is None
    assert shelf.holds(lease)


def test_an_expired_lease_holds_nothing(shelf):
    lease = shelf.take("a")
    assert shelf.holds(lease)
    shelf.clock.advance(60)
    assert not shelf.holds(lease)


def test_a_stale_token_neither_renews_nor_releases(shelf):
    old = shelf.take("a")
    shelf.clock.advance(61)
    new = shelf.take("b")
    assert not shelf.renew(old).held
    assert not shelf.do(leases.prolong, old, now=shelf.clock.now(), term=TERM)
    assert not shelf.do(leases.release, old)
    assert shelf.holds(new)
    assert not shelf.holds(old)
    assert shelf.node().holder == "b"


def test_the_same_attempt_with_an_older_token_is_stale_too(shelf):
    old = shelf.take("a")
    shelf.clock.advance(61)
    new = shelf.take("a")
    assert not shelf.holds(old)
    assert not shelf.do(leases.release, old)
    assert shelf.holds(new)


def test_release_is_repeatable(shelf):
    lease = shelf.take("a")
    assert shelf.do(leases.release, lease)
    assert not shelf.do(leases.release, lease)
    assert shelf.node().holder is None


def test_a_renewal_sees_that_the_build_is_canceled(shelf):
    (build,) = queue_buildset(shelf.database, at=shelf.clock.now())
    lease = shelf.take("a")
    assert shelf.renew(lease, build).cancel_reason is None
    with shelf.database.write() as tx:
        tx.execute(schema.build.update().values(cancel_reason="newer patch set"))
    assert shelf.renew(lease, build).cancel_reason == "newer patch set"


class TestChoice:
    def test_another_node_than_before_when_there_is_one(self, tmp_path):
        shelf = Shelf(tmp_path, "n1", "n2")
        assert shelf.take("a", "n1").node == "n2"
        assert shelf.take("b", "n1") is None, "the other one is only busy: wait for it"
        assert shelf.take("b").node == "n1"

    def test_the_same_one_when_there_is_no_other(self, tmp_path):
        shelf = Shelf(tmp_path, "n1", "n2")
        self.health(shelf, "n2", NodeState.BAD)
        assert shelf.take("a", "n1").node == "n1"

    def test_the_one_that_rested_longest(self, tmp_path):
        shelf = Shelf(tmp_path, "n1", "n2", "n3")
        order = []
        for holder in "abcd":
            lease = shelf.take(holder)
            order.append(lease.node)
            shelf.clock.advance(1)
            shelf.do(leases.release, lease)
        assert order == ["n1", "n2", "n3", "n1"]

    @pytest.mark.parametrize("state", sorted(set(NodeState)))
    def test_only_usable_ones(self, shelf, state):
        self.health(shelf, "n1", state)
        usable = state in {NodeState.GOOD, NodeState.UNKNOWN}
        assert (shelf.take("a") is not None) == usable

    def test_only_of_the_label(self, shelf):
        shelf.do(leases.register, name="x1", label="xen", provider="p")
        assert shelf.take("a").node == "n1"
        assert shelf.take("b") is None

    @staticmethod
    def health(shelf: Shelf, node: str, state: NodeState) -> None:
        shelf.do(
            leases.set_health, name=node, state=state, reason="", failures=0, now=shelf.clock.now()
        )


class TestRegister:
    def test_keeps_health_and_token_and_takes_the_new_label(self, shelf):
        lease = shelf.take("a")
        TestChoice.health(shelf, "n1", NodeState.BAD)
        shelf.do(leases.register, name="n1", label="other", provider="q")
        node = shelf.node()
        assert (node.label, node.provider, node.state, node.token) == ("other", "q", "Bad", 1)
        assert shelf.holds(lease)

    def test_what_the_configuration_dropped_is_retired_and_comes_back(self, shelf):
        shelf.do(leases.retire_missing, ["n2"])
        assert shelf.node().state == "Retired"
        assert shelf.take("a") is None
        shelf.do(leases.retire_missing, ["n1"])
        assert shelf.node().state == "Unknown"
        assert shelf.take("a") is not None


def test_a_node_that_failed_is_not_taken_while_there_is_patience(tmp_path):
    shelf = Shelf(tmp_path, "n1")
    assert shelf.take("a", "n1", strict=True) is None
    assert shelf.take("a", "n1").node == "n1"
