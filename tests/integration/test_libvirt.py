# SPDX-License-Identifier: Apache-2.0
"""The libvirt adapter against real daemons of private hosts, with real guests in them.

What every hypervisor does is the contract suite's; here is what only libvirt does. Guests are
emulated (TCG) and take seconds to boot, so one guest is used for many things.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci import proc
from ci.jobs.compute.target import running_target
from ci.model.feature import Feature
from nodes.hypervisors.base import (
    Access,
    DiskFormat,
    GuestImage,
    GuestSpec,
    GuestState,
    Hypervisor,
    Nic,
)
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost
from tests.kit import sshd
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
META = "openstack/latest/meta_data.json"
BOOT_S = 180.0


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


def _connect(host: LibvirtHost, work: Path, **options: str) -> Hypervisor:
    words = "".join(f"&{key}={value}" for key, value in {"type": "qemu", **options}.items())
    return connect(host.uri("qemu") + words, Access(work=work, timeout_s=150))


@pytest.fixture
def hypervisor(libvirt: LibvirtHost, tmp_path: Path) -> Iterator[Hypervisor]:
    connected = _connect(libvirt, tmp_path)
    try:
        yield connected
    finally:
        connected.cleanup()
        connected.close()


def _agent(on: Hypervisor, name: str) -> GuestAgent:
    agent = GuestAgent(on.console(name), name, reopen=lambda: on.console(name))
    agent.ready(BOOT_S)
    return agent


def _await_disk(agent: GuestAgent, serial: str) -> str:
    """The name under which a guest has a disk; it sees it a moment after libvirt attached it."""
    for _ in range(100):
        for name, disk in agent.ask("disks")["disks"].items():
            if disk["serial"] == serial:
                return str(name)
    raise AssertionError(f"no disk {serial}")


def _tags(agent: GuestAgent) -> dict[str, str]:
    told = json.loads(agent.ask("configdrive")["meta"])
    return {tag: one.get("mac") or one["serial"] for one in told["devices"] for tag in one["tags"]}


def _a_target_with_chap(hypervisor: Hypervisor, agent: GuestAgent) -> None:
    """A wrong secret is our fault; with the right one the target has what the guest wrote."""
    found = shutil.which("tgtd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    require("libvirt", present=found is not None, why="apt-get install tgt qemu-block-extra")
    with running_target() as target:
        remote = target.volume("hv-remote", user="guest", secret="open-sesame-12")
        with pytest.raises(CallerFault, match="Authentication failure"):
            hypervisor.attach_volume("hv-all", replace(remote, secret="close-sesame-1"))
        hypervisor.attach_volume("hv-all", remote)
        disk = _await_disk(agent, "hv-remote")
        assert agent.ask(f"write {disk} over-the-network")["ok"]
        hypervisor.detach_volume("hv-all", remote)
        assert target.content(remote, 16) == b"over-the-network"


def test_what_only_libvirt_does_to_a_guest(hypervisor: Hypervisor, image: GuestImage) -> None:
    """Tags, injected files, encrypted volumes, rates, swaps, the guest agent, dumps."""
    front, back = (
        Nic(mac="52:54:00:00:00:01", tag="front"),
        Nic(mac="52:54:00:00:00:02", tag="back"),
    )
    hypervisor.launch(
        GuestSpec(
            name="hv-all",
            image=image,
            nics=(front,),
            config_drive={META: b'{"uuid": "u"}'},
            files={"/etc/injected/word": b"hello"},
        )
    )
    agent = _agent(hypervisor, "hv-all")
    assert agent.ask("exec cat /etc/injected/word")["out"] == "hello"
    assert _tags(agent) == {"front": front.mac}

    first = hypervisor.create_volume("hv-first", 16)
    hypervisor.attach_volume("hv-all", first, tag="data")
    disk = _await_disk(agent, "hv-first")
    assert agent.ask(f"write {disk} written-before")["ok"]
    assert _tags(agent) == {"front": front.mac, "data": "hv-first"}
    hypervisor.limit_volume("hv-all", first, 1 << 20)
    slow = agent.ask(f"exec time dd if=/dev/{disk} of=/dev/null bs=1M count=4 iflag=direct")
    assert float(slow["out"].split("real")[1].split()[1].rstrip("s")) > 1.5
    hypervisor.limit_volume("hv-all", first, 0)
    second = hypervisor.create_volume("hv-second", 16)
    hypervisor.swap_volume("hv-all", first, second)
    assert agent.ask(f"read {disk} 14")["data"] == "written-before"
    assert agent.ask(f"write {disk} written-after!")["ok"]
    hypervisor.detach_volume("hv-all", second)
    assert hypervisor.volume_bytes(first, 14) == b"written-before"
    assert hypervisor.volume_bytes(second, 14) == b"written-after!"

    locked = hypervisor.create_volume("hv-locked", 8, secret="a passphrase")
    hypervisor.attach_volume("hv-all", locked)
    disk = _await_disk(agent, "hv-locked")
    assert agent.ask(f"write {disk} plain-text-of-the-guest")["ok"]
    assert agent.ask(f"read {disk} 10")["data"] == "plain-text"
    hypervisor.detach_volume("hv-all", locked)
    content = hypervisor.volume_bytes(locked, 16 << 20)
    assert content.startswith(b"LUKS")
    assert b"plain-text" not in content

    _a_target_with_chap(hypervisor, agent)
    hypervisor.attach_interface("hv-all", back)
    assert _tags(agent)["back"] == back.mac
    hypervisor.set_admin_password("hv-all", "new password")
    assert agent.ask("exec grep -c '^root:[$]6[$]' /etc/shadow")["out"] == "1"
    hypervisor.quiesce("hv-all")
    hypervisor.unquiesce("hv-all")
    assert hypervisor.crash_dump("hv-all") > 64 << 20

    agent.close()
    for volume in (first, second, locked):
        hypervisor.delete_volume(volume)
    hypervisor.delete("hv-all")
    left = hypervisor.inventory()
    assert not [name for name in (*left.guests, *left.volumes) if name.startswith("hv-")]


def test_firmware_screen_memory_file_and_a_volume_for_two(
    hypervisor: Hypervisor, image: GuestImage
) -> None:
    for number, spec in enumerate(
        (
            {"firmware": "uefi", "tpm": True, "graphics": "vnc"},
            {"memory_file": True, "graphics": "spice"},
        )
    ):
        hypervisor.launch(
            GuestSpec(name=f"hv-two-{number}", image=image, **spec)  # type: ignore[arg-type]
        )
    one, two = (_agent(hypervisor, f"hv-two-{number}") for number in range(2))
    told = one.ask("info")
    assert (told["uefi"], told["tpm"]) == (True, True)
    assert hypervisor.screen("hv-two-0", "vnc").port > 0
    assert hypervisor.screen("hv-two-1", "spice").port > 0
    with pytest.raises(CallerFault, match="no spice screen"):
        hypervisor.screen("hv-two-0", "spice")
    with pytest.raises(Unsupported, match="no RDP"):
        hypervisor.screen("hv-two-0", "rdp")

    shared = hypervisor.create_volume("hv-shared", 8, shared=True)
    for number, agent in enumerate((one, two)):
        hypervisor.attach_volume(f"hv-two-{number}", shared)
        _await_disk(agent, "hv-shared")
    assert one.ask(f"write {_await_disk(one, 'hv-shared')} for-both")["ok"]
    assert two.ask(f"read {_await_disk(two, 'hv-shared')} 8")["data"] == "for-both"
    with pytest.raises(Unsupported, match=r"raw|pflash"):
        hypervisor.snapshot("hv-two-0", "no")  # a shared volume is raw, and that is said


def test_a_guest_moves_between_hosts(
    libvirt_pair: tuple[LibvirtHost, LibvirtHost], image: GuestImage, tmp_path: Path
) -> None:
    here, there = libvirt_pair
    work, other = tmp_path / "shared", str(tmp_path / "other")
    a, b = _connect(here, work), _connect(there, work)
    a2, b2 = _connect(here, work, disks=other), _connect(there, work, disks=other)
    name = "hv-mover"
    try:
        a.launch(GuestSpec(name=name, image=image, config_drive={META: b"{}"}))
        agent = _agent(a, name)
        boot = agent.ask("info")["boot_id"]
        agent.ask("write vda on-its-disk")
        agent.close()

        a.begin_live_migration(name, b)
        a.abort_live_migration(name)
        assert a.info(name).state is GuestState.RUNNING
        assert name not in b.inventory().guests

        a.begin_live_migration(name, b)
        a.force_live_migration(name)
        _is_on(b, a, name, boot)
        b.live_migrate(name, a)
        _is_on(a, b, name, boot)

        with pytest.raises(CallerFault, match="do not share"):
            a.live_migrate(name, b2)
        a.live_migrate(name, b2, block=True)
        agent = _is_on(b2, a, name, boot)
        assert agent.ask("read vda 11")["data"] == "on-its-disk"
        agent.ask("exec sync")
        agent.close()

        b2.evacuate(name, a2)
        agent = _agent(a2, name)
        assert agent.ask("info")["boot_id"] != boot
        assert agent.ask("read vda 11")["data"] == "on-its-disk"
        agent.close()
        assert name not in b2.inventory().guests
    finally:
        for each in (a, b, a2, b2):
            each.cleanup()
            each.close()


def _is_on(to: Hypervisor, source: Hypervisor, name: str, boot: str) -> GuestAgent:
    """The same boot goes on over there, and nothing is left here."""
    agent = _agent(to, name)
    assert agent.ask("info")["boot_id"] == boot
    assert name not in source.inventory().guests
    return agent


BOOT_SECTOR = (
    # mov dx,0x3f8; mov al,CHAR; out dx,al; hlt; jmp to hlt
    bytes.fromhex("baf803b0") + b"%c" + bytes.fromhex("eef4ebfd")
)


def _bootable(folder: Path, letter: bytes, form: DiskFormat) -> GuestImage:
    """A disk of one boot sector that says one letter on the serial line."""
    raw = folder / f"{letter.decode()}.raw"
    sector = BOOT_SECTOR.replace(b"%c", letter).ljust(510, b"\0") + b"\x55\xaa"
    raw.write_bytes(sector.ljust(1 << 20, b"\0"))
    disk = folder / f"{letter.decode()}.{form}"
    if form is not DiskFormat.RAW:
        proc.run(["qemu-img", "convert", "-f", "raw", "-O", form, str(raw), str(disk)])
    return GuestImage(disk=disk, disk_format=form)


def _says(on: Hypervisor, name: str, letter: bytes) -> bool:
    return any(letter in on.console_log(name) for _ in proc.wait_until(_in(60)))


def _in(seconds: float) -> float:
    return time.monotonic() + seconds


def test_disk_images_of_all_formats_boot_and_are_checked(
    hypervisor: Hypervisor, tmp_path: Path
) -> None:
    letters = dict(zip(DiskFormat, (b"R", b"Q", b"H", b"M"), strict=True))
    images = {form: _bootable(tmp_path, letter, form) for form, letter in letters.items()}
    hypervisor.launch(GuestSpec(name="hv-disk", image=images[DiskFormat.RAW], memory_mib=32))
    assert _says(hypervisor, "hv-disk", b"R")
    for form in (DiskFormat.VHDX, DiskFormat.VMDK, DiskFormat.QCOW2):
        hypervisor.rebuild("hv-disk", images[form])
        assert _says(hypervisor, "hv-disk", letters[form])
    hypervisor.rescue("hv-disk", images[DiskFormat.RAW])
    assert _says(hypervisor, "hv-disk", b"R")
    with pytest.raises(CallerFault, match="rescued already"):
        hypervisor.rescue("hv-disk", images[DiskFormat.RAW])
    hypervisor.unrescue("hv-disk")
    assert _says(hypervisor, "hv-disk", b"Q")
    assert b"R" not in hypervisor.console_log("hv-disk")

    vmdk = images[DiskFormat.VMDK].disk
    wrong = GuestImage(disk=vmdk, disk_format=DiskFormat.VHDX)
    with pytest.raises(CallerFault, match="is vmdk, the image says vhdx"):
        hypervisor.launch(GuestSpec(name="hv-wrong", image=wrong))
    with pytest.raises(Unsupported, match="does not open disk images"):
        hypervisor.launch(
            GuestSpec(name="hv-wrong", image=images[DiskFormat.RAW], files={"/a": b"b"})
        )
    for_xen = GuestImage(disk=vmdk, properties={"hypervisor_type": "xen"})
    with pytest.raises(CallerFault, match="hypervisor_type=xen"):
        hypervisor.launch(GuestSpec(name="hv-wrong", image=for_xen))
    assert set(hypervisor.inventory().guests) == {"hv-disk"}
    assert not [name for name in hypervisor.inventory().volumes if "wrong" in name]


NC = """\
#!{python}
import os, socket, sys, threading
if "-U" not in sys.argv:
    sys.exit(1)
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[-1])
def give():
    while piece := os.read(0, 65536):
        line.sendall(piece)
    os._exit(0)
