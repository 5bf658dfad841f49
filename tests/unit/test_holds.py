# SPDX-License-Identifier: Apache-2.0
"""A node that somebody keeps: not handed out, not torn down, and given back in order."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.cancel import CancelToken
from ci.clock import FakeClock
from ci.errors import BuildCanceled, ConfigError, NodeUnavailable
from ci.model.node import Endpoint, Lease
from ci.scheduling import Needs
from ci.store import holds, leases, node_health, schema
from ci.store.site import look
from nodes.pool import Care, NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider
from nodes.rounds import Rounds
from tests.kit.core import database_in, rows


class Stays(DummyProvider):
    """A dummy whose machine stays."""

    @property
    def disposable(self) -> bool:
        return False


class Site:
    """A pool over one dummy node."""

    def __init__(self, folder: Path, made: type[DummyProvider] = DummyProvider) -> None:
        self.clock, self.database = FakeClock(), database_in(folder)
        self.provider = made(DummyOptions(name="n", slots=1), folder / "n")
        self.examined: list[str] = []
        self.wrong = ""
        self.restart()

    def restart(self) -> None:
        """The process begins anew."""
        self.pool = NodePool(
            self.database,
            self.clock,
            {"lab": (self.provider,)},
            lambda _: {"kernel": "6.1"},
            term_s=60,
            care=Care(health_every=timedelta(days=1)),
        )
        self.rounds = Rounds(self.pool, self.examine)
        self.pool.register()
        self.pool.clean()

    def examine(self, _: Endpoint, provider: str) -> dict[str, str]:
        self.examined.append(provider)
        if self.wrong:
            raise NodeUnavailable(self.wrong)
        return {}

    def acquire(self, holder: str = "a", **more: Any) -> Lease:
        (lease,) = self.pool.acquire(
            Needs(label="lab"), holder=holder, avoid=(), cancel=CancelToken(), **more
        )
        return lease

    def build(self, *, failed: bool = False) -> None:
        lease = self.acquire()
        self.pool.start(lease)
        self.pool.give_back(lease, failed=failed)

    def hold(self, **more: Any) -> holds.Hold:
        with self.database.write() as tx:
            return holds.hold(
                tx,
                "n-1",
                by="ann",
                why="look",
                length=timedelta(hours=2),
                now=self.clock.now(),
                **more,
            )

    def give_back(self) -> bool:
        with self.database.write() as tx:
            return holds.give_back(tx, "n-1", by="ann", now=self.clock.now())

    def refused(self, monkeypatch: pytest.MonkeyPatch) -> bool:
        cancel = CancelToken()
        with monkeypatch.context() as patch:
            patch.setattr(self.pool._freed, "wait", lambda _: cancel.cancel(BuildCanceled("x")))
            try:
                self.pool.acquire(Needs(label="lab"), holder="z", avoid=(), cancel=cancel)
            except BuildCanceled:
                return True
        return False

    @property
    def node(self) -> Any:
        return rows(self.database, schema.node, name="n-1")[0]

    @property
    def alive(self) -> bool:
        return self.provider.alive("n-1")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class TestAHold:
    def test_keeps_the_machine_after_the_build_and_only_ends_its_lease(self, site, monkeypatch):
        lease = site.acquire()
        site.pool.start(lease)
        assert site.hold().attempt_id == "a"
        site.pool.give_back(lease)
        assert (site.alive, site.node.holder) == (True, None)
        assert site.refused(monkeypatch)
        site.pool.clean()
        assert site.alive

    def test_outlasts_a_restart_of_the_process(self, site, monkeypatch):
        lease = site.acquire()
        site.pool.start(lease)
        site.hold()
        site.pool.give_back(lease)
        site.restart()
        assert site.alive
        assert site.refused(monkeypatch)

    def test_a_build_that_the_process_died_under_leaves_it_held_too(self, site):
        site.pool.start(site.acquire())
        site.hold()
        site.restart()
        assert site.alive

    def test_tells_builds_why_they_wait(self, site):
        site.hold()
        with site.database.read() as tx:
            (node,) = look(tx, at=site.clock.now(), limits={}).site.nodes
        assert node.trouble == "n-1 is held by ann: look"

    def test_ends_by_itself_and_the_machine_with_it(self, site, monkeypatch):
        lease = site.acquire()
        site.pool.start(lease)
        site.hold()
        site.pool.give_back(lease)
        site.pool.end_holds()
        assert site.alive
        site.clock.advance(7201)
        assert site.refused(monkeypatch), "its machine still runs"
        site.pool.end_holds()
        assert not site.alive
        assert (site.node.held_until, site.node.held_by) == (None, "")
        site.build()

    def test_is_given_back_at_a_word(self, site):
        site.hold()
        assert site.give_back()
        site.pool.end_holds()
        site.build()
        assert not site.give_back()
        found = [(row.action, row.subject, row.by) for row in rows(site.database, schema.audit)]
        assert found == [("hold", "node n-1", "ann"), ("return", "node n-1", "ann")]

    def test_does_not_end_under_a_build_that_still_runs(self, site):
        lease = site.acquire()
        site.pool.start(lease)
        site.hold()
        site.give_back()
        site.pool.end_holds()
        assert site.alive
        site.pool.give_back(lease)
        site.pool.end_holds()
        assert not site.alive
        assert site.node.held_until is None

    def test_is_neither_probed_nor_put_through_a_health_job(self, site, monkeypatch):
        site.pool.quarantine("n-1", "x")
        site.hold()
        monkeypatch.setattr(site.provider, "start", lambda *_: pytest.fail("it was started"))
        site.pool.probe()
        assert site.rounds.job("n-1") is None
        assert site.rounds.probe("n-1") is None

    def test_of_an_unknown_node_is_refused(self, site):
        with (
            pytest.raises(ConfigError, match="there is no node n-9"),
            site.database.write() as tx,
        ):
            holds.of(tx, "n-9")


class TestOnFailure:
    def test_the_next_failing_build_leaves_it_held(self, site):
        assert site.hold(on_failure=True).until is None
        site.build()
        assert (site.alive, site.node.held_until) == (False, None)
        site.build(failed=True)
        assert site.alive
        assert site.node.held_until == site.clock.now() + timedelta(hours=2)
        assert site.node.held_for_s == 0

    def test_it_can_be_disarmed(self, site):
        site.hold(on_failure=True)
        assert site.give_back()
        site.build(failed=True)
        assert not site.alive


class TestHealthJobs:
    @pytest.fixture
    def site(self, tmp_path):
        return Site(tmp_path, Stays)

    def test_one_comes_before_the_first_build(self, site, monkeypatch):
        assert site.refused(monkeypatch)
        assert site.pool.owed_health() == ("n-1",)
        assert site.rounds.job("n-1") == ""
        assert (site.node.state, site.examined) == ("Good", ["n"])
        site.build()
        assert site.pool.owed_health() == ()

    def test_and_again_when_a_day_is_over(self, site, monkeypatch):
        site.rounds.job("n-1")
        site.clock.advance(86_401)
        assert site.refused(monkeypatch)
        assert site.pool.owed_health() == ("n-1",)

    def test_it_waits_for_the_build_that_is_there(self, site):
        site.rounds.job("n-1")
        lease = site.acquire()
        assert site.rounds.job("n-1") is None
        site.pool.give_back(lease)
        assert site.rounds.job("n-1") == ""

    def test_one_that_fails_takes_the_node_out_and_is_tried_again(self, site, monkeypatch):
        site.wrong = "no guest boots"
        site.rounds.job("n-1")
        assert site.node.state == "Bad"
        assert site.node.reason == "its health job failed: no guest boots"
        assert not site.alive
        site.pool.probe()
        assert site.node.state == "Bad", "the short probe must not return it"
        assert site.pool.owed_health() == ("n-1",)
        site.wrong = ""
        site.rounds.job("n-1")
        assert (site.node.state, site.node.health_tries) == ("Good", 0)

    def test_one_that_keeps_failing_loops_and_comes_less_often(self, site):
        site.wrong = "x"
        for _ in range(3):
            site.rounds.job("n-1")
        assert site.node.state == "Looping"
        assert site.pool.owed_health() == ()
        site.clock.advance(121)
        assert site.pool.owed_health() == ("n-1",)

    def test_a_bug_in_it_costs_the_node_only(self, site, monkeypatch):
        def broken(*_: Any) -> dict[str, str]:
            raise KeyError("x")

        rounds = Rounds(site.pool, broken)
        assert rounds.job("n-1") == "KeyError: 'x'"
        assert site.node.state == "Bad"

    def test_after_a_hold_one_comes_first(self, site):
        site.rounds.job("n-1")
        site.hold()
        site.give_back()
        site.pool.end_holds()
        assert site.pool.owed_health() == ("n-1",)

    def test_a_disposable_node_owes_none(self, tmp_path):
        site = Site(tmp_path / "other")
        assert site.pool.owed_health() == ()
        site.build()


class TestHandOut:
    @pytest.mark.parametrize(("made", "login"), [(DummyProvider, False), (Stays, True)])
    def test_the_login_goes_with_the_machine(self, tmp_path, made, login):
        """Who holds a node too late, when its machine is ended, is told of no login."""
        site = Site(tmp_path, made)
        if made is Stays:
            site.rounds.job("n-1")  # a node that stays is examined first
        lease = site.acquire()
        site.pool.start(lease)
        with site.database.write() as tx:
            node_health.put(tx, "n-1", held_login="ssh ann@n-1")
        site.pool.give_back(lease)
        assert bool(site.hold().login) is login

    def test_facts_and_login_are_kept_with_the_node(self, site):
        site.build()
        assert site.node.facts["kernel"] == "6.1"
        assert site.node.facts[leases.LIKENESS].startswith("emulator, dummy:/")

    def test_a_pinned_version_that_differs_refuses_the_node(self, site):
        site.pool._care = Care(pinned={"n": {"kernel": "6.6*"}})
        with pytest.raises(NodeUnavailable, match=r"kernel is 6\.1, pinned is 6\.6\*"):
            site.pool.start(site.acquire())

    def test_a_node_that_is_like_the_checks_is_taken_first(self, tmp_path):
        database, clock = database_in(tmp_path), FakeClock()
        with database.write() as tx:
            for name, like in (("a", "old"), ("b", "new"), ("c", "old")):
                leases.register(tx, name=name, label="lab", provider="p")
                node_health.put(tx, name, facts={leases.LIKENESS: like})

        def taken(like: str, *avoid: str) -> str:
            with database.write() as tx:
                asker = leases.Asker(
                    holder="x", worker="w", now=clock.now(), term=timedelta(seconds=1)
                )
                (lease,) = leases.take(tx, Needs(label="lab"), asker, avoid=avoid, like=like)
                leases.release(tx, lease)
            return lease.node

        assert taken("new") == "b"
        assert taken("new", "b") == "b", "unlike is worse than used before"
        assert taken("old", "a") == "c"
        assert taken("never seen", "a", "b") == "c"
