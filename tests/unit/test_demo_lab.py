# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: what is told before it starts, what a line means, the table."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from ci.demo.lab import chosen, ready, summary
from ci.demo.lab_screen import meaning
from ci.demo.lab_turn import Outcome
from ci.errors import ConfigError
from ci.model.evidence import Shown
from nodes.images.build import Progress
from nodes.lab import table
from nodes.lab.table import LabNode, Reach


class Pretended(LabNode):
    """A node that is never started."""

    def __init__(self, name: str, *lacks: str, hypervisor: bool = True) -> None:
        super().__init__(name, f"{name}, pretended", hypervisor=hypervisor)
        self._lacks = lacks

    def lacks(self) -> tuple[str, ...]:
        return self._lacks

    def up(self, folder: Path, say: Progress) -> None:
        raise AssertionError

    def down(self, folder: Path) -> None:
        raise AssertionError

    def reach(self, folder: Path) -> Reach | None:
        raise AssertionError


class Privileged(Pretended):
    root = True


class Second(Pretended):
    second_of = "xen"


@pytest.fixture(autouse=True)
def _lab(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = (
        Pretended("here"),
        Pretended("xen", "qemu-system-x86"),
        Pretended("uml", "uml-utilities", "uml"),
        Pretended("plain", hypervisor=False),
        Privileged("docker"),
        Second("xen2"),
    )
    monkeypatch.setattr(table, "LAB", {node.name: node for node in nodes})


def names(text: str) -> list[str]:
    return [node.name for node in chosen(text).nodes]


def test_names_keep_their_order_and_come_once():
    assert names(" docker, here,, docker ") == ["docker", "here"]
    assert names("") == []


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match="no lab node vmware") as told:
        chosen("here,vmware")
    assert told.value.hint == "use here, xen, uml, plain, docker, xen2"


def test_one_without_a_hypervisor_is_told_with_those_that_have_one():
    with pytest.raises(
        ConfigError, match="plain cannot be put to the proof: it has no hypervisor"
    ) as told:
        chosen("plain")
    assert told.value.hint == "use here, xen, uml, docker"


def test_all_missing_packages_come_in_one_command():
    with pytest.raises(ConfigError) as told:
        chosen("here,uml,xen")
    assert told.value.hint == (
        "apt-get install --no-install-recommends qemu-system-x86 uml uml-utilities"
    )


@pytest.mark.parametrize("user", [0, 1000])
def test_all_is_what_can_be_had_here_and_says_what_it_leaves_out(user, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    plan = chosen("all")
    as_root = user == 0
    assert [node.name for node in plan.nodes] == (["here", "docker"] if as_root else ["here"])
    assert plan.left_out == {
        "xen": "needs qemu-system-x86",
        "uml": "needs uml-utilities, uml",
        "plain": "it has no hypervisor",
        "xen2": "it only stands beside xen",
        **({} if as_root else {"docker": "needs root"}),
    }
    assert list(ready()) == [node.name for node in plan.nodes]


@pytest.mark.parametrize(
    ("line", "text", "lasting"),
    [
        (
            "  1/69  works           test_host.py::test_host_info  0.0 s",
            "1/69 works: test_host.py::test_host_info  0.0 s",
            False,
        ),
        (" 48/69  not tried       a::b  0.0 s  needs a second host", "48/69 not tried:", True),
        (" 49/69  fails           a::b  0.1 s  it has no [x]", "49/69 fails:", True),
        ("User Mode Linux, evidence bare: kernel 6.1", "User Mode Linux, evidence bare:", True),
        ("operation.launch      works", "", False),
        ("", "", False),
    ],
)
def test_what_fails_stays_and_what_works_passes_by(line, text, lasting):
    said = meaning(line)
    assert said.text.startswith(text)
    assert bool(said.text) == bool(text)
    assert said.lasting == lasting
    assert not said.trouble


@pytest.mark.parametrize(
    "line", ["not tried: it is dead", "  fix: it is dead", "hypervouch: it is dead"]
)
def test_what_keeps_it_from_testing_is_trouble(line):
    assert meaning(line).trouble == "it is dead"


def test_the_table_says_what_works_how_real_it_is_and_why_there_is_nothing():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(
        summary(
            [
                Outcome(
                    name="uml",
                    title="User Mode Linux",
                    grade="bare",
                    counts={Shown.WORKS: 26, Shown.UNSUPPORTED: 38},
                    took_s=146.2,
                ),
                Outcome(name="xen", title="Xen", why="[Errno 2] panicked", took_s=3),
                Outcome(name="kvm", title="KVM", why="needs qemu", left_out=True),
            ]
        )
    )
    lines = [
        " ".join(line.replace("\u2502", " ").split()) for line in console.export_text().splitlines()
    ]
    assert "User Mode Linux 26 38 0 bare 146 s" in lines
    assert "Xen: [Errno 2] panicked none 3 s" in lines
    assert "KVM: needs qemu left out" in lines
