# SPDX-License-Identifier: Apache-2.0
"""The seam to hypervisors: facts, inventory, and the rows of Nova's support matrix as calls.

Lifecycle, driven by a suite, a probe or the leak inventory:

1. `nodes.hypervisors.table.connect(url, access)` gives a connected Hypervisor.
2. `launch(spec)` makes a guest and starts it; it returns once the hypervisor says that it
   runs, which is before the guest has booted: what happens inside is told by its console.
3. Calls for one guest come one at a time, those for different guests perhaps at once, from
   several threads. Each call returns when its effect can be seen, or raises.
4. `delete(name)` ends a guest and removes whatever `launch` and later calls made for it:
   disks, snapshots, memory, logs. Volumes, networks, cached images have calls of their own.
5. `close()` gives the connection back; guests go on. Repeatable, never raises.

What may be repeated, and succeeds: `delete`, `delete_volume`, `delete_network`, `forget_image`,
`power_off`, `close`, `cleanup`, `pause` of what is paused, `unpause` and `start` of what runs.

Ours and not ours: names of guests, volumes and networks that we make begin with `PREFIX`.
`inventory` lists everything, `cleanup` removes only what carries the prefix.

Errors: see `nodes.hypervisors.faults`. What a system cannot do raises Unsupported with the
feature and the reason; an adapter says so without trying, in `missing`, or after trying.
Everything waits for a bounded time and then raises TransientFault or NodeFault.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol

from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.faults import Unsupported

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


class Console(Protocol):
    """A guest's serial line, both ways. Not thread-safe."""

    def write(self, data: bytes) -> None:
        """Send bytes to the guest."""
        ...

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`, perhaps nothing; raises EOFError once it is over."""
        ...

    def close(self) -> None:
        """Let go of it; repeatable."""
        ...


class Hypervisor(ABC):
    """One connected hypervisor; see the module's text for the contract.

    Attributes:
        missing: Features that it cannot do, or that have no call here, each with the reason.
        migrates_within: Whether a guest can be migrated live to the very same host.
        runs_guests: Whether guests can be asked; behind a stand-in nobody does.
        boots_disks: Whether its guests boot a disk and no kernel.
        guests_at_once: How many it has room for; 0 where there is no such number.
    """

    missing: ClassVar[Mapping[Feature, str]] = {}
    migrates_within: ClassVar[bool] = False
    runs_guests: ClassVar[bool] = True
    boots_disks: ClassVar[bool] = False
    guests_at_once: int = 0

    def refuse_missing(self, spec: GuestSpec) -> None:
        """Look whether a guest asks for something that is missing; for adapters' `launch`.

        Raises:
            Unsupported: It does.
        """
        for feature in spec.asks_for():
            if feature in self.missing:
                self.cannot(feature)

    def cannot(self, feature: Feature) -> NoReturn:
        """Say that a feature is not to be had here.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported(feature, self.missing.get(feature, "this adapter has no call for it"))

    @abstractmethod
    def system(self) -> System:
        """Which column of the matrix this is, its grade and its versions."""

    @abstractmethod
    def status(self) -> HostStatus:
        """What the host says of itself."""

    @abstractmethod
    def inventory(self) -> Inventory:
        """Everything on it, ours and others'."""

    @abstractmethod
    def cleanup(self) -> tuple[str, ...]:
        """Remove every guest and volume that begins with PREFIX; returns their names."""

    @abstractmethod
    def close(self) -> None:
        """Give the connection back; repeatable, never raises."""

    # Guests ------------------------------------------------------------------------------

    @abstractmethod
    def launch(self, spec: GuestSpec) -> None:
        """Make and start a guest.

        Raises:
            CallerFault: The name is taken or wrong, the image's format or its properties do
                not fit this hypervisor, a file of it is missing.
        """

    @abstractmethod
    def info(self, name: str) -> GuestInfo:
        """State, memory and processors of a guest.

        Raises:
            CallerFault: There is no such guest.
        """

    @abstractmethod
    def power_off(self, name: str) -> None:
        """End a guest at once, as a pulled plug would; it can be started again."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """End and remove a guest with all that was made for it; repeatable."""

    @abstractmethod
    def console(self, name: str) -> Console:
        """The guest's serial line."""

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """The last bytes that the guest wrote on its serial line since it was started."""
        del name, limit_bytes
        self.cannot(Feature.CONSOLE_SERIAL_LOG)

    def start(self, name: str) -> None:
        """Start a guest that is shut off."""
        del name
        self.cannot(Feature.REBOOT)

    def shutdown(self, name: str) -> None:
        """Ask a guest to end itself (ACPI, or what this system has), and wait until it did."""
        del name
        self.cannot(Feature.TERMINATE)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Let a guest boot anew, by asking it or, hard, by a reset."""
        del name, hard
        self.cannot(Feature.REBOOT)

    def pause(self, name: str) -> None:
        """Stop a guest's processors; its memory stays in memory."""
        del name
        self.cannot(Feature.PAUSE)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        del name
        self.cannot(Feature.UNPAUSE)

    def suspend(self, name: str) -> None:
        """Write a guest's memory to disk and end it."""
        del name
        self.cannot(Feature.SUSPEND)

    def resume(self, name: str) -> None:
        """Start a suspended guest with the memory it had."""
        del name
        self.cannot(Feature.RESUME)

    def snapshot(self, name: str, tag: str) -> None:
        """Keep the state of a guest's disks under a name."""
        del name, tag
        self.cannot(Feature.SNAPSHOT)

    def revert(self, name: str, tag: str) -> None:
        """Go back to a snapshot; the guest runs afterwards."""
        del name, tag
        self.cannot(Feature.SNAPSHOT)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Give a guest another size; it may be restarted for it, and runs afterwards."""
        del name, memory_mib, cpus
        self.cannot(Feature.RESIZE)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Put another image under a guest that keeps its name and cards; it runs afterwards."""
        del name, image
        self.cannot(Feature.REBUILD)

    def cache_image(self, image: GuestImage) -> bool:
        """Put an image onto the host; whether anything had to be copied.

        Until `forget_image`, launches of an image with this `id` take no file of it from here.

        Raises:
            CallerFault: It has no `id`, or a file of it is missing.
        """
        del image
        self.cannot(Feature.CACHE_IMAGES)

    def forget_image(self, image: GuestImage) -> None:
        """Remove a cached image that no guest uses; repeatable."""
        del image
        self.cannot(Feature.CACHE_IMAGES)

    def rescue(self, name: str, image: GuestImage) -> None:
        """Boot a guest from another image, its own disks attached."""
        del name, image
        self.cannot(Feature.RESCUE)

    def unrescue(self, name: str) -> None:
        """Boot a rescued guest from its own image again."""
        del name
        self.cannot(Feature.RESCUE)

    def set_admin_password(self, name: str, password: str) -> None:
        """Set root's password inside a guest."""
        del name, password
        self.cannot(Feature.SET_ADMIN_PASSWORD)

    def quiesce(self, name: str) -> None:
        """Freeze a guest's file systems."""
        del name
        self.cannot(Feature.QUIESCE)

    def unquiesce(self, name: str) -> None:
        """Thaw them."""
        del name
        self.cannot(Feature.UNQUIESCE)

    def crash_dump(self, name: str) -> int:
        """Make a dump of a guest's memory; returns its bytes. The dump is removed by `delete`."""
        del name
        self.cannot(Feature.TRIGGER_CRASH_DUMP)

    def screen(self, name: str, kind: str) -> Screen:
        """Where a guest's screen is, for `vnc`, `spice` or `rdp`."""
        del name
        self.cannot(Feature(f"console.{kind}"))

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """Make an empty volume; `shared` for several guests, `secret` encrypts it."""
        del name, size_mib, shared, secret
        self.cannot(Feature.ATTACH_VOLUME)

    def delete_volume(self, volume: Volume) -> None:
        """Remove a volume; repeatable."""
        del volume
        self.cannot(Feature.ATTACH_VOLUME)

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """The first bytes of a volume as the host sees them, while no guest writes to it."""
        del volume, count
        self.cannot(Feature.STORAGE_BLOCK)

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Attach a volume to a running guest."""
        del name, volume, tag
        self.cannot(Feature.ATTACH_VOLUME)

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Detach it; it is gone from the guest when this returns."""
        del name, volume
        self.cannot(Feature.DETACH_VOLUME)

    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """Make an attached volume larger under the running guest; gives it with its new size."""
        del name, volume, size_mib
        self.cannot(Feature.EXTEND_VOLUME)

    def swap_volume(self, name: str, old: Volume, new: Volume) -> None:
        """Copy an attached volume to another one and put that in its place, under the guest."""
        del name, old, new
        self.cannot(Feature.SWAP_VOLUME)

    def limit_volume(self, name: str, volume: Volume, bytes_per_s: int) -> None:
        """Limit what a guest reads and writes on an attached volume; 0 takes the limit away."""
        del name, volume, bytes_per_s
        self.cannot(Feature.GUEST_DISK_RATE_LIMIT)

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Attach a network card to a running guest."""
        del name, nic
        self.cannot(Feature.ATTACH_INTERFACE)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """Detach it; it is gone from the guest when this returns."""
        del name, nic
        self.cannot(Feature.DETACH_INTERFACE)

    def update_interface(self, name: str, nic: Nic) -> None:
        """Give an attached card, known by its hardware address, other `rules`, at once."""
        del name, nic
        self.cannot(Feature.NETWORKING_SECURITYGROUPS)

    def create_network(self, name: str) -> None:
        """Make a network whose cards reach each other; the name begins with PREFIX."""
        del name
        self.cannot(Feature.NETWORKING_TOPOLOGY_FLAT)

    def delete_network(self, name: str) -> None:
        """Remove a network that no guest uses; repeatable."""
        del name
        self.cannot(Feature.NETWORKING_TOPOLOGY_FLAT)

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: "Hypervisor", *, block: bool = False) -> None:
        """Move a running guest to another host, with its disks where `block` is true."""
        del name, to, block
        self.cannot(Feature.LIVE_MIGRATE)

    def begin_live_migration(self, name: str, to: "Hypervisor") -> None:
        """The same, so slowly that it can be aborted or forced; returns at once."""
        del name, to
        self.cannot(Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)

    def abort_live_migration(self, name: str) -> None:
        """End one that goes on: the guest stays here."""
        del name
        self.cannot(Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)

    def force_live_migration(self, name: str) -> None:
        """Let one that goes on end soon, at the price of a pause or of post-copy."""
        del name
        self.cannot(Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE)

    def evacuate(self, name: str, to: "Hypervisor") -> None:
        """Start a guest of this host, which is taken for dead, on another with its disks."""
        del name, to
        self.cannot(Feature.EVACUATE)

    def maintenance(self, *, on: bool) -> None:
        """Put the host into a maintenance mode of the hypervisor's own, or end that."""
        del on
        self.cannot(Feature.MAINTENANCE_MODE)
