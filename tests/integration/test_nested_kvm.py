# SPDX-License-Identifier: Apache-2.0
"""Real KVM in nested nodes, under libvirt over SSH."""

import importlib.util
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from ci.model.node import Endpoint
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestSpec
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.table import LAB
from tests.kit.guests import ANSWER_S, MEMORY_MIB, NAME, round_with_a_guest
from tests.kit.nested_nodes import CALL_S, chosen, connected
from tests.kit.require import require

pytestmark = [pytest.mark.integration]


@pytest.fixture(autouse=True)
def _library() -> None:
    found = importlib.util.find_spec("libvirt") is not None
    require("kvm", present=found, why="libvirt-python: run scripts/setup test")


def test_a_guest_of_kvm_keeps_its_memory_and_leaves_nothing(kvm_node: Endpoint, tmp_path: Path):
    assert kvm_node.grade is Grade.NESTED
    with connected("kvm", tmp_path) as hypervisor:
        try:
            system = hypervisor.system()
            assert (system.key, system.grade) == ("libvirt-kvm-x86", Grade.NESTED)
            round_with_a_guest(hypervisor)
        finally:
            hypervisor.cleanup()


@pytest.mark.timeout(1800)
def test_a_guest_goes_to_a_second_node_and_comes_back_after_its_death(tmp_path: Path):
    chosen("kvm")
    with ExitStack() as ends:
        for name in ("kvm", "kvm2"):
            ends.callback(LAB[name].down, tmp_path / name)
            LAB[name].up(tmp_path / name, str)
        reach = LAB["kvm"].reach(tmp_path / "kvm")
        assert reach is not None
        access = Access(
            work=tmp_path / "work",
            grade=reach.grade,
            key_file=reach.key_file,
            known_hosts=reach.known_hosts,
            timeout_s=CALL_S,
        )
        one = ends.enter_context(closing(connect(reach.urls[0], access)))
        other = ends.enter_context(closing(connect(reach.seconds[0], access)))
        one.launch(GuestSpec(name=NAME, image=tiny(), memory_mib=MEMORY_MIB))
        agent = GuestAgent(one.console(NAME), NAME, reopen=lambda: one.console(NAME))
        before = agent.ask("counter", ANSWER_S)
        agent.close()
        one.live_migrate(NAME, other)
        assert NAME not in one.inventory().guests
        agent = GuestAgent(other.console(NAME), NAME, reopen=lambda: other.console(NAME))
        after = agent.ask("counter", ANSWER_S)
        assert after["counter"] == before["counter"] + 1
        assert after["boot_id"] == before["boot_id"]
        agent.close()
        other.evacuate(NAME, one)
        agent = GuestAgent(one.console(NAME), NAME, reopen=lambda: one.console(NAME))
        assert agent.ask("counter", ANSWER_S)["boot_id"] != before["boot_id"]
        one.delete(NAME)
