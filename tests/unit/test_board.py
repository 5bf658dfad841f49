# SPDX-License-Identifier: Apache-2.0
"""Pulses of loops and checks of a process: what is alive, and what can work."""

import threading

import pytest

from ci import board as boards
from ci.board import HealthBoard
from ci.clock import FakeClock, SystemClock
from ci.errors import StorageError


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def board(clock):
    made = HealthBoard(clock, name="ci1", roles=("listen",))
    yield made
    made.close()


def test_a_loop_that_turns_is_well(board, clock):
    pulse = board.pulse("relay gerrit", limit_s=10)
    clock.advance(9)
    pulse.turn()
    clock.advance(9)
    assert [one.good for one in board.health()] == [True]


def test_a_loop_that_stands_still_is_named_with_the_time_of_its_last_turn(board, clock):
    began = clock.now()
    board.pulse("relay gerrit", limit_s=10)
    board.pulse("dispatcher", limit_s=60)
    clock.advance(31)
    [bad] = [one for one in board.health() if not one.good]
    assert (bad.name, bad.since) == ("relay gerrit", began)
    assert bad.message == "stands still for 31 s; a turn takes at most 10 s"


def test_turn_touches_the_pulse_of_its_own_thread(board, clock):
    def body(name):
        with board.beating(name, limit_s=10):
            boards.turn()
            ready.wait()
            if name == "alive":
                boards.turn()
            seen.release()
            done.wait(10)

    ready = threading.Barrier(3)
    seen, done = threading.Semaphore(0), threading.Event()
    threads = [threading.Thread(target=body, args=(name,)) for name in ("alive", "stuck")]
    for thread in threads:
        thread.start()
    clock.advance(11)
    ready.wait()
    for _ in threads:
        seen.acquire(timeout=10)
    found = {one.name: one.good for one in board.health()}
    done.set()
    for thread in threads:
        thread.join(10)
    assert found == {"alive": True, "stuck": False}
    assert board.health() == ()  # both ended, because they should


def test_turn_without_a_pulse_is_nothing():
    boards.turn()


def test_a_loop_that_died_of_an_error_stays_on_the_board(board, clock):
    def die():
        with board.beating("planner", limit_s=10):
            raise MemoryError

    with pytest.raises(MemoryError):
        die()
    clock.advance(11)
    assert [(one.name, one.good) for one in board.health()] == [("planner", False)]


def test_a_check_says_what_it_found(board):
    board.check("database", lambda: "it answers")
    [found] = board.readiness()
    assert (found.name, found.good, found.message) == ("database", True, "it answers")


def test_a_failing_check_says_why_and_since_when(board, clock):
    def look():
        raise StorageError("the disk is full", hint="make room")

    board.check("disk", look)
    first = clock.now()
    board.readiness()
    clock.advance(30)
    [found] = board.readiness()
    assert (found.good, found.message, found.since) == (False, "the disk is full", first)


def test_a_bug_in_a_check_is_no_good_news_and_shows_no_values(board):
    board.check("stream", lambda: {}["s3cret"])
    [found] = board.readiness()
    assert (found.good, found.message) == (False, "a bug: KeyError")


def test_who_asks_often_costs_no_more(board, clock):
    asked = []
    board.check("database", lambda: asked.append(1) or "it answers")
    for _ in range(5):
        board.readiness()
    assert len(asked) == 1
    clock.advance(2)
    board.readiness()
    assert len(asked) == 2


def test_a_check_that_hangs_is_not_waited_for_and_asked_only_once(monkeypatch):
    monkeypatch.setattr(boards, "ANSWER_S", 0.05)
    board, free, asked = HealthBoard(SystemClock()), threading.Event(), []

    def hang():
        asked.append(1)
        free.wait(10)
        return "it answers"

    board.check("database", hang)
    board.check("disk", lambda: "room enough")
    board.readiness()
    found = {one.name: one for one in board.readiness()}
    free.set()
    board.close()
    assert len(asked) == 1
    assert found["disk"].good
    assert not found["database"].good
    assert "no answer for" in found["database"].message
