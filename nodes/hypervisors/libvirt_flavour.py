# SPDX-License-Identifier: Apache-2.0
"""What differs between libvirt's drivers: the domain's XML, its devices, and how it is asked.

The core (`nodes.hypervisors.libvirt_core`) does every operation by libvirt's API. A flavour says
how a domain of one type looks. A driver is added in three steps:

1. a Flavour, with the XML;
2. a subclass of LibvirtHypervisor whose `missing` names what the driver cannot do, with the
   reason: a call for such a feature raises Unsupported before anything is tried. It overrides
   those hooks and calls that its driver needs otherwise;
3. a function `(link) -> LibvirtHypervisor` in the table of `nodes.hypervisors.libvirt`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nodes.hypervisors.base import GuestSpec, Nic, Volume


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where a guest's files are on the host; empty where it has none.

    Attributes:
        kernel: Its Linux kernel.
        initrd: Its initial RAM disk.
        disk: Its first disk, qcow2: the image's, or an empty one.
        root: Its root directory, for containers.
        config_drive: ISO image of the config drive.
        log: What its serial line says is written here.
        bridge: Network bridge of the host for its cards; empty for user-mode networking.
    """

    kernel: str = ""
    initrd: str = ""
    disk: str = ""
    root: str = ""
    config_drive: str = ""
    log: str = ""
    bridge: str = ""


class Flavour(ABC):
    """How domains of one driver look. Without state; safe from any thread.

    Attributes:
        hypervisor_types: Values of Glance's `hypervisor_type` that fit, lower case.
        vm_modes: Values of Glance's `vm_mode` that fit.
        disk_prefix: Targets of disks: `vd` for vda, vdb, ...
        shutdown_flags: For virDomainShutdownFlags; the guest is asked.
        reboot_flags: For virDomainReboot; the guest is asked.
        live: Whether devices are attached to the running guest and its definition (else only
            to the running guest).
    """

    hypervisor_types: ClassVar[frozenset[str]]
    vm_modes: ClassVar[frozenset[str]] = frozenset({"hvm"})
    disk_prefix: ClassVar[str] = "vd"
    shutdown_flags: ClassVar[int] = 0
    reboot_flags: ClassVar[int] = 0
    live: ClassVar[bool] = True

    @abstractmethod
    def column(self) -> tuple[str, str]:
        """Key and title of the matrix's column: `libvirt-qemu-x86`, `Libvirt QEMU (x86)`."""

    @abstractmethod
    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for before anything is made.

        Image properties were looked at by the core.

        Raises:
            CallerFault: It cannot be a guest of this flavour: no kernel, another machine.
            Unsupported: This driver has no such thing.
        """

    @abstractmethod
    def domain(self, spec: GuestSpec, parts: Parts) -> str:
        """The whole XML of a new domain, of which `<name>` is the guest's name.

        Args:
            spec: What was asked for; it passed `check`.
            parts: Where its files are by now.
        """

    @abstractmethod
    def disk(self, volume: Volume, target: str, *, secret: str = "") -> str:
        """`<disk>` of a volume.

        Args:
            volume: Its `path` is a file of the host.
            target: A free device name, as `vdb`.
            secret: UUID of libvirt's secret with the passphrase of an encrypted volume.
        """

    @abstractmethod
    def nic(self, nic: Nic, bridge: str) -> str:
        """`<interface>` of a card; `bridge` is empty for user-mode networking."""

    def boot_arguments(self) -> str:
        """What a kernel is told before the guest's own arguments; its console, for instance."""
        return ""

    def versions(self) -> Mapping[str, str]:
        """More about the system than libvirt, hypervisor and kernel tell; by default nothing."""
        return {}
