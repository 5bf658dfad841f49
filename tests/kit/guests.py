# SPDX-License-Identifier: Apache-2.0
"""A small round with one guest of a real hypervisor: enough to see that node and adapter fit."""

from nodes.hypervisors.base import GuestSpec, GuestState, Hypervisor
from nodes.hypervisors.guest import GuestAgent
from nodes.images.tiny import tiny

NAME = "hv-round"
ANSWER_S = 300.0
MEMORY_MIB = 160


def round_with_a_guest(hypervisor: Hypervisor) -> None:
    """Launch, ask, pause, suspend, resume, delete; memory is kept and nothing is left.

    Raises:
        AssertionError: The hypervisor or its adapter does not do what it says.
    """
    before = hypervisor.inventory()
    hypervisor.launch(GuestSpec(name=NAME, image=tiny(), memory_mib=MEMORY_MIB))
    agent = GuestAgent(hypervisor.console(NAME), NAME, reopen=lambda: hypervisor.console(NAME))
    try:
        told = agent.ask("info", ANSWER_S)
        first = agent.ask("counter", ANSWER_S)["counter"]
        assert hypervisor.info(NAME).state is GuestState.RUNNING
        hypervisor.pause(NAME)
        hypervisor.pause(NAME)
        assert hypervisor.info(NAME).state is GuestState.PAUSED
        hypervisor.unpause(NAME)
        hypervisor.suspend(NAME)
        assert hypervisor.info(NAME).state is GuestState.SUSPENDED
        hypervisor.resume(NAME)
        again = agent.ask("counter", ANSWER_S)
        assert again["counter"] == first + 1, "memory did not come back"
        assert again["boot_id"] == told["boot_id"], "it booted instead of resuming"
    finally:
        hypervisor.delete(NAME)
        hypervisor.delete(NAME)
    assert hypervisor.inventory() == before
