# SPDX-License-Identifier: Apache-2.0
"""QEMU under libvirt: accelerated by KVM or emulated, x86, s390x and ppc64le."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestSpec, Nic, Volume
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.libvirt_core import LibvirtHypervisor
from nodes.hypervisors.libvirt_flavour import Flavour, Parts
from nodes.hypervisors.libvirt_kvm import kvm_works
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_xml import Element, element, text

AGENT_CHANNEL = "org.qemu.guest_agent.0"
SERIAL_CHARS = 20
"""Of a virtio disk's serial number, the longest that guests are told."""

_PORTS = 14


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What an architecture's guests are like.

    Attributes:
        key: Part of the column's key.
        title: Part of its title.
        machine: QEMU's machine type.
        console: The kernel's console argument.
        screen: Model of its screen; empty where it has none.
    """

    key: str
    title: str
    machine: str
    console: str
    screen: str = ""


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(key="x86", title="x86", machine="pc", console="ttyS0", screen="vga"),
    "ppc64le": Machine(key="ppc64", title="ppc64", machine="pseries", console="hvc0", screen="vga"),
    "s390x": Machine(key="s390x", title="s390x", machine="s390-ccw-virtio", console="ttysclp0"),
}


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
        return f"libvirt-{self.kind}-{here.key}", f"Libvirt {self.kind.upper()} ({here.title})"

    def boot_arguments(self) -> str:
        """What the kernel is told before the guest's own arguments."""
        return f"console={self.machine.console} quiet panic=-1"

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
        wanted = {
            Feature.UEFI_BOOT: spec.firmware == "uefi",
            Feature.BOOT_EMULATED_TPM: spec.tpm,
            Feature.CONSOLE_VNC: spec.graphics == "vnc",
            Feature.CONSOLE_SPICE: spec.graphics == "spice",
        }
        for feature, asked in wanted.items():
            if asked and self.arch != "x86_64":
                raise Unsupported(feature, f"not made for {self.arch} guests by this adapter")

    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new domain."""
        root = element(
            "domain",
            element("name", content=spec.name),
            element("memory", content=str(spec.memory_mib), unit="MiB"),
            element("vcpu", content=str(spec.cpus)),
            *self._memory(spec),
            self._boot(spec, parts),
            *self._features(),
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
        machine = self.machine.machine
        uefi = spec.firmware == "uefi"
        boot = element(
            "os",
            element("type", content="hvm", arch=self.arch, machine="q35" if uefi else machine),
            firmware="efi" if uefi else "",
        )
        if uefi:
            boot.append(element("firmware", element("feature", enabled="no", name="secure-boot")))
        if parts.kernel:
            words = f"{self.boot_arguments()} {spec.kernel_arguments}".strip()
            boot.append(element("kernel", content=parts.kernel))
            if parts.initrd:
                boot.append(element("initrd", content=parts.initrd))
            boot.append(element("cmdline", content=words))
        boot.append(element("boot", dev="hd"))
        return boot

    def _features(self) -> list[Element]:
        made = []
        if self.arch == "x86_64":
            made.append(element("features", element("acpi"), element("apic")))
        if self.kind == "kvm":
            made.append(element("cpu", mode="host-passthrough"))
        elif self.arch == "ppc64le":
            made.append(
                element("cpu", element("model", content="POWER9"), mode="custom", match="exact")
            )
        return made

    def _devices(self, spec: GuestSpec, parts: Parts) -> list[Element]:
        devices = [self._file(parts.disk, "qcow2", "vda", serial="root")]
        if spec.firmware == "uefi":
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
            devices.append(element("tpm", backend, model="tpm-crb"))
        backend = element("backend", content="/dev/urandom", model="random")
        return [*devices, element("rng", backend, model="virtio")]

    def _lines(self, parts: Parts) -> list[Element]:
        """The serial line with its log, and the guest agent's channel."""
        log = element("log", file=parts.log, append="on")
        if self.arch == "s390x":
            line = element("console", log, element("target", type="sclp"), type="pty")
        else:
            line = element("serial", log, type="pty")
        agent = element(
            "channel", element("target", type="virtio", name=AGENT_CHANNEL), type="unix"
        )
        return [line, agent]

    def _screen(self, spec: GuestSpec) -> list[Element]:
        if not spec.graphics:
            if not self.machine.screen:
                return []
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
        form = "raw" if secret else volume.format.value
        disk = self._file(volume.path, form, target, serial=volume.name, shared=volume.shared)
        source = disk.find("source")
        if secret and source is not None:
            key = element("secret", type="passphrase", uuid=secret)
            source.append(element("encryption", key, format="luks"))
        return text(disk)

    def nic(self, nic: Nic, bridge: str) -> str:
        """`<interface>` of a virtio card."""
        return text(self._card(nic, bridge))

    def _card(self, nic: Nic, bridge: str) -> Element:
        card = element("interface", type="bridge" if bridge else "user")
        card.append(element("mac", address=nic.mac))
        if bridge:
            card.append(element("source", bridge=bridge))
        card.append(element("model", type="virtio"))
        if self.arch == "x86_64":
            # Without a boot ROM the firmware has one thing less to look for.
            card.append(element("rom", enabled="no"))
        return card


_NO_CALL = "this adapter has no call for it"
_OUTSIDE = "belongs to the network service, not to the hypervisor: no call in this adapter"


class QemuHypervisor(LibvirtHypervisor):
    """QEMU and KVM."""

    missing: ClassVar[Mapping[Feature, str]] = {
        Feature.MAINTENANCE_MODE: "libvirt has no maintenance mode of a host",
        Feature.CONSOLE_RDP: "QEMU has no RDP server",
        Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "needs a fibre channel adapter and fabric",
        Feature.STORAGE_BLOCK_BACKEND_ISCSI: "no call in this adapter for a volume on a target",
        Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: (
            "no call in this adapter for a volume on a target"
        ),
        Feature.BOOT_ENCRYPTED_VM: "needs a processor with AMD SEV or Intel TDX",
        Feature.BOOT_STATELESS_FIRMWARE: "no call in this adapter; needs firmware made for SEV",
        Feature.PORT_WITH_RESOURCE_REQUEST: (
            "needs SR-IOV cards or a network that guarantees bandwidth"
        ),
        Feature.TRUSTED_CERTS: "the image service's signatures are Nova's to check",
        Feature.CACHE_IMAGES: _NO_CALL,
        Feature.REBUILD_VOLUME_BACKED: _NO_CALL,
        Feature.GUEST_SETUP_INJECT_NETWORKING: _NO_CALL,
        Feature.NETWORKING_FIREWALLRULES: _OUTSIDE,
        Feature.NETWORKING_ROUTING: _OUTSIDE,
        Feature.NETWORKING_SECURITYGROUPS: _OUTSIDE,
        Feature.NETWORKING_TOPOLOGY_FLAT: _OUTSIDE,
        Feature.NETWORKING_TOPOLOGY_VLAN: _OUTSIDE,
    }


class OtherMachine(QemuHypervisor):
    """QEMU with guests of s390x or ppc64le."""

    missing: ClassVar[Mapping[Feature, str]] = {
        **QemuHypervisor.missing,
        **dict.fromkeys(
            (
                Feature.UEFI_BOOT,
                Feature.BOOT_EMULATED_TPM,
                Feature.CONSOLE_VNC,
                Feature.CONSOLE_SPICE,
            ),
            "not made for guests of this machine by this adapter",
        ),
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
    make = QemuHypervisor if arch == "x86_64" else OtherMachine
    return make(link, QemuFlavour(kind=kind, arch=arch))
