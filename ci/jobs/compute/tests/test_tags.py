# SPDX-License-Identifier: Apache-2.0
"""Device tags: a guest learns from its config drive which of its devices is which.

What is told is Nova's `devices` of meta_data.json. It counts once the guest has found the very
device by it: by its address on the bus where one is told, else by its hardware address or serial.
"""

import json
from typing import Any

import pytest

from ci.jobs.compute.bench import Bench, Guest, disk_of, wait_until
from ci.model.feature import Feature
from nodes.hypervisors.base import Nic

_META = "openstack/latest/meta_data.json"
_DRIVE = {_META: json.dumps({"uuid": "of the test"}).encode()}
_TAG = "the-one"
_SIZE_MIB = 24


@pytest.mark.feature(Feature.DEVICE_TAGS)
def test_tagged_at_launch(bench: Bench) -> None:
    """Of two cards the guest finds the tagged one, at the address that it was told."""
    bench.need(Feature.DEVICE_TAGS)
    tagged = Nic(mac=bench.mac(), tag=_TAG)
    guest = bench.launch(nics=(Nic(mac=bench.mac()), tagged), config_drive=_DRIVE)
    told = _told(guest)
    assert (told["type"], told["mac"]) == ("nic", tagged.mac)
    assert _mac_at(guest, told) == tagged.mac


@pytest.mark.feature(Feature.ATTACH_TAGGED_INTERFACE)
def test_attach_tagged_card(bench: Bench) -> None:
    """The running guest is told of the card that it was given, and finds it."""
    bench.need(Feature.ATTACH_TAGGED_INTERFACE)
    guest = bench.launch(config_drive=_DRIVE)
    nic = Nic(mac=bench.mac(), tag=_TAG)
    bench.hypervisor.attach_interface(guest.name, nic)
    wait_until(lambda: nic.mac in guest.macs(), bench.boot_s, "the guest does not see the card")
    told = _told(guest)
    assert (told["type"], told["mac"]) == ("nic", nic.mac)
    assert _mac_at(guest, told) == nic.mac


@pytest.mark.feature(Feature.ATTACH_TAGGED_VOLUME)
def test_attach_tagged_volume(bench: Bench) -> None:
    """The running guest is told of the volume and finds it, and again after a boot."""
    bench.need(Feature.ATTACH_TAGGED_VOLUME)
    guest = bench.launch(config_drive=_DRIVE)
    volume = bench.volume(_SIZE_MIB)
    bench.hypervisor.attach_volume(guest.name, volume, tag=_TAG)
    disk = disk_of(guest, volume, bench.boot_s)
    assert _disk_at(guest, _told(guest)) == disk
    old = guest.boot_id()
    bench.hypervisor.reboot(guest.name, hard=True)
    guest.booted_after(old)
    assert _disk_at(guest, _told(guest)) == disk_of(guest, volume, bench.boot_s)


def _told(guest: Guest) -> dict[str, Any]:
    """What the config drive says of the device with our tag.

    Raises:
        AssertionError: It says of none, or of several, or lost what it was made with.
    """
    meta = json.loads(guest.ask("configdrive")["meta"])
    found = [one for one in meta.get("devices", []) if one.get("tags") == [_TAG]]
    if len(found) != 1 or meta["uuid"] != "of the test":
        raise AssertionError(f"the config drive says {meta}")
    return dict(found[0])


def _mac_at(guest: Guest, told: dict[str, Any]) -> str:
    """The hardware address of the card that is where we were told."""
    where = _bus_path(guest, told)
    return guest.run(f"cat {where}/virtio*/net/*/address") if where else str(told["mac"])


def _disk_at(guest: Guest, told: dict[str, Any]) -> str:
    """The name of the disk that is where we were told."""
    where = _bus_path(guest, told)
    if where:
        return guest.run(f"ls {where}/virtio*/block")
    (found,) = [name for name, disk in guest.disks().items() if disk["serial"] == told["serial"]]
    return found


def _bus_path(guest: Guest, told: dict[str, Any]) -> str:
    """Its place in /sys; empty where no address is told, or where a model has no /sys."""
    if told.get("bus") != "pci" or not guest.has_shell():
        return ""
    return f"/sys/bus/pci/devices/{told['address']}"
