# SPDX-License-Identifier: Apache-2.0
"""Who has a name in a XenServer pool: one at a time, and nobody for ever."""

from typing import Any

import pytest

pytest.importorskip("XenAPI")

import XenAPI

from nodes.hypervisors import xenserver_claim as claim
from nodes.hypervisors.faults import NodeFault, TransientFault

KEY = f"{claim.LAUNCH}-hv-a"


class Pool:
    """The keys of one pool, and a clock that a sleep moves."""

    timeout_s = 1.0

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.now = 0.0
        self.refusal = ""

    def records(self, kind: str) -> dict[str, Any]:
        return {"pool": self.record(kind, "pool")}

    def record(self, _kind: str, _ref: str) -> dict[str, Any]:
        return {"other_config": dict(self.keys)}

    def call(self, _doing: str, method: str, _ref: str, key: str, *value: str) -> None:
        if method == "pool.remove_from_other_config":
            self.keys.pop(key, None)
            return
        if self.refusal or key in self.keys:
            error = NodeFault("it refuses that")
            error.__cause__ = XenAPI.Failure([self.refusal or "MAP_DUPLICATE_KEY"])
            raise error
        self.keys[key] = value[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    made = Pool()
    monkeypatch.setattr(claim.time, "sleep", made.sleep)
    monkeypatch.setattr(claim.time, "monotonic", lambda: made.now)
    return made


def held(pool: Pool) -> str:
    with claim.held(pool, "hv-a", "m1") as token:  # type: ignore[arg-type]
        assert pool.keys == {KEY: token}
    return token


def test_a_name_is_held_and_let_go(pool: Pool) -> None:
    assert held(pool) != held(pool)
    assert not pool.keys


def test_what_a_dead_launch_left_is_taken_over(pool: Pool) -> None:
    pool.keys[KEY] = "its"
    held(pool)
    assert claim.LEFT_S <= pool.now < claim.LEFT_S + 1


def test_what_a_dead_launch_left_is_cleaned_by_its_member(pool: Pool) -> None:
    """Names are drawn for each build: nobody comes who would take it over."""
    names = (("m1", "hv-a"), ("m1", "hv-b"), ("m2", "hv-c"))
    begun = [claim.held(pool, name, member) for member, name in names]  # type: ignore[arg-type]
    for one in begun:
        one.__enter__()
    assert len(pool.keys) == len(names)
    pool.keys["theirs"] = "m1/"
    claim.forget(pool, "m1")  # type: ignore[arg-type]
    assert set(pool.keys) == {"theirs", f"{claim.LAUNCH}-hv-c"}


def test_one_that_others_have_in_turn_is_not_waited_for_without_end(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_seconds: float) -> None:
        pool.now += 1.0
        pool.keys[KEY] = str(pool.now)

    pool.keys[KEY] = "0"
    monkeypatch.setattr(claim.time, "sleep", sleep)
    with pytest.raises(TransientFault, match="all the time"):
        held(pool)
    assert pool.keys


def test_a_pool_that_refuses_it_is_not_asked_again(pool: Pool) -> None:
    pool.refusal = "RBAC_PERMISSION_DENIED"
    with pytest.raises(NodeFault, match="refuses"):
        held(pool)
    assert pool.now == 0
