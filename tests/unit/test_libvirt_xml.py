# SPDX-License-Identifier: Apache-2.0
"""Domain XML of the QEMU flavour, what is read from it, and URLs: without any libvirt daemon."""

import importlib.util
import json
from pathlib import Path

import pytest

from nodes.hypervisors.base import Access, DiskFormat, GuestImage, GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault
from tests.kit.require import require

require(
    "libvirt",
    present=importlib.util.find_spec("libvirt") is not None,
    why="libvirt-python is not installed",
)

from nodes.hypervisors import libvirt_files, libvirt_link, libvirt_tags  # noqa: E402
from nodes.hypervisors import libvirt_xml as xml  # noqa: E402
from nodes.hypervisors.libvirt_flavour import Parts  # noqa: E402
from nodes.hypervisors.libvirt_kvm import BOOT_SECTOR, probe_domain  # noqa: E402
from nodes.hypervisors.libvirt_qemu import QemuFlavour  # noqa: E402

PARTS = Parts(kernel="/d/k", initrd="/d/i", disk="/d/disk", config_drive="/d/c", log="/d/log")
NIC = Nic(mac="52:54:00:00:00:01", tag="front")


def _spec(**more: object) -> GuestSpec:
    arch = str(more.pop("arch", "x86_64"))
    image = GuestImage(arch=arch, kernel=Path("/k"), initrd=Path("/i"))
    return GuestSpec(name="hv-a", image=image, **more)  # type: ignore[arg-type]


def _domain(flavour: QemuFlavour, **more: object) -> xml.Element:
    spec = _spec(**more)
    flavour.check(spec)
    return xml.parse(flavour.domain(spec, PARTS))


def test_a_kernel_guest() -> None:
    root = _domain(QemuFlavour(), memory_mib=256, cpus=2, nics=(NIC,), kernel_arguments="more")
    assert root.get("type") == "qemu"
    assert root.findtext("name") == "hv-a"
    assert (root.findtext("memory"), root.findtext("vcpu")) == ("256", "2")
    assert root.findtext("./os/kernel") == "/d/k"
    assert root.findtext("./os/cmdline") == "console=ttyS0 quiet panic=-1 mitigations=off more"
    assert [(target, path) for target, path, _ in xml.disks(root)] == [
        ("vda", "/d/disk"),
        ("sda", "/d/c"),
    ]
    log = root.find("./devices/serial/log")
    assert log is not None
    assert log.attrib == {"file": "/d/log", "append": "on"}
    nic = xml.nic_with(root, NIC.mac.upper())
    assert nic is not None
    assert nic.get("type") == "user"


def test_uefi_tpm_screen_and_memory_file() -> None:
    root = _domain(QemuFlavour(), firmware="uefi", tpm=True, graphics="vnc", memory_file=True)
    boot, source = root.find("os"), root.find("./memoryBacking/source")
    assert boot is not None
    assert boot.get("firmware") == "efi"
    assert root.find("./devices/tpm/backend[@version='2.0']") is not None
    assert root.find("./devices/graphics[@type='vnc'][@listen='127.0.0.1']") is not None
    assert source is not None
    assert source.get("type") == "file"


def test_kvm_has_the_hosts_processor() -> None:
    flavour = QemuFlavour(kind="kvm")
    root = _domain(flavour)
    assert root.get("type") == "kvm"
    assert root.find("./cpu[@mode='host-passthrough']") is not None
    assert flavour.column() == ("libvirt-kvm-x86", "Libvirt KVM (x86)")


def test_names_cannot_become_xml() -> None:
    root = _domain(QemuFlavour(), kernel_arguments="</cmdline><evil a='1'/>")
    assert root.find(".//evil") is None


@pytest.mark.parametrize(
    "wrong", [{"graphics": "rdp"}, {"firmware": "coreboot"}, {"arch": "s390x"}]
)
def test_what_is_no_guest_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(CallerFault):
        QemuFlavour().check(_spec(**wrong))


def test_a_volume() -> None:
    volume = Volume(
        name="hv-volume-with-a-long-name",
        size_mib=8,
        path="/d/v",
        format=DiskFormat.RAW,
        shared=True,
        secret="s",
    )
    disk = xml.parse(QemuFlavour().disk(volume, "vdb", secret="uuid"))
    assert disk.findtext("serial") == "hv-volume-with-a-lon"
    assert disk.find("shareable") is not None
    assert disk.find("./source/encryption[@format='luks']/secret[@uuid='uuid']") is not None
    assert "s" not in [node.text for node in disk.iter()]  # the passphrase is libvirt's to keep


def test_free_targets_and_lookups() -> None:
    root = _domain(QemuFlavour())
    assert xml.free_target(root, "vd") == "vdb"
    assert xml.disk_at(root, "/nowhere") is None
    assert xml.nic_with(root, NIC.mac) is None
    full = xml.element(
        "domain",
        xml.element(
            "devices",
            *(
                xml.element("disk", xml.element("target", dev=f"vd{letter}"))
                for letter in "abcdefghijklmnopqrstuvwxyz"
            ),
        ),
    )
    with pytest.raises(ValueError, match="free"):
        xml.free_target(full, "vd")


