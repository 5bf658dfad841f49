# SPDX-License-Identifier: Apache-2.0
"""Tokens that are set here, and tokens that also look elsewhere."""

import pytest

from ci.cancel import CancelToken, WatchedToken
from ci.clock import FakeClock
from ci.errors import BuildCanceled, HypervouchBug


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
