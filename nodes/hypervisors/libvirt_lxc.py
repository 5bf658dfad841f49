# SPDX-License-Identifier: Apache-2.0
"""LXC under libvirt: containers whose init speaks on the container's first console.

A root directory is unpacked beside the store's files, as `STORE-roots/NAME`. libvirt's LXC
driver gives containers block devices and not files, so a volume is put on a loop device for as
long as it is attached; which one it is, is asked of the host, never remembered.

Needs root on the host. Pausing needs a host with cgroup v1: libvirt's freezer knows no other.
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import libvirt

from ci import proc
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors import local
from nodes.hypervisors.base import (
    Console,
    DiskFormat,
    GuestImage,
    GuestInfo,
    GuestSpec,
    Nic,
    Volume,
)
from nodes.hypervisors.container_image import packed, plain
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_console import StreamConsole
from nodes.hypervisors.libvirt_core import LibvirtHypervisor
from nodes.hypervisors.libvirt_flavour import Flavour, Parts
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_lxc_missing import MISSING
from nodes.hypervisors.libvirt_store import MIB
from nodes.hypervisors.libvirt_xml import element, text

_TAR = {b"ustar": 257}
_INIT = "/sbin/init"
_CONFIG_TARGET = "vdz"


class LxcFlavour(Flavour):
    """Domains of libvirt's LXC driver."""

    hypervisor_types: ClassVar[frozenset[str]] = frozenset({"lxc"})
    vm_modes: ClassVar[frozenset[str]] = frozenset({"exe"})
    shutdown_flags: ClassVar[int] = libvirt.VIR_DOMAIN_SHUTDOWN_SIGNAL
    reboot_flags: ClassVar[int] = libvirt.VIR_DOMAIN_REBOOT_SIGNAL

    def __init__(self, arch: str, cpus: int) -> None:
        self._arch = arch
        self._cpus = cpus

    def column(self) -> tuple[str, str]:
        """Nova's column."""
        return "libvirt-lxc", "Libvirt LXC"

    def check(self, spec: GuestSpec) -> None:
        """Refuse what a container has not.

        Raises:
            CallerFault: Another machine, more processors than there are.
            Unsupported: Firmware, screens, device tags.
        """
        if spec.image.arch != self._arch:
            raise CallerFault(f"the image is for {spec.image.arch}, the host is {self._arch}")
        self.processors(spec.cpus)
        wanted = {
            Feature.UEFI_BOOT: spec.firmware != "bios",
            Feature.BOOT_EMULATED_TPM: spec.tpm,
            Feature.FILE_BACKED_MEMORY: spec.memory_file,
            Feature.DEVICE_TAGS: any(nic.tag for nic in spec.nics),
        }
        if spec.graphics:
            wanted[Feature(f"console.{spec.graphics}")] = True
        for feature, asked in wanted.items():
            if asked:
                raise Unsupported(feature, MISSING[feature])

    def processors(self, cpus: int) -> str:
        """The set of the host's processors that a container sees.

        Raises:
            CallerFault: There are not so many.
        """
        if not 1 <= cpus <= self._cpus:
            raise CallerFault(f"{cpus} processors cannot be had", hint=f"it has {self._cpus}")
        return f"0-{cpus - 1}"

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """A container with a root directory and one console."""
        system = element(
            "os", element("type", content="exe", arch=self._arch), element("init", content=_INIT)
        )
        root = element(
            "filesystem",
            element("source", dir=parts.root),
            element("target", dir="/"),
            type="mount",
        )
        devices = [root, *(self._card(nic, parts.bridge) for nic in spec.nics)]
        if parts.config_drive:
            drive = self._disk(parts.config_drive, _CONFIG_TARGET)
            drive.append(element("readonly"))
            devices.append(drive)
        devices.append(element("console", type="pty"))
        made = element(
            "domain",
            element("name", content=spec.name),
            element("memory", content=str(spec.memory_mib), unit="MiB"),
            element("vcpu", content=str(spec.cpus), cpuset=self.processors(spec.cpus)),
            system,
            # A network of its own even without a card: else it would have the host's.
            element("features", element("privnet")),
            element("on_reboot", content="restart"),
            element("on_crash", content="destroy"),
            element("devices", *devices),
            type="lxc",
        )
        return text(made)

    def disk(self, volume: Volume, target: str, *, secret: str = "") -> str:
        """A block device of the host: `volume.path` is a loop device here."""
        del secret
        return text(self._disk(volume.path, target))

    def _disk(self, path: str, target: str) -> xml.Element:
        return element(
            "disk",
            element("source", dev=path),
            element("target", dev=target, bus="virtio"),
            type="block",
            device="disk",
        )

    def nic(self, nic: Nic, bridge: str) -> str:
        """One end of a veth pair; the other one is on the bridge, or free."""
        return text(self._card(nic, bridge))

    def _card(self, nic: Nic, bridge: str) -> xml.Element:
        card = element("interface", element("mac", address=nic.mac))
        xml.wire(card, nic, bridge, "ethernet")
        if nic.rules is not None:
            # The driver puts the filter on before it has given the host's end a name.
            card.append(element("target", dev=xml.filter_of(nic.mac).replace("-", "")))
        return card


