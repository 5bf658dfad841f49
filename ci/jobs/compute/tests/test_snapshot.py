# SPDX-License-Identifier: Apache-2.0
"""Disks go back to what they were, or to nothing."""

import pytest

from ci.jobs.compute.bench import OTHER, Bench, disk_of
from ci.jobs.compute.notes import Notes
from ci.model.feature import Feature

_ROOT_MIB = 24


@pytest.mark.feature(Feature.SNAPSHOT)
def test_snapshot_and_revert(bench: Bench) -> None:
    """Back at a snapshot, what was written later is gone and what was before is there."""
    guest = bench.launch()
    notes = Notes(bench, guest)
    notes.write("before")
    bench.hypervisor.snapshot(guest.name, "first")
    notes.write("after")
    guest.let_go()
    bench.hypervisor.revert(guest.name, "first")
    guest.booted()
    assert notes.read() == "before"


@pytest.mark.feature(Feature.SNAPSHOT)
def test_snapshot_goes_with_its_guest(bench: Bench) -> None:
    """A deleted guest leaves no snapshot behind."""
    before = bench.hypervisor.inventory()
    guest = bench.launch(wait=False)
    bench.hypervisor.snapshot(guest.name, "left")
    bench.delete(guest)
    assert bench.hypervisor.inventory() == before


@pytest.mark.feature(Feature.REBUILD)
def test_rebuild(bench: Bench) -> None:
    """A rebuilt guest has its name and cards, and nothing of what it wrote."""
    guest = bench.launch()
    notes, macs, old = Notes(bench, guest), guest.macs(), guest.boot_id()
    notes.write("of old")
    guest.let_go()
    bench.hypervisor.rebuild(guest.name, bench.other_image)
    guest.booted_after(old)
    assert guest.info()["image"] == OTHER
    assert guest.macs() == macs
    assert notes.read() != "of old"


@pytest.mark.feature(Feature.REBUILD_VOLUME_BACKED)
def test_rebuild_volume_backed(bench: Bench) -> None:
    """Its root is the same volume, with nothing of what it wrote, and outlives the guest."""
    bench.need(Feature.REBUILD_VOLUME_BACKED)
    volume = bench.volume(_ROOT_MIB)
    guest = bench.launch(root=volume)
    notes, old = Notes(bench, guest), guest.boot_id()
    notes.write("of old")
    guest.let_go()
    bench.hypervisor.rebuild(guest.name, bench.other_image)
    guest.booted_after(old)
    assert guest.info()["image"] == OTHER
    assert disk_of(guest, volume, bench.boot_s)
    assert notes.read() != "of old"
    notes.write("of new")
    bench.delete(guest)
    assert volume.name in bench.hypervisor.inventory().volumes
    assert bench.hypervisor.volume_bytes(volume, 6) == b"of new"
