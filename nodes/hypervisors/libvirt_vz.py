# SPDX-License-Identifier: Apache-2.0
"""Virtuozzo under libvirt: `vz+ssh://root@host/system?type=vm`, or `?type=ct` for containers.

Never run: nobody here has a Virtuozzo host, and Debian's libvirt is built without this driver.
Its XML is what libvirt's schema takes and its documentation shows.

Source: libvirt's page of the Virtuozzo driver; Nova's columns `libvirt-vz-vm` and `libvirt-vz-ct`
of 2020, which say what is missing; Nova's `is_disk_bus_valid_for_virt`: IDE and SCSI.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import local
from nodes.hypervisors.base import GuestImage, GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.libvirt_core import LibvirtHypervisor
from nodes.hypervisors.libvirt_flavour import Flavour, Parts
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_qemu import QemuHypervisor
from nodes.hypervisors.libvirt_xml import Element, element, text

DEFAULT_BRIDGE = "br0"
SCREEN_HOST = "127.0.0.1"
_ARCH = "x86_64"
_NOVA = "Nova's matrix of 2020 has it missing for this driver, and nobody here could try it"
_UNKNOWN = "Nova's matrix of 2020 has it as unknown for this driver, and nobody here could try it"
_ROWS = (
    Feature.EVACUATE,
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE,
    Feature.TRIGGER_CRASH_DUMP,
    Feature.GUEST_DISK_RATE_LIMIT,
    Feature.GUEST_SETUP_INJECT_FILE,
    Feature.GUEST_SETUP_INJECT_NETWORKING,
    Feature.CONSOLE_SERIAL_LOG,
    Feature.CONSOLE_SERIAL_INTERACTIVE,
    Feature.CONSOLE_SPICE,
    Feature.UEFI_BOOT,
    Feature.BOOT_STATELESS_FIRMWARE,
    Feature.QUIESCE,
    Feature.UNQUIESCE,
    Feature.FILE_BACKED_MEMORY,
    Feature.BOOT_EMULATED_TPM,
)
_ROWS_OF_CONTAINERS = (
    Feature.ATTACH_VOLUME,
    Feature.DETACH_VOLUME,
    Feature.EXTEND_VOLUME,
    Feature.SWAP_VOLUME,
    Feature.MULTIATTACH_VOLUME,
    Feature.REBUILD_VOLUME_BACKED,
    Feature.PAUSE,
    Feature.GUEST_SETUP_CONFIGDRIVE,
    Feature.STORAGE_BLOCK,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP,
    Feature.ATTACH_TAGGED_VOLUME,
    Feature.ATTACH_TAGGED_INTERFACE,
)
_TARGET = "this adapter gives its guests files of the host only"
MISSING: Mapping[Feature, str] = {
    **QemuHypervisor.missing,
    **dict.fromkeys(_ROWS, _NOVA),
    Feature.EXTEND_VOLUME: _UNKNOWN,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _UNKNOWN,
    Feature.ENCRYPTED_VOLUME: _UNKNOWN,
    Feature.DEVICE_TAGS: "this adapter tells guests of this driver no tags",
    Feature.ATTACH_TAGGED_VOLUME: "this adapter tells guests of this driver no tags",
    Feature.ATTACH_TAGGED_INTERFACE: "this adapter tells guests of this driver no tags",
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _TARGET,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _TARGET,
    Feature.NETWORKING_SECURITYGROUPS: "libvirt's network filters are QEMU's and LXC's",
    Feature.CONSOLE_RDP: "libvirt's driver of Virtuozzo gives VNC only",
    Feature.GUEST_DISK_AUTOCONFIG: "partitions and file systems on a disk are the guest's",
    Feature.SET_ADMIN_PASSWORD: "it takes Virtuozzo's tools in the guest, which ours does not run",
}
MISSING_OF_CONTAINERS: Mapping[Feature, str] = {
    **MISSING,
    **dict.fromkeys(_ROWS_OF_CONTAINERS, _NOVA),
    Feature.REBUILD: "a container's root is made of its host's template",
    Feature.RESCUE: "a container's root is made of its host's template",
    Feature.CACHE_IMAGES: "templates are put onto the host by its operator",
}


class VzFlavour(Flavour):
    """What both kinds share."""

    hypervisor_types: ClassVar[frozenset[str]] = frozenset({"parallels", "vz"})
    disk_prefix: ClassVar[str] = "sd"
    missing: ClassVar[Mapping[Feature, str]] = MISSING

    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for.

        Raises:
            CallerFault: The image is no guest of this kind.
            Unsupported: There is no such thing here.
        """
        if spec.image.arch != _ARCH:
            raise CallerFault(f"the image of {spec.name} is not for {_ARCH}")
        for feature in spec.asks_for():
            if feature in self.missing:
                raise Unsupported(feature, self.missing[feature])

    def disk(self, volume: Volume, target: str, *, secret: str = "") -> str:
        """`<disk>` of a volume."""
        asked = {
            Feature.STORAGE_BLOCK_BACKEND_ISCSI: bool(volume.source),
            Feature.ENCRYPTED_VOLUME: bool(secret),
        }
        for feature, is_asked in asked.items():
            if is_asked:
                raise Unsupported(feature, self.missing[feature])
        made = _file(volume.path, volume.format.value, target)
        if volume.shared:
            made.append(element("shareable"))
        return text(made)

    def nic(self, nic: Nic, bridge: str) -> str:
        """`<interface>` of a card."""
        return text(_card(nic, bridge))

    def whole(
        self, spec: GuestSpec, boot: Element, features: Element | None, *devices: Element
    ) -> str:
        """A domain with cards and a screen."""
        screen = element("graphics", type="vnc", port="-1", autoport="yes", listen=SCREEN_HOST)
        root = element(
            "domain",
            element("name", content=spec.name),
            element("memory", content=str(spec.memory_mib), unit="MiB"),
            element("vcpu", content=str(spec.cpus)),
            boot,
            *([] if features is None else [features]),
            element("on_poweroff", content="destroy"),
            element("on_reboot", content="restart"),
            element("on_crash", content="destroy"),
            element("devices", *devices, *([screen] if spec.graphics == "vnc" else [])),
            type="vz",
        )
        return text(root)


