# SPDX-License-Identifier: Apache-2.0
"""Guests come, are what was asked for, and go without a trace."""

import pytest

from ci.jobs.compute.bench import Bench, Guest
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState

# Kernel and its tables take some of what a guest is given.
_LEAST, _MOST = 0.6, 1.01


@pytest.mark.feature(Feature.LAUNCH)
def test_launch(bench: Bench, guest: Guest) -> None:
    """A guest boots and has the architecture, memory and processors that it was given."""
    info = guest.info()
    assert info["arch"] == bench.image.arch
    assert _LEAST < guest.memory_mib() / guest.spec.memory_mib <= _MOST
    if not bench.shared_kernel:
        assert info["cpus"] == guest.spec.cpus


@pytest.mark.feature(Feature.GET_GUEST_INFO)
@pytest.mark.told
def test_guest_info(bench: Bench, guest: Guest) -> None:
    """The hypervisor says of a guest what it was given."""
    info = bench.hypervisor.info(guest.name)
    assert info.state is GuestState.RUNNING
    assert bench.fits(info, memory_mib=guest.spec.memory_mib, cpus=guest.spec.cpus), info


@pytest.mark.feature(Feature.TERMINATE)
def test_terminate_leaves_nothing(bench: Bench) -> None:
    """What a guest brought is gone with it: the inventory is as before; twice is no error."""
    before = bench.hypervisor.inventory()
    guest = bench.launch(wait=False)
    assert guest.name in bench.hypervisor.inventory().guests
    bench.hypervisor.delete(guest.name)
    assert bench.hypervisor.inventory() == before
    bench.hypervisor.delete(guest.name)


@pytest.mark.feature(Feature.TERMINATE)
def test_terminate_by_asking(bench: Bench) -> None:
    """A guest that is asked to end does, and can be started again."""
    guest = bench.launch()
    old = guest.boot_id()
    bench.hypervisor.shutdown(guest.name)
    assert bench.hypervisor.info(guest.name).state is GuestState.SHUTOFF
    guest.let_go()
    bench.hypervisor.start(guest.name)
    guest.booted_after(old)
