# SPDX-License-Identifier: Apache-2.0
"""Step 4: the pool keeps leases alive, fences itself, and keeps bad nodes out of work."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci.cancel import CancelToken
from ci.clock import FakeClock
from ci.errors import BuildCanceled, HypervouchError, LeaseLost, NodeUnavailable, StorageError
from ci.model.node import Endpoint, Lease
from ci.scheduling import Needs
from ci.store import leases, schema
from nodes.pool import QUARANTINE_AFTER, NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider
from tests.kit.core import database_in, queue_buildset, rows


class Site:
    """A pool over dummy nodes."""

    def __init__(self, folder: Path, *, slots: int = 1, **options: Any) -> None:
        self.clock, self.database = FakeClock(), database_in(folder)
        self.provider = DummyProvider(DummyOptions(name="n", slots=slots, **options), folder / "n")
        self.unfit: list[HypervouchError] = []
        self.pool = NodePool(
            self.database, self.clock, {"lab": (self.provider,)}, self.preflight, term_s=60
        )
        self.pool.register()
        (self.build,) = queue_buildset(self.database, at=self.clock.now())

    def preflight(self, _: Endpoint) -> dict[str, str]:
        if self.unfit:
            raise self.unfit.pop(0)
        return {"kernel": "6.1"}

    def acquire(self, holder: str = "a", **more: Any) -> Lease:
        fields = {"avoid": (), "cancel": CancelToken(), **more}
        (lease,) = self.pool.acquire(Needs(label="lab"), holder=holder, **fields)
        return lease

    def tick(self) -> None:
        for item in list(self.pool._held.values()):
            self.pool._keep(item)

    def node(self, name: str = "n-1") -> Any:
        return rows(self.database, schema.node, name=name)[0]

    def want_cancel(self, reason: str) -> None:
        with self.database.write() as tx:
            tx.execute(sa.update(schema.build).values(cancel_reason=reason))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_node_is_looked_at_before_it_is_handed_out(site):
    lease = site.acquire()
    endpoint = site.pool.start(lease)
    assert endpoint.facts == {"boot": "pretended", "kernel": "6.1"}
    site.unfit = [NodeUnavailable("no disk")]
    with pytest.raises(NodeUnavailable, match="no disk"):
        site.pool.start(lease)


def test_a_canceled_build_waits_for_no_node(site):
    site.acquire()
    cancel = CancelToken()
    cancel.cancel(BuildCanceled("superseded"))
    with pytest.raises(BuildCanceled):
        site.acquire("b", cancel=cancel)


def test_a_wait_ends_when_the_build_is_canceled(site, monkeypatch):
    site.acquire()
    cancel = CancelToken()
    monkeypatch.setattr(
        site.pool._freed, "wait", lambda _: cancel.cancel(BuildCanceled("superseded"))
    )
    with pytest.raises(BuildCanceled):
        site.acquire("b", cancel=cancel)


def test_a_restart_frees_what_the_dead_process_held(site, tmp_path):
    lease = site.acquire()
    site.pool.start(lease)
    site.database.close()
    again = Site.__new__(Site)
    again.clock, again.database = FakeClock(), database_in(tmp_path)
    again.provider, again.unfit = site.provider, []
    again.pool = NodePool(
        again.database, again.clock, {"lab": (again.provider,)}, again.preflight, term_s=60
    )
    again.pool.register()
    again.pool.clean()
    assert not again.provider.alive("n-1")
    assert again.acquire("b").token == lease.token + 1


class TestKept:
    def test_is_renewed_at_a_third_of_its_term(self, site):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            for _ in range(20):
                site.clock.advance(10)
                site.tick()
            assert site.pool.holds(lease)
            assert cancel.cause is None

    def test_without_renewals_it_runs_out(self, site):
        lease = site.acquire()
        site.clock.advance(61)
        assert not site.pool.holds(lease)

    @pytest.mark.parametrize("after_s", [1, 25])
    def test_sees_that_the_build_is_canceled(self, site, after_s):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            site.want_cancel("patch set 2 replaced this one")
            site.clock.advance(after_s)
            site.tick()
        assert isinstance(cancel.cause, BuildCanceled)
        assert "patch set 2" in str(cancel.cause)

    def test_sees_that_somebody_else_has_the_node(self, site):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            site.clock.advance(61)
            site.acquire("b")
            site.tick()
        assert isinstance(cancel.cause, LeaseLost)

    def test_nothing_is_renewed_after_the_block(self, site):
        lease = site.acquire()
        with site.pool.kept(lease, site.build, CancelToken()):
            pass
        site.clock.advance(50)
        site.tick()
        site.clock.advance(11)
        assert not site.pool.holds(lease)


class TestSelfFencing:
    def silent(self, site: Site, monkeypatch: pytest.MonkeyPatch, takes_s: float = 0) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            site.clock.advance(takes_s)
            raise StorageError("database is locked", retryable=True)

        monkeypatch.setattr(leases, "renew", refuse)

    def test_two_thirds_of_a_term_without_renewal(self, site, monkeypatch):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            self.silent(site, monkeypatch)
            for passed_s in range(1, 41):
                site.clock.advance(1)
                site.tick()
                assert cancel.cause is None, passed_s
            site.clock.advance(1)
            site.tick()
            assert isinstance(cancel.cause, LeaseLost)
            assert site.pool.holds(lease), "fenced too late: the lease had run out"

    def test_a_refusal_that_takes_long_counts_too(self, site, monkeypatch):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            self.silent(site, monkeypatch, takes_s=30)
            site.clock.advance(20)
            site.tick()
            assert isinstance(cancel.cause, LeaseLost)
            assert site.pool.holds(lease)

    def test_a_short_trouble_is_survived(self, site, monkeypatch):
        lease, cancel = site.acquire(), CancelToken()
        with site.pool.kept(lease, site.build, cancel):
            self.silent(site, monkeypatch)
            site.clock.advance(30)
            site.tick()
            monkeypatch.undo()
            site.clock.advance(5)
            site.tick()
            site.clock.advance(15)
            site.tick()
            assert cancel.cause is None
            assert site.pool.holds(lease)


class TestGiveBack:
    def test_ends_the_machine_and_then_the_lease(self, site):
        lease = site.acquire()
        site.pool.start(lease)
        site.pool.give_back(lease)
        assert not site.provider.alive("n-1")
        assert site.node().holder is None
        assert site.acquire("b").token == 2

    def test_under_a_stale_token_the_new_holders_machine_stays(self, site):
        old = site.acquire()
        site.pool.start(old)
        site.clock.advance(61)
        new = site.acquire("b")
        site.pool.start(new)
        site.pool.give_back(old)
        assert site.provider.alive("n-1")
        assert site.pool.holds(new)
        site.pool.clean()
        assert site.provider.alive("n-1"), "the new holder's machine is not leaked"

    def test_an_expired_lease_that_nobody_took_is_ended_all_the_same(self, site):
        lease = site.acquire()
        site.pool.start(lease)
        site.clock.advance(61)
        site.pool.give_back(lease)
        assert not site.provider.alive("n-1")
        assert site.node().holder is None

    def test_a_machine_that_cannot_be_ended_is_taken_out_of_work(self, site, monkeypatch):
        lease = site.acquire()

        def refuse(_: str) -> None:
            raise NodeUnavailable("virsh hangs")

        monkeypatch.setattr(site.provider, "stop", refuse)
        site.pool.give_back(lease)
        assert (site.node().holder, site.node().state) == (None, "Bad")
        assert site.node().reason == "its teardown failed: virsh hangs"
        assert "virsh hangs" in site.node().reason


class TestClean:
    def test_what_runs_without_a_lease_is_ended(self, site):
        site.provider.start("n-1", "nobody")
        site.pool.clean()
        assert not site.provider.alive("n-1")

    def test_what_runs_under_one_is_not(self, site):
        lease = site.acquire()
        site.pool.start(lease)
        site.pool.clean()
        assert site.provider.alive("n-1")

    def test_what_is_leased_while_it_looks_is_not(self, site, monkeypatch):
        real = site.provider.leaked

        def slow(held: frozenset[str]) -> tuple[str, ...]:
            site.pool.start(site.acquire())
            return real(held)

        monkeypatch.setattr(site.provider, "leaked", slow)
        site.pool.clean()
        assert site.provider.alive("n-1")

    def test_a_probes_machine_is_not(self, site, monkeypatch):
        site.pool.quarantine("n-1", "bad")

        def meanwhile(_: Endpoint) -> dict[str, str]:
            site.pool.clean()
            assert site.provider.alive("n-1")
            return {}

        monkeypatch.setattr(site.pool, "_preflight", meanwhile)
        site.pool.probe()
        assert site.node().state == "Good"
        assert not site.provider.alive("n-1")


class TestHealth:
    def test_the_third_failure_in_a_row_quarantines(self, site, monkeypatch):
        for failures in range(1, QUARANTINE_AFTER + 1):
            site.pool.note_failure("n-1", "no banner")
            assert site.node().failures == failures
        assert (site.node().state, site.node().reason) == ("Bad", "no banner")
        cancel = CancelToken()
        monkeypatch.setattr(site.pool._freed, "wait", lambda _: cancel.cancel(BuildCanceled("x")))
        with pytest.raises(BuildCanceled):
            site.acquire(cancel=cancel)

    def test_a_success_in_between_starts_the_count_anew(self, site):
        for _ in range(3):
            site.pool.note_failure("n-1", "x")
            site.pool.note_failure("n-1", "x")
            assert site.node().state == "Unknown"
            site.pool.note_success("n-1")
        assert (site.node().state, site.node().failures) == ("Good", 0)

    def test_a_probe_returns_it_when_it_is_fit(self, site):
        site.pool.quarantine("n-1", "no image")
        site.unfit = [NodeUnavailable("still no disk")]
        site.pool.probe()
        assert (site.node().state, site.node().reason) == ("Bad", "still no disk")
        site.pool.probe()
        assert (site.node().state, site.node().failures) == ("Good", 0)
        assert not site.provider.alive("n-1")

    def test_a_probe_leaves_good_nodes_alone(self, site, monkeypatch):
        monkeypatch.setattr(site.provider, "start", lambda *_: pytest.fail("it was started"))
        site.pool.probe()
