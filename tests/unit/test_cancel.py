# SPDX-License-Identifier: Apache-2.0
"""Tokens that are set here, and tokens that also look elsewhere."""

import signal

import pytest

from ci.cancel import CancelToken, Deadline, WatchedToken
from ci.clock import FakeClock
from ci.errors import BuildCanceled, HypervouchBug, RunTimeout
from ci.runners.stop import Grace, Step, Stopped, read


def test_the_first_cause_stays():
    token = CancelToken()
    token.check()
    token.cancel(BuildCanceled("first"))
    token.cancel(HypervouchBug("second"))
    with pytest.raises(BuildCanceled, match="first"):
        token.check()
    assert token.wait(60)


class TestWatched:
    @pytest.fixture(autouse=True)
    def _made(self):
        self.clock, self.looks, self.wish = FakeClock(), 0, None
        self.token = WatchedToken(self.look, self.clock, every_s=1.0)

    def look(self):
        self.looks += 1
        return self.wish

    def test_it_looks_at_once_and_then_now_and_then(self):
        for _ in range(5):
            self.token.check()
        assert self.looks == 1
        self.clock.advance(1.5)
        self.token.check()
        assert self.looks == 2

    def test_what_it_finds_is_the_cause(self):
        self.wish = BuildCanceled("by an operator")
        with pytest.raises(BuildCanceled, match="by an operator"):
            self.token.check()
        assert self.token.cause is self.wish

    def test_a_cause_from_here_needs_no_look(self):
        self.token.cancel(BuildCanceled("superseded"))
        with pytest.raises(BuildCanceled, match="superseded"):
            self.token.check()
        assert self.looks == 0

    def test_it_looks_in_the_middle_of_a_wait(self, monkeypatch):
        waited = []

        def wait(_, seconds):
            waited.append(seconds)
            self.clock.advance(seconds)
            self.wish = BuildCanceled("by an operator") if len(waited) == 3 else None
            return self.token.cause is not None

        monkeypatch.setattr("ci.cancel.threading.Event.wait", wait)
        assert self.token.wait(30.5)
        assert waited == [1.0, 1.0, 1.0, 1.0]

    def test_a_wait_ends_in_time(self, monkeypatch):
        waited = []
        monkeypatch.setattr("ci.cancel.threading.Event.wait", lambda _, s: waited.append(s))
        assert not self.token.wait(2.5)
        assert waited == [1.0, 1.0, 0.5]


class TestDeadline:
    def test_a_time_out_is_its_own_error(self):
        clock = FakeClock()
        deadline = Deadline("setup", 30, clock, cancel=CancelToken())
        assert (deadline.left_s, deadline.passed) == (30, False)
        clock.advance(31)
        assert deadline.passed
        assert isinstance(deadline.error(), RunTimeout)

    def test_a_cancel_brings_it_forward_and_is_the_error(self):
        clock, wish = FakeClock(), []
        token = WatchedToken(lambda: wish[0] if wish else None, clock)
        deadline = Deadline("setup", 30, clock, cancel=token)
        assert not deadline.passed
        wish.append(BuildCanceled("superseded"))
        clock.advance(1)
        assert (deadline.left_s, deadline.passed) == (0, True)
        assert deadline.error() is wish[0]


class TestGrace:
    def test_a_step_of_no_time_is_left_out(self):
        grace = Grace(interrupt_s=0, terminate_s=2, kill_s=1)
        assert grace.steps == ((signal.SIGTERM, 2), (signal.SIGKILL, 1))
        assert grace.total_s == 3

    @pytest.mark.parametrize(
        ("left_s", "steps"),
        [(60, (10, 5, 5)), (12, (2, 5, 5)), (7, (0, 2, 5)), (3, (0, 0, 3)), (0, (0, 0, 0.1))],
    )
    def test_fits_into_what_is_left_the_kill_first(self, left_s, steps):
        found = Grace().within(left_s)
        assert (found.interrupt_s, found.terminate_s, found.kill_s) == steps

    def test_leftovers_have_no_longer_than_their_own(self):
        assert Grace().for_leftovers == Grace(interrupt_s=2, terminate_s=3, kill_s=5)
        brief = Grace(interrupt_s=1, terminate_s=1, kill_s=1)
        assert brief.for_leftovers == brief


class TestStopped:
    def told(self, stopped: Stopped) -> list[str]:
        said: list[str] = []
        stopped.tell(said.append)
        return said

    def test_reads_what_the_node_says(self):
        steps, left = read("=INT 3 1 1003\n=TERM 1 1 502\n=KILL 1 1 500\n17 (st\x1buck)\n\n")
        assert [str(step) for step in steps] == [
            "SIGINT to 3 processes: 1 still ran after 10.0 s",
            "SIGTERM to 1 process: 1 still ran after 5.0 s",
            "SIGKILL to 1 process: 1 still ran after 5.0 s",
        ]
        assert left == ("17 (st?uck)",)

    @pytest.mark.parametrize("line", ["=INT 1 2", "=INT a b c", "=INT 1 1 99999999999", "=" * 9999])
    def test_what_is_no_step_is_a_name_of_bounded_length(self, line):
        steps, left = read(line)
        assert steps == ()
        assert len(left[0]) <= 80

    def test_says_what_is_left_or_not_known(self):
        assert self.told(Stopped()) == []
        one = Step(signal="SIGINT", sent=1, left=0, took_s=0.04)
        assert self.told(Stopped(steps=(one,))) == ["SIGINT ended 1 process after 0.0 s"]
        assert self.told(Stopped(left=("7 (sh)",), confirmed=False)) == [
            "could not be ended: 7 (sh)"
        ]
        assert self.told(Stopped(confirmed=False, why="no answer")) == [
            "nobody knows whether it ended: no answer"
        ]
