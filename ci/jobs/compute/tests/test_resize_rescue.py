# SPDX-License-Identifier: Apache-2.0
"""Guests get another size, and are booted from another image when their own is broken."""

import pytest

from ci.jobs.compute.bench import OTHER, Bench
from ci.jobs.compute.notes import Notes
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState
from nodes.hypervisors.faults import CallerFault


@pytest.mark.feature(Feature.RESIZE)
def test_resize(bench: Bench) -> None:
    """The guest itself has the new memory, a second processor where there can be one, its bytes."""
    guest = bench.launch()
    notes = Notes(bench, guest)
    notes.write("kept over the resize")
    memory_mib, cpus = guest.spec.memory_mib + 64, 2
    small = guest.memory_mib()
    guest.let_go()
    try:
        bench.hypervisor.resize(guest.name, memory_mib=memory_mib, cpus=cpus)
    except CallerFault:
        cpus = 1
        bench.hypervisor.resize(guest.name, memory_mib=memory_mib, cpus=cpus)
    guest.booted()
    info = bench.hypervisor.info(guest.name)
    assert (info.state, info.memory_mib, info.cpus) == (GuestState.RUNNING, memory_mib, cpus)
    assert guest.memory_mib() >= small + 48
    if not bench.shared_kernel:
        assert guest.info()["cpus"] == cpus
    assert notes.read() == "kept over the resize"


@pytest.mark.feature(Feature.RESCUE)
def test_rescue(bench: Bench) -> None:
    """It boots the other image with its own disk at hand, and is itself again afterwards."""
    guest = bench.launch()
    notes = Notes(bench, guest)
    notes.write("to be rescued")
    own, old = guest.disks(), guest.boot_id()
    guest.let_go()
    bench.hypervisor.rescue(guest.name, bench.other_image)
    guest.booted_after(old)
    rescued = guest.boot_id()
    assert guest.info()["image"] == OTHER, "it booted its own image"
    disks = guest.disks()
    if not bench.shared_kernel:
        texts = [guest.read(name, 64).strip() for name in disks if not name.startswith("sr")]
        assert "to be rescued" in texts, "the guest's own disk is not there"
    guest.let_go()
    bench.hypervisor.unrescue(guest.name)
    guest.booted_after(rescued)
    assert guest.info()["image"] != OTHER
    assert set(guest.disks()) == set(own)
    assert notes.read() == "to be rescued"
