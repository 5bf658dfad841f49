# SPDX-License-Identifier: Apache-2.0
"""Volumes come to running guests and go from them, with the bytes that they hold."""

import pytest

from ci.jobs.compute.bench import (
    MIB,
    SECTORS_OF_MIB,
    Bench,
    Guest,
    disk_of,
    find_disk,
    not_tried,
    wait_until,
)
from ci.model.feature import Feature

_SIZE_MIB = 24
_TEXT = "written by the guest"


@pytest.mark.feature(Feature.ATTACH_VOLUME)
def test_attach(bench: Bench, guest: Guest) -> None:
    """The guest has one disk more, of the right size, and keeps what it writes there."""
    volume = bench.volume(_SIZE_MIB)
    before = guest.disks()
    bench.hypervisor.attach_volume(guest.name, volume)
    disk = disk_of(guest, volume, bench.boot_s)
    assert disk not in before
    assert guest.disks()[disk]["sectors"] == _SIZE_MIB * SECTORS_OF_MIB
    guest.write(disk, _TEXT)
    assert guest.read(disk, len(_TEXT)) == _TEXT
    bench.hypervisor.detach_volume(guest.name, volume)


@pytest.mark.feature(Feature.DETACH_VOLUME)
def test_detach(bench: Bench, guest: Guest) -> None:
    """It is gone from the guest at once, and can be attached again with its bytes."""
    volume = bench.volume(_SIZE_MIB)
    guest.write(bench.attached(guest, volume), _TEXT)
    bench.hypervisor.detach_volume(guest.name, volume)
    assert find_disk(guest, volume) is None
    bench.hypervisor.attach_volume(guest.name, volume)
    assert guest.read(disk_of(guest, volume, bench.boot_s), len(_TEXT)) == _TEXT
    bench.hypervisor.detach_volume(guest.name, volume)


@pytest.mark.feature(Feature.STORAGE_BLOCK)
def test_bytes_on_the_host(bench: Bench, guest: Guest) -> None:
    """What a guest writes to a volume stands in the volume, as the host sees it."""
    volume = bench.volume(_SIZE_MIB)
    guest.write(bench.attached(guest, volume), _TEXT)
    bench.hypervisor.detach_volume(guest.name, volume)
    assert bench.hypervisor.volume_bytes(volume, len(_TEXT)) == _TEXT.encode()


@pytest.mark.feature(Feature.EXTEND_VOLUME)
def test_extend(bench: Bench, guest: Guest) -> None:
    """The guest sees a larger disk without a boot, with the same bytes."""
    volume = bench.volume(_SIZE_MIB)
    disk = bench.attached(guest, volume)
    guest.write(disk, _TEXT)
    old = guest.boot_id()
    larger = bench.hypervisor.extend_volume(guest.name, volume, 2 * _SIZE_MIB)
    assert larger.size_mib == 2 * _SIZE_MIB
    wait_until(
        lambda: guest.disks()[disk]["sectors"] == 2 * _SIZE_MIB * SECTORS_OF_MIB,
        bench.boot_s,
        "the guest does not see the new size",
    )
    assert guest.read(disk, len(_TEXT)) == _TEXT
    assert guest.boot_id() == old
    bench.hypervisor.detach_volume(guest.name, larger)


@pytest.mark.feature(Feature.SWAP_VOLUME)
def test_swap(bench: Bench, guest: Guest) -> None:
    """The new volume has the old one's bytes, and is what the guest writes to from then on."""
    old, new = bench.volume(_SIZE_MIB), bench.volume(_SIZE_MIB)
    disk = bench.attached(guest, old)
    guest.write(disk, _TEXT)
    before = set(guest.disks())
    bench.hypervisor.swap_volume(guest.name, old, new)
    assert len(guest.disks()) == len(before)
    if disk not in guest.disks():
        disk = disk_of(guest, new, bench.boot_s)
    assert guest.read(disk, len(_TEXT)) == _TEXT
    later = _TEXT.upper()
    guest.write(disk, later)
    bench.hypervisor.detach_volume(guest.name, new)
    assert bench.hypervisor.volume_bytes(new, len(later)) == later.encode()
    assert bench.hypervisor.volume_bytes(old, len(_TEXT)) == _TEXT.encode()


@pytest.mark.feature(Feature.MULTIATTACH_VOLUME)
def test_two_guests_at_once(bench: Bench, guest: Guest) -> None:
    """What one guest writes to a shared volume the other one reads."""
    volume = bench.volume(_SIZE_MIB, shared=True)
    other = bench.launch()
    disk = bench.attached(guest, volume)
    bench.hypervisor.attach_volume(other.name, volume)
    guest.write(disk, _TEXT)
    assert other.read(disk_of(other, volume, bench.boot_s), len(_TEXT)) == _TEXT
    bench.hypervisor.detach_volume(other.name, volume)
    bench.hypervisor.detach_volume(guest.name, volume)


@pytest.mark.feature(Feature.ENCRYPTED_VOLUME)
def test_encrypted(bench: Bench, guest: Guest) -> None:
    """The guest reads what it wrote; the volume itself does not show it."""
    volume = bench.volume(_SIZE_MIB, secret="open sesame")  # noqa: S106 - of the test alone
    disk = bench.attached(guest, volume)
    guest.write(disk, _TEXT)
    assert guest.read(disk, len(_TEXT)) == _TEXT
    bench.hypervisor.detach_volume(guest.name, volume)
    stored = bench.hypervisor.volume_bytes(volume, 4 * MIB)
    assert any(stored), "the volume is empty: the guest wrote elsewhere"
    assert _TEXT.encode() not in stored


@pytest.mark.feature(Feature.GUEST_DISK_RATE_LIMIT)
def test_limit_slows_down(bench: Bench, guest: Guest) -> None:
    """Reading 4 MiB at 1 MiB/s takes seconds, and little without the limit."""
    if not guest.has_shell():
        not_tried("needs a guest: a model has no speed")
    volume = bench.volume(_SIZE_MIB)
    disk = bench.attached(guest, volume)
    free_s = _seconds_to_read(guest, disk, skip=0)
    bench.hypervisor.limit_volume(guest.name, volume, MIB)
    limited_s = _seconds_to_read(guest, disk, skip=1)
    bench.hypervisor.limit_volume(guest.name, volume, 0)
    bench.hypervisor.detach_volume(guest.name, volume)
    # 4 MiB at 1 MiB/s, of which a hypervisor may let a second's worth through at once.
    assert limited_s > max(2.0, 1.5 * free_s), f"{limited_s:.1f} s, {free_s:.1f} s without limit"


def _seconds_to_read(guest: Guest, disk: str, *, skip: int) -> float:
    """By the guest's own clock; not what it has in memory already."""
    clock = "cut -d' ' -f1 /proc/uptime"
    read = f"dd if=/dev/{disk} of=/dev/null bs=64k count=64 skip={skip * 64} iflag=direct"
    answer = guest.ask(f"exec {clock}; {read} 2>/dev/null || echo failed; {clock}")
    begin, *between, end = str(answer["out"]).split()
    assert not between, "the guest cannot read the disk"
    return float(end) - float(begin)
