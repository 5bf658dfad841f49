# SPDX-License-Identifier: Apache-2.0
"""What a hypervisor says by itself, where no guest runs behind it that could be asked.

Only a stand-in is asked so. It shows that a call is understood and that its effect is told; that
a guest stands still, keeps its memory or sees a device it does not show.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ci.jobs.compute.bench import OTHER, Bench, Guest, not_tried, wait_until
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestInfo, GuestState, Hypervisor, Nic
from nodes.hypervisors.faults import CallerFault

pytestmark = pytest.mark.told

_SIZE_MIB = 24
_SECRET = "open sesame"  # noqa: S105 - of the test alone
_PASSWORD = "Sesame-4711"  # noqa: S105 - of a guest that lives for seconds


def _info(bench: Bench, guest: Guest) -> GuestInfo:
    return bench.hypervisor.info(guest.name)


def _becomes(bench: Bench, guest: Guest, state: GuestState) -> None:
    """Both places say so."""
    wait_until(
        lambda: _info(bench, guest).state is state,
        bench.boot_s,
        f"it is {_info(bench, guest).state}, not {state}",
    )
    assert bench.hypervisor.inventory().guests[guest.name] is state


@pytest.mark.feature(Feature.LAUNCH)
def test_launch(bench: Bench) -> None:
    """A guest is there, runs, and has the size that was asked for."""
    before = bench.hypervisor.inventory()
    guest = bench.launch(memory_mib=256, cpus=2)
    assert guest.name not in before.guests
    _becomes(bench, guest, GuestState.RUNNING)
    info = _info(bench, guest)
    assert bench.fits(info, memory_mib=256, cpus=2), info


@pytest.mark.feature(Feature.TERMINATE)
def test_leaves_nothing(bench: Bench) -> None:
    """The inventory is as before once a guest is deleted; twice is no error."""
    before = bench.hypervisor.inventory()
    guest = bench.launch()
    for _ in range(2):
        bench.hypervisor.delete(guest.name)
        assert bench.hypervisor.inventory() == before


@pytest.mark.feature(Feature.TERMINATE)
def test_power_off_and_start(bench: Bench) -> None:
    """Off, off again, and on."""
    guest = bench.launch()
    for _ in range(2):
        bench.hypervisor.power_off(guest.name)
        _becomes(bench, guest, GuestState.SHUTOFF)
    bench.hypervisor.start(guest.name)
    _becomes(bench, guest, GuestState.RUNNING)


@pytest.mark.feature(Feature.REBOOT)
def test_reset(bench: Bench, guest: Guest) -> None:
    """It runs after a reset; a guest that is asked to boot anew would have to answer."""
    bench.hypervisor.reboot(guest.name, hard=True)
    _becomes(bench, guest, GuestState.RUNNING)


@pytest.mark.feature(Feature.PAUSE)
def test_pause(bench: Bench, guest: Guest) -> None:
    """It is paused, also when that is said twice."""
    try:
        for _ in range(2):
            bench.hypervisor.pause(guest.name)
            _becomes(bench, guest, GuestState.PAUSED)
    finally:
        bench.hypervisor.unpause(guest.name)


@pytest.mark.feature(Feature.UNPAUSE)
def test_unpause(bench: Bench, guest: Guest) -> None:
    """It runs again."""
    bench.hypervisor.pause(guest.name)
    bench.hypervisor.unpause(guest.name)
    _becomes(bench, guest, GuestState.RUNNING)


@pytest.mark.feature(Feature.SUSPEND)
def test_suspend(bench: Bench) -> None:
    """It is suspended."""
    guest = bench.launch()
    bench.hypervisor.suspend(guest.name)
    _becomes(bench, guest, GuestState.SUSPENDED)


@pytest.mark.feature(Feature.RESUME)
def test_resume(bench: Bench) -> None:
    """It runs again, with the size it had."""
    guest = bench.launch()
    bench.hypervisor.suspend(guest.name)
    bench.hypervisor.resume(guest.name)
    _becomes(bench, guest, GuestState.RUNNING)
    assert _info(bench, guest).memory_mib == guest.spec.memory_mib


@pytest.mark.feature(Feature.RESIZE)
def test_resize(bench: Bench) -> None:
    """It has the new memory, and a second processor where there can be one."""
    guest = bench.launch()
    memory_mib, cpus = guest.spec.memory_mib + 64, 2
    try:
        bench.hypervisor.resize(guest.name, memory_mib=memory_mib, cpus=cpus)
    except CallerFault:
        cpus = 1
        bench.hypervisor.resize(guest.name, memory_mib=memory_mib, cpus=cpus)
    _becomes(bench, guest, GuestState.RUNNING)
    info = _info(bench, guest)
    assert (info.memory_mib, info.cpus) == (memory_mib, cpus)


@pytest.mark.feature(Feature.SNAPSHOT)
def test_snapshot(bench: Bench) -> None:
    """It is in the inventory; after going back to it the guest runs, and it goes with the guest."""
    guest = bench.launch()
    before = bench.hypervisor.inventory().snapshots
    bench.hypervisor.snapshot(guest.name, "first")
    assert len(bench.hypervisor.inventory().snapshots - before) == 1
    bench.hypervisor.revert(guest.name, "first")
    _becomes(bench, guest, GuestState.RUNNING)
    bench.delete(guest)
    assert bench.hypervisor.inventory().snapshots == before


@pytest.mark.feature(Feature.REBUILD)
def test_rebuild(bench: Bench) -> None:
    """It runs with another image, and has its name and cards."""
    guest = bench.launch()
    before = _info(bench, guest)
    bench.hypervisor.rebuild(guest.name, bench.other_image)
    _becomes(bench, guest, GuestState.RUNNING)
    assert _info(bench, guest).macs == before.macs


@pytest.mark.feature(Feature.RESCUE)
def test_rescue(bench: Bench) -> None:
    """It runs from another image, and from its own again."""
    guest = bench.launch()
    bench.hypervisor.rescue(guest.name, bench.other_image)
    _becomes(bench, guest, GuestState.RUNNING)
    bench.hypervisor.unrescue(guest.name)
    _becomes(bench, guest, GuestState.RUNNING)


@pytest.mark.feature(Feature.CACHE_IMAGES)
def test_cached_image(bench: Bench) -> None:
    """It is copied once, and gone when it is forgotten."""
    bench.need(Feature.CACHE_IMAGES)
    image = replace(bench.image, id=bench.name(OTHER))
    before = bench.hypervisor.inventory()
    try:
        assert bench.hypervisor.cache_image(image)
        assert not bench.hypervisor.cache_image(image)
    finally:
        bench.hypervisor.forget_image(image)
    bench.hypervisor.forget_image(image)
    assert bench.hypervisor.inventory() == before


@pytest.mark.feature(Feature.UEFI_BOOT)
def test_uefi(bench: Bench) -> None:
    """A guest that asks for UEFI is taken; that it boots so, only a guest could say."""
    bench.need(Feature.UEFI_BOOT)
    bench.launch(firmware="uefi")
    not_tried("needs a guest: only it says how it was booted")


@pytest.mark.feature(Feature.SET_ADMIN_PASSWORD)
def test_admin_password(bench: Bench, guest: Guest) -> None:
    """The call is taken; whether the password is another, only a guest could say."""
    bench.hypervisor.set_admin_password(guest.name, _PASSWORD)
    not_tried("needs a guest: only it knows its passwords")


# Volumes, cards, networks ----------------------------------------------------------------


def _said(found: Iterable[str] | None) -> set[str]:
    """What is attached, as the hypervisor says.

    Leaves the test (`not tried`) where the adapter does not say.
    """
    if found is None:
        not_tried("needs a guest: the adapter does not say what is attached")
    return set(found)


@pytest.mark.feature(Feature.STORAGE_BLOCK)
def test_volume(bench: Bench) -> None:
    """It is in the inventory, and no longer there once it is removed, twice."""
    volume = bench.volume(_SIZE_MIB)
    assert volume.size_mib == _SIZE_MIB
    assert volume.name in bench.hypervisor.inventory().volumes
    for _ in range(2):
        bench.hypervisor.delete_volume(volume)
        assert volume.name not in bench.hypervisor.inventory().volumes


@pytest.mark.feature(Feature.ATTACH_VOLUME)
def test_attach_volume(bench: Bench, guest: Guest) -> None:
    """The guest has it."""
    volume = bench.volume(_SIZE_MIB)
    before = _info(bench, guest).volumes
    bench.hypervisor.attach_volume(guest.name, volume)
    assert _said(_info(bench, guest).volumes) == _said(before) | {volume.name}
    bench.hypervisor.detach_volume(guest.name, volume)


@pytest.mark.feature(Feature.DETACH_VOLUME)
def test_detach_volume(bench: Bench, guest: Guest) -> None:
    """The guest has it no more, it is there still, and can be attached again."""
    volume = bench.volume(_SIZE_MIB)
    for _ in range(2):
        bench.hypervisor.attach_volume(guest.name, volume)
        bench.hypervisor.detach_volume(guest.name, volume)
        assert volume.name not in _said(_info(bench, guest).volumes)
    assert volume.name in bench.hypervisor.inventory().volumes


@pytest.mark.feature(Feature.EXTEND_VOLUME)
def test_extend_volume(bench: Bench, guest: Guest) -> None:
    """It has the new size, and is attached as before."""
    volume = bench.volume(_SIZE_MIB)
    bench.hypervisor.attach_volume(guest.name, volume)
    larger = bench.hypervisor.extend_volume(guest.name, volume, 2 * _SIZE_MIB)
    assert larger.size_mib == 2 * _SIZE_MIB
    assert volume.name in _said(_info(bench, guest).volumes)
    bench.hypervisor.detach_volume(guest.name, larger)


@pytest.mark.feature(Feature.SWAP_VOLUME)
def test_swap_volume(bench: Bench, guest: Guest) -> None:
    """The guest has the new one in the old one's place."""
    bench.need(Feature.SWAP_VOLUME)
    old, new = bench.volume(_SIZE_MIB), bench.volume(_SIZE_MIB)
    bench.hypervisor.attach_volume(guest.name, old)
    bench.hypervisor.swap_volume(guest.name, old, new)
    volumes = _said(_info(bench, guest).volumes)
    assert new.name in volumes
    assert old.name not in volumes
    bench.hypervisor.detach_volume(guest.name, new)


