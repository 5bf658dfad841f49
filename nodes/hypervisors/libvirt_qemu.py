# SPDX-License-Identifier: Apache-2.0
"""QEMU under libvirt: accelerated by KVM or emulated, x86, s390x, ppc64le and aarch64."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_core import LibvirtHypervisor
from nodes.hypervisors.libvirt_flavour import Flavour, Parts
from nodes.hypervisors.libvirt_kvm import kvm_works
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_machines import MACHINES, Machine
from nodes.hypervisors.libvirt_xml import Element, element, place, text, wire

AGENT_CHANNEL = "org.qemu.guest_agent.0"
SERIAL_CHARS = 20
"""Of a virtio disk's serial number, the longest that guests are told."""

STATELESS_FIRMWARE = "/usr/share/ovmf/OVMF.fd"
"""OVMF whole, in one read-only memory: variables are kept in the guest's RAM alone."""

ISCSI_PORT = 3260
_PORTS = 14


@dataclass(frozen=True)
class QemuFlavour(Flavour):
    """Domains of QEMU.

    Attributes:
        kind: `qemu` or `kvm`, libvirt's domain type.
        arch: A key of MACHINES.
    """

    kind: str = "qemu"
    arch: str = "x86_64"

    hypervisor_types: ClassVar[frozenset[str]] = frozenset({"qemu", "kvm"})

    @property
    def machine(self) -> Machine:
        """What its guests are like."""
        return MACHINES[self.arch]

    def column(self) -> tuple[str, str]:
        """`libvirt-qemu-x86` or, with KVM, `libvirt-kvm-x86`."""
        here = self.machine
        title = f"Libvirt {self.kind.upper()} ({here.key})"
        if self.kind == "qemu" and self.arch != "x86_64":
            title += ", TCG stand-in"
        return f"libvirt-{self.kind}-{here.key}", title

    def boot_arguments(self) -> str:
        """What the kernel is told before the guest's own arguments."""
        # Without mitigations a guest boots in half the time where the processor is emulated.
        return f"console={self.machine.console} quiet panic=-1 mitigations=off"

    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for.

        Raises:
            CallerFault: Neither kernel nor disk, or another machine's.
            Unsupported: This machine type has no such thing.
        """
        image = spec.image
        if image.arch != self.arch:
            raise CallerFault(
                f"the image of {spec.name} is for {image.arch}, this connection is for {self.arch}",
                hint=f"connect with ?arch={image.arch}",
            )
        if image.kernel is None and image.disk is None:
            raise CallerFault(f"the image of {spec.name} has neither kernel nor disk")
        if spec.graphics not in ("", "vnc", "spice"):
            raise CallerFault(f"{spec.graphics!r} is no screen", hint="use vnc or spice")
        if spec.firmware not in ("bios", "uefi"):
            raise CallerFault(f"{spec.firmware!r} is no firmware", hint="use bios or uefi")
        if spec.stateless and spec.firmware != "uefi":
            raise CallerFault("only UEFI can be stateless", hint="ask for the firmware uefi")
        wanted = {
            Feature.UEFI_BOOT: spec.firmware == "uefi",
            Feature.BOOT_STATELESS_FIRMWARE: spec.stateless,
            Feature.BOOT_EMULATED_TPM: spec.tpm,
        }
        for feature, asked in wanted.items():
            if asked and feature in self.machine.missing:
                raise Unsupported(feature, self.machine.missing[feature])

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new domain."""
        root = element(
            "domain",
            element("name", content=spec.name),
            element("memory", content=str(spec.memory_mib), unit="MiB"),
            element("vcpu", content=str(spec.cpus)),
            *self._memory(spec),
            self._boot(spec, parts),
            *self._features(spec),
            element("on_reboot", content="restart"),
            element("on_crash", content="destroy"),
            element("devices", *self._devices(spec, parts)),
            type=self.kind,
        )
        return text(root)

    def _memory(self, spec: GuestSpec) -> list[Element]:
        if not spec.memory_file:
            return []
        return [
            element(
                "memoryBacking", element("source", type="file"), element("access", mode="shared")
            )
        ]

    def _boot(self, spec: GuestSpec, parts: Parts) -> Element:
        here = self.machine
        uefi = spec.firmware == "uefi"
        chosen = uefi and not spec.stateless
        boot = element(
            "os",
            element(
                "type", content="hvm", arch=self.arch, machine=here.uefi if uefi else here.machine
            ),
            firmware="efi" if chosen else "",
        )
        if spec.stateless:
            boot.append(element("loader", content=STATELESS_FIRMWARE, type="rom", stateless="yes"))
        if chosen:
            boot.append(element("firmware", element("feature", enabled="no", name="secure-boot")))
        if parts.kernel:
            words = f"{self.boot_arguments()} {spec.kernel_arguments}".strip()
            boot.append(element("kernel", content=parts.kernel))
            if parts.initrd:
                boot.append(element("initrd", content=parts.initrd))
            boot.append(element("cmdline", content=words))
        boot.append(element("boot", dev="hd"))
        return boot

    def _features(self, spec: GuestSpec) -> list[Element]:
        made, model = [], self.machine.cpu
        if self.arch == "x86_64":
            made.append(element("features", element("acpi"), element("apic")))
        elif spec.firmware == "uefi":
            made.append(element("features", element("acpi")))
        if self.kind == "kvm":
            made.append(element("cpu", mode="host-passthrough"))
        elif model:
            made.append(
                element("cpu", element("model", content=model), mode="custom", match="exact")
            )
        return made

    def _devices(self, spec: GuestSpec, parts: Parts) -> list[Element]:
        serial = "root" if spec.root is None else spec.root.name
        devices = [self._file(parts.disk, "qcow2", "vda", serial=serial)]
        if spec.firmware == "uefi" or self.machine.ports:
            devices += [element("controller", type="pci", model="pcie-root")]
            devices += [
                element("controller", type="pci", model="pcie-root-port")
                for _ in range(_PORTS + len(spec.nics))
            ]
        devices.append(element("controller", type="scsi", model="virtio-scsi"))
        if parts.config_drive:
            devices.append(
                element(
                    "disk",
                    element("driver", name="qemu", type="raw"),
                    element("source", file=parts.config_drive),
                    element("target", dev="sda", bus="scsi"),
                    element("readonly"),
                    type="file",
                    device="cdrom",
                )
            )
        devices += [self._card(nic, parts.bridge) for nic in spec.nics]
        devices += self._lines(parts)
        devices += self._screen(spec)
        if spec.tpm:
            backend = element("backend", type="emulator", version="2.0")
            devices.append(element("tpm", backend, model=self.machine.tpm))
        backend = element("backend", content="/dev/urandom", model="random")
        return [*devices, element("rng", backend, model="virtio")]

    def _lines(self, parts: Parts) -> list[Element]:
        """The serial line with its log, and the guest agent's channel."""
        log = element("log", file=parts.log, append="on")
        if self.machine.console_only:
            line = element("console", log, element("target", type="sclp"), type="pty")
        else:
            line = element("serial", log, type="pty")
        agent = element(
            "channel", element("target", type="virtio", name=AGENT_CHANNEL), type="unix"
        )
        return [line, agent]

    def _screen(self, spec: GuestSpec) -> list[Element]:
        if not spec.graphics:
            return [element("video", element("model", type="none"))]
        return [
            element("graphics", type=spec.graphics, autoport="yes", listen="127.0.0.1"),
            element("video", element("model", type=self.machine.screen)),
        ]

    def _file(
        self, path: str, form: str, target: str, *, serial: str = "", shared: bool = False
    ) -> Element:
        driver = element("driver", name="qemu", type=form, cache="none" if shared else "")
        disk = element(
            "disk",
            driver,
            element("source", file=path),
            element("target", dev=target, bus="virtio"),
            type="file",
            device="disk",
        )
        if serial:
            disk.append(element("serial", content=serial[:SERIAL_CHARS]))
        if shared:
            disk.append(element("shareable"))
        return disk

    def disk(self, volume: Volume, target: str, *, secret: str = "") -> str:
        """`<disk>` of a volume; its serial is the volume's name, cut."""
        if volume.source:
            return text(self._remote(volume, target, secret))
        form = "raw" if secret else volume.format.value
        disk = self._file(volume.path, form, target, serial=volume.name, shared=volume.shared)
        source = disk.find("source")
        if secret and source is not None:
            key = element("secret", type="passphrase", uuid=secret)
            source.append(element("encryption", key, format="luks"))
        return text(disk)

    def _remote(self, volume: Volume, target: str, secret: str) -> Element:
        """A disk that QEMU itself reaches on an iSCSI target."""
        where = urlsplit(volume.source)
        host = element("host", name=where.hostname or "", port=str(where.port or ISCSI_PORT))
        source = element("source", host, protocol="iscsi", name=place(volume))
        if secret:
            key = element("secret", type="iscsi", uuid=secret)
            source.append(element("auth", key, username=volume.user))
        return element(
            "disk",
            element("driver", name="qemu", type="raw"),
            source,
            element("target", dev=target, bus="virtio"),
            element("serial", content=volume.name[:SERIAL_CHARS]),
            type="network",
            device="disk",
        )

    def nic(self, nic: Nic, bridge: str) -> str:
        """`<interface>` of a virtio card."""
        return text(self._card(nic, bridge))

    def _card(self, nic: Nic, bridge: str) -> Element:
        card = element("interface", element("mac", address=nic.mac))
        wire(card, nic, bridge, "user")
        card.append(element("model", type="virtio"))
        if self.arch == "x86_64":
            # Without a boot ROM the firmware has one thing less to look for.
            card.append(element("rom", enabled="no"))
        return card