class VmFlavour(VzFlavour):
    """Machines: they boot a disk."""

    vm_modes: ClassVar[frozenset[str]] = frozenset({"hvm"})

    def column(self) -> tuple[str, str]:
        """Nova's column."""
        return "libvirt-vz-vm", "Libvirt Virtuozzo VM"

    def check(self, spec: GuestSpec) -> None:
        """Also: there is a disk.

        Raises:
            CallerFault: There is none.
        """
        super().check(spec)
        if spec.image.disk is None:
            raise CallerFault(f"the image of {spec.name} has no disk, and it boots nothing else")

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new domain."""
        boot = element("os", element("type", content="hvm", arch=_ARCH), element("boot", dev="hd"))
        devices = [_file(parts.disk, "qcow2", "sda")]
        if parts.config_drive:
            drive = _file(parts.config_drive, "raw", "hdb", bus="ide", device="cdrom")
            drive.append(element("readonly"))
            devices.append(drive)
        devices += [_card(nic, parts.bridge) for nic in spec.nics]
        devices.append(element("video", element("model", type="vga")))
        features = element("features", element("acpi"), element("apic"))
        return self.whole(spec, boot, features, *devices)


class CtFlavour(VzFlavour):
    """Containers: made of a template of the host, which the image's id names."""

    vm_modes: ClassVar[frozenset[str]] = frozenset({"exe"})
    missing: ClassVar[Mapping[Feature, str]] = MISSING_OF_CONTAINERS

    def column(self) -> tuple[str, str]:
        """Nova's column."""
        return "libvirt-vz-ct", "Libvirt Virtuozzo CT"

    def check(self, spec: GuestSpec) -> None:
        """Also: a template is named.

        Raises:
            CallerFault: There is none.
        """
        super().check(spec)
        if not spec.image.id:
            raise CallerFault(
                f"the image of {spec.name} names no template",
                hint="its id is the name of an EZ template of the host, as vzpkg lists them",
            )

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new container."""
        boot = element(
            "os",
            element("type", content="exe", arch=_ARCH),
            element("init", content="/sbin/init"),
        )
        root = element(
            "filesystem",
            element("source", name=spec.image.id),
            element("target", dir="/"),
            type="template",
        )
        return self.whole(spec, boot, None, root, *(_card(nic, parts.bridge) for nic in spec.nics))


def _file(path: str, form: str, target: str, *, bus: str = "scsi", device: str = "disk") -> Element:
    return element(
        "disk",
        element("driver", type=form),
        element("source", file=path),
        element("target", dev=target, bus=bus),
        type="file",
        device=device,
    )


def _card(nic: Nic, bridge: str) -> Element:
    where = {"network": nic.network} if nic.network else {"bridge": bridge or DEFAULT_BRIDGE}
    return element(
        "interface",
        element("mac", address=nic.mac),
        element("source", **where),
        element("model", type="virtio"),
        type="network" if nic.network else "bridge",
    )


class VzHypervisor(LibvirtHypervisor):
    """Machines of libvirt's Virtuozzo driver."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    boots_disks: ClassVar[bool] = True

    def undefine(self, domain: Any) -> None:
        """Remove a definition; the driver knows these two flags."""
        known = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )
        try:
            domain.undefineFlags(known)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise


class VzContainers(VzHypervisor):
    """Its containers."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING_OF_CONTAINERS
    boots_disks: ClassVar[bool] = False

    def check_image(self, image: GuestImage) -> None:
        """Look at an image's properties; it has no file that would be used."""
        local.check_properties(image, self.flavour.hypervisor_types, self.flavour.vm_modes)

    def prepare(self, spec: GuestSpec) -> Parts:
        """Nothing goes onto the host."""
        del spec
        return Parts(bridge=self.link.options.get("bridge", ""))


def connected(link: Link) -> LibvirtHypervisor:
    """The adapter for a connection to libvirt's Virtuozzo driver.

    Raises:
        CallerFault: The URL asks for a type of guests that there is not.
    """
    kind = link.options.get("type", "vm")
    if kind == "vm":
        return VzHypervisor(link, VmFlavour())
    if kind == "ct":
        return VzContainers(link, CtFlavour())
    raise CallerFault(f"Virtuozzo has no guests of the type {kind!r}", hint="use vm or ct")
