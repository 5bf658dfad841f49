# SPDX-License-Identifier: Apache-2.0
"""libvirt's containers for real: what the contract does not ask."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ci import proc
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, Hypervisor, Nic
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
NAME = "hv-lxc"
BOOT_S = 60.0
CARD, LATER = Nic(mac="52:54:00:14:00:01"), Nic(mac="52:54:00:14:00:02")


@pytest.fixture
def place(libvirt: LibvirtHost, tmp_path: Path) -> Iterator[Hypervisor]:
    given = Access(work=tmp_path, grade=Grade.BARE, timeout_s=120.0)
    with closing(connect(libvirt.uri("lxc"), given)) as made:
        try:
            yield made
        finally:
            made.cleanup()
        assert str(tmp_path) not in proc.run(["losetup", "--list"]).text
        assert not (tmp_path / "disks-roots").exists()


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


def test_volumes_are_loop_devices_as_long_as_they_are_attached(
    place: Hypervisor, image: GuestImage
) -> None:
    place.launch(GuestSpec(name=NAME, image=image))
    volume = place.create_volume("hv-lxc-v", 16)
    with closing(GuestAgent(place.console(NAME), NAME)) as agent:
        agent.ready(BOOT_S)
        place.attach_volume(NAME, volume)
        device = str(agent.ask("exec ls /dev/ | grep vd")["out"]).strip()
        assert agent.ask(f"write {device} from-inside")["ok"]
        assert place.volume_bytes(volume, 11) == b"from-inside"
        place.limit_volume(NAME, volume, 8 << 20)
        place.limit_volume(NAME, volume, 0)
        with pytest.raises(CallerFault):
            place.attach_volume(NAME, volume)
        place.detach_volume(NAME, volume)
        assert agent.ask(f"exec ls /dev/{device}")["rc"] != 0
        with pytest.raises(CallerFault):
            place.detach_volume(NAME, volume)
        place.attach_volume(NAME, volume)  # left to cleanup


def test_a_volume_of_two_containers_keeps_its_device_until_the_last_one_goes(
    place: Hypervisor, image: GuestImage
) -> None:
    other = f"{NAME}-2"
    volume = place.create_volume("hv-lxc-v", 16, shared=True)
    for name in (NAME, other):
        place.launch(GuestSpec(name=name, image=image))
        place.attach_volume(name, volume)
    place.detach_volume(NAME, volume)
    assert volume.path in proc.run(["losetup", "--list"]).text
    place.detach_volume(other, volume)
    assert volume.path not in proc.run(["losetup", "--list"]).text


def test_boots_limits_and_roots(place: Hypervisor, image: GuestImage) -> None:
    place.launch(GuestSpec(name=NAME, image=image, nics=(CARD,), files={"/etc/own": b"own"}))
    agent = GuestAgent(place.console(NAME), NAME, reopen=lambda: place.console(NAME))
    with closing(agent):
        born = agent.ready(BOOT_S)["boot_id"]
        assert agent.ask("exec cat /etc/own")["out"] == "own"
        assert _macs(agent) == {CARD.mac}
        place.attach_interface(NAME, LATER)
        assert _macs(agent) == {CARD.mac, LATER.mac}
        place.detach_interface(NAME, LATER)
        assert _macs(agent) == {CARD.mac}
        agent.ask("exec echo mine >/etc/mark")
        place.reboot(NAME)
        assert agent.ready(BOOT_S)["boot_id"] != born
        assert agent.ask("exec cat /etc/mark")["out"].strip() == "mine"
        place.resize(NAME, memory_mib=256, cpus=1)
        agent.ready(BOOT_S)
        assert place.info(NAME).memory_mib == 256
        place.rebuild(NAME, image)
        agent.ready(BOOT_S)
        assert agent.ask("exec cat /etc/mark")["rc"] != 0
        assert _macs(agent) == {CARD.mac}
    place.shutdown(NAME)


@pytest.mark.parametrize(
    ("feature", "call"),
    [
        (Feature.SNAPSHOT, lambda place: place.snapshot(NAME, "a")),
        (Feature.SUSPEND, lambda place: place.suspend(NAME)),
        (Feature.CONSOLE_SERIAL_LOG, lambda place: place.console_log(NAME)),
    ],
)
def test_what_the_driver_has_not(place: Hypervisor, feature, call) -> None:
    with pytest.raises(Unsupported) as caught:
        call(place)
    assert (caught.value.feature, caught.value.reason) == (feature, place.missing[feature])


def test_a_config_drive_is_mounted_or_it_is_said_why_not(
    place: Hypervisor, image: GuestImage
) -> None:
    files = {"openstack/latest/meta_data.json": b"{}"}
    try:
        place.launch(GuestSpec(name=NAME, image=image, config_drive=files))
    except Unsupported as error:
        said = error.reason
    else:
        with closing(GuestAgent(place.console(NAME), NAME)) as agent:
            agent.ready(BOOT_S)
            assert "meta_data.json" in agent.ask("configdrive")["files"]
        return
    assert "ISO 9660" in said
    assert NAME not in place.inventory().guests


def test_an_image_without_a_root(place: Hypervisor, tmp_path: Path) -> None:
    garbage = tmp_path / "root.tar"
    garbage.write_bytes(b"no archive")
    for bad in (GuestImage(), GuestImage(root=garbage)):
        with pytest.raises(CallerFault):
            place.launch(GuestSpec(name=NAME, image=bad))
    assert NAME not in place.inventory().guests


def _macs(agent: GuestAgent) -> set[str]:
    return {nic["mac"] for nic in agent.ask("nics")["nics"].values()}
