# SPDX-License-Identifier: Apache-2.0
"""The end of an attempt: under its own deadline, under the lease, and never a dirty node."""

import threading
from pathlib import Path
from typing import Any

import pytest

from ci import attempt
from ci.cancel import CancelToken, Deadline
from ci.errors import HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint, Lease
from ci.runners.stop import Grace, Tell, quiet
from ci.scheduling import Needs
from ci.store import schema
from tests.kit.core import FakeCheckout, Lab, ScriptedRunner, job, lab, queue_buildset, rows

GOOD = "write-junit r.xml pass=2"
SOON_S = 5.0


class Mute(ScriptedRunner):
    """Opens sessions that nobody can be sure to have ended."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = quiet,
    ) -> Any:
        """A session that is mute from the start."""
        session = super().connect(endpoint, deadline, grace=grace, tell=tell)
        session._mute = True
        return session


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


@pytest.fixture
def made(tmp_path: Path) -> Lab:
    return lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=1)


def lease_of(made: Lab, holder: str = "a") -> Lease:
    (lease,) = made.pool.acquire(Needs(label="lab"), holder=holder, avoid=(), cancel=CancelToken())
    return lease


def node(made: Lab) -> Any:
    return rows(made.database, schema.node, name="lab-1")[0]


def tick(made: Lab) -> None:
    for item in list(made.pool._held.values()):
        made.pool._keep(item)


def soon(made: Lab, seconds: float = 0.05) -> Deadline:
    return Deadline("teardown", seconds, made.clock)


class TestTheLease:
    def test_outlasts_a_teardown_that_is_longer_than_its_term(self, made, monkeypatch):
        (build,) = queue_buildset(made.database, at=made.clock.now())
        held = []

        def stop(_: str) -> None:
            (mine,) = (item.lease for item in made.pool._held.values())
            for _turn in range(20):
                made.clock.advance(10)
                tick(made)
                held.append(made.pool.holds(mine))

        monkeypatch.setattr(made.provider, "stop", stop)
        made.drive(build)
        assert held == [True] * 20
        assert node(made).holder is None
        assert made.kinds(build) == [("check", "SUCCESS")]

    def test_is_not_renewed_once_it_is_given_back(self, made):
        lease, cancel = lease_of(made), CancelToken()
        with made.pool.kept(lease, "b", cancel):
            (item,) = made.pool._held.values()
            made.pool.give_back(lease)
            made.clock.advance(30)
            made.pool._keep(item)  # it was on its way while we gave the node back
            assert cancel.cause is None
        assert node(made).holder is None


class TestAMachineThatDoesNotEnd:
    @pytest.fixture
    def stuck(self, made, monkeypatch):
        """A stop that lasts until it is let go."""
        let_go, real = threading.Event(), made.provider.stop
        monkeypatch.setattr(made.provider, "stop", lambda n: (let_go.wait(SOON_S), real(n)))
        yield let_go
        let_go.set()

    def test_is_not_waited_for_beyond_the_deadline_and_its_node_is_bad(self, made, stuck):
        lease = lease_of(made)
        made.pool.start(lease)
        made.pool.give_back(lease, deadline=soon(made))
        assert (node(made).state, node(made).holder) == ("Bad", None)
        assert "teardown failed: it did not end within" in node(made).reason
        (notice,) = rows(made.database, schema.notice)
        assert notice.kind == "quarantine"

    def test_is_not_probed_while_it_still_ends_and_is_afterwards(self, made, stuck, monkeypatch):
        lease = lease_of(made)
        made.pool.give_back(lease, deadline=soon(made))
        starts = []
        real = made.provider.start
        monkeypatch.setattr(made.provider, "start", lambda n, h: (starts.append(n), real(n, h))[1])
        made.pool.probe()
        assert starts == []
        stuck.set()
        ends = threading.Event()
        for _ in range(200):
            if not made.pool._busy:
                break
            ends.wait(0.02)
        made.pool.probe()
        assert starts == ["lab-1"]
        assert node(made).state == "Good"

    @pytest.mark.parametrize("error", [NodeUnavailable("virsh hangs"), KeyError("virsh hangs")])
    def test_or_fails_to_is_taken_out_of_work(self, made, monkeypatch, error):
        lease = lease_of(made)

        def refuse(_: str) -> None:
            raise error

        monkeypatch.setattr(made.provider, "stop", refuse)
        made.pool.give_back(lease)
        assert node(made).state == "Bad"
        assert "virsh hangs" in node(made).reason


class TestWhatCannotBeEnded:
    @pytest.mark.parametrize(("disposable", "state"), [(True, "Good"), (False, "Bad")])
    def test_costs_a_node_that_stays_its_place_and_no_other(
        self, tmp_path, monkeypatch, disposable, state
    ):
        monkeypatch.setattr(attempt, "runner_for", lambda _: Mute())
        made = lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=1)
        monkeypatch.setattr(type(made.provider), "disposable", disposable)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        made.drive(build)
        assert made.kinds(build) == [("check", "SUCCESS")]
        assert node(made).state == state
        if not disposable:
            assert "what ran there could not be ended" in node(made).reason

    def test_a_kill_that_breaks_is_no_certainty_and_closes_all_the_same(
        self, tmp_path, monkeypatch
    ):
        closed = []

        class Broken(Mute):
            def connect(self, *args: Any, **more: Any) -> Any:
                session = super().connect(*args, **more)

                def kill(_: object = None) -> bool:
                    raise HypervouchBug("out of order")

                session.kill = kill
                session.close = lambda: closed.append(True)
                return session

        monkeypatch.setattr(attempt, "runner_for", lambda _: Broken())
        made = lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=1)
        monkeypatch.setattr(type(made.provider), "disposable", False)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        made.drive(build)
        assert closed == [True]
        assert "out of order" in node(made).reason


def test_the_jobs_time_bounds_it_and_the_log_says_how_long_it_took(tmp_path, monkeypatch):
    wanted = job(**{"teardown-timeout-s": 7})
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD), slots=1)
    asked = []
    real = made.pool.give_back

    def give_back(lease: Lease, *, deadline: Deadline, unclean: str, failed: bool) -> None:
        asked.append((deadline.phase, deadline.left_s, unclean))
        made.clock.advance(2)
        real(lease, deadline=deadline, unclean=unclean)

    monkeypatch.setattr(made.pool, "give_back", give_back)
    (build,) = queue_buildset(made.database, wanted, at=made.clock.now())
    made.drive(build)
    assert asked == [("teardown", 7, "")]
    (log,) = (tmp_path / "logs" / build).rglob("console.log")
    assert "# teardown ended after 2.0 s" in log.read_text()
