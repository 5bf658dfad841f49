# SPDX-License-Identifier: Apache-2.0
"""XenServer and XCP-ng by their API: `xenserver://root@master?host=...&sr=...&network=...`.

A member of a pool is one hypervisor, the one that answers unless `host` names another. Guests are
HVM machines that boot a disk of the storage repository `sr`, the pool's default one else: by UEFI
where the image says `hw_firmware_type=uefi`. They belong to the member that they run on, or ran on
last; volumes and networks are the pool's. What we make carries a mark in `other_config` from its
first moment; only what has that mark and our prefix is ever removed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import ClassVar

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import xenserver_claim as claim
from nodes.hypervisors import xenserver_host as hosts
from nodes.hypervisors.base import (
    Access,
    Console,
    DiskFormat,
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
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.local import check_disk_size, check_name, check_properties, check_size
from nodes.hypervisors.xenserver_cards import CARDS, Cards
from nodes.hypervisors.xenserver_disks import CONFIG, OWN, RESCUE, Disks, is_ours
from nodes.hypervisors.xenserver_link import NULL, Record, XapiLink, address
from nodes.hypervisors.xenserver_machines import (
    MIB,
    boot,
    check_grade,
    firmware,
    is_at_home,
    is_guest,
    machine,
    named,
    state,
)
from nodes.hypervisors.xenserver_missing import MISSING

_RESCUED = "hypervouch-rescued"
_TYPES, _MODES = frozenset({"xen", "xenserver"}), frozenset({"hvm"})
_CONFIG_DRIVE = "15"


def connect(url: str, access: Access) -> "XenServerHypervisor":
    """Connect to a pool.

    Raises:
        CallerFault: The URL is wrong, names what is not there, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = XapiLink(address(url), access)
    try:
        return XenServerHypervisor(link, access)
    except BaseException:
        link.close()
        raise


