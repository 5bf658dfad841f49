# SPDX-License-Identifier: Apache-2.0
"""XML of libvirt's containers, without any libvirt daemon."""

import importlib.util
from dataclasses import replace

import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestImage, GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from tests.kit.require import require

require(
    "libvirt",
    present=importlib.util.find_spec("libvirt") is not None,
    why="libvirt-python is not installed",
)

from nodes.hypervisors import libvirt_xml as xml  # noqa: E402
from nodes.hypervisors.libvirt_flavour import Parts  # noqa: E402
from nodes.hypervisors.libvirt_lxc import LxcFlavour  # noqa: E402

FLAVOUR = LxcFlavour("x86_64", 4)
SPEC = GuestSpec(name="hv-a", image=GuestImage(), cpus=2, nics=(Nic(mac="52:54:00:00:00:01"),))


def made(**parts):
    return xml.parse(FLAVOUR.domain(SPEC, Parts(root="/d/hv-a", **parts)))


def test_a_container_runs_its_init_in_its_root_and_in_a_network_of_its_own():
    root = made()
    assert (root.get("type"), root.findtext("./os/type")) == ("lxc", "exe")
    assert root.findtext("./os/init") == "/sbin/init"
    assert root.find("./devices/filesystem/source").get("dir") == "/d/hv-a"
    assert root.find("./features/privnet") is not None
    assert root.find("./vcpu").get("cpuset") == "0-1"


def test_a_card_is_on_the_bridge_or_on_none():
    assert made().find("./devices/interface").get("type") == "ethernet"
    card = made(bridge="br0").find("./devices/interface")
    assert (card.get("type"), card.find("source").get("bridge")) == ("bridge", "br0")


def test_a_config_drive_is_read_only():
    disk = made(config_drive="/dev/loop7").find("./devices/disk")
    assert disk.find("source").get("dev") == "/dev/loop7"
    assert disk.find("readonly") is not None


def test_a_volume_is_a_block_device():
    disk = xml.parse(FLAVOUR.disk(Volume(name="hv-v", size_mib=1, path="/dev/loop1"), "vdb"))
    assert (disk.get("type"), disk.find("source").get("dev")) == ("block", "/dev/loop1")


@pytest.mark.parametrize("cpus", [0, 5])
def test_more_processors_than_there_are(cpus):
    with pytest.raises(CallerFault):
        FLAVOUR.check(replace(SPEC, cpus=cpus))


def test_another_machine():
    with pytest.raises(CallerFault):
        FLAVOUR.check(replace(SPEC, image=GuestImage(arch="s390x")))


@pytest.mark.parametrize(
    ("more", "feature"),
    [
        ({"firmware": "uefi"}, Feature.UEFI_BOOT),
        ({"tpm": True}, Feature.BOOT_EMULATED_TPM),
        ({"graphics": "vnc"}, Feature.CONSOLE_VNC),
        ({"memory_file": True}, Feature.FILE_BACKED_MEMORY),
        ({"nics": (Nic(mac="52:54:00:00:00:01", tag="a"),)}, Feature.DEVICE_TAGS),
    ],
)
def test_what_a_container_has_not(more, feature):
    with pytest.raises(Unsupported) as caught:
        FLAVOUR.check(replace(SPEC, **more))
    assert caught.value.feature is feature
