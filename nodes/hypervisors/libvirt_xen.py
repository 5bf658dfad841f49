# SPDX-License-Identifier: Apache-2.0
"""Xen under libvirt: PVH guests of its libxl driver, `xen+ssh://root@host/system?bridge=br0`."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestSpec, GuestState, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_core import LibvirtHypervisor
from nodes.hypervisors.libvirt_flavour import Flavour, Parts
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_qemu import QemuHypervisor
from nodes.hypervisors.libvirt_xml import Element, element, text
from nodes.hypervisors.xen_words import CONSOLE_ARGUMENTS

DEFAULT_BRIDGE = "br0"
_NO_ID = -1
LOGS = "/var/log/xen/console"
SCREEN_HOST = "127.0.0.1"

_NO_DRIVER = "libvirt's libxl driver has no such call"
_NO_NETWORK_DISK = "of network disks the libxl driver knows RBD alone"
_NO_AGENT = "the libxl driver has no channel to an agent in the guest"
MISSING: Mapping[Feature, str] = {
    **QemuHypervisor.missing,
    Feature.SNAPSHOT: "libvirt's libxl driver has no snapshots",
    Feature.EXTEND_VOLUME: _NO_DRIVER,
    Feature.SWAP_VOLUME: _NO_DRIVER,
    Feature.GUEST_DISK_RATE_LIMIT: _NO_DRIVER,
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.ENCRYPTED_VOLUME: "the disk backends of dom0 do not decrypt",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _NO_DRIVER,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _NO_DRIVER,
    Feature.TRIGGER_CRASH_DUMP: (
        "the driver's dump of a PVH guest did not come to an end and cannot be ended: not used"
    ),
    Feature.CONSOLE_SPICE: "Debian's QEMU for Xen is built without SPICE",
    Feature.UEFI_BOOT: "PVH guests are booted without firmware",
    Feature.BOOT_EMULATED_TPM: "the libxl driver of libvirt 9.0 has no TPM 2.0",
    Feature.FILE_BACKED_MEMORY: "Xen keeps guests' memory itself",
    Feature.DEVICE_TAGS: "tags tell of virtio devices, Xen's have no such addresses",
    Feature.ATTACH_TAGGED_VOLUME: "tags tell of virtio devices",
    Feature.ATTACH_TAGGED_INTERFACE: "tags tell of virtio devices",
    Feature.BOOT_STATELESS_FIRMWARE: "PVH guests are booted without firmware",
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_NETWORK_DISK,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_NETWORK_DISK,
    Feature.NETWORKING_SECURITYGROUPS: "libvirt's libxl driver applies no network filters",
}


class XenFlavour(Flavour):
    """PVH domains."""

    hypervisor_types: ClassVar[frozenset[str]] = frozenset({"xen"})
    vm_modes: ClassVar[frozenset[str]] = frozenset({"xen", "pvh"})
    disk_prefix: ClassVar[str] = "xvd"

    def column(self) -> tuple[str, str]:
        """Nova's column."""
        return "libvirt-xen", "Libvirt Xen"

    def boot_arguments(self) -> str:
        """What the kernel is told before the guest's own arguments."""
        return CONSOLE_ARGUMENTS

    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for.

        Raises:
            CallerFault: No kernel, or another machine's.
            Unsupported: PVH guests have no such thing.
        """
        if spec.image.arch != "x86_64" or spec.image.kernel is None:
            raise CallerFault(f"the image of {spec.name} has no kernel for x86_64")
        asked = {
            Feature.UEFI_BOOT: spec.firmware == "uefi",
            Feature.BOOT_EMULATED_TPM: spec.tpm,
            Feature.CONSOLE_SPICE: spec.graphics == "spice",
            Feature.FILE_BACKED_MEMORY: spec.memory_file,
            Feature.DEVICE_TAGS: any(nic.tag for nic in spec.nics),
            Feature.BOOT_STATELESS_FIRMWARE: spec.stateless,
            Feature.NETWORKING_SECURITYGROUPS: any(nic.rules is not None for nic in spec.nics),
        }
        for feature, wanted in asked.items():
            if wanted:
                raise Unsupported(feature, MISSING[feature])

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new domain."""
        words = f"{self.boot_arguments()} {spec.kernel_arguments}".strip()
        boot = element(
            "os",
            element("type", content="xenpvh", arch="x86_64", machine="xenpvh"),
            element("kernel", content=parts.kernel),
            *([element("initrd", content=parts.initrd)] if parts.initrd else []),
            element("cmdline", content=words),
        )
        devices = [_file(parts.disk, "qcow2", "xvda")]
        if parts.config_drive:
            devices.append(_file(parts.config_drive, "raw", "xvdz", read_only=True))
        devices += [_card(nic, parts.bridge) for nic in spec.nics]
        devices.append(element("console", element("target", type="xen", port="0"), type="pty"))
        if spec.graphics == "vnc":
            screen = element("graphics", type="vnc", port="-1", autoport="yes", listen=SCREEN_HOST)
            devices.append(screen)
        root = element(
            "domain",
            element("name", content=spec.name),
            element("memory", content=str(spec.memory_mib), unit="MiB"),
            element("vcpu", content=str(spec.cpus)),
            boot,
            element("on_reboot", content="restart"),
            element("on_crash", content="destroy"),
            element("devices", *devices),
            type="xen",
        )
        return text(root)

    def disk(self, volume: Volume, target: str, *, secret: str = "") -> str:
        """`<disk>` of a volume."""
        if volume.source:
            raise Unsupported(
                Feature.STORAGE_BLOCK_BACKEND_ISCSI, MISSING[Feature.STORAGE_BLOCK_BACKEND_ISCSI]
            )
        if secret:
            raise Unsupported(Feature.ENCRYPTED_VOLUME, MISSING[Feature.ENCRYPTED_VOLUME])
        return text(_file(volume.path, volume.format.value, target, shared=volume.shared))

    def nic(self, nic: Nic, bridge: str) -> str:
        """`<interface>` of a card."""
        return text(_card(nic, bridge))