class QemuHypervisor(LibvirtHypervisor):
    """QEMU and KVM."""

    missing: ClassVar[Mapping[Feature, str]] = {
        Feature.MAINTENANCE_MODE: "libvirt has no maintenance mode of a host",
        Feature.CONSOLE_RDP: "QEMU has no RDP server",
        Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "needs a fibre channel adapter and fabric",
        Feature.BOOT_ENCRYPTED_VM: "needs a processor with AMD SEV or Intel TDX",
        Feature.PORT_WITH_RESOURCE_REQUEST: (
            "needs SR-IOV cards or a network that guarantees bandwidth"
        ),
        Feature.TRUSTED_CERTS: "the image service's signatures are Nova's to check",
        Feature.GUEST_DISK_AUTOCONFIG: (
            "QEMU gives a disk its size; partitions and file systems on it are the guest's"
        ),
        Feature.NETWORKING_TOPOLOGY_VLAN: "libvirt tags frames on Open vSwitch and SR-IOV only",
    }

    def _domain_capabilities(self) -> str:
        """What the host offers to guests of this machine."""
        flavour = self.flavour
        if not isinstance(flavour, QemuFlavour):
            return super()._domain_capabilities()
        asked = (None, flavour.arch, flavour.machine.machine, flavour.kind)
        return str(self.link.conn.getDomainCapabilities(*asked))


