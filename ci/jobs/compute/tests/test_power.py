# SPDX-License-Identifier: Apache-2.0
"""Guests boot anew, and keep what is on their disk."""

import pytest

from ci.jobs.compute.bench import Bench, Guest
from ci.jobs.compute.notes import Notes
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState


@pytest.mark.feature(Feature.REBOOT)
def test_soft_reboot(bench: Bench, guest: Guest) -> None:
    """A guest that is asked to boots anew: it has another boot id."""
    old = guest.boot_id()
    bench.hypervisor.reboot(guest.name)
    guest.booted_after(old)


@pytest.mark.feature(Feature.REBOOT)
def test_hard_reboot(bench: Bench, guest: Guest) -> None:
    """A reset works without the guest's help."""
    old = guest.boot_id()
    bench.hypervisor.reboot(guest.name, hard=True)
    guest.booted_after(old)


@pytest.mark.feature(Feature.STORAGE_IMAGE)
def test_disk_outlives_power(bench: Bench) -> None:
    """What a guest wrote to its own disk is there after a pulled plug and a start."""
    guest = bench.launch()
    notes = Notes(bench, guest)
    notes.write("kept over power")
    old = guest.boot_id()
    bench.hypervisor.power_off(guest.name)
    assert bench.hypervisor.info(guest.name).state is GuestState.SHUTOFF
    bench.hypervisor.power_off(guest.name)
    guest.let_go()
    bench.hypervisor.start(guest.name)
    guest.booted_after(old)
    assert notes.read() == "kept over power"