class LxcHypervisor(LibvirtHypervisor):
    """libvirt's containers."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    flavour: LxcFlavour

    # Making and removing -----------------------------------------------------------------

    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for; files go into a directory, so any may be injected."""
        super().check(replace(spec, files={}))

    def check_image(self, image: GuestImage) -> None:
        """Look at an image's properties and its tar file."""
        super().check_image(image)
        local.refuse_disk(image, "a container")
        local.need_file(image.root, "tar file of a root", _TAR)

    def prepare(self, spec: GuestSpec) -> Parts:
        """Unpack the root, and put a config drive on a loop device."""
        self._unpack(spec.name, spec.image, spec.files)
        drive = ""
        if spec.config_drive is not None:
            self._need_iso()
            path = self.store.put(f"{spec.name}.config", files.config_drive(spec.config_drive))
            drive = self._loop(path)
        return Parts(
            root=self._root_of(spec.name),
            config_drive=drive,
            bridge=self.link.options.get("bridge", ""),
        )

    def _need_iso(self) -> None:
        """See that a container can mount a config drive: it has the host's kernel.

        Raises:
            Unsupported: That kernel does not know the file system.
        """
        for again in (True, False):
            if "iso9660" in self.link.host_text("/proc/filesystems").split():
                return
            if again:
                with suppress(NodeFault):
                    self._host("modprobe", "isofs")
        raise Unsupported(
            Feature.GUEST_SETUP_CONFIGDRIVE, "the host's kernel has no ISO 9660 file system"
        )

    def forget(self, name: str) -> None:
        """Remove a guest's files, its loop device and its root."""
        self._free(self.store.path(f"{name}.config"))
        super().forget(name)
        self._host("rm", "-rf", "--one-file-system", self._root_of(name))

    def undefine(self, domain: Any) -> None:
        """Remove a definition; this driver knows no flags."""
        with suppress(libvirt.libvirtError):
            domain.undefine()

    @operation()
    def cleanup(self) -> tuple[str, ...]:
        """Remove every guest and volume of ours, and roots whose guests are gone."""
        gone = super().cleanup()
        self._host("rm", "-rf", "--one-file-system", f"{self.store.directory}-roots")
        return gone

    def remove_volume(self, name: str) -> None:
        """Remove a volume and the loop device it may still be on."""
        self._free(self.store.path(name))
        super().remove_volume(name)

    # Guests ------------------------------------------------------------------------------

    @operation(Feature.GET_GUEST_INFO)
    def info(self, name: str) -> GuestInfo:
        """State and limits; what the driver calls memory is what is used of it."""
        found = super().info(name)
        return replace(found, memory_mib=int(self.domain(name).maxMemory()) // 1024)

    @operation(Feature.CONSOLE_SERIAL_INTERACTIVE)
    def console(self, name: str) -> Console:
        """The console of its init; this driver lets only one have it at a time."""
        return StreamConsole(self.link.conn, self.domain(name), 0)

    @operation(Feature.REBOOT)
    def reboot(self, name: str, *, hard: bool = False) -> None:
        """By SIGHUP to its init, or by destroying and starting it.

        The driver starts a container anew without telling of it: its number tells.
        """
        domain = self.domain(name)
        if hard:
            self.power_off(name)
            self.start(name)
            return
        before = domain.ID()
        domain.reboot(self.flavour.reboot_flags)
        if not self.link.watch.wait(lambda: self._other(name, before), self.timeout_s):
            self.late(name, "boots anew")

    def _other(self, name: str, before: int) -> bool:
        """Whether a container runs that is not the one from before; an old object is not asked."""
        found = self.find(name)
        return found is not None and found.ID() not in {-1, before}

    @operation(Feature.PAUSE)
    def pause(self, name: str) -> None:
        """Freeze its processes.

        Raises:
            Unsupported: The host has cgroup v2 only.
        """
        if not self._freezer():
            raise Unsupported(
                Feature.PAUSE, "libvirt's LXC driver freezes by cgroup v1, this host has v2 only"
            )
        super().pause(name)

    def _freezer(self) -> bool:
        for line in self.link.host_text("/proc/cgroups").splitlines():
            words = line.split()
            if words[:1] == ["freezer"]:
                return words[1] != "0"
        return False

    @operation(Feature.RESIZE)
    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Start it anew with other limits."""
        places = self.flavour.processors(cpus)

        def change(root: xml.Element) -> None:
            for tag in ("memory", "currentMemory", "vcpu"):
                xml.set_text(root, tag, str(cpus if tag == "vcpu" else memory_mib * 1024))
                made = root.find(tag)
                if made is not None:
                    made.attrib.clear()
                    made.attrib.update({"cpuset": places} if tag == "vcpu" else {"unit": "KiB"})

        domain = self.domain(name)
        self.power_off(name)
        self.begin(self.redefine(domain, change))

    @operation(Feature.REBUILD)
    def rebuild(self, name: str, image: GuestImage) -> None:
        """Put another root under it; cards and volumes stay."""
        domain = self.domain(name)
        self.check_image(image)
        self.power_off(name)
        self._host("rm", "-rf", "--one-file-system", self._root_of(name))
        self._unpack(name, image, {})
        self.begin(domain)

    # Volumes -----------------------------------------------------------------------------

    @operation(Feature.ATTACH_VOLUME)
    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """An empty raw file."""
        local.check_name(name)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        if self.store.find(name) is not None:
            raise CallerFault(f"there is a volume {name} on {self.url} already")
        self.store.create(name, size_mib * MIB, "raw")
        path = self.store.path(name)
        return Volume(name=name, size_mib=size_mib, path=path, format=DiskFormat.RAW, shared=shared)

    @operation(Feature.ATTACH_VOLUME)
    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Give a container the loop device that a volume is put on."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self.cannot(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
        if volume.format is not DiskFormat.RAW or self.store.find(volume.name) is None:
            raise CallerFault(f"there is no raw volume {volume.name} on {self.url}")
        had = self._loop_of(volume.path)
        device = had or self._loop(volume.path)
        try:
            super().attach_volume(name, replace(volume, path=device))
        except BaseException:
            if not had:
                self._free(volume.path)
            raise

    @operation(Feature.DETACH_VOLUME)
    def detach_volume(self, name: str, volume: Volume) -> None:
        """Take it away, and its loop device."""
        device = self._loop_of(volume.path)
        if not device:
            raise CallerFault(f"{volume.name} is not attached to {name} on {self.url}")
        super().detach_volume(name, replace(volume, path=device))
        domains = self.link.conn.listAllDomains()
        if not any(self._attached(self.root(other), device) is not None for other in domains):
            self._free(volume.path)

    @operation(Feature.GUEST_DISK_RATE_LIMIT)
    def limit_volume(self, name: str, volume: Volume, bytes_per_s: int) -> None:
        """Throttle it by cgroup v1's blkio."""
        domain, device = self.domain(name), self._loop_of(volume.path)
        if self._attached(self.root(domain), device) is None:
            raise CallerFault(f"{volume.name} is not attached to {name} on {self.url}")
        limit = f"{device},{bytes_per_s}"
        keys = ("device_read_bytes_sec", "device_write_bytes_sec")
        domain.setBlkioParameters(dict.fromkeys(keys, limit), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    # The host ----------------------------------------------------------------------------

    def _root_of(self, name: str) -> str:
        local.check_name(name)
        return f"{self.store.directory}-roots/{name}"

    def _unpack(self, name: str, image: GuestImage, more: Mapping[str, bytes]) -> None:
        root = self._root_of(name)
        self._host("mkdir", "-p", root)
        if image.root is not None:
            self._host("tar", "-x", "-C", root, "-f", "-", stdin=plain(image.root))
        if more:
            self._host("tar", "-x", "-C", root, "-f", "-", stdin=packed(more))

    def _loop(self, path: str) -> str:
        """The loop device of a file, made where there is none."""
        return self._loop_of(path) or self._host("losetup", "--find", "--show", path).strip()

    def _loop_of(self, path: str) -> str:
        """The loop device of a file; empty where there is none."""
        listed = self._host("losetup", "--noheadings", "--output", "NAME", "--associated", path)
        return next(iter(listed.split()), "")

    def _free(self, path: str) -> None:
        for device in self._host(
            "losetup", "--noheadings", "--output", "NAME", "--associated", path
        ).split():
            self._host("losetup", "--detach", device)

    def _host(self, *argv: str, stdin: bytes | None = None) -> str:
        """Run a command on the host.

        Raises:
            NodeFault: It failed there.
        """
        line = list(argv) if self.link.local else [*self.link.ssh, shlex.join(argv)]
        try:
            return proc.run(line, stdin=stdin, timeout_s=self.timeout_s).text
        except proc.CommandFailed as error:
            raise NodeFault(
                f"{self.url}: {error.message}", hint="containers of libvirt need root on the host"
            ) from error


def connected(link: Link) -> LxcHypervisor:
    """The adapter for a connection to libvirt's LXC driver."""
    info = link.conn.getInfo()
    return LxcHypervisor(link, LxcFlavour(str(info[0]), int(info[2])))