@pytest.mark.feature(Feature.MULTIATTACH_VOLUME)
def test_two_guests_at_once(bench: Bench, guest: Guest) -> None:
    """Both have it."""
    bench.need(Feature.MULTIATTACH_VOLUME)
    volume = bench.volume(_SIZE_MIB, shared=True)
    other = bench.launch()
    for one in (guest, other):
        bench.hypervisor.attach_volume(one.name, volume)
    for one in (guest, other):
        assert volume.name in _said(_info(bench, one).volumes)
        bench.hypervisor.detach_volume(one.name, volume)


@pytest.mark.feature(Feature.ENCRYPTED_VOLUME)
def test_encrypted_volume(bench: Bench) -> None:
    """The call is taken; what stands on the disk, only a guest's bytes could show."""
    bench.need(Feature.ENCRYPTED_VOLUME)
    bench.volume(_SIZE_MIB, secret=_SECRET)
    not_tried("needs a guest: only what it writes shows whether that is encrypted")


@pytest.mark.feature(Feature.ATTACH_INTERFACE)
def test_attach_card(bench: Bench, guest: Guest) -> None:
    """The guest has one card more, with the address that was asked for."""
    nic = Nic(mac=bench.mac())
    before = _info(bench, guest).macs
    bench.hypervisor.attach_interface(guest.name, nic)
    assert _said(_info(bench, guest).macs) == _said(before) | {nic.mac}
    bench.hypervisor.detach_interface(guest.name, nic)


