# SPDX-License-Identifier: Apache-2.0
"""What a hypervisor is asked for, and what it says: values without behaviour or connection.

Who uses hypervisors takes them from `nodes.hypervisors.base`, beside the seam itself.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ci.model.feature import Feature
from ci.model.result import Grade

PREFIX = "hv-"
"""Begins the name of every guest, volume and network that we make."""

INTERFACES = "/etc/network/interfaces"
"""Debian's file of a guest's cards and their addresses, which Nova's drivers injected."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a URL must not hold.

    Attributes:
        work: Directory on this machine for sockets, logs and disks of guests; made when needed.
        grade: How real the hypervisor is.
        key_file: Private key, where the URL leads over SSH.
        known_hosts: File with the pinned host key; unknown keys are refused.
        password: Of the URL's user, where the hypervisor has an API of its own.
        ca_file: Certificates that sign the API's own; without one, this machine's.
        certificate: SHA-256 of the API's certificate, in hexadecimal: then no other is taken.
        timeout_s: Seconds that one call may take to show its effect.
        marks: Directory that outlives `work`, for notes on what is ours; `work` by default.
    """

    work: Path
    grade: Grade = Grade.NONE
    key_file: Path | None = None
    known_hosts: Path | None = None
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate: str = ""
    timeout_s: float = 120.0
    marks: Path | None = None


class GuestState(StrEnum):
    """What a hypervisor says of a guest."""

    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # not running, its memory is kept on disk
    SHUTOFF = "shutoff"
    CRASHED = "crashed"


class DiskFormat(StrEnum):
    """Formats of disk images; an adapter converts to what its hypervisor needs."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHDX = "vhdx"
    VMDK = "vmdk"


@dataclass(frozen=True, kw_only=True)
class GuestImage:
    """What a guest boots; see `nodes.images.tiny` for ours.

    Attributes:
        arch: Machine name as `uname -m` gives it.
        kernel: Linux kernel, or None where only containers or disks are booted.
        initrd: Its initial RAM disk, the whole guest system.
        root: The same system as a tar file, for containers.
        disk: A bootable disk, or None.
        disk_format: Of `disk`.
        id: The image service's; a cached image is known by it.
        properties: Glance's image properties: `hypervisor_type`, `vm_mode`, checked by launch.
    """

    arch: str = "x86_64"
    kernel: Path | None = None
    initrd: Path | None = None
    root: Path | None = None
    disk: Path | None = None
    disk_format: DiskFormat = DiskFormat.QCOW2
    id: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    def cache_name(self) -> str:
        """What a cached image is kept as; an id may hold anything."""
        return f"{PREFIX}image-{hashlib.sha256(self.id.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a security group lets in: `icmp`, or `tcp` and `udp` to a port."""

    protocol: str
    port: int = 0


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card.

    Attributes:
        mac: Its hardware address.
        tag: Told to the guest where device tags work.
        network: One made by `create_network`; the hypervisor's usual one when empty.
        rules: All that may reach the guest by it; None lets everything in. What the guest
            itself begins is let out, and its answers in.
    """

    mac: str
    tag: str = ""
    network: str = ""
    rules: tuple[Rule, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A block volume that can be attached.

    Attributes:
        name: Begins with PREFIX.
        size_mib: Its size.
        path: Where the hypervisor has it; opaque to callers.
        format: On the hypervisor's side.
        shared: Made so that several guests may have it at once.
        secret: Passphrase of an encrypted one; with `user`, the target's.
        source: `iscsi://HOST:PORT/IQN/LUN` of one that is not the hypervisor's own but a
            target's, raw; it is attached, and never made or removed here.
        user: Whom the target asks for by CHAP; nobody when empty.
    """

    name: str
    size_mib: int
    path: str = ""
    format: DiskFormat = DiskFormat.QCOW2
    shared: bool = False
    secret: str = ""
    source: str = ""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestSpec:
    """A guest to be made.

    Attributes:
        name: Begins with PREFIX; letters, digits and `-`, at most 40 characters.
        image: What it boots.
        memory_mib: RAM.
        cpus: Virtual processors.
        kernel_arguments: After the console's own.
        nics: Network cards, the first is eth0.
        config_drive: Files of a config drive (`openstack/latest/meta_data.json`: content), or
            None for no drive. The volume's label is `config-2`.
        files: Files put into the guest's disk or root before it boots, by absolute path.
        graphics: `vnc`, `spice` or empty.
        firmware: `bios` or `uefi`.
        stateless: Firmware that keeps no variables over a power cycle.
        tpm: An emulated TPM 2.0.
        memory_file: Memory backed by a file.
        root: A volume for its first disk, instead of one that is made for it: `delete` leaves
            it, `rebuild` writes it anew.
    """

    name: str
    image: GuestImage
    memory_mib: int = 192
    cpus: int = 1
    kernel_arguments: str = ""
    nics: tuple[Nic, ...] = ()
    config_drive: Mapping[str, bytes] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    graphics: str = ""
    firmware: str = "bios"
    stateless: bool = False
    tpm: bool = False
    memory_file: bool = False
    root: Volume | None = None

    def asks_for(self) -> tuple[Feature, ...]:
        """Every row of the matrix that it takes, beyond a plain guest."""
        screens = {one.value for one in Feature if one.value.startswith("console.")}
        screen = f"console.{self.graphics}"
        wanted = {
            Feature.UEFI_BOOT: self.firmware == "uefi",
            Feature.BOOT_STATELESS_FIRMWARE: self.stateless,
            Feature.BOOT_EMULATED_TPM: self.tpm,
            Feature.FILE_BACKED_MEMORY: self.memory_file,
            Feature.GUEST_SETUP_CONFIGDRIVE: self.config_drive is not None,
            Feature.GUEST_SETUP_INJECT_FILE: bool(self.files),
            Feature.GUEST_SETUP_INJECT_NETWORKING: INTERFACES in self.files,
            Feature.REBUILD_VOLUME_BACKED: self.root is not None,
            Feature.DEVICE_TAGS: any(nic.tag for nic in self.nics),
            Feature.NETWORKING_TOPOLOGY_FLAT: any(nic.network for nic in self.nics),
            Feature.NETWORKING_SECURITYGROUPS: any(nic.rules is not None for nic in self.nics),
        }
        if screen in screens:
            wanted[Feature(screen)] = True
        return tuple(feature for feature, is_asked in wanted.items() if is_asked)


@dataclass(frozen=True, kw_only=True)
class GuestInfo:
    """What a hypervisor says of a guest: state, memory and processors it has now.

    Perhaps also the names of our attached `volumes`, its cards' `macs` in lower case, its `host`.
    """

    state: GuestState
    memory_mib: int
    cpus: int
    volumes: frozenset[str] | None = None
    macs: frozenset[str] | None = None
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where a guest's screen is: `vnc` or `spice` or `rdp` on host and port."""

    kind: str
    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class HostStatus:
    """What a host says of itself.

    Attributes:
        hostname: Its name.
        address: An address of it.
        uptime_s: Seconds since it booted.
        memory_mib: All it has.
        cpus: All it has.
        cpu_traits: Flags or model, lower case.
    """

    hostname: str
    address: str
    uptime_s: float
    memory_mib: int
    cpus: int
    cpu_traits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything on a hypervisor, by name; what a build left is the difference of two."""

    guests: Mapping[str, GuestState] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()
