# SPDX-License-Identifier: Apache-2.0
"""A guest that floods its console costs a bounded memory and the answer is still found in it."""

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from ci.errors import NodeUnavailable
from nodes.hypervisors.guest import GuestAgent

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1 << 30
CHUNK = 1 << 20
BOUND = 8 << 20


class Flooding:
    """A console that brings so much noise, and then the answer to what was asked."""

    def __init__(self, chunk: bytes, total: int) -> None:
        self.noise: Iterator[bytes] = iter([chunk] * (total // len(chunk)))
        self.asked = b""
        self.brought = 0

    def write(self, data: bytes) -> None:
        self.asked = self.asked or data.split()[0].removeprefix(b"#")

    def read(self, timeout_s: float) -> bytes:
        data = next(self.noise, b"")
        self.brought += len(data)
        return data or b'\nnoise @@ {"re": "' + self.asked + b'", "pong": true}\n'

    def close(self) -> None:
        pass


def ask(console: Flooding) -> tuple[dict[str, object], int]:
    """The answer, and the most memory it took beyond what the console itself has."""
    agent = GuestAgent(console, now=lambda: 0.0, sleep=lambda _: None)
    tracemalloc.start()
    try:
        answer = agent.ask("ping")
        return answer, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("chunk", "total"),
    [
        pytest.param(b"x" * CHUNK, GIB, id="1 GiB without an end of line"),
        pytest.param(b"\0" * CHUNK, GIB // 4, id="zeros"),
        pytest.param((b"y" * 4095 + b"\n") * 256, GIB // 8, id="lines"),
        pytest.param(b"@@ {" * (CHUNK // 4), GIB // 8, id="what looks like answers"),
        pytest.param((b"@@ {" * 1023 + b"@@ \n") * 256, GIB // 64, id="lines of such"),
    ],
)
def test_a_flood_costs_a_bounded_memory(chunk: bytes, total: int):
    console = Flooding(chunk, total)
    answer, most = ask(console)
    assert answer["pong"] is True
    assert console.brought == total // len(chunk) * len(chunk)
    assert most < BOUND


def test_what_is_told_of_a_flood_is_short(tmp_path):
    ticks = iter(range(10_000))
    console = Flooding(b"z" * CHUNK, GIB)
    agent = GuestAgent(console, now=lambda: float(next(ticks)), sleep=lambda _: None)
    with pytest.raises(NodeUnavailable) as told:
        agent.ask("ping", timeout_s=20)
    assert len(str(told.value)) < 8_000
