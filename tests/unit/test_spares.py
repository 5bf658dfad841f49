# SPDX-License-Identifier: Apache-2.0
"""How many machines are made ahead, and who gets which."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import NodeUnavailable, StorageError
from ci.model.node import Endpoint
from ci.roles import spares as role
from ci.roles.spares import SpareKeeper
from ci.store import queue
from nodes.images.machine import Machine
from nodes.providers.spares import SHRINK_AFTER_S, Spares, free_for_spares_mib

SLOTS = ("n-1", "n-2", "n-3")


class Watch:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(at_rest: int = 1, *, free_mib: int = 10_000, watch: Watch | None = None) -> Spares:
    return Spares(
        SLOTS,
        at_rest=at_rest,
        memory_mib=512,
        free_mib=lambda: free_mib,
        now=watch or Watch(),
    )


def machine(slot: str) -> Machine:
    return cast("Machine", SimpleNamespace(slot=slot))


def fill(spares: Spares, waiting: int = 0) -> int:
    """Turns that made a spare."""
    return sum(spares.fill_one(waiting, machine) for _ in range(10))


def test_one_stands_by_while_nobody_waits_and_more_are_made_for_who_does():
    spares = made()
    assert fill(spares) == 1
    assert fill(spares, waiting=2) == 1
    assert fill(spares, waiting=50) == 1
    assert spares.slots == frozenset(SLOTS)


def test_none_is_ever_made_where_none_is_wanted():
    assert fill(made(at_rest=0), waiting=9) == 0


def test_slots_that_are_held_count_against_the_spares():
    spares = made(at_rest=3)
    with spares.starting("n-1"):
        assert fill(spares) == 0, "whoever starts now needs the processors"
    assert fill(spares) == 2
    assert spares.slots == {"n-2", "n-3"}
    spares.freed("n-1")
    assert fill(spares) == 1


def test_none_is_made_where_memory_is_short():
    assert fill(made(free_mib=511), waiting=3) == 0


def test_surplus_ends_only_after_a_quiet_while():
    watch = Watch()
    spares = made(watch=watch)
    fill(spares, waiting=3)
    assert spares.one_too_many(0) is None
    watch.now = SHRINK_AFTER_S + 1
    first = spares.one_too_many(0)
    assert first in SLOTS
    spares.drop(str(first))
    spares.drop(str(spares.one_too_many(0)))
    assert spares.one_too_many(0) is None
    assert len(spares.slots) == 1


def test_a_slot_gets_its_own_spare_or_another_with_its_folder(tmp_path: Path):
    spares = made()
    fill(spares)
    (home,) = spares.slots
    (tmp_path / home).mkdir()
    (tmp_path / home / "disk").touch()
    other = next(slot for slot in SLOTS if slot != home)
    taken = spares.take(other, lambda slot: tmp_path / slot)
    assert taken is not None
    assert (tmp_path / other / "disk").exists()
    assert not (tmp_path / home).exists()
    assert spares.take(home, lambda slot: tmp_path / slot) is None, "nobody gets it twice"


def test_a_spare_whose_folder_cannot_be_moved_stays_a_spare(tmp_path: Path):
    spares = made()
    fill(spares)
    (home,) = spares.slots
    other = next(slot for slot in SLOTS if slot != home)
    assert spares.take(other, lambda slot: tmp_path / slot) is None
    assert spares.slots == {home}


def test_a_slot_with_an_unknown_machine_gets_no_spare():
    spares = made(at_rest=3)
    assert sum(spares.fill_one(0, machine, lambda slot: slot != "n-3") for _ in range(9)) == 2
    assert spares.slots == {"n-1", "n-2"}


def test_a_spare_that_does_not_come_up_leaves_its_slot_free():
    spares = made()

    def refuse(_slot: str) -> Machine:
        raise NodeUnavailable("no")

    with pytest.raises(NodeUnavailable):
        spares.fill_one(0, refuse)
    assert spares.known == frozenset()
    assert fill(spares) == 1


def test_nothing_is_made_after_the_end():
    spares = made()
    fill(spares)
    assert set(spares.end()) == set(SLOTS)
    for slot in SLOTS:
        spares.drop(slot)
    assert fill(spares, waiting=3) == 0


def test_free_memory_leaves_a_share_to_the_machine(tmp_path: Path):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal: 10240000 kB\nMemFree: 1 kB\nMemAvailable: 5120000 kB\n")
    assert free_for_spares_mib(table) == 5000 - 1000
    table.write_text("MemTotal: 10240000 kB\n")
    assert free_for_spares_mib(table) == 0


class Keeping:
    """A provider that keeps spares and remembers what it was told."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.told: list[int] = []
        self.ended = False
        self.trouble = trouble

    def keep_spares(self, waiting: int) -> None:
        self.told.append(waiting)
        if self.trouble:
            raise self.trouble

    def end_spares(self) -> None:
        self.ended = True

    def start(self, node: str, holder: str) -> Endpoint:
        raise NotImplementedError(node, holder)


def test_each_provider_hears_how_many_wait_for_its_label(monkeypatch: pytest.MonkeyPatch):
    class Base:
        def read(self) -> Any:
            return memoryview(b"")  # a context manager that does nothing

    monkeypatch.setattr(queue, "waiting", lambda _tx: {"fast": 4})
    fast, slow, plain = Keeping(), Keeping(StorageError("away")), SimpleNamespace()
    by_label: Any = {"slow": (slow,), "fast": (fast, plain)}
    keeper = SpareKeeper(cast("Any", Base()), by_label)
    keeper.look()
    keeper.look()
    assert (fast.told, slow.told) == ([4, 4], [0, 0])
    keeper.stop()
    assert fast.ended
    assert slow.ended
    monkeypatch.setattr(role, "EVERY_S", 0.0)
    keeper.run()
    assert fast.told == [4, 4]