threading.Thread(target=give, daemon=True).start()
while piece := line.recv(65536):
    os.write(1, piece)
"""
"""What a node has as `nc`: libvirt goes through it to a socket that is named."""


def test_over_ssh_with_a_pinned_host_key(libvirt: LibvirtHost, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nc").write_text(NC.format(python=sys.executable))
    (tools / "nc").chmod(0o755)
    try:
        with sshd.running(tmp_path / "sshd", path=f"{tools}:{os.environ['PATH']}") as server:
            _use_over_ssh(libvirt, server, tmp_path)
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


def _use_over_ssh(host: LibvirtHost, server: sshd.Sshd, folder: Path) -> None:
    disks = folder / "disks"
    url = (
        f"qemu+ssh://root@127.0.0.1:{server.port}/system"
        f"?socket={host.socket}&type=qemu&disks={disks}"
    )
    access = Access(work=folder / "work", key_file=server.key_file, known_hosts=server.known_hosts)
    remote = connect(url, access)
    try:
        assert remote.system().versions["kernel"]
        assert remote.status().uptime_s > 0
        image = _bootable(folder, b"S", DiskFormat.QCOW2)
        remote.launch(GuestSpec(name="hv-far", image=image, memory_mib=32))
        assert _says(remote, "hv-far", b"S")
        line = remote.console("hv-far")
        remote.reboot("hv-far", hard=True)
        assert any(b"S" in line.read(1.0) for _ in range(60))
        line.close()
        assert "hv-far" in remote.cleanup()
    finally:
        remote.close()

    other = folder / "other_hosts"
    key = (folder / "sshd" / "stranger.pub").read_text().split()[:2]
    other.write_text(f"[127.0.0.1]:{server.port} {' '.join(key)}\n")
    unknown = folder / "no_hosts"
    unknown.write_text("")
    for pinned in (other, unknown):
        with pytest.raises(NodeFault, match="host key"):
            connect(url, Access(work=folder, key_file=server.key_file, known_hosts=pinned))
    with pytest.raises(NodeFault, match="key-file"):
        connect(
            url,
            Access(work=folder, key_file=server.stranger_key, known_hosts=server.known_hosts),
        )
    with pytest.raises(TransientFault, match="socket"):
        connect(url.replace(str(host.socket), "/nonexistent/sock"), access)


def test_a_column_with_its_reasons(hypervisor: Hypervisor) -> None:
    told = hypervisor.system()
    assert told.key == "libvirt-qemu-x86"
    assert {"libvirt", "qemu", "kernel", "cpu-flags", "firmware"} <= set(told.versions)
    with pytest.raises(Unsupported, match="maintenance mode") as caught:
        hypervisor.maintenance(on=True)
    assert caught.value.feature is Feature.MAINTENANCE_MODE


def test_kvm_is_believed_only_when_a_guest_ran(libvirt: LibvirtHost, tmp_path: Path) -> None:
    url, access = libvirt.uri("qemu"), Access(work=tmp_path)
    connected = connect(url, access)
    try:
        kind = connected.system().key
        connected.launch(
            GuestSpec(
                name="hv-kind", image=_bootable(tmp_path, b"Y", DiskFormat.RAW), memory_mib=32
            )
        )
        # Whatever was chosen, a guest of it really runs.
        assert _says(connected, "hv-kind", b"Y"), kind
    finally:
        connected.cleanup()
        connected.close()


def _until(check: Callable[[], bool]) -> None:
    """A guest sees what was plugged in or out a little later than libvirt."""
    assert any(check() for _ in proc.wait_until(time.monotonic() + 180, every_s=0.5))


@pytest.mark.skipif(
    "HYPERVOUCH_OTHER_MACHINES" not in os.environ,
    reason="set HYPERVOUCH_OTHER_MACHINES: three slow guests of other machines, emulated",
)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("arch", ["s390x", "ppc64le", "aarch64"])
def test_guests_of_other_machines(libvirt: LibvirtHost, tmp_path: Path, arch: str) -> None:
    foreign = tiny(arch=arch)
    connected = _connect(libvirt, tmp_path, arch=arch)
    try:
        spec = GuestSpec(
            name="hv-other",
            image=foreign,
            memory_mib=512,
            config_drive={META: b'{"uuid": "u"}'},
            nics=(Nic(mac="52:54:00:00:00:03"),),
        )
        connected.launch(spec)
        agent = _agent(connected, "hv-other")
        assert agent.ask("info")["arch"] == arch
        assert json.loads(agent.ask("configdrive")["meta"]) == {"uuid": "u"}
        connected.suspend("hv-other")
        connected.resume("hv-other")
        assert agent.ask("counter")["counter"] == 1
        volume = connected.create_volume("hv-other-v", 8)
        connected.attach_volume("hv-other", volume)
        _until(lambda: "vdb" in agent.ask("disks")["disks"])
        assert agent.ask("write vdb plugged")["ok"]
        connected.detach_volume("hv-other", volume)
        _until(lambda: "vdb" not in agent.ask("disks")["disks"])
        assert connected.volume_bytes(volume, 7) == b"plugged"
        connected.shutdown("hv-other")
        assert connected.info("hv-other").state is GuestState.SHUTOFF
    finally:
        connected.cleanup()
        connected.close()
