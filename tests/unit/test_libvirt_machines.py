# SPDX-License-Identifier: Apache-2.0
"""Guests of other machines under libvirt: their XML, their columns, what they have not."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.matrix import nova
from ci.model.feature import Feature
from ci.model.node import Grade
from nodes.hypervisors.base import GuestImage, GuestSpec, Nic
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.images import tiny
from nodes.lab import libvirt_host, table
from tests.kit.require import require

require(
    "libvirt",
    present=importlib.util.find_spec("libvirt") is not None,
    why="libvirt-python is not installed",
)

import libvirt  # noqa: E402

from ci.jobs.compute import bench  # noqa: E402
from nodes.hypervisors import libvirt_link, libvirt_qemu  # noqa: E402
from nodes.hypervisors import libvirt_xml as xml  # noqa: E402
from nodes.hypervisors.libvirt_flavour import Parts  # noqa: E402
from nodes.hypervisors.libvirt_machines import MACHINES  # noqa: E402
from nodes.hypervisors.libvirt_qemu import QemuFlavour  # noqa: E402

PARTS = Parts(kernel="/d/k", initrd="/d/i", disk="/d/disk", log="/d/log")
OTHERS = ("s390x", "ppc64le", "aarch64")


def _spec(arch: str, **more: Any) -> GuestSpec:
    image = GuestImage(arch=arch, kernel=Path("/k"), initrd=Path("/i"))
    return GuestSpec(name="hv-a", image=image, **more)


def _domain(arch: str, **more: Any) -> xml.Element:
    flavour, spec = QemuFlavour(arch=arch), _spec(arch, **more)
    flavour.check(spec)
    return xml.parse(flavour.domain(spec, PARTS))


@pytest.mark.parametrize(
    ("arch", "machine", "console", "key"),
    [
        ("ppc64le", "pseries", "hvc0", "libvirt-qemu-ppc64"),
        ("s390x", "s390-ccw-virtio", "ttysclp0", "libvirt-qemu-s390x"),
        ("aarch64", "virt", "ttyAMA0", "libvirt-qemu-aarch64"),
    ],
)
def test_a_guest_of_another_machine(arch: str, machine: str, console: str, key: str) -> None:
    root = _domain(arch)
    kind = root.find("./os/type")
    assert kind is not None
    assert (kind.get("arch"), kind.get("machine")) == (arch, machine)
    assert root.get("type") == "qemu"
    assert f"console={console} " in root.findtext("./os/cmdline", "")
    assert root.find("./features/acpi") is None
    assert root.find("./devices/video/model[@type='none']") is not None
    assert QemuFlavour(arch=arch).column()[0] == key
    with pytest.raises(CallerFault, match=r"connect with \?arch=x86_64"):
        QemuFlavour(arch=arch).check(_spec("x86_64"))


def test_a_stand_in_says_so_in_its_title() -> None:
    for arch in OTHERS:
        assert QemuFlavour(arch=arch).column()[1].endswith(", TCG stand-in")
        key = QemuFlavour(arch=arch).column()[0]
        assert nova.STAND_INS[key] in nova.declared(nova.NEWEST).drivers
    # Nova has a column for emulated x86; with KVM nothing stands in for anything.
    assert QemuFlavour(arch="x86_64").column()[1] == "Libvirt QEMU (x86)"
    assert QemuFlavour(arch="aarch64", kind="kvm").column() == (
        "libvirt-kvm-aarch64",
        "Libvirt KVM (aarch64)",
    )


def test_the_first_line_of_s390x_is_no_serial_port() -> None:
    assert _domain("s390x").find("./devices/serial") is None
    console = _domain("s390x").find("./devices/console/target[@type='sclp']")
    assert console is not None
    for arch in ("ppc64le", "aarch64"):
        assert _domain(arch).find("./devices/serial/log") is not None


def test_aarch64_has_a_port_for_each_device_that_may_come() -> None:
    nics = (Nic(mac="52:54:00:00:00:01"),)
    ports = "./devices/controller[@model='pcie-root-port']"
    assert len(_domain("aarch64", nics=nics).findall(ports)) > 10
    for arch in ("s390x", "ppc64le"):
        assert not _domain(arch, nics=nics).findall(ports)


@pytest.mark.parametrize(
    ("arch", "screen", "tpm"),
    [("s390x", "virtio", ""), ("ppc64le", "vga", "tpm-spapr"), ("aarch64", "virtio", "tpm-tis")],
)
def test_screens_and_tpms(arch: str, screen: str, tpm: str) -> None:
    for kind in ("vnc", "spice"):
        root = _domain(arch, graphics=kind)
        assert root.find(f"./devices/graphics[@type='{kind}'][@listen='127.0.0.1']") is not None
        assert root.find(f"./devices/video/model[@type='{screen}']") is not None
    if tpm:
        assert _domain(arch, tpm=True).find(f"./devices/tpm[@model='{tpm}']") is not None
    else:
        with pytest.raises(Unsupported, match="QEMU has no TPM for s390x guests"):
            _domain(arch, tpm=True)


def test_uefi_is_there_for_aarch64_alone() -> None:
    root = _domain("aarch64", firmware="uefi")
    boot = root.find("os")
    assert boot is not None
    assert boot.get("firmware") == "efi"
    assert root.find("./features/acpi") is not None
    for arch in ("s390x", "ppc64le"):
        with pytest.raises(Unsupported, match="there is no UEFI firmware for") as caught:
            _domain(arch, firmware="uefi")
        assert caught.value.feature is Feature.UEFI_BOOT
    for arch in OTHERS:
        with pytest.raises(Unsupported) as caught:
            _domain(arch, firmware="uefi", stateless=True)
        assert caught.value.feature in {Feature.UEFI_BOOT, Feature.BOOT_STATELESS_FIRMWARE}


@pytest.mark.parametrize("arch", MACHINES)
def test_an_adapter_and_an_image_for_each_machine(arch: str) -> None:
    url = f"qemu:///system?socket=/s&type=qemu&arch={arch}"
    link = SimpleNamespace(
        options=libvirt_link.address(url).options, conn=None, disks="/d", access=None
    )
    made = libvirt_qemu.connected(cast("Any", link))
    assert made.flavour == QemuFlavour(arch=arch)
    assert MACHINES[arch].missing.items() <= made.missing.items()
    assert arch in tiny.ARCHITECTURES
    link.options["arch"] = "vax"
    with pytest.raises(CallerFault, match="vax guests are not known here"):
        libvirt_qemu.connected(cast("Any", link))


class _SlowGuest:
    """It lets its disk go only when it was asked three times."""

    def __init__(self, words: str) -> None:
        self._words = words
        self.asked = 0

    def name(self) -> str:
        return "hv-a"

    def isActive(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def detachDeviceFlags(self, _device: str, _flags: int) -> None:  # noqa: N802 - libvirt's name
        self.asked += 1
        if self.asked == 2:
            raise libvirt.libvirtError(self._words)


@pytest.mark.parametrize(
    "words",
    [
        "Device virtio-disk1 is already in the process of unplug",
        "PCI device unplug already in progress for device virtio-disk1",
    ],
)
def test_a_guest_may_take_its_time_to_let_a_device_go(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = _SlowGuest(words)
    watch = SimpleNamespace(wait=lambda check, _timeout_s: check())
    link = SimpleNamespace(
        options={"arch": "ppc64le", "type": "qemu"},
        conn=None,
        disks="/d",
        access=SimpleNamespace(timeout_s=60.0),
        watch=watch,
    )
    made = libvirt_qemu.connected(cast("Any", link))
    monkeypatch.setattr(made, "root", lambda _domain: xml.element("domain"))
    monkeypatch.setattr(made, "remember", lambda _domain: None)
    device = xml.element("disk")
    made._detach(guest, lambda _root: device if guest.asked < 3 else None, "hv-v")
    assert guest.asked == 3


def test_an_emulated_s390x_guest_is_started_anew_instead_of_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = SimpleNamespace(
        options={"arch": "s390x", "type": "qemu"},
        conn=None,
        disks="/d",
        access=SimpleNamespace(timeout_s=60.0),
        address=SimpleNamespace(url="qemu:///system"),
    )
    made = libvirt_qemu.connected(cast("Any", link))
    did: list[str] = []
    for verb in ("shutdown", "power_off", "start"):
        monkeypatch.setattr(made, verb, lambda _name, verb=verb: did.append(verb))
    made.reboot("hv-a")
    made.reboot("hv-a", hard=True)
    assert did == ["shutdown", "start", "power_off", "start"]


@pytest.mark.parametrize("arch", OTHERS)
def test_the_suite_boots_that_machines_guest(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def built(*, arch: str, progress: object) -> GuestImage:
        del progress
        asked.append(arch)
        return GuestImage(arch=arch, kernel=Path("/k"))

    key, title = QemuFlavour(arch=arch).column()
    monkeypatch.setattr(bench, "tiny", built)
    monkeypatch.setattr(bench, "marked", lambda image, mark, _work: replace(image, id=mark))
    system = SimpleNamespace(key=key, title=title, grade=Grade.BARE)
    launched: list[GuestSpec] = []
    hypervisor = SimpleNamespace(
        system=lambda: system,
        boots_disks=False,
        runs_guests=True,
        guests_at_once=0,
        launch=launched.append,
    )
    made = bench.Bench(
        cast("Any", hypervisor), None, work=Path("/w"), boot_s=1.0, progress=lambda _said: None
    )
    assert asked == [arch]
    assert made.image.arch == arch
    made.launch(wait=False)
    assert [spec.memory_mib for spec in launched] == [384 if arch == "ppc64le" else 192]


@pytest.mark.parametrize(
    ("name", "program", "package", "arch"),
    [
        ("s390x", "qemu-system-s390x", "qemu-system-misc", "s390x"),
        ("ppc64", "qemu-system-ppc64", "qemu-system-ppc", "ppc64le"),
        ("aarch64", "qemu-system-aarch64", "qemu-system-arm", "aarch64"),
    ],
)
def test_a_lab_node_names_its_emulators_package(
    name: str, program: str, package: str, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = table.LAB[name]
    assert "TCG stand-in" in node.title
    monkeypatch.setattr(libvirt_host, "missing_tools", lambda: ("libvirt-daemon",))
    monkeypatch.setattr(
        "nodes.lab.table.shutil.which", lambda one: None if one == program else f"/{one}"
    )
    assert package in node.lacks()
    assert "libvirt-daemon" in node.lacks()
    monkeypatch.setattr("nodes.lab.table.shutil.which", lambda one: f"/{one}")
    assert package not in node.lacks()
    built = []
    monkeypatch.setattr(table, "tiny", lambda *, arch, progress: built.append(arch))
    node.build(lambda _said: None)
    assert built == [arch]
