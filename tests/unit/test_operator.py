# SPDX-License-Identifier: Apache-2.0
"""Who may act on the pages: the limits on wrong tokens."""

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ci.clock import FakeClock
from tests.kit.rows import NOW
from webui import operator
from webui.operator import Operator


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def gate(clock):
    return Operator("right", "https://ci.example.org/", clock)


def status(gate: Operator, token: str, client: str = "192.0.2.1") -> int:
    """How an attempt ends: 200 for admitted."""
    headers = [(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://ci.example.org")]
    request = Request({"type": "http", "headers": headers, "client": (client, 1)})
    try:
        gate.admit(request, token)
    except HTTPException as error:
        return error.status_code
    return 200


def test_wrong_tokens_lock_one_address_for_a_minute(gate, clock):
    assert [status(gate, "wrong") for _ in range(6)] == [403] * 5 + [429]
    assert status(gate, "right") == 429
    assert status(gate, "right", "192.0.2.2") == 200
    clock.sleep(operator.PER_S + 1)
    assert status(gate, "right") == 200


def test_right_tokens_are_never_counted(gate):
    assert {status(gate, "right") for _ in range(100)} == {200}


def test_many_addresses_share_one_limit_and_little_memory(gate, clock):
    said = [status(gate, "wrong", f"198.51.100.{n}") for n in range(70)]
    assert said == [403] * operator.WRONG_IN_ALL + [429] * (70 - operator.WRONG_IN_ALL)
    for round_ in range(40):
        clock.sleep(operator.PER_S + 1)
        for n in range(operator.WRONG_IN_ALL):
            status(gate, "wrong", f"203.0.113.{n}-{round_}")
    assert len(gate._wrong) <= 1000


def test_without_a_token_nobody_is_admitted(clock):
    closed = Operator("", "https://ci.example.org/", clock)
    assert not closed.present
    assert status(closed, "") == 404


def test_odd_tokens_are_only_wrong(gate):
    assert {status(gate, odd) for odd in ("\ud800", "\x00", "é", "r" * 8000)} == {403}