class S390x(QemuHypervisor):
    """QEMU with guests of s390x, a stand-in."""

    missing: ClassVar[Mapping[Feature, str]] = {
        **QemuHypervisor.missing,
        **MACHINES["s390x"].missing,
    }

    @operation(Feature.REBOOT)
    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Let a guest boot anew, emulated ones as Nova does it: it ends, and is started.

        After a reset QEMU 7.2 runs an emulated s390x guest that never comes up again.
        """
        if not isinstance(self.flavour, QemuFlavour) or self.flavour.kind == "kvm":
            super().reboot(name, hard=hard)
            return
        if hard:
            self.power_off(name)
        else:
            self.shutdown(name)
        self.start(name)


class Ppc64(QemuHypervisor):
    """QEMU with guests of ppc64le, a stand-in."""

    missing: ClassVar[Mapping[Feature, str]] = {
        **QemuHypervisor.missing,
        **MACHINES["ppc64le"].missing,
    }


class Aarch64(QemuHypervisor):
    """QEMU with guests of aarch64, a stand-in."""

    missing: ClassVar[Mapping[Feature, str]] = {
        **QemuHypervisor.missing,
        **MACHINES["aarch64"].missing,
    }


_ADAPTERS: Mapping[str, type[QemuHypervisor]] = {
    "x86_64": QemuHypervisor,
    "s390x": S390x,
    "ppc64le": Ppc64,
    "aarch64": Aarch64,
}


def connected(link: Link) -> LibvirtHypervisor:
    """The adapter for a connection to libvirt's QEMU driver.

    Raises:
        CallerFault: The URL asks for a type or a machine that there is not.
    """
    arch = link.options.get("arch") or str(link.conn.getInfo()[0])
    if arch not in MACHINES:
        raise CallerFault(
            f"{arch} guests are not known here", hint=f"use ?arch={' or '.join(MACHINES)}"
        )
    kind = link.options.get("type", "")
    if kind not in ("", "qemu", "kvm"):
        raise CallerFault(f"?type={kind} is no type of QEMU's", hint="use qemu or kvm")
    kind = kind or ("kvm" if kvm_works(link, arch) else "qemu")
    return _ADAPTERS[arch](link, QemuFlavour(kind=kind, arch=arch))