class XenServerHypervisor(Hypervisor):
    """One member of a pool; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    boots_disks: ClassVar[bool] = True
    runs_guests: ClassVar[bool] = False  # they run, and there is no line to ask them by

    def __init__(self, link: XapiLink, access: Access) -> None:
        """Find the member, its storage and its network.

        Raises:
            CallerFault: One of them is not there.
        """
        self._link = link
        self._access = access
        options = link.where.options
        self._host = hosts.find(link, options.get("host", ""))
        host = self._host.record()
        check_grade(host, access.grade)
        pool = hosts.pool(link)
        self._pool = str(pool["uuid"])
        storage = hosts.named(link, "SR", options.get("sr", "")) or str(pool["default_SR"])
        if storage == NULL:
            raise CallerFault("the pool has no default storage", hint="name one: ?sr=NAME")
        self._disks = Disks(link, storage, str(host["uuid"]))
        network = hosts.named(link, "network", options.get("network", ""))
        self._cards = Cards(link, network or min(link.records("network"), default=NULL))

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Nova's column, with the versions that the host gives."""
        grade, versions = self._access.grade, self._host.versions()
        return System(key="xenserver", title="XenServer", grade=grade, versions=versions)

    def status(self) -> HostStatus:
        """What the host's record says."""
        return self._host.status()

    def inventory(self) -> Inventory:
        """This member's guests and their snapshots; the pool's volumes of `sr`, and networks."""
        machines = self._link.records("VM")
        here = {ref: one for ref, one in machines.items() if self._has(one)}
        snapshots = {
            f"{here[one['snapshot_of']]['name_label']}/{one['name_label']}"
            for one in machines.values()
            if one["is_a_snapshot"] and one["snapshot_of"] in here
        }
        networks = {str(one["name_label"]) for one in self._link.records("network").values()}
        return Inventory(
            guests=named(here.values()),
            volumes=frozenset(self._disks.volumes()),
            networks=frozenset(networks),
            snapshots=frozenset(snapshots),
        )

    def _has(self, told: Record) -> bool:
        return is_guest(told) and is_at_home(told, self.member)

    def _has_ours(self, told: Record) -> bool:
        return self._has(told) and is_ours(told)

    def cleanup(self) -> tuple[str, ...]:
        """Remove guests and volumes of this member, and disks left by it: our mark and prefix."""
        machines = self._link.records("VM").values()
        names = {one["name_label"] for one in machines if self._has_ours(one)}
        guests = sorted(names)
        for name in guests:
            # Somebody else may have one of that name.
            for vm, record in self._all(name).items():
                if self._has_ours(record):
                    self._remove(name, vm, record)
        claim.forget(self._link, self._disks.member)
        volumes = self._disks.volumes(made_here=True)
        left = self._disks.left() | {ref: name for name, ref in volumes.items()}
        for ref, name in sorted(left.items(), key=lambda one: one[1]):
            self._link.run(f"remove {name}", "VDI.destroy", ref)
        return (*guests, *sorted(volumes))

    def close(self) -> None:
        """Log out."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Write a guest's disk, make its machine and start it on this host."""
        self._check(spec)
        token = ""
        try:
            with claim.held(self._link, spec.name, self._disks.member) as token:
                vm = self._create(spec, token)
            self._fill(vm, spec)
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self._undo(spec.name, token)
            raise

    def _undo(self, name: str, token: str) -> None:
        """Remove what this very launch has made: another one's guest may have the name."""
        found = self._all(name).items()
        mine = {vm: one for vm, one in found if one["other_config"].get(claim.LAUNCH) == token}
        if mine:
            self._disks.sweep(name)
        for vm, record in mine.items():
            self._remove(name, vm, record)

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
        self.refuse_missing(spec)
        firmware(spec.image, spec.firmware)
        if len(spec.nics) > CARDS:
            raise CallerFault(f"{spec.name} has {len(spec.nics)} cards, {CARDS} are possible")
        self._need_disk(spec.image)

    def _need_disk(self, image: GuestImage) -> None:
        check_properties(image, _TYPES, _MODES)
        if image.disk is None:
            raise CallerFault(
                "XenServer boots disks, and the image has none",
                hint="name a bootable one; nodes.images.bootable makes one of the tiny guest",
            )

    def _create(self, spec: GuestSpec, token: str) -> str:
        if self._all(spec.name):
            raise CallerFault(f"there is a guest {spec.name} already")
        record = machine(spec, self.member)
        record["other_config"][claim.LAUNCH] = token
        doing = f"make {spec.name}"
        return str(self._link.call(doing, "VM.create", record, feature=Feature.LAUNCH))

    def _fill(self, vm: str, spec: GuestSpec) -> None:
        doing = f"make {spec.name}"
        root = self._disks.write(spec.image, spec.name)
        self._disks.plug_in(doing, vm, root, "0", bootable=True)
        if spec.config_drive is not None:
            drive = self._disks.write_bytes(
                files.config_drive(spec.config_drive), spec.name, CONFIG
            )
            self._disks.plug_in(doing, vm, drive, _CONFIG_DRIVE, read_only=True)
        for at, nic in enumerate(spec.nics):
            self._cards.make(doing, vm, nic, at)

    def _size(self, doing: str, vm: str, memory_mib: int, cpus: int) -> None:
        size = str(memory_mib * MIB)
        self._link.call(doing, "VM.set_memory_limits", vm, size, size, size, size)
        # The maximum is never below what the guest starts with.
        told = self._link.record("VM", vm)
        both = [("VM.set_VCPUs_max", str(cpus)), ("VM.set_VCPUs_at_startup", str(cpus))]
        if cpus < int(told["VCPUs_at_startup"]):
            both.reverse()
        for method, value in both:
            self._link.call(doing, method, vm, value)

    def info(self, name: str) -> GuestInfo:
        """What its record says."""
        vm, told = self._known(name)
        return GuestInfo(
            state=state(told),
            memory_mib=int(told["memory_dynamic_max"]) // MIB,
            cpus=int(told["VCPUs_at_startup"]),
            volumes=self._disks.volumes_of(vm),
            macs=self._cards.addresses(told),
        )

    def power_off(self, name: str) -> None:
        """Hard shutdown; a suspended guest's memory is thrown away."""
        vm, told = self._known(name)
        if state(told) is not GuestState.SHUTOFF:
            self._halt(name, vm)

    def _halt(self, name: str, vm: str) -> None:
        self._link.run(f"power off {name}", "VM.hard_shutdown", vm, feature=Feature.TERMINATE)

    def delete(self, name: str) -> None:
        """Destroy machine, snapshots and own disks; volumes stay.

        Raises:
            CallerFault: It lacks our mark.
        """
        check_name(name)
        # A call that was made twice on the way may have left a second one.
        for vm, record in self._all(name).items():
            if not is_ours(record):
                raise CallerFault(f"{name} is not ours: it lacks our mark")
            self._remove(name, vm, record)
        self._disks.sweep(name)

    def _remove(self, name: str, vm: str, record: Record) -> None:
        if state(record) is not GuestState.SHUTOFF:
            self._halt(name, vm)
        for snapshot in record["snapshots"]:
            self._destroy(f"remove a snapshot of {name}", snapshot, all_disks=True)
        self._destroy(f"remove {name}", vm, all_disks=False)

    def _destroy(self, doing: str, vm: str, *, all_disks: bool) -> None:
        disks = [disk for _, disk in self._disks.of(vm)]
        own = [d for d in disks if all_disks or OWN in self._link.record("VDI", d)["other_config"]]
        self._link.run(doing, "VM.destroy", vm, feature=Feature.TERMINATE)
        for disk in own:
            self._link.run(doing, "VDI.destroy", disk)

    def console(self, name: str) -> Console:
        """There is none.

        Raises:
            Unsupported: Always.
        """
        self._guest(name)
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def start(self, name: str) -> None:
        """Start it on this host."""
        vm, told = self._known(name)
        if state(told) is not GuestState.RUNNING:
            doing = f"start {name}"
            args = (self.member, False, False)
            self._link.run(doing, "VM.start_on", vm, *args, feature=Feature.LAUNCH)

    def shutdown(self, name: str) -> None:
        """Ask the guest."""
        vm = self._guest(name)
        self._link.run(f"shut down {name}", "VM.clean_shutdown", vm, feature=Feature.TERMINATE)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Ask the guest, or reset it."""
        method = "VM.hard_reboot" if hard else "VM.clean_reboot"
        self._link.run(f"reboot {name}", method, self._guest(name), feature=Feature.REBOOT)

    def pause(self, name: str) -> None:
        """Stop its processors."""
        vm, told = self._known(name)
        if state(told) is not GuestState.PAUSED:
            self._link.run(f"pause {name}", "VM.pause", vm, feature=Feature.PAUSE)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        vm, told = self._known(name)
        if state(told) is not GuestState.RUNNING:
            self._link.run(f"unpause {name}", "VM.unpause", vm, feature=Feature.UNPAUSE)

    def suspend(self, name: str) -> None:
        """Memory goes to a disk of the storage."""
        self._link.run(f"suspend {name}", "VM.suspend", self._guest(name), feature=Feature.SUSPEND)

    def resume(self, name: str) -> None:
        """On this host."""
        args = (self.member, False, False)
        vm = self._guest(name)
        self._link.run(f"resume {name}", "VM.resume_on", vm, *args, feature=Feature.RESUME)

    def snapshot(self, name: str, tag: str) -> None:
        """The guest's own disks; volumes are left out, and the guest goes on."""
        vm = self._guest(name)
        left_out = [disk for _, disk in self._disks.of(vm) if not self._disks.is_own(disk)]
        doing = f"snapshot {name}"
        self._link.run(doing, "VM.snapshot", vm, tag, left_out, feature=Feature.SNAPSHOT)

    def revert(self, name: str, tag: str) -> None:
        """Go back and start; the disks are other ones then, and marked as the old ones were."""
        vm, doing = self._guest(name), f"revert {name}"
        found = [
            one
            for one in self._link.record("VM", vm)["snapshots"]
            if self._link.record("VM", one)["name_label"] == tag
        ]
        if not found:
            raise CallerFault(f"{name} has no snapshot {tag}")
        volumes = {disk for _, disk in self._disks.of(vm) if not self._disks.is_own(disk)}
        self._link.run(doing, "VM.revert", found[0], feature=Feature.SNAPSHOT)
        self._disks.own(doing, {disk for _, disk in self._disks.of(vm)} - volumes)
        self.start(name)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Off, changed, on."""
        check_size(memory_mib, cpus)
        with self._off(name) as vm:
            self._size(f"resize {name}", vm, memory_mib, cpus)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Another disk in the place of the old one, which goes once the new one is written."""
        self._need_disk(image)
        kind = firmware(image)
        with self._off(name) as vm:
            doing = f"rebuild {name}"
            made = self._disks.write(image, name)
            link, old = self._disks.root(name, vm)
            self._link.call(doing, "VBD.destroy", link)
            self._disks.plug_in(doing, vm, made, "0", bootable=True)
            self._link.run(doing, "VDI.destroy", old)
            if image.properties:
                params, platform = boot(kind)
                self._link.call(doing, "VM.set_HVM_boot_params", vm, params)
                self._link.call(doing, "VM.set_platform", vm, platform)

    def rescue(self, name: str, image: GuestImage) -> None:
        """The rescue image's disk goes before the guest's own."""
        self._need_disk(image)
        with self._off(name) as vm:
            doing = f"rescue {name}"
            if _RESCUED in self._link.record("VM", vm)["other_config"]:
                raise CallerFault(f"{name} is rescued already")
            made = self._disks.write(image, name, RESCUE)
            link, own = self._disks.root(name, vm)
            self._link.call(doing, "VBD.destroy", link)
            self._disks.plug_in(doing, vm, made, "0", bootable=True)
            self._disks.plug_in(doing, vm, own, self._disks.free_place(vm))
            self._link.call(doing, "VM.add_to_other_config", vm, _RESCUED, own)

    def unrescue(self, name: str) -> None:
        """The guest's own disk alone again."""
        with self._off(name) as vm:
            doing = f"unrescue {name}"
            own = self._link.record("VM", vm)["other_config"].get(_RESCUED, "")
            if not own:
                raise CallerFault(f"{name} is not rescued")
            link, rescue = self._disks.root(name, vm)
            for one in (link, *(b for b, disk in self._disks.of(vm) if disk == own)):
                self._link.call(doing, "VBD.destroy", one)
            self._link.run(doing, "VDI.destroy", rescue)
            self._disks.plug_in(doing, vm, own, "0", bootable=True)
            self._link.call(doing, "VM.remove_from_other_config", vm, _RESCUED)

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A virtual disk of the storage."""
        check_name(name)
        check_disk_size(size_mib)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        if name in self._disks.volumes():
            raise CallerFault(f"there is a volume {name} already")
        ref = self._disks.make(name, size_mib * MIB, own=False, shared=shared)
        return Volume(name=name, size_mib=size_mib, path=ref, format=DiskFormat.RAW, shared=shared)

    def delete_volume(self, volume: Volume) -> None:
        """Remove it."""
        ref = self._disks.volumes().get(volume.name)
        if ref:
            self._link.run(f"remove {volume.name}", "VDI.destroy", ref)

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """What the pool exports."""
        ref = self._disks.volumes().get(volume.name)
        if not ref:
            raise CallerFault(f"there is no volume {volume.name}", hint="look at the inventory")
        return self._link.first_bytes(ref, count)

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """At the next free place, plugged into the running guest."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self.cannot(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
        vm, doing = self._guest(name), f"attach {volume.name} to {name}"
        if any(disk == volume.path for _, disk in self._disks.of(vm)):
            raise CallerFault(f"{volume.name} is attached to {name} already")
        link = self._disks.plug_in(doing, vm, volume.path, self._disks.free_place(vm))
        if self._state_of(vm) is GuestState.RUNNING:
            self._link.plug(doing, "VBD", link, Feature.ATTACH_VOLUME)

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Unplugged, then forgotten."""
        vm, doing = self._guest(name), f"detach {volume.name} from {name}"
        links = [link for link, disk in self._disks.of(vm) if disk == volume.path]
        if not links:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        for link in links:
            if self._link.record("VBD", link)["currently_attached"]:
                self._link.run(doing, "VBD.unplug", link, feature=Feature.DETACH_VOLUME)
            self._link.call(doing, "VBD.destroy", link)

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Plugged into the running guest."""
        for asked, feature in (
            (bool(nic.tag), Feature.ATTACH_TAGGED_INTERFACE),
            (bool(nic.network), Feature.NETWORKING_TOPOLOGY_FLAT),
            (nic.rules is not None, Feature.NETWORKING_SECURITYGROUPS),
        ):
            if asked:
                self.cannot(feature)
        vm, doing = self._guest(name), f"attach {nic.mac} to {name}"
        made = self._cards.make(doing, vm, nic, self._cards.free_place(vm))
        if self._state_of(vm) is GuestState.RUNNING:
            self._link.plug(doing, "VIF", made, Feature.ATTACH_INTERFACE)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """By its address."""
        vm, doing = self._guest(name), f"detach {nic.mac} from {name}"
        found = self._cards.find(vm, nic)
        if found is None:
            raise CallerFault(f"{name} has no card {nic.mac}")
        one, is_plugged = found
        if is_plugged:
            self._link.run(doing, "VIF.unplug", one, feature=Feature.DETACH_INTERFACE)
        self._link.call(doing, "VIF.destroy", one)

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """To another member of the pool, which has the same storage."""
        if block:
            raise Unsupported(
                Feature.LIVE_MIGRATE,
                "this adapter moves guests between members of one pool, which share their disks",
            )
        there, vm, doing = self._other(to), self._guest(name), f"move {name}"
        args = (there, {"live": "true"})
        self._link.run(doing, "VM.pool_migrate", vm, *args, feature=Feature.LIVE_MIGRATE)
        self._link.call(doing, "VM.set_affinity", vm, there)

    def _other(self, to: Hypervisor) -> str:
        """Another member of this pool.

        Raises:
            CallerFault: It is none.
        """
        is_one = isinstance(to, XenServerHypervisor) and to.pool == self.pool
        if not isinstance(to, XenServerHypervisor) or not is_one:
            raise CallerFault("guests move to other members of one pool", hint="use ?host=NAME")
        if to.member == self.member:
            raise CallerFault("that is the host that the guest is on")
        return to.member

    def evacuate(self, name: str, to: Hypervisor) -> None:
        """Start it there; a member that still answers ends it first, for its disks' sake."""
        there, vm, doing = self._other(to), self._guest(name), f"evacuate {name}"
        if self._host.is_live():
            self.power_off(name)
        else:
            self._link.call(doing, "VM.power_state_reset", vm, feature=Feature.EVACUATE)
        args = (there, False, False)
        self._link.run(doing, "VM.start_on", vm, *args, feature=Feature.EVACUATE)
        self._link.call(doing, "VM.set_affinity", vm, there)

    def maintenance(self, *, on: bool) -> None:
        """No new guests, and those it has go to other members; or that ends."""
        self._host.maintenance(on=on)

    @property
    def pool(self) -> str:
        """The pool's uuid."""
        return self._pool

    @property
    def member(self) -> str:
        """Reference of the member of the pool that this is."""
        return self._host.reference

    # Helpers -----------------------------------------------------------------------------

    def _all(self, name: str) -> dict[str, Record]:
        found = self._link.call(f"look for {name}", "VM.get_by_name_label", name)
        told = {str(ref): self._link.record("VM", ref) for ref in found}
        return {ref: one for ref, one in told.items() if is_guest(one)}

    def _guest(self, name: str) -> str:
        return self._known(name)[0]

    def _known(self, name: str) -> tuple[str, Record]:
        """A guest and its record."""
        check_name(name)
        found = self._all(name)
        if not found:
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")
        return next(iter(found.items()))

    def _state_of(self, vm: str) -> GuestState:
        return state(self._link.record("VM", vm))

    @contextmanager
    def _off(self, name: str) -> Iterator[str]:
        """A guest that is off for a change, and runs afterwards."""
        vm = self._guest(name)
        self.power_off(name)
        yield vm
        self.start(name)
