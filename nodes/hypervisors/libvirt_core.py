# SPDX-License-Identifier: Apache-2.0
"""The libvirt adapter, all drivers' common part: guests, devices, and moves between two hosts.

Guests move as `virsh migrate --live` moves them: we are connected to both hosts, QEMU sends to
the other one's address. Hosts with the same directory of disks share their storage; else it has
to be a block migration, for which the small files go through us and libvirt copies the disks.
"""

import threading
from typing import Any

import libvirt

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_errors
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import GuestState, Hypervisor
from nodes.hypervisors.faults import CallerFault, TransientFault, Unsupported
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_changes import LibvirtChanges

SLOW_MIB_S = 1
FAST_MIB_S = 4096
LOOK_S = 0.1
_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    # The disks are on one file system that both hosts have, whatever their cache mode says.
    | libvirt.VIR_MIGRATE_UNSAFE
)


class _Move:
    """A migration that goes on in a thread of its own."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.trouble: BaseException | None = None


class LibvirtHypervisor(LibvirtChanges):
    """Everything that libvirt does; a driver's subclass says what is missing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As LibvirtGuests."""
        super().__init__(*args, **kwargs)
        self._moves: dict[str, _Move] = {}

    def _peer(self, to: Hypervisor, feature: Feature) -> "LibvirtHypervisor":
        """The other host, when it is one of the same kind.

        Raises:
            CallerFault: It is not, or is this one.
            Unsupported: It cannot do that.
        """
        if not isinstance(to, LibvirtHypervisor) or to.flavour.column() != self.flavour.column():
            raise CallerFault(
                f"guests of {self.url} move to hosts of the same kind only",
                hint="connect to both with the same driver, type and machine",
            )
        if feature in to.missing:
            to.cannot(feature)
        if to.link.address == self.link.address:
            raise CallerFault(f"{self.url} is the host that the guest is on")
        return to

    def _parameters(self, domain: Any, to: "LibvirtHypervisor") -> dict[str, Any]:
        """Where QEMU sends to, and the guest's XML as the other host needs it."""
        listed = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{to.link.wire}"}
        if to.store.directory != self.store.directory:
            old, new = self.store.directory, to.store.directory
            live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE)
            kept = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            listed[libvirt.VIR_MIGRATE_PARAM_DEST_XML] = xml.replace_paths(live, old, new)
            listed[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = xml.replace_paths(kept, old, new)
        return listed

    @operation(Feature.LIVE_MIGRATE)
    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """Move a running guest to another host, with its disks where `block` is true."""
        peer, domain = self._peer(to, Feature.LIVE_MIGRATE), self.domain(name)
        shared = peer.store.directory == self.store.directory
        if shared == block:
            raise CallerFault(
                f"{self.url} and {peer.url} {'share' if shared else 'do not share'} their disks",
                hint="migrate without block" if shared else "migrate with block",
            )
        parameters, flags = self._parameters(domain, peer), _FLAGS
        before = self.root(domain)
        self.carry_rules(before, peer)
        try:
            if block:
                flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
                parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = self._copy(domain, peer)
            domain.migrate3(peer.link.conn, parameters, flags)
        except BaseException:
            if peer.find(name) is None:
                peer.drop_rules(before)
                if block:
                    peer.forget(name)
            raise
        self._arrived(name, peer)
        self.drop_rules(before)
        if block:
            self.forget(name)

    def _copy(self, domain: Any, peer: "LibvirtHypervisor") -> list[str]:
        """Make a guest's files on the other host; gives the disks that libvirt has to fill."""
        disks = []
        writable = set()
        for target, path, disk in xml.disks(self.root(domain)):
            if disk.get("device") == "disk" and disk.find("readonly") is None:
                file, size = path.rpartition("/")[2], domain.blockInfo(target)[0]
                driver = disk.find("driver")
                form = "raw" if driver is None else driver.get("type", "raw")
                peer.store.remove(file)
                peer.store.create(file, size, form)
                disks.append(target)
                writable.add(file)
        name = domain.name()
        for file in self.store.names():
            stays = file in writable or file.startswith(f"{name}.log")
            if file.startswith(f"{name}.") and not stays:
                peer.store.put(file, self.store.get(file))
        for what in ("kernel", "initrd"):
            file = self.root(domain).findtext(f"./os/{what}", "").rpartition("/")[2]
            if file and peer.store.find(file) is None:  # of a cached image
                peer.store.put(file, self.store.get(file))
        return disks

    def _arrived(self, name: str, peer: "LibvirtHypervisor") -> None:
        """Wait until a guest runs on the other host and is gone here."""
        there = peer.domain(name)
        peer.until(there, GuestState.RUNNING, "runs after it moved")
        if not self.link.watch.wait(lambda: self.find(name) is None, self.timeout_s):
            self.late(name, "is gone after it moved")
        peer.remember(there)

    @operation(Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)
    def begin_live_migration(self, name: str, to: Hypervisor) -> None:
        """Let a guest move slowly; returns as soon as it goes on."""
        peer = self._peer(to, Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)
        domain = self.domain(name)
        if peer.store.directory != self.store.directory:
            raise CallerFault("a slow migration needs hosts that share their disks")
        parameters = self._parameters(domain, peer)
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = SLOW_MIB_S
        self.carry_rules(self.root(domain), peer)
        self._moves[name] = move = _Move()

        def run() -> None:
            try:
                domain.migrate3(peer.link.conn, parameters, _FLAGS | libvirt.VIR_MIGRATE_POSTCOPY)
                self._arrived(name, peer)
            except (libvirt.libvirtError, HypervouchError, Unsupported) as error:
                move.trouble = error
            finally:
                move.done.set()
                self.link.watch.wake()

        threading.Thread(target=run, name=f"move-{name}", daemon=True).start()

        def goes_on() -> bool:
            return move.done.is_set() or self._memory_moves(domain)

        if not self.link.watch.wait(goes_on, self.timeout_s, look_s=LOOK_S):
            self.late(name, "begins to move")
        if move.done.is_set():
            self._ended(name)

    def _memory_moves(self, domain: Any) -> bool:
        try:
            return bool(domain.jobStats().get(libvirt.VIR_DOMAIN_JOB_MEMORY_PROCESSED, 0))
        except libvirt.libvirtError:
            return False

    def _ended(self, name: str) -> None:
        """Forget a migration that has ended; raises what ended it."""
        move = self._moves.pop(name, None)
        if move is None or move.trouble is None:
            return
        if isinstance(move.trouble, libvirt.libvirtError):
            raise libvirt_errors.fault(
                move.trouble, f"move {name} from {self.url}", Feature.LIVE_MIGRATE
            ) from move.trouble
        raise move.trouble

    def _going(self, name: str) -> _Move:
        move = self._moves.get(name)
        if move is None:
            raise CallerFault(f"no migration of {name} was begun on {self.url}")
        return move

    @operation(Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)
    def abort_live_migration(self, name: str) -> None:
        """End one that goes on: the guest stays here.

        Raises:
            CallerFault: None goes on.
            TransientFault: It had come to its end already.
        """
        move, domain = self._going(name), self.domain(name)
        domain.abortJob()
        self._wait(move, name)
        del self._moves[name]
        if move.trouble is None:
            raise TransientFault(f"{name} had moved before it could be stopped", retryable=True)
        self.until(domain, GuestState.RUNNING, "runs here again")

    @operation(Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE)
    def force_live_migration(self, name: str) -> None:
        """Let one that goes on end soon, by post-copy."""
        move, domain = self._going(name), self.domain(name)
        try:
            domain.migrateStartPostCopy(0)
            for flags in (0, libvirt.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY):
                domain.migrateSetMaxSpeed(FAST_MIB_S, flags)
        except libvirt.libvirtError:
            if not move.done.wait(1.0):
                raise
        self._wait(move, name)
        self._ended(name)

    def _wait(self, move: _Move, name: str) -> None:
        if not move.done.wait(self.timeout_s):
            self.late(name, "has ended its migration")

    @operation(Feature.EVACUATE)
    def evacuate(self, name: str, to: Hypervisor) -> None:
        """Start a guest of this host, which is taken for dead, on another with its disks.

        Where this host answers after all, the guest is ended and undefined on it first.
        """
        peer = self._peer(to, Feature.EVACUATE)
        if peer.store.directory != self.store.directory:
            raise CallerFault("evacuation needs hosts that share their disks")
        kept = peer.store.get(f"{name}.xml")
        if not kept:
            raise CallerFault(f"the disks of {name} are not in {peer.store.directory}")
        try:
            here = self.find(name)
            if here is not None:
                before = self.root(here)
                self.carry_rules(before, peer)
                self.power_off(name)
                self.undefine(here)
                self.drop_rules(before)
        except (libvirt.libvirtError, TransientFault):
            self.link.close()  # as dead as it was said to be
        domain = peer.link.conn.defineXML(kept.decode())
        peer.begin(domain)
        peer.remember(domain)
