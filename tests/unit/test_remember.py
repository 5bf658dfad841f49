# SPDX-License-Identifier: Apache-2.0
"""A value that may be a little old."""

import pytest

from ci.clock import FakeClock
from webui.remember import Remembered


def test_it_is_read_once_a_term():
    clock, values = FakeClock(), iter("abc")
    kept = Remembered(lambda: next(values), clock, term_s=15)
    assert [kept.get(), kept.get()] == ["a", "a"]
    clock.advance(14.9)
    assert kept.get() == "a"
    clock.advance(0.2)
    assert kept.get() == "b"


def test_a_failure_is_not_kept():
    answers = iter([ValueError("away"), "fine"])

    def read():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Remembered(read, FakeClock(), term_s=15)
    with pytest.raises(ValueError, match="away"):
        kept.get()
    assert kept.get() == "fine"
