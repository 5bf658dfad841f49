# SPDX-License-Identifier: Apache-2.0
"""Domains of libvirt's Virtuozzo driver: their XML, and what is said where there is no driver.

Nobody here has run one. What is held: that a domain is what was asked for, and that nothing is
asked of the driver which Nova's matrix has as missing.
"""

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import DiskFormat, GuestImage, GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from tests.kit.require import require

require("libvirt", present=find_spec("libvirt") is not None, why="libvirt-python is not installed")

import libvirt  # noqa: E402

from nodes.hypervisors import libvirt_errors, libvirt_vz  # noqa: E402
from nodes.hypervisors import libvirt_xml as xml  # noqa: E402
from nodes.hypervisors.libvirt_flavour import Parts  # noqa: E402
from nodes.hypervisors.libvirt_link import Link, address  # noqa: E402

MAC = "52:54:00:00:00:01"
PARTS = Parts(disk="/d/disk", config_drive="/d/c", bridge="br1")
VM, CT = libvirt_vz.VmFlavour(), libvirt_vz.CtFlavour()
ROWS = json.loads((files("ci.matrix") / "nova-2020.json").read_text())["features"]


def spec(**more: Any) -> GuestSpec:
    image = GuestImage(disk=Path("/i"), id="debian-12-x86_64", arch=more.pop("arch", "x86_64"))
    return GuestSpec(name="hv-a", image=image, nics=(Nic(mac=MAC),), **more)


def test_a_machine_boots_a_disk_on_scsi():
    root = xml.parse(VM.domain(spec(graphics="vnc"), PARTS))
    assert (root.get("type"), root.findtext("./os/type")) == ("vz", "hvm")
    assert [(at, path) for at, path, _ in xml.disks(root)] == [("sda", "/d/disk"), ("hdb", "/d/c")]
    assert root.find("./devices/disk[2]/readonly") is not None
    assert cast("Any", root.find("./devices/interface/source")).attrib == {"bridge": "br1"}
    assert cast("Any", root.find("./devices/graphics")).get("listen") == "127.0.0.1"


def test_a_container_is_made_of_a_template():
    root = xml.parse(CT.domain(spec(), Parts()))
    assert (root.findtext("./os/type"), root.findtext("./os/init")) == ("exe", "/sbin/init")
    source = root.find("./devices/filesystem[@type='template']/source")
    assert cast("Any", source).attrib == {"name": "debian-12-x86_64"}
    assert not list(xml.disks(root))
    assert root.find("./features") is None


def test_a_volume_and_a_card_are_devices_of_the_driver():
    volume = Volume(name="hv-v", size_mib=1, path="/d/v", format=DiskFormat.RAW, shared=True)
    disk = xml.parse(VM.disk(volume, "sdb"))
    assert disk.find("./target[@bus='scsi']") is not None
    assert disk.find("shareable") is not None
    card = xml.parse(VM.nic(Nic(mac=MAC, network="hv-n"), "br1"))
    assert (card.get("type"), cast("Any", card.find("source")).attrib) == (
        "network",
        {"network": "hv-n"},
    )
    with pytest.raises(Unsupported):
        VM.disk(Volume(name="hv-v", size_mib=1, source="iscsi://a/b/0"), "sdb")


@pytest.mark.parametrize(
    ("flavour", "more", "feature"),
    [
        (VM, {"firmware": "uefi"}, Feature.UEFI_BOOT),
        (VM, {"graphics": "spice"}, Feature.CONSOLE_SPICE),
        (VM, {"tpm": True}, Feature.BOOT_EMULATED_TPM),
        (CT, {"config_drive": {}}, Feature.GUEST_SETUP_CONFIGDRIVE),
    ],
)
def test_what_is_missing_is_refused(
    flavour: libvirt_vz.VzFlavour, more: dict[str, Any], feature: Feature
):
    with pytest.raises(Unsupported) as told:
        flavour.check(spec(**more))
    assert told.value.feature is feature


@pytest.mark.parametrize(
    ("flavour", "image"),
    [
        (VM, GuestImage(kernel=Path("/k"))),
        (VM, GuestImage(disk=Path("/d"), arch="s390x")),
        (CT, GuestImage(disk=Path("/d"))),
    ],
)
def test_an_image_that_does_not_fit(flavour: libvirt_vz.VzFlavour, image: GuestImage):
    with pytest.raises(CallerFault):
        flavour.check(GuestSpec(name="hv-a", image=image))


@pytest.mark.parametrize(
    ("column", "missing"),
    [
        ("libvirt-vz-vm", libvirt_vz.MISSING),
        ("libvirt-vz-ct", libvirt_vz.MISSING_OF_CONTAINERS),
    ],
)
def test_what_nova_had_as_missing_is_missing_here(column: str, missing: dict[Feature, str]):
    gone = {row["key"] for row in ROWS if row["support"][column] == "missing"}
    traits = {Feature.REPORT_CPU_TRAITS.value}  # what the host says, no call of the driver's
    assert gone - traits <= {feature.value for feature in missing}


@pytest.mark.parametrize(
    ("url", "column"),
    [
        ("vz:///system", "libvirt-vz-vm"),
        ("vz+ssh://root@h/system?type=vm", "libvirt-vz-vm"),
        ("vz+ssh://root@h/system?type=ct", "libvirt-vz-ct"),
    ],
)
def test_the_url_chooses_the_column(url: str, column: str, monkeypatch: pytest.MonkeyPatch):
    made: list[str] = []

    def keep(self: object, link: object, flavour: libvirt_vz.VzFlavour) -> None:
        made.append(flavour.column()[0])

    monkeypatch.setattr(libvirt_vz.VzHypervisor, "__init__", keep)
    libvirt_vz.connected(cast("Link", SimpleNamespace(options=address(url).options)))
    assert made == [column]


def test_a_type_that_there_is_not():
    with pytest.raises(CallerFault, match="no guests of the type 'kvm'"):
        libvirt_vz.connected(cast("Link", SimpleNamespace(options={"type": "kvm"})))


def test_a_libvirt_without_the_driver_says_so():
    """Recorded from Debian's libvirt 9.0: VIR_ERR_NO_CONNECT and these words."""
    words = "no connection driver available for vz:///system"
    told = libvirt_errors.meaning(libvirt.VIR_ERR_NO_CONNECT, words)
    assert told.fault is CallerFault
    assert "no driver for Virtuozzo" in told.hint
