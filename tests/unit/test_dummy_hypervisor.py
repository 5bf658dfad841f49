# SPDX-License-Identifier: Apache-2.0
"""The dummy hypervisor: what it is told to do wrong, and what it objects to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ci.errors import HypervouchBug
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState, Hypervisor
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect

Connect = Callable[[str], Hypervisor]


@pytest.fixture
def to(tmp_path: Path) -> Connect:
    (tmp_path / "tiny.initrd").touch()
    return lambda url: connect(url, Access(work=tmp_path, grade=Grade.BARE))


@pytest.fixture
def spec(tmp_path: Path) -> GuestSpec:
    return GuestSpec(name="hv-a", image=GuestImage(initrd=tmp_path / "tiny.initrd"))


def test_is_an_emulator_whatever_anybody_says(to: Connect) -> None:
    assert to("dummy:///").system().grade is Grade.EMULATOR


@pytest.mark.parametrize(
    ("kind", "error"), [("transient", TransientFault), ("node", NodeFault), ("caller", CallerFault)]
)
def test_fails_as_often_as_told(
    to: Connect, spec: GuestSpec, kind: str, error: type[Exception]
) -> None:
    dummy = to(f"dummy:///?fail=pause:{kind}:2")
    dummy.launch(spec)
    for _ in range(2):
        with pytest.raises(error):
            dummy.pause("hv-a")
    dummy.pause("hv-a")


def test_has_not_what_it_shall_not_have(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///?unsupported=operation.pause,operation.suspend")
    dummy.launch(spec)
    with pytest.raises(Unsupported) as caught:
        dummy.pause("hv-a")
    assert caught.value.feature is Feature.PAUSE


def test_dies_when_told(to: Connect) -> None:
    dummy = to("dummy:///?dies=2")
    dummy.system()
    dummy.inventory()
    for _ in range(2):
        with pytest.raises(NodeFault):
            dummy.inventory()


def test_a_guest_that_never_boots_says_so_on_its_console(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///?boots=no")
    dummy.launch(spec)
    assert dummy.info("hv-a").state is GuestState.RUNNING
    with pytest.raises(TransientFault, match="No bootable device"):
        GuestAgent(dummy.console("hv-a"), "hv-a").ready(0.1)


def test_a_flood_hides_no_answer(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///?flood=20")
    dummy.launch(spec)
    agent = GuestAgent(dummy.console("hv-a"), "hv-a")
    assert agent.ready(30)["modelled"] is True
    assert agent.wait_for_event("boot", 1)


def test_a_paused_guest_neither_ticks_nor_answers(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///")
    dummy.launch(spec)
    agent = GuestAgent(dummy.console("hv-a"), "hv-a")
    agent.ask("hold 1000")
    assert agent.ticks(0.3) > 0
    dummy.pause("hv-a")
    assert agent.ticks(0.2) == 0
    with pytest.raises(TransientFault):
        agent.ask("ping", 0.1)
    dummy.unpause("hv-a")
    assert agent.ask("counter")["counter"] == 1


def test_memory_outlives_a_suspension_and_no_power_cut(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///")
    dummy.launch(spec)
    agent = GuestAgent(dummy.console("hv-a"), reopen=lambda: dummy.console("hv-a"))
    first = agent.ask("counter")
    dummy.suspend("hv-a")
    dummy.resume("hv-a")
    assert agent.ask("counter")["counter"] == 2
    dummy.power_off("hv-a")
    dummy.start("hv-a")
    later = agent.ask("counter")
    assert later["counter"] == 1
    assert later["boot_id"] != first["boot_id"]


def test_leaves_alone_what_is_not_ours(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///")
    dummy.launch(spec)
    dummy.add_foreign("customer", spec)  # type: ignore[attr-defined]
    assert dummy.cleanup() == ("hv-a",)
    assert set(dummy.inventory().guests) == {"customer"}


def test_objects_to_a_call_after_close(to: Connect) -> None:
    dummy = to("dummy:///")
    dummy.close()
    dummy.close()
    with pytest.raises(CallerFault, match="after close"):
        dummy.inventory()


def test_objects_to_a_console_used_after_its_close(to: Connect, spec: GuestSpec) -> None:
    dummy = to("dummy:///")
    dummy.launch(spec)
    console = dummy.console("hv-a")
    console.close()
    with pytest.raises(HypervouchBug):
        console.read(0)


def test_one_name_is_one_host_and_one_directory_one_store(to: Connect, spec: GuestSpec) -> None:
    first, again, other = to("dummy:///a"), to("dummy:///a"), to("dummy:///b")
    first.launch(spec)
    volume = first.create_volume("hv-v", 8)
    assert set(again.inventory().guests) == {"hv-a"}
    assert set(other.inventory().guests) == set()
    assert volume.name in other.inventory().volumes
    first.live_migrate("hv-a", other)
    assert set(other.inventory().guests) == {"hv-a"}
    assert set(again.inventory().guests) == set()


@pytest.mark.parametrize(
    "url",
    [
        "dummy:///?fly=1",
        "dummy:///?fail=pause:often",
        "dummy:///?slow=very",
        "dummy:///?unsupported=flying",
        "dummy:///?dies=",
    ],
)
def test_a_wrong_url_is_refused(to: Connect, url: str) -> None:
    with pytest.raises(CallerFault):
        to(url)