def test_boot_files_change_and_go() -> None:
    root = _domain(QemuFlavour())
    xml.set_boot(root, kernel="/new", initrd="", cmdline="")
    assert root.findtext("./os/kernel") == "/new"
    assert root.find("./os/initrd") is None
    assert root.find("./os/cmdline") is None


def test_paths_of_one_directory_only_are_replaced() -> None:
    text = "<d><a file='/old/x'/><a file='/older/x'/><k>/old/k</k><k>see /old/k</k></d>"
    changed = xml.parse(xml.replace_paths(text, "/old", "/new"))
    assert [a.get("file") for a in changed.findall("a")] == ["/new/x", "/older/x"]
    assert [k.text for k in changed.findall("k")] == ["/new/k", "see /old/k"]


def test_tagged_devices_as_novas_metadata_tells_them() -> None:
    root = _domain(QemuFlavour(), nics=(NIC,))
    nic = xml.nic_with(root, NIC.mac)
    assert nic is not None
    at = {"domain": "0x0000", "bus": "0x01", "slot": "0x0a", "function": "0x0"}
    nic.append(xml.element("address", type="pci", **at))
    found = libvirt_tags.devices(root, {NIC.mac: "front", "/gone": "x"})
    assert found == [
        {"type": "nic", "mac": NIC.mac, "bus": "pci", "address": "0000:01:0a.0", "tags": ["front"]}
    ]
    told = libvirt_files.with_tags({libvirt_files.META_DATA: b'{"uuid": "u"}'}, found)
    assert json.loads(told[libvirt_files.META_DATA]) == {"uuid": "u", "devices": found}
    with pytest.raises(CallerFault, match="no JSON"):
        libvirt_files.with_tags({libvirt_files.META_DATA: b"{"}, found)


def test_what_a_config_drive_is_made_of_is_kept() -> None:
    packed = libvirt_files.pack_drive({"a/b": b"\0\xff"}, {"mac": "tag"})
    assert libvirt_files.unpack_drive(packed) == ({"a/b": b"\0\xff"}, {"mac": "tag"})
    assert libvirt_files.unpack_drive(b"") == ({}, {})


def test_injected_files_follow_the_ram_disk() -> None:
    assert libvirt_files.injected(b"initrd", {}) == b"initrd"
    made = libvirt_files.injected(b"initrd", {"/etc/a/b": b"x"})
    assert made.startswith(b"initrd\0\0\x1f\x8b")  # padded to four, then a gzip member
    with pytest.raises(CallerFault, match="no path below"):
        libvirt_files.injected(b"", {"/../etc": b""})


def test_the_probe_of_kvm_is_a_boot_sector() -> None:
    assert len(BOOT_SECTOR) == 512
    assert BOOT_SECTOR.endswith(b"\x55\xaa")
    assert xml.parse(probe_domain("hv-p", "/d", "/l")).get("type") == "kvm"


def test_our_parameters_never_reach_libvirt() -> None:
    found = libvirt_link.address("qemu+ssh://root@h:22/system?socket=/s&type=kvm&disks=/d&bridge=b")
    assert found.url == "qemu+ssh://root@h:22/system?socket=/s"
    assert (found.host, found.port, found.user) == ("h", 22, "root")
    assert found.options == {"type": "kvm", "disks": "/d", "bridge": "b"}
    assert libvirt_link.address("qemu:///system").url == "qemu:///system"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("qemu:///nonsense", "/nonsense"),
        ("qemu+tcp://h/system", "transport"),
        ("qemu://h/system", "without SSH"),
        ("qemu+ssh:///system", "no host"),
        ("qemu+ssh://u:p@h/system", "password"),
        ("qemu+ssh://h:x/system", "no URL"),
        ("qemu+ssh://[::1/system", "no URL"),
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_tried(url: str, words: str) -> None:
    with pytest.raises(CallerFault, match=words):
        libvirt_link.address(url)


def test_the_ssh_of_libvirt_is_pinned(tmp_path: Path) -> None:
    key, hosts = tmp_path / "a key", tmp_path / "hosts"
    key.write_text("")
    hosts.write_text("")
    access = Access(work=tmp_path / "w", key_file=key, known_hosts=hosts)
    plain, script = libvirt_link.wrapper(access)
    words = plain.read_text()
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "GlobalKnownHostsFile=/dev/null"):
        assert option in words
    assert f'IdentityFile="{key}"' in words
    assert str(plain) in script.read_text()
    with pytest.raises(CallerFault, match="key-file"):
        libvirt_link.wrapper(Access(work=tmp_path))
    gone = Access(work=tmp_path, key_file=tmp_path / "gone", known_hosts=hosts)
    with pytest.raises(CallerFault, match="not there"):
        libvirt_link.wrapper(gone)
