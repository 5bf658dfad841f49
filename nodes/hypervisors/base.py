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

Ours and not ours: names of guests, volumes and networks that we make begin with `PREFIX`, and
guests carry a mark of ours, which each adapter names. `inventory` lists everything, `cleanup`
removes only what carries both. Of two launches of one name at once one wins; the other raises
CallerFault and removes nothing that it has not made itself.

Errors: see `nodes.hypervisors.faults`. What a system cannot do raises Unsupported with the
feature and the reason; an adapter says so without trying, in `missing`, or after trying.
Everything waits for a bounded time and then raises TransientFault or NodeFault.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NoReturn, Protocol

from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors.faults import Unsupported
from nodes.hypervisors.values import (
    INTERFACES,
    PREFIX,
    Access,
    DiskFormat,
    GuestImage,
    GuestInfo,
    GuestSpec,
    GuestState,
    HostStatus,
    Inventory,
    Nic,
    Rule,
    Screen,
    Volume,
)

__all__ = [
    "INTERFACES",
    "PREFIX",
    "Access",
    "Console",
    "DiskFormat",
    "GuestImage",
    "GuestInfo",
    "GuestSpec",
    "GuestState",
    "HostStatus",
    "Hypervisor",
    "Inventory",
    "Nic",
    "Rule",
    "Screen",
    "Volume",
]


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
        """Remove every guest and volume of ours; returns their names."""

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
