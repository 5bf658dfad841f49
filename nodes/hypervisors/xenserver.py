# SPDX-License-Identifier: Apache-2.0
"""XenServer and XCP-ng by their API: `xenserver://root@master?host=...&sr=...&network=...`.

A member of a pool is one hypervisor, the one that answers unless `host` names another. Guests are
HVM machines with UEFI that boot a disk of the storage repository `sr`, the pool's default one
else. What we make carries a mark in `other_config`; `cleanup` removes only what has that mark and
our prefix.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import ClassVar

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors.base import (
    PREFIX,
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
from nodes.hypervisors.local import check_name, check_properties
from nodes.hypervisors.xenserver_disks import MARK, OWN, PLACES, QOS, Disks, is_ours
from nodes.hypervisors.xenserver_link import NULL, Record, XapiLink, address
from nodes.hypervisors.xenserver_missing import MISSING

_RESCUED = "hypervouch-rescued"
_TEMPLATE = "Other install media"
_TYPES, _MODES = frozenset({"xen", "xenserver"}), frozenset({"hvm"})
_MIB = 1 << 20
_CONFIG_DRIVE = "15"
_STATES = {
    "Running": GuestState.RUNNING,
    "Paused": GuestState.PAUSED,
    "Suspended": GuestState.SUSPENDED,
    "Halted": GuestState.SHUTOFF,
}


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

    def __init__(self, link: XapiLink, access: Access) -> None:
        """Find the member, its storage and its network.

        Raises:
            CallerFault: One of them is not there.
        """
        self._link = link
        self._access = access
        options = link.where.options
        self._host = self._named("host", options.get("host", "")) or link.call(
            "find the host", "session.get_this_host", link.reference
        )
        pool = next(iter(self._link.records("pool").values()))
        storage = self._named("SR", options.get("sr", "")) or str(pool["default_SR"])
        if storage == NULL:
            raise CallerFault("the pool has no default storage", hint="name one: ?sr=NAME")
        self._disks = Disks(link, storage)
        self._network = self._named("network", options.get("network", "")) or min(
            self._link.records("network"), default=NULL
        )

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Nova's column, with the versions that the host gives."""
        told = self._link.record("host", self._host)["software_version"]
        names = {"product": "product_brand", "version": "product_version", "xen": "xen"}
        versions = {name: str(told[key]) for name, key in names.items() if key in told}
        return System(
            key="xenserver", title="XenServer", grade=self._access.grade, versions=versions
        )

    def status(self) -> HostStatus:
        """What the host's record says."""
        host = self._link.record("host", self._host)
        booted = float(host["other_config"].get("boot_time", 0) or 0)
        uptime = datetime.now(UTC).timestamp() - booted if booted else 0.0
        info = host["cpu_info"]
        traits = str(info.get("flags", info.get("modelname", ""))).lower().split()
        return HostStatus(
            hostname=str(host["hostname"]),
            address=str(host["address"]),
            uptime_s=max(uptime, 0.0),
            memory_mib=int(host.get("memory_total", 0)) // _MIB,
            cpus=int(info.get("cpu_count", 0)),
            cpu_traits=tuple(sorted(set(traits))),
        )

    def inventory(self) -> Inventory:
        """The pool's guests with their snapshots, volumes of our storage, networks."""
        machines = self._link.records("VM")
        guests = {one["name_label"]: _state(one) for one in machines.values() if _is_guest(one)}
        snapshots = {
            f"{machines[one['snapshot_of']]['name_label']}/{one['name_label']}"
            for one in machines.values()
            if one["is_a_snapshot"] and one["snapshot_of"] in machines
        }
        networks = {str(one["name_label"]) for one in self._link.records("network").values()}
        return Inventory(
            guests=guests,
            volumes=frozenset(self._disks.volumes()),
            networks=frozenset(networks),
            snapshots=frozenset(snapshots),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove guests and volumes that carry our mark and our prefix."""
        guests = sorted(
            one["name_label"]
            for one in self._link.records("VM").values()
            if _is_guest(one) and is_ours(one)
        )
        for name in guests:
            self.delete(name)
        volumes = {
            name: ref for name, ref in self._disks.volumes().items() if name.startswith(PREFIX)
        }
        for name, ref in sorted(volumes.items()):
            self._link.run(f"remove {name}", "VDI.destroy", ref)
        return (*guests, *sorted(volumes))

    def close(self) -> None:
        """Log out."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Write a guest's disk, make its machine and start it on this host."""
        self._check(spec)
        if self._find(spec.name):
            raise CallerFault(f"there is a guest {spec.name} already")
        try:
            self._make(spec)
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self.delete(spec.name)
            raise

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        self._need_disk(spec.image)
        for wanted, feature in (
            (spec.files, Feature.GUEST_SETUP_INJECT_FILE),
            (spec.tpm, Feature.BOOT_EMULATED_TPM),
            (spec.memory_file, Feature.FILE_BACKED_MEMORY),
        ):
            if wanted:
                self.cannot(feature)
        if spec.graphics and spec.graphics != "vnc":
            self.cannot(Feature(f"console.{spec.graphics}"))

    def _need_disk(self, image: GuestImage) -> None:
        check_properties(image, _TYPES, _MODES)
        if image.disk is None:
            raise CallerFault("XenServer boots disks, and the image has none", hint="name one")

    def _make(self, spec: GuestSpec) -> None:
        doing = f"make {spec.name}"
        template = self._named("VM", _TEMPLATE)
        vm = self._link.run(doing, "VM.clone", template, spec.name, feature=Feature.LAUNCH)
        for key, value in MARK.items():
            self._link.call(doing, "VM.add_to_other_config", vm, key, value)
        self._link.run(doing, "VM.provision", vm, feature=Feature.LAUNCH)
        self._size(doing, vm, spec.memory_mib, spec.cpus)
        firmware = "uefi" if spec.firmware == "uefi" else "bios"
        self._link.call(doing, "VM.set_HVM_boot_params", vm, {"order": "c", "firmware": firmware})
        root = self._disks.write(spec.image, f"{spec.name} root")
        self._disks.plug_in(doing, vm, root, "0", bootable=True)
        if spec.config_drive is not None:
            drive = self._disks.write_bytes(
                files.config_drive(spec.config_drive), f"{spec.name} config"
            )
            self._disks.plug_in(doing, vm, drive, _CONFIG_DRIVE, read_only=True)
        for at, nic in enumerate(spec.nics):
            self._link.call(doing, "VIF.create", self._card(vm, nic, at))

    def _size(self, doing: str, vm: str, memory_mib: int, cpus: int) -> None:
        size = str(memory_mib * _MIB)
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
        told = self._link.record("VM", self._guest(name))
        return GuestInfo(
            state=_state(told),
            memory_mib=int(told["memory_dynamic_max"]) // _MIB,
            cpus=int(told["VCPUs_at_startup"]),
        )

    def power_off(self, name: str) -> None:
        """Hard shutdown; a suspended guest's memory is thrown away."""
        vm = self._guest(name)
        if self._state_of(vm) is not GuestState.SHUTOFF:
            self._link.run(f"power off {name}", "VM.hard_shutdown", vm, feature=Feature.TERMINATE)

    def delete(self, name: str) -> None:
        """Destroy machine, snapshots and own disks; volumes stay."""
        check_name(name)
        vm = self._find(name)
        if not vm:
            return
        self.power_off(name)
        record = self._link.record("VM", vm)
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
        """The guest's line, where the host offers one.

        Raises:
            Unsupported: It offers none.
        """
        consoles = self._link.record("VM", self._guest(name))["consoles"]
        told = [self._link.record("console", one)["protocol"] for one in consoles]
        raise Unsupported(
            Feature.CONSOLE_SERIAL_INTERACTIVE,
            f"the host offers {', '.join(told) or 'nothing'} for this guest, and no text line",
        )

    def start(self, name: str) -> None:
        """Start it on this host."""
        vm = self._guest(name)
        if self._state_of(vm) is not GuestState.RUNNING:
            doing = f"start {name}"
            args = (self._host, False, False)
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
        vm = self._guest(name)
        if self._state_of(vm) is not GuestState.PAUSED:
            self._link.run(f"pause {name}", "VM.pause", vm, feature=Feature.PAUSE)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        vm = self._guest(name)
        if self._state_of(vm) is not GuestState.RUNNING:
            self._link.run(f"unpause {name}", "VM.unpause", vm, feature=Feature.UNPAUSE)

    def suspend(self, name: str) -> None:
        """Memory goes to a disk of the storage."""
        self._link.run(f"suspend {name}", "VM.suspend", self._guest(name), feature=Feature.SUSPEND)

    def resume(self, name: str) -> None:
        """On this host."""
        args = (self._host, False, False)
        vm = self._guest(name)
        self._link.run(f"resume {name}", "VM.resume_on", vm, *args, feature=Feature.RESUME)

    def snapshot(self, name: str, tag: str) -> None:
        """Disks only: the guest goes on."""
        vm = self._guest(name)
        self._link.run(f"snapshot {name}", "VM.snapshot", vm, tag, [], feature=Feature.SNAPSHOT)

    def revert(self, name: str, tag: str) -> None:
        """Go back and start."""
        found = [
            one
            for one in self._link.record("VM", self._guest(name))["snapshots"]
            if self._link.record("VM", one)["name_label"] == tag
        ]
        if not found:
            raise CallerFault(f"{name} has no snapshot {tag}")
        self._link.run(f"revert {name}", "VM.revert", found[0], feature=Feature.SNAPSHOT)
        self.start(name)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Off, changed, on."""
        with self._off(name) as vm:
            self._size(f"resize {name}", vm, memory_mib, cpus)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Another disk in the place of the old one."""
        self._need_disk(image)
        with self._off(name) as vm:
            doing = f"rebuild {name}"
            link, old = self._disks.root(name, vm)
            self._link.call(doing, "VBD.destroy", link)
            self._link.run(doing, "VDI.destroy", old)
            self._disks.plug_in(
                doing, vm, self._disks.write(image, f"{name} root"), "0", bootable=True
            )

    def rescue(self, name: str, image: GuestImage) -> None:
        """The rescue image's disk goes before the guest's own."""
        self._need_disk(image)
        with self._off(name) as vm:
            doing = f"rescue {name}"
            if _RESCUED in self._link.record("VM", vm)["other_config"]:
                raise CallerFault(f"{name} is rescued already")
            link, own = self._disks.root(name, vm)
            self._link.call(doing, "VBD.destroy", link)
            made = self._disks.write(image, f"{name} rescue")
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
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        if name in self._disks.volumes():
            raise CallerFault(f"there is a volume {name} already")
        ref = self._disks.make(name, size_mib * _MIB, own=False, shared=shared)
        return Volume(name=name, size_mib=size_mib, path=ref, format=DiskFormat.RAW, shared=shared)

    def delete_volume(self, volume: Volume) -> None:
        """Remove it."""
        ref = self._disks.volumes().get(volume.name)
        if ref:
            self._link.run(f"remove {volume.name}", "VDI.destroy", ref)

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """At the next free place, plugged into the running guest."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        vm, doing = self._guest(name), f"attach {volume.name} to {name}"
        if any(disk == volume.path for _, disk in self._disks.of(vm)):
            raise CallerFault(f"{volume.name} is attached to {name} already")
        link = self._disks.plug_in(doing, vm, volume.path, self._disks.free_place(vm))
        if self._state_of(vm) is GuestState.RUNNING:
            try:
                self._link.run(doing, "VBD.plug", link, feature=Feature.ATTACH_VOLUME)
            except BaseException:
                with suppress(HypervouchError):
                    self._link.call(doing, "VBD.destroy", link)
                raise

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
        if nic.tag:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        vm, doing = self._guest(name), f"attach {nic.mac} to {name}"
        taken = {
            self._link.record("VIF", one)["device"] for one in self._link.record("VM", vm)["VIFs"]
        }
        place = next(at for at in range(PLACES) if str(at) not in taken)
        card = self._link.call(doing, "VIF.create", self._card(vm, nic, place))
        if self._state_of(vm) is GuestState.RUNNING:
            self._link.run(doing, "VIF.plug", card, feature=Feature.ATTACH_INTERFACE)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """By its address."""
        vm, doing = self._guest(name), f"detach {nic.mac} from {name}"
        cards = {one: self._link.record("VIF", one) for one in self._link.record("VM", vm)["VIFs"]}
        found = [one for one, told in cards.items() if told["MAC"].lower() == nic.mac.lower()]
        if not found:
            raise CallerFault(f"{name} has no card {nic.mac}")
        if cards[found[0]]["currently_attached"]:
            self._link.run(doing, "VIF.unplug", found[0], feature=Feature.DETACH_INTERFACE)
        self._link.call(doing, "VIF.destroy", found[0])

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """To another member of the pool, which has the same storage."""
        if not isinstance(to, XenServerHypervisor) or block:
            raise Unsupported(
                Feature.LIVE_MIGRATE,
                "this adapter moves guests between members of one pool, which share their disks",
            )
        vm = self._guest(name)
        self._link.run(
            f"move {name}",
            "VM.pool_migrate",
            vm,
            to.member,
            {"live": "true"},
            feature=Feature.LIVE_MIGRATE,
        )

    def evacuate(self, name: str, to: Hypervisor) -> None:
        """Forget that it ran here, and start it there."""
        if not isinstance(to, XenServerHypervisor):
            raise CallerFault("a guest is evacuated to another member of the pool")
        vm, doing = self._guest(name), f"evacuate {name}"
        self._link.call(doing, "VM.power_state_reset", vm, feature=Feature.EVACUATE)
        args = (to.member, False, False)
        self._link.run(doing, "VM.start_on", vm, *args, feature=Feature.EVACUATE)

    def maintenance(self, *, on: bool) -> None:
        """No new guests, and those it has go to other members; or that ends."""
        doing = "put the host into maintenance" if on else "end the host's maintenance"
        if not on:
            self._link.call(doing, "host.enable", self._host, feature=Feature.MAINTENANCE_MODE)
            return
        self._link.call(doing, "host.disable", self._host, feature=Feature.MAINTENANCE_MODE)
        self._link.run(doing, "host.evacuate", self._host, feature=Feature.MAINTENANCE_MODE)

    @property
    def member(self) -> str:
        """Reference of the member of the pool that this is."""
        return str(self._host)

    # Helpers -----------------------------------------------------------------------------

    def _named(self, kind: str, name: str) -> str:
        """The one thing with a name; nothing where no name is given.

        Raises:
            CallerFault: There is none, or there are several.
        """
        if not name:
            return ""
        found = self._link.call(f"look for {name}", f"{kind}.get_by_name_label", name)
        if len(found) != 1:
            raise CallerFault(
                f"the pool has {len(found)} of a {kind} {name!r}", hint="one is needed"
            )
        return str(found[0])

    def _find(self, name: str) -> str:
        found = self._link.call(f"look for {name}", "VM.get_by_name_label", name)
        guests = [ref for ref in found if _is_guest(self._link.record("VM", ref))]
        return str(guests[0]) if guests else ""

    def _guest(self, name: str) -> str:
        found = self._find(name)
        if not found:
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")
        return found

    def _state_of(self, vm: str) -> GuestState:
        return _state(self._link.record("VM", vm))

    @contextmanager
    def _off(self, name: str) -> Iterator[str]:
        """A guest that is off for a change, and runs afterwards."""
        vm = self._guest(name)
        self.power_off(name)
        yield vm
        self.start(name)

    def _card(self, vm: str, nic: Nic, place: int) -> Record:
        return {
            "VM": vm,
            "network": self._network,
            "device": str(place),
            "MAC": nic.mac,
            "MTU": "1500",
            "other_config": {},
            **QOS,
        }


def _state(told: Record) -> GuestState:
    return _STATES.get(told["power_state"], GuestState.CRASHED)


def _is_guest(told: Record) -> bool:
    kinds = ("is_a_template", "is_a_snapshot", "is_control_domain")
    return not any(told[kind] for kind in kinds)