@pytest.mark.feature(Feature.DETACH_INTERFACE)
def test_detach_card(bench: Bench, guest: Guest) -> None:
    """It is gone, the others stay."""
    nic = Nic(mac=bench.mac())
    before = _info(bench, guest).macs
    bench.hypervisor.attach_interface(guest.name, nic)
    bench.hypervisor.detach_interface(guest.name, nic)
    assert _said(_info(bench, guest).macs) == _said(before)


@pytest.mark.feature(Feature.NETWORKING_TOPOLOGY_FLAT)
def test_network(bench: Bench) -> None:
    """It is in the inventory, carries a guest, and is gone once it is removed, twice."""
    bench.need(Feature.NETWORKING_TOPOLOGY_FLAT)
    network = bench.network()
    assert network in bench.hypervisor.inventory().networks
    guest = bench.launch(nics=(Nic(mac=bench.mac(), network=network),))
    bench.delete(guest)
    for _ in range(2):
        bench.hypervisor.delete_network(network)
        assert network not in bench.hypervisor.inventory().networks


# Hosts -----------------------------------------------------------------------------------


def _is_on(host: Hypervisor, guest: Guest) -> bool:
    return host.inventory().guests.get(guest.name) is GuestState.RUNNING


@pytest.mark.feature(Feature.LIVE_MIGRATE)
def test_live_migrate(bench: Bench) -> None:
    """It runs on the other host, and here no more; inside a cluster, on another of its hosts."""
    bench.need(Feature.LIVE_MIGRATE)
    within = bench.hypervisor.migrates_within
    to = bench.hypervisor if within else bench.second
    if to is None:
        not_tried("needs a second host")
    guest = bench.launch()
    before = _info(bench, guest).host
    bench.hypervisor.live_migrate(guest.name, to)
    guest.moved(to)
    assert _is_on(to, guest)
    if not within:
        assert not _is_on(bench.hypervisor, guest)
        return
    now = _info(bench, guest).host
    if not now:
        not_tried("needs a guest: the adapter does not say which host it is on")
    assert now != before, f"it is still on {now}"


@pytest.mark.feature(Feature.EVACUATE)
def test_evacuate(bench: Bench) -> None:
    """It runs on the other host."""
    bench.need(Feature.EVACUATE)
    if bench.second is None:
        not_tried("needs a second host")
    guest = bench.launch()
    bench.hypervisor.evacuate(guest.name, bench.second)
    guest.moved(bench.second)
    assert _is_on(bench.second, guest)