def _file(
    path: str, form: str, target: str, *, read_only: bool = False, shared: bool = False
) -> Element:
    """A disk that QEMU in dom0 serves, the only backend that reads qcow2, or for reading blkback.

    QEMU 7.2 refuses one that is for reading only: "Block node is read-only".
    """
    disk = element(
        "disk",
        element("driver", name="phy" if read_only else "qemu", type=form),
        element("source", file=path),
        element("target", dev=target, bus="xen"),
        type="file",
        device="disk",
    )
    if read_only:
        disk.append(element("readonly"))
    if shared:
        disk.append(element("shareable"))
    return disk


def _card(nic: Nic, bridge: str) -> Element:
    where = {"network": nic.network} if nic.network else {"bridge": bridge or DEFAULT_BRIDGE}
    kind = "network" if nic.network else "bridge"
    return element(
        "interface", element("mac", address=nic.mac), element("source", **where), type=kind
    )


class XenHypervisor(LibvirtHypervisor):
    """Xen's libxl driver."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING

    def versions(self) -> Mapping[str, str]:
        """What kind of guests they are; the driver tells of PV's firmware only."""
        return {"guest-type": "pvh"}

    def begin(self, domain: Any) -> None:
        """Start a domain and wait until it runs; its log begins anew."""
        self.link.host_run("rm", "-f", _log(domain.name()))
        super().begin(domain)

    def forget(self, name: str) -> None:
        """Remove a guest's files, its log too; repeatable."""
        super().forget(name)
        self.link.host_run("rm", "-f", _log(name))

    @operation(Feature.REBOOT)
    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Let it boot anew: the driver makes another domain of it, and tells of no reboot."""
        domain = self.domain(name)
        before = domain.ID()
        if hard:  # the driver has no reset
            self._end(domain)
            self.begin(domain)
            return

        def ask() -> None:
            # Between its two lives it does not run, and must not be asked again.
            with suppress(libvirt.libvirtError):
                if self.domain(name).ID() == before:
                    domain.reboot(0)

        def seen() -> bool:
            return self.domain(name).ID() not in (before, _NO_ID)

        self._ask(ask, seen, name, "boots anew")
        self.until(domain, GuestState.RUNNING, "runs")

    def undefine(self, domain: Any) -> None:
        """Remove a definition with its saved memory: the driver refuses every other flag."""
        try:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise

    @operation(Feature.CONSOLE_SERIAL_LOG)
    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """What Xen's own console daemon wrote down; the driver keeps no log."""
        self.domain(name)
        return self.link.host_run("tail", "-c", str(limit_bytes), _log(name))


def _log(name: str) -> str:
    """Where xenconsoled writes down what a guest says."""
    return f"{LOGS}/guest-{name}.log"


def connected(link: Link) -> LibvirtHypervisor:
    """The adapter for a connection to libvirt's Xen driver."""
    return XenHypervisor(link, XenFlavour())
