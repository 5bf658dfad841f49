# SPDX-License-Identifier: Apache-2.0
"""What builds leave: found by two looks, removed where it is theirs, named where it stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.runners import scripts
from nodes import leftovers
from nodes.hypervisors.base import GuestState, Inventory
from nodes.leftovers import Fate, Kind, Left, Leftovers, address, parse, trouble_of

NODE = Endpoint(transport=Transport.SSH, user="ci", workdir="/srv/ci", hypervisor="qemu:///system")


class Box:
    """A machine and its hypervisor in memory."""

    def __init__(self) -> None:
        self.things = {("file", "/srv/ci/old"), ("socket", "0100007F:0016")}
        self.guests: dict[str, GuestState] = {"theirs": GuestState.RUNNING}
        self.volumes: set[str] = set()
        self.networks: set[str] = {"default"}
        self.stuck: set[str] = set()
        self.scripts: list[str] = []

    def run(self, _: Endpoint, script: str) -> bytes:
        self.scripts.append(script)
        if not script.startswith("set -- "):
            self.things = {
                (kind, name)
                for kind, name in self.things
                if name in self.stuck or (name.split()[0] not in script)
            }
        return b"".join(f"{kind} {name}\0".encode() for kind, name in sorted(self.things))

    def inventory(self) -> Inventory:
        return Inventory(
            guests=dict(self.guests),
            volumes=frozenset(self.volumes),
            networks=frozenset(self.networks),
        )

    def cleanup(self) -> tuple[str, ...]:
        for name in [one for one in self.guests if one.startswith("hv-")]:
            del self.guests[name]
        self.volumes = {one for one in self.volumes if not one.startswith("hv-")}
        return ()

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box()
    monkeypatch.setattr(leftovers, "_run", made.run)
    return made


@pytest.fixture
def care(box: Box) -> Leftovers:
    return Leftovers(lambda _: box)  # type: ignore[arg-type,return-value]


def settled(care: Leftovers, box: Box, change: Any, **more: Any) -> dict[str, Fate]:
    before = care.look(NODE)
    change()
    return {one.name: one.fate for one in care.settle(NODE, before, **more)}


def test_a_build_that_leaves_nothing_costs_one_look(care, box):
    assert settled(care, box, lambda: None) == {}
    assert len(box.scripts) == 2


def test_what_is_its_own_is_removed(care, box):
    def build() -> None:
        box.things |= {("file", "/srv/ci/cache"), ("process", "4711 sleep")}
        box.things.add(("file", "/srv/ci/checkout"))
        box.guests["hv-a"] = GuestState.RUNNING
        box.volumes.add("hv-v")

    found = settled(care, box, build)
    assert found == dict.fromkeys(("/srv/ci/cache", "4711 sleep", "hv-a", "hv-v"), Fate.REMOVED)
    assert set(box.guests) == {"theirs"}
    assert "kill -9 4711" in "\n".join(box.scripts)


def test_what_nobody_can_be_sure_of_is_noted_and_left_alone(care, box):
    found = settled(care, box, lambda: box.things.add(("file", "/tmp/pytest-of-ci")))
    assert found == {"/tmp/pytest-of-ci": Fate.NOTED}
    assert not any(one.startswith("rm ") for one in box.scripts)


def test_unless_the_directory_is_given_to_builds(care, box):
    change = lambda: box.things.add(("file", "/tmp/x y"))  # noqa: E731
    before = care.look(NODE, ["/tmp"])
    change()
    box.stuck = {"/tmp/x y"}
    (left,) = care.settle(NODE, before, ["/tmp"])
    assert left.fate is Fate.STAYS
    assert "rm -rf -- '/tmp/x y'" in "\n".join(box.scripts)


def test_what_stays_takes_the_node_out_of_work(care, box):
    def build() -> None:
        box.guests["instance-1"] = GuestState.RUNNING
        box.networks.add("left-net")
        box.things.add(("socket", "00000000:1F90"))

    found = settled(care, box, build)
    assert found == dict.fromkeys(("instance-1", "left-net", "0.0.0.0:8080"), Fate.STAYS)
    told = trouble_of([Left(kind=Kind.GUEST, name=name, fate=fate) for name, fate in found.items()])
    assert "could not be removed: guest " in told


def test_processes_are_known_by_the_mark_that_sessions_give_them():
    assert leftovers.family("/srv//ci/") == scripts.family("/srv//ci/")


def test_a_socket_of_root_may_be_the_systems(care, box):
    root = replace(NODE, user="root")
    before = care.look(root)
    box.things.add(("socket", "00000000:1F90"))
    assert [one.fate for one in care.settle(root, before)] == [Fate.NOTED]


def test_only_what_stays_is_trouble():
    left = [Left(kind=Kind.FILE, name="f", fate=fate) for fate in (Fate.REMOVED, Fate.NOTED)]
    assert trouble_of(left) == ""


def test_hostile_names_are_one_name_each():
    said = b"file /tmp/a\nfile /etc/passwd\0junk\0file /tmp/\xff\0file /tmp/.hypervouch-1\0"
    assert parse(said) == [(Kind.FILE, "/tmp/a\nfile /etc/passwd"), (Kind.FILE, "/tmp/\ufffd")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0100007F:1F90", "127.0.0.1:8080"),
        ("00000000:0016", "0.0.0.0:22"),
        (f"{'0' * 32}:0016", f"[{'0' * 32}]:22"),
    ],
)
def test_listening_addresses_are_readable(text, shown):
    assert address(text) == shown


def test_this_machine_itself_is_not_searched_for_files(care, box, tmp_path: Path):
    local = Endpoint(transport=Transport.LOCAL, workdir=str(tmp_path))
    assert care.look(local) == {(Kind.GUEST, "theirs"), (Kind.NETWORK, "default")}
    assert box.scripts == []


def test_a_node_that_does_not_answer_says_so(monkeypatch, care):
    def gone(*_: Any) -> bytes:
        raise NodeUnavailable("gone")

    monkeypatch.setattr(leftovers, "_run", gone)
    with pytest.raises(NodeUnavailable):
        care.look(NODE)
