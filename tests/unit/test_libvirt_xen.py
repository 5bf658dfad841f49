# SPDX-License-Identifier: Apache-2.0
"""Domains of libvirt's libxl driver: their XML, and what the driver is asked; without a daemon."""

import importlib.util
from pathlib import Path
from typing import Any, cast

import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import DiskFormat, GuestImage, GuestSpec, Nic, Rule, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from tests.kit.require import require

require(
    "libvirt",
    present=importlib.util.find_spec("libvirt") is not None,
    why="libvirt-python is not installed",
)

import libvirt  # noqa: E402

from nodes.hypervisors import libvirt_xml as xml  # noqa: E402
from nodes.hypervisors.libvirt_flavour import Parts  # noqa: E402
from nodes.hypervisors.libvirt_xen import XenFlavour, XenHypervisor  # noqa: E402

PARTS = Parts(kernel="/d/k", initrd="/d/i", disk="/d/disk", config_drive="/d/c", log="/d/log")
MAC = "52:54:00:00:00:01"


def spec(**more: Any) -> GuestSpec:
    image = GuestImage(arch=more.pop("arch", "x86_64"), kernel=Path("/k"), initrd=Path("/i"))
    return GuestSpec(name="hv-a", image=image, **more)


def domain(**more: Any) -> xml.Element:
    asked = spec(**more)
    XenFlavour().check(asked)
    return xml.parse(XenFlavour().domain(asked, PARTS))


def test_a_guest_is_a_pvh_domain_with_its_disks_and_its_console():
    root = domain(nics=(Nic(mac=MAC),), kernel_arguments="tiny.host=x")
    assert root.get("type") == "xen"
    assert root.findtext("./os/type") == "xenpvh"
    words = str(root.findtext("./os/cmdline")).split()
    assert {"console=hvc0", "tiny.host=x"} <= set(words)
    assert [(at, path) for at, path, _ in xml.disks(root)] == [
        ("xvda", "/d/disk"),
        ("xvdz", "/d/c"),
    ]
    # Only QEMU in dom0 reads qcow2, and it takes no disk that is for reading only.
    assert [disk.get("name") for disk in root.findall("./devices/disk/driver")] == ["qemu", "phy"]
    assert root.find("./devices/disk[2]/readonly") is not None
    source = root.find("./devices/interface/source")
    assert source is not None
    assert source.attrib == {"bridge": "br0"}
    assert root.find("./devices/console/target[@type='xen']") is not None
    assert root.find("./devices/graphics") is None


def test_a_screen_listens_on_the_hosts_loopback():
    graphics = domain(graphics="vnc").find("./devices/graphics")
    assert graphics is not None
    assert graphics.get("listen") == "127.0.0.1"


def test_a_card_can_be_on_a_network_of_libvirts():
    card = xml.parse(XenFlavour().nic(Nic(mac=MAC, network="hv-n"), "br1"))
    source = card.find("source")
    assert source is not None
    assert (card.get("type"), source.attrib) == ("network", {"network": "hv-n"})


@pytest.mark.parametrize(
    ("feature", "asked"),
    [
        (Feature.UEFI_BOOT, {"firmware": "uefi"}),
        (Feature.BOOT_EMULATED_TPM, {"tpm": True}),
        (Feature.CONSOLE_SPICE, {"graphics": "spice"}),
        (Feature.FILE_BACKED_MEMORY, {"memory_file": True}),
        (Feature.BOOT_STATELESS_FIRMWARE, {"stateless": True}),
        (Feature.DEVICE_TAGS, {"nics": (Nic(mac=MAC, tag="front"),)}),
        (
            Feature.NETWORKING_SECURITYGROUPS,
            {"nics": (Nic(mac=MAC, rules=(Rule(protocol="icmp"),)),)},
        ),
    ],
)
def test_what_it_has_not_is_said_before_anything_is_made(feature: Feature, asked: dict[str, Any]):
    with pytest.raises(Unsupported) as caught:
        XenFlavour().check(spec(**asked))
    assert caught.value.feature is feature
    assert feature in XenHypervisor.missing


def test_another_machines_image_is_the_callers_fault():
    with pytest.raises(CallerFault):
        XenFlavour().check(spec(arch="s390x"))


def test_a_shared_volume_says_so_and_a_targets_is_refused():
    shared = Volume(name="hv-v", size_mib=1, path="/d/v", format=DiskFormat.RAW, shared=True)
    disk = xml.parse(XenFlavour().disk(shared, "xvdb"))
    assert disk.find("shareable") is not None
    with pytest.raises(Unsupported):
        XenFlavour().disk(Volume(name="hv-v", size_mib=1, source="iscsi://a/b/0"), "xvdb")


class Domain:
    """A domain that keeps what it was asked with."""

    def __init__(self) -> None:
        self.flags: list[int] = []

    def undefineFlags(self, flags: int) -> None:  # noqa: N802 - libvirt's name
        self.flags.append(flags)


def test_the_driver_is_given_no_flag_of_undefine_that_it_refuses():
    asked = Domain()
    XenHypervisor.undefine(cast("XenHypervisor", None), asked)
    assert asked.flags == [libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE]
