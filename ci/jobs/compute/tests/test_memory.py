# SPDX-License-Identifier: Apache-2.0
"""Memory is kept while a guest stands still, in memory or on disk."""

import pytest

from ci.jobs.compute.bench import Bench, Guest
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState

_TICKS = "hold 3600"


@pytest.mark.feature(Feature.PAUSE)
def test_pause(bench: Bench, guest: Guest) -> None:
    """A paused guest ticks no more; pausing it again is no error."""
    guest.ask(_TICKS)
    assert guest.agent.ticks(bench.moment_s) > 0
    bench.hypervisor.pause(guest.name)
    try:
        assert bench.hypervisor.info(guest.name).state is GuestState.PAUSED
        bench.hypervisor.pause(guest.name)
        guest.agent.forget()
        assert guest.agent.ticks(bench.moment_s) == 0, "it ticks although it is paused"
    finally:
        bench.hypervisor.unpause(guest.name)


@pytest.mark.feature(Feature.UNPAUSE)
def test_unpause(bench: Bench, guest: Guest) -> None:
    """It goes on where it stood: the same boot, the next count, ticks again."""
    count, boot_id = guest.count()
    guest.ask(_TICKS)
    bench.hypervisor.pause(guest.name)
    bench.hypervisor.unpause(guest.name)
    assert bench.hypervisor.info(guest.name).state is GuestState.RUNNING
    assert guest.agent.ticks(bench.moment_s) > 0
    assert guest.count() == (count + 1, boot_id)


@pytest.mark.feature(Feature.SUSPEND)
def test_suspend(bench: Bench) -> None:
    """A suspended guest does not run, and says nothing."""
    guest = bench.launch()
    bench.hypervisor.suspend(guest.name)
    assert bench.hypervisor.info(guest.name).state is GuestState.SUSPENDED
    assert bench.hypervisor.inventory().guests[guest.name] is GuestState.SUSPENDED


@pytest.mark.feature(Feature.RESUME)
def test_resume(bench: Bench, guest: Guest) -> None:
    """It has the memory that it had: the same boot and the next count."""
    count, boot_id = guest.count()
    guest.let_go()
    bench.hypervisor.suspend(guest.name)
    bench.hypervisor.resume(guest.name)
    assert bench.hypervisor.info(guest.name).state is GuestState.RUNNING
    assert guest.count() == (count + 1, boot_id)
