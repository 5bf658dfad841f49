# SPDX-License-Identifier: Apache-2.0
"""The dummy: a hypervisor in memory that tells the truth about the contract, and no more.

`dummy:///HOST?...` is steered by its URL (`nodes/hypervisors/dummy_steering.py`): calls that
fail, features it has not, guests that never boot, calls that lie. It objects when callers break
the order: a call after `close`, two calls at once for one guest. What it shows is evidence of
grade `emulator`, whatever anybody says.
"""

import dataclasses
import platform
import re
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from ci.errors import HypervouchBug
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import (
    PREFIX,
    Access,
    Console,
    GuestImage,
    GuestInfo,
    GuestSpec,
    GuestState,
    HostStatus,
    Hypervisor,
    Inventory,
    Nic,
    Volume,
)
from nodes.hypervisors.dummy_guest import Disk, ModelGuest
from nodes.hypervisors.dummy_steering import FAULTS, Steering, steering
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported

_NAME = re.compile(rf"{PREFIX}[A-Za-z0-9-]{{1,37}}")
_MIB = 1 << 20
_HIDDEN = bytes(byte ^ 0x5A for byte in range(256))
_SLICE_S = 0.02
_NO_SCREEN = "the dummy has no screen"
_NO_STORE = "the dummy keeps volumes in memory"
_NO_NETWORK = "the dummy's guests have cards and no network"


class Host:
    """What is on one host; it outlives connections to it."""

    def __init__(self) -> None:
        self.guests: dict[str, ModelGuest] = {}
        self.lock = threading.RLock()
        self.started = time.monotonic()


class Store:
    """Volumes that every host of one work directory shares."""

    def __init__(self) -> None:
        self.volumes: dict[str, tuple[Volume, Disk]] = {}
        self.images: set[str] = set()
        self.hosts: dict[str, Host] = {}


_STORES: weakref.WeakValueDictionary[Path, Store] = weakref.WeakValueDictionary()
_STORES_LOCK = threading.Lock()


def connect(url: str, access: Access) -> "DummyHypervisor":
    """A dummy, steered by its URL.

    Raises:
        CallerFault: The URL is wrong.
    """
    with _STORES_LOCK:
        store = _STORES.setdefault(access.work.absolute(), Store())
    return DummyHypervisor(steering(url), store)


