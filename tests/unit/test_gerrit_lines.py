# SPDX-License-Identifier: Apache-2.0
"""Bytes to lines, and lines from one thread to another."""

import random
import threading

from ci.gerrit.lines import Handover, LineBuffer


def test_lines_survive_any_cut() -> None:
    source = random.Random(3)
    lines = [bytes(source.choices(b"ab \r{}", k=source.randrange(40))) for _ in range(200)]
    data = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer(1000)
    got: list[bytes] = []
    while data:
        size = source.randrange(1, 60)
        got += buffer.feed(data[:size])
        data = data[size:]
    assert got == lines


def test_a_line_without_its_end_is_kept_back() -> None:
    buffer = LineBuffer(1000)
    assert list(buffer.feed(b"half")) == []
    assert list(buffer.feed(b" whole\nnext")) == [b"half whole"]


def test_an_endless_line_is_cut_just_above_the_limit_and_the_next_is_whole() -> None:
    buffer = LineBuffer(10)
    got: list[bytes] = []
    for _ in range(50):
        got += buffer.feed(b"xxxxxxxx")
    got += buffer.feed(b"\nfine\n")
    assert got == [b"x" * 11, b"fine"]


def test_handover_keeps_order_and_gives_what_is_left_after_close() -> None:
    handover: Handover[int] = Handover(100)
    for number in range(3):
        handover.put(number, 1)
    handover.close()
    handover.put(9, 1)
    assert [handover.take(2) for _ in range(3)] == [[0, 1], [2], []]


def test_handover_makes_the_giver_wait_for_room() -> None:
    handover: Handover[int] = Handover(2)

    def give() -> None:
        for number in range(100):
            handover.put(number, 1)
        handover.close()

    giver = threading.Thread(target=give)
    giver.start()
    got = []
    while items := handover.take(7):
        got += items
    giver.join(5)
    assert got == list(range(100))


def test_close_frees_who_waits_on_either_side() -> None:
    full: Handover[int] = Handover(1)
    full.put(1, 1)
    empty: Handover[int] = Handover(1)
    threads = [
        threading.Thread(target=lambda: full.put(2, 1)),
        threading.Thread(target=empty.take, args=(1,)),
    ]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