class ModelConsole:
    """A modelled guest's serial line, as it is at the time of opening."""

    def __init__(self, host: Host, guest: ModelGuest) -> None:
        self._host = host
        self._guest = guest
        self._line = guest.line
        self._closed = False

    def write(self, data: bytes) -> None:
        """Send bytes to the agent."""
        self._check()
        with self._host.lock:
            if self._line is self._guest.line:
                self._guest.receive(data)

    def read(self, timeout_s: float) -> bytes:
        """What the guest said."""
        self._check()
        deadline = time.monotonic() + timeout_s
        while True:
            with self._host.lock:
                self._guest.live()
            left = deadline - time.monotonic()
            data = self._line.take(max(0.0, min(left, _SLICE_S)))
            if data or left <= 0:
                return data

    def close(self) -> None:
        """Let go."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise HypervouchBug("a console was used after it was closed")


class DummyHypervisor(Hypervisor):
    """One connection to a host in memory. Thread-safe, as the contract says.

    Args:
        steered: What goes wrong.
        store: Shared volumes, and the hosts beside them.
    """

    missing: ClassVar[Mapping[Feature, str]] = {
        Feature.CONSOLE_VNC: _NO_SCREEN,
        Feature.CONSOLE_SPICE: _NO_SCREEN,
        Feature.CONSOLE_RDP: _NO_SCREEN,
        Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_STORE,
        Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_STORE,
        Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_STORE,
        Feature.NETWORKING_TOPOLOGY_FLAT: _NO_NETWORK,
        Feature.NETWORKING_SECURITYGROUPS: _NO_NETWORK,
    }

    def __init__(self, steered: Steering, store: Store) -> None:
        self._steered = steered
        self._store = store
        self.host = store.hosts.setdefault(steered.host, Host())
        self._closed = False
        self._busy: set[str] = set()
        self._calls = 0

    # Facts -------------------------------------------------------------------------------

    def system(self) -> System:
        """The column `dummy`; always of grade emulator."""
        with self._doing("system"):
            return System(
                key="dummy",
                title="Dummy (in memory)",
                grade=Grade.EMULATOR,
                versions={"python": platform.python_version()},
            )

    def status(self) -> HostStatus:
        """An invented host."""
        with self._doing("status", feature=Feature.GET_HOST_INFO):
            return HostStatus(
                hostname=self._steered.host,
                address="127.0.0.1",
                uptime_s=1.0 + time.monotonic() - self.host.started,
                memory_mib=4096,
                cpus=4,
                cpu_traits=("dummy",),
            )

    def inventory(self) -> Inventory:
        """What is in memory."""
        with self._doing("inventory"):
            guests = self.host.guests
            return Inventory(
                guests={name: guest.shown for name, guest in guests.items()},
                volumes=frozenset(self._store.volumes),
                networks=frozenset({"default"}),
                snapshots=frozenset(
                    f"{name}@{tag}" for name, guest in guests.items() for tag in guest.snapshots
                ),
            )

    def cleanup(self) -> tuple[str, ...]:
        """Remove what carries our prefix."""
        with self._doing("cleanup"):
            ours = [name for name in self.host.guests if name.startswith(PREFIX)]
            volumes = [name for name in self._store.volumes if name.startswith(PREFIX)]
            for name in ours:
                self.host.guests.pop(name).stop(GuestState.SHUTOFF)
            for name in volumes:
                del self._store.volumes[name]
            return tuple(ours + volumes)

    def close(self) -> None:
        """Every later call is refused."""
        self._closed = True

    def add_foreign(self, name: str, spec: GuestSpec) -> None:
        """Put a guest there that is not ours; for tests of what has to be left alone."""
        self.host.guests[name] = self._model(spec)

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Start a modelled guest."""
        with self._doing("launch", spec.name, Feature.LAUNCH, known=False):
            self._check(spec)
            for feature in spec.asks_for():
                if feature in self._steered.unsupported or feature in self.missing:
                    raise Unsupported(feature, self.missing.get(feature, "the URL says so"))
            guest = self._model(spec)
            if spec.root is not None:
                guest.root = self._disk(spec.root)
            self.host.guests[spec.name] = guest
            if not self._lies("tags"):
                guest.tags |= {nic.mac: nic.tag for nic in spec.nics if nic.tag}
            guest.boot()

    def info(self, name: str) -> GuestInfo:
        """What is modelled."""
        with self._doing("info", name, Feature.GET_GUEST_INFO):
            guest = self.host.guests[name]
            return GuestInfo(
                state=guest.shown, memory_mib=guest.spec.memory_mib, cpus=guest.spec.cpus
            )

    def power_off(self, name: str) -> None:
        """Memory is lost."""
        with self._doing("power_off", name):
            self.host.guests[name].stop(GuestState.SHUTOFF)

    def delete(self, name: str) -> None:
        """Forget it."""
        with self._doing("delete", name, Feature.TERMINATE, known=False):
            guest = self.host.guests.get(name)
            if guest is not None and not self._lies("delete"):
                del self.host.guests[name]
                guest.stop(GuestState.SHUTOFF)

    def console(self, name: str) -> Console:
        """Its line."""
        with self._doing("console", name, Feature.CONSOLE_SERIAL_INTERACTIVE):
            return ModelConsole(self.host, self.host.guests[name])

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """What it said since it was started."""
        with self._doing("console_log", name, Feature.CONSOLE_SERIAL_LOG):
            return bytes(self.host.guests[name].log[-limit_bytes:])

    def start(self, name: str) -> None:
        """Boot it, unless it runs."""
        with self._doing("start", name, Feature.REBOOT):
            guest = self.host.guests[name]
            if guest.shown is not GuestState.RUNNING:
                guest.boot()

    def shutdown(self, name: str) -> None:
        """A modelled guest obeys at once."""
        with self._doing("shutdown", name, Feature.TERMINATE):
            self.host.guests[name].stop(GuestState.SHUTOFF)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """New memory, new boot id."""
        del hard
        with self._doing("reboot", name, Feature.REBOOT):
            if not self._lies("reboot"):
                self.host.guests[name].boot()

    def pause(self, name: str) -> None:
        """No ticks, no answers."""
        with self._doing("pause", name, Feature.PAUSE):
            guest = self.host.guests[name]
            guest.hold()
            guest.running = self._lies("pause")

    def unpause(self, name: str) -> None:
        """On they go."""
        with self._doing("unpause", name, Feature.UNPAUSE):
            guest = self.host.guests[name]
            if self._lies("unpause"):
                guest.shown = GuestState.RUNNING
            elif guest.shown is GuestState.PAUSED:
                guest.go_on()

    def suspend(self, name: str) -> None:
        """Memory is kept."""
        with self._doing("suspend", name, Feature.SUSPEND):
            self.host.guests[name].stop(GuestState.SUSPENDED)

    def resume(self, name: str) -> None:
        """With the memory it had."""
        with self._doing("resume", name, Feature.RESUME):
            guest = self.host.guests[name]
            if guest.shown is not GuestState.SUSPENDED:
                raise CallerFault(f"guest {name} is not suspended")
            if self._lies("resume"):
                guest.boot()
            guest.wake()

    def snapshot(self, name: str, tag: str) -> None:
        """Keep the root's bytes."""
        with self._doing("snapshot", name, Feature.SNAPSHOT):
            self.host.guests[name].keep(tag)

    def revert(self, name: str, tag: str) -> None:
        """Put them back and boot."""
        with self._doing("revert", name, Feature.SNAPSHOT):
            guest = self.host.guests[name]
            if tag not in guest.snapshots:
                raise CallerFault(f"guest {name} has no snapshot {tag}")
            if not self._lies("revert"):
                guest.root.content[:] = guest.snapshots[tag]
            guest.boot()

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Boot with another size."""
        with self._doing("resize", name, Feature.RESIZE):
            guest = self.host.guests[name]
            if not self._lies("resize"):
                guest.spec = dataclasses.replace(guest.spec, memory_mib=memory_mib, cpus=cpus)
            guest.boot()

    def rebuild(self, name: str, image: GuestImage) -> None:
        """An empty root."""
        with self._doing("rebuild", name, Feature.REBUILD):
            guest = self.host.guests[name]
            if not self._lies("rebuild"):
                guest.spec = dataclasses.replace(guest.spec, image=image)
                guest.root.content.clear()
            guest.boot()

    def cache_image(self, image: GuestImage) -> bool:
        """Remember its id; the lie forgets it again."""
        with self._doing("cache_image", feature=Feature.CACHE_IMAGES):
            if not image.id:
                raise CallerFault("an image without an id cannot be cached")
            new = image.id not in self._store.images
            if not self._lies("cache_image"):
                self._store.images.add(image.id)
            return new

    def forget_image(self, image: GuestImage) -> None:
        """Forget its id."""
        with self._doing("forget_image", feature=Feature.CACHE_IMAGES):
            self._store.images.discard(image.id)

    def rescue(self, name: str, image: GuestImage) -> None:
        """Another root before its own."""
        with self._doing("rescue", name, Feature.RESCUE):
            guest = self.host.guests[name]
            guest.rescue_image = None if self._lies("rescue") else image
            guest.boot()

    def unrescue(self, name: str) -> None:
        """Its own root again."""
        with self._doing("unrescue", name, Feature.RESCUE):
            guest = self.host.guests[name]
            guest.rescue_image = None
            guest.boot()

    def set_admin_password(self, name: str, password: str) -> None:
        """Accepted; nobody can look."""
        del password
        with self._doing("set_admin_password", name, Feature.SET_ADMIN_PASSWORD):
            pass

    def quiesce(self, name: str) -> None:
        """Accepted."""
        with self._doing("quiesce", name, Feature.QUIESCE):
            pass

    def unquiesce(self, name: str) -> None:
        """Accepted."""
        with self._doing("unquiesce", name, Feature.UNQUIESCE):
            pass

    def crash_dump(self, name: str) -> int:
        """As large as its memory."""
        with self._doing("crash_dump", name, Feature.TRIGGER_CRASH_DUMP):
            return self.host.guests[name].spec.memory_mib * _MIB

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """Empty bytes."""
        feature = Feature.ENCRYPTED_VOLUME if secret else Feature.ATTACH_VOLUME
        with self._doing("create_volume", feature=feature):
            if shared and Feature.MULTIATTACH_VOLUME in self._steered.unsupported:
                raise Unsupported(Feature.MULTIATTACH_VOLUME, "the URL says so")
            if not _NAME.fullmatch(name) or name in self._store.volumes:
                raise CallerFault(f"{name!r} cannot name a volume, or does already")
            volume = Volume(
                name=name, size_mib=size_mib, path=f"memory:{name}", shared=shared, secret=secret
            )
            self._store.volumes[name] = (volume, Disk(name[:20], size_mib))
            return volume

    def delete_volume(self, volume: Volume) -> None:
        """Forget it."""
        with self._doing("delete_volume"):
            if any(volume.name in guest.attached for guest in self.host.guests.values()):
                raise CallerFault(f"volume {volume.name} is attached")
            self._store.volumes.pop(volume.name, None)

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """As they are kept: not as the guest sees them, where the volume is encrypted."""
        with self._doing("volume_bytes", feature=Feature.STORAGE_BLOCK):
            data = self._disk(volume).read(count)
            hidden = volume.secret and not self._lies("encrypt")
            return data.translate(_HIDDEN) if hidden else data

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """The guest has another disk."""
        feature = Feature.ATTACH_TAGGED_VOLUME if tag else Feature.ATTACH_VOLUME
        with self._doing("attach_volume", name, feature):
            disk = self._disk(volume)
            others = [g for g in self._all_guests() if volume.name in g.attached]
            if others and not volume.shared:
                raise CallerFault(f"volume {volume.name} is attached already")
            guest = self.host.guests[name]
            if not self._lies("attach_volume"):
                guest.attached[volume.name] = disk
            if tag and not self._lies("tags"):
                guest.tags[volume.name] = tag

    def detach_volume(self, name: str, volume: Volume) -> None:
        """It has it no more."""
        with self._doing("detach_volume", name, Feature.DETACH_VOLUME):
            if not self._lies("detach_volume"):
                self.host.guests[name].attached.pop(volume.name, None)

    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """The disk is larger."""
        with self._doing("extend_volume", name, Feature.EXTEND_VOLUME):
            disk = self._disk(volume)
            if not self._lies("extend_volume"):
                disk.size_mib = size_mib
            larger = dataclasses.replace(volume, size_mib=size_mib)
            self._store.volumes[volume.name] = (larger, disk)
            return larger

    def swap_volume(self, name: str, old: Volume, new: Volume) -> None:
        """Copied and put in the other's place."""
        with self._doing("swap_volume", name, Feature.SWAP_VOLUME):
            guest = self.host.guests[name]
            source, target = self._disk(old), self._disk(new)
            guest.attached.pop(old.name, None)
            guest.attached[new.name] = target
            if not self._lies("swap_volume"):
                target.content[:] = source.content

    def limit_volume(self, name: str, volume: Volume, bytes_per_s: int) -> None:
        """Accepted; a model has no speed."""
        del bytes_per_s
        with self._doing("limit_volume", name, Feature.GUEST_DISK_RATE_LIMIT):
            self._disk(volume)

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Another card."""
        feature = Feature.ATTACH_TAGGED_INTERFACE if nic.tag else Feature.ATTACH_INTERFACE
        with self._doing("attach_interface", name, feature):
            guest = self.host.guests[name]
            if not self._lies("attach_interface"):
                guest.nics.append(nic)
            if nic.tag and not self._lies("tags"):
                guest.tags[nic.mac] = nic.tag

    def detach_interface(self, name: str, nic: Nic) -> None:
        """One less."""
        with self._doing("detach_interface", name, Feature.DETACH_INTERFACE):
            guest = self.host.guests[name]
            if not self._lies("detach_interface"):
                guest.nics = [one for one in guest.nics if one.mac != nic.mac]

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """Give the guest to another dummy."""
        del block
        with self._doing("live_migrate", name, Feature.LIVE_MIGRATE):
            guest = self._move(name, to)
            if self._lies("live_migrate"):
                guest.boot()

    def begin_live_migration(self, name: str, to: Hypervisor) -> None:
        """Remember where it shall go."""
        with self._doing("begin_live_migration", name, Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION):
            self._moving = (name, to)

    def abort_live_migration(self, name: str) -> None:
        """Forget it."""
        feature = Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION
        with self._doing("abort_live_migration", name, feature):
            del self._moving

    def force_live_migration(self, name: str) -> None:
        """Do it."""
        feature = Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE
        with self._doing("force_live_migration", name, feature):
            self._move(name, self._moving[1])

    def evacuate(self, name: str, to: Hypervisor) -> None:
        """The guest boots on the other host with its disk."""
        with self._doing("evacuate", name, Feature.EVACUATE):
            guest = self.host.guests[name]
            guest.stop(GuestState.SHUTOFF)
            self._move(name, to)
            guest.boot()

    def maintenance(self, *, on: bool) -> None:
        """Accepted."""
        del on
        with self._doing("maintenance", feature=Feature.MAINTENANCE_MODE):
            pass

    # What every call goes through --------------------------------------------------------

    @contextmanager
    def _doing(
        self, call: str, name: str = "", feature: Feature | None = None, *, known: bool = True
    ) -> Iterator[None]:
        """Objections and steering before a call, the host's lock during it."""
        if self._closed:
            raise CallerFault(f"{call} was called after close", hint="connect again")
        if name and name in self._busy:
            raise HypervouchBug(f"two calls at once for guest {name}: the second is {call}")
        self._busy.add(name)
        try:
            self._steer(call, feature)
            with self.host.lock:
                if name and known and name not in self.host.guests:
                    raise CallerFault(f"there is no guest {name}")
                yield
        finally:
            self._busy.discard(name)

    def _steer(self, call: str, feature: Feature | None) -> None:
        steered = self._steered
        self._calls += 1
        if steered.dies_after is not None and self._calls > steered.dies_after:
            raise NodeFault("the dummy died", hint="its URL said so")
        failure = steered.fails.get(call)
        if failure is not None and failure.left > 0:
            failure.left -= 1
            raise FAULTS[failure.kind](f"{call} was to fail")
        if feature is not None and feature in steered.unsupported:
            raise Unsupported(feature, "the URL says so")
        if steered.slow_s:
            threading.Event().wait(steered.slow_s)

    def _check(self, spec: GuestSpec) -> None:
        if not _NAME.fullmatch(spec.name):
            raise CallerFault(f"{spec.name!r} cannot name a guest", hint=f"begin with {PREFIX}")
        if spec.name in self.host.guests:
            raise CallerFault(f"there is a guest {spec.name} already")
        image = spec.image
        files = [path for path in (image.kernel, image.initrd, image.root, image.disk) if path]
        gone = [path for path in files if not path.exists()]
        if image.id in self._store.images:
            gone = []
        if gone or not files:
            raise CallerFault(f"the image lacks {gone[0] if gone else 'everything'}")
        wanted = image.properties.get("hypervisor_type", "dummy")
        if wanted != "dummy":
            raise CallerFault(f"the image is for hypervisor_type {wanted}, this is a dummy")

    def _model(self, spec: GuestSpec) -> ModelGuest:
        return ModelGuest(
            spec, boots=self._steered.boots, noise_bytes=int(self._steered.flood_mib * _MIB)
        )

    def _disk(self, volume: Volume) -> Disk:
        found = self._store.volumes.get(volume.name)
        if found is None:
            raise CallerFault(f"there is no volume {volume.name}")
        return found[1]

    def _all_guests(self) -> list[ModelGuest]:
        return [guest for host in self._store.hosts.values() for guest in host.guests.values()]

    def _move(self, name: str, to: Hypervisor) -> ModelGuest:
        if not isinstance(to, DummyHypervisor) or to.host is self.host:
            raise CallerFault("a dummy's guest moves to another dummy only")
        guest = self.host.guests.pop(name)
        to.host.guests[name] = guest
        return guest

    def _lies(self, call: str) -> bool:
        return call in self._steered.lies
