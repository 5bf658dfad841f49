# SPDX-License-Identifier: Apache-2.0
r"""Hyper-V by its own cmdlets: `hyperv://user@host:5986?switch=NAME&folder=C:\hypervouch`.

Guests are machines of generation 2: UEFI without secure boot, a VHDX on a SCSI controller. Each has
a folder of its own for what is made for it. What we make carries a mark in its notes; `cleanup`
removes only what has that mark and our prefix. Machines are found by their checked name once and
then named by their GUID, for names of Hyper-V may be taken twice and hold wildcards.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PureWindowsPath
from typing import Any, ClassVar

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors import libvirt_files
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
    Screen,
    Volume,
)
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.hyperv_devices import Devices, card_name, whole
from nodes.hypervisors.hyperv_facts import EMULATED, MARK, Facts, is_ours, state_of
from nodes.hypervisors.hyperv_files import Files
from nodes.hypervisors.hyperv_link import HyperVLink, Record, address, step, wide
from nodes.hypervisors.hyperv_missing import MISSING
from nodes.hypervisors.hyperv_session import Step
from nodes.hypervisors.local import check_disk_size, check_name, check_properties, check_size

RDP_PORT = 2179
_TYPES, _MODES = frozenset({"hyperv"}), frozenset({"hvm"})
_MIB = 1 << 20
_RESCUE, _DRIVE = "rescue.vhdx", "config.iso"
_CLAIMS = frozenset({Grade.BARE, Grade.NESTED, Grade.SIMULATOR})


def connect(url: str, access: Access) -> "HyperVHypervisor":
    """Connect to a host.

    Raises:
        CallerFault: The URL is wrong, names what is not there, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = HyperVLink(address(url), access)
    try:
        return HyperVHypervisor(link, access)
    except BaseException:
        link.close()
        raise


class HyperVHypervisor(Hypervisor):
    """One host; see `nodes.hypervisors.base` for the contract.

    Attributes:
        name: The host's own.
    """

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    runs_guests: ClassVar[bool] = False
    boots_disks: ClassVar[bool] = True

    def __init__(self, link: HyperVLink, access: Access) -> None:
        """Find the host and its switch.

        Raises:
            CallerFault: There is no such switch, or no Hyper-V, or it is our emulator, said to be
                more than that.
        """
        self._link = link
        self._access = access
        self._facts = Facts(link)
        self._files = Files(link)
        if access.grade in _CLAIMS and EMULATED in str(self._facts.windows()["Caption"]):
            raise CallerFault(
                f"{link.where.host} is our emulator, which is no evidence of grade {access.grade}",
                hint="say grade: emulator",
            )
        self.name = str(self._facts.host()["Name"])
        wanted = link.where.options.get("switch", "")
        switches = {str(one["Name"]) for one in self._facts.switches()}
        if wanted and wanted not in switches:
            raise CallerFault(f"{self.name} has no switch {wanted}", hint="look at Get-VMSwitch")
        self._devices = Devices(link, wanted or min(switches, default=""))

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Nova's column, with the versions that the host gives."""
        told = self._facts.windows()
        versions = {"windows": f"{told['Caption']} {told['Version']}"}
        return System(key="hyperv", title="Hyper-V", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """What the host says of itself."""
        host = self._facts.host()
        booted = datetime.fromisoformat(str(self._facts.windows()["LastBootUpTime"]))
        uptime = datetime.now(UTC) - booted.astimezone(UTC)
        return HostStatus(
            hostname=self.name,
            address=self._link.where.host,
            uptime_s=max(uptime.total_seconds(), 0.0),
            memory_mib=int(host["MemoryCapacity"]) // _MIB,
            cpus=int(host["LogicalProcessorCount"]),
        )

    def inventory(self) -> Inventory:
        """All guests with their checkpoints, all switches, volumes of our folder."""
        snapshots = self._link.run(
            "list the checkpoints",
            step("Get-VM"),
            step("Get-VMSnapshot"),
            step("Select-Object", Property=["VMName", "Name"]),
        )
        return Inventory(
            guests={str(one["Name"]): state_of(one) for one in self._facts.machines()},
            volumes=frozenset(self._files.volumes()),
            networks=frozenset(str(one["Name"]) for one in self._facts.switches()),
            snapshots=frozenset(f"{one['VMName']}/{one['Name']}" for one in snapshots),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove guests and switches with our mark and our prefix, our volumes, what is left."""
        machines = self._facts.machines()
        guests = [one for one in machines if self._has_made(one)]
        for one in guests:
            self._remove(one)
        theirs = [str(one["Path"] or "") for one in machines if one not in guests]
        for name in self._files.left(theirs):
            self._files.remove(self._files.guest(name))
        volumes = self._files.volumes()
        for path in volumes.values():
            self._files.remove(path)
        switches = [str(one["Name"]) for one in self._facts.switches() if is_ours(one)]
        for name in switches:
            self.delete_network(name)
        names = sorted(str(one["Name"]) for one in guests)
        return (*names, *sorted(volumes), *sorted(switches))

    def close(self) -> None:
        """End the session."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Write a guest's disk, make its machine and start it."""
        self._check(spec)
        if self._facts.find(spec.name):
            raise CallerFault(f"there is a guest {spec.name} already")
        self._files.claim(spec.name)
        try:
            self._make(spec)
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self._undo(spec.name)
            raise

    def _undo(self, name: str) -> None:
        """Remove what this very launch has made, by its folder: another's may have the name."""
        for one in self._facts.find(name):
            if self._is_at_home(one):
                self._remove(one)
        self._files.remove(self._files.guest(name))

    def _is_at_home(self, told: Record) -> bool:
        """Whether a machine is in the folder that a launch of its name makes for it."""
        folder = PureWindowsPath(self._files.guest(str(told["Name"])))
        path = PureWindowsPath(str(told["Path"] or ""))
        return folder in {path, *path.parents}

    def _has_made(self, told: Record) -> bool:
        """By its mark; a launch that was killed before it set one has left it in our folder."""
        return is_ours(told) or (told["Name"].startswith(PREFIX) and self._is_at_home(told))

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
        self._need_disk(spec.image)
        self.refuse_missing(spec)
        if spec.root is not None:
            self.cannot(Feature.REBUILD_VOLUME_BACKED)
        if spec.graphics not in {"", "rdp"}:
            self.cannot(Feature(f"console.{spec.graphics}"))

    def _need_disk(self, image: GuestImage) -> None:
        check_properties(image, _TYPES, _MODES)
        if image.disk is None:
            raise CallerFault("Hyper-V boots disks, and the image has none", hint="name one")

    def _make(self, spec: GuestSpec) -> None:
        doing, name = f"make {spec.name}", spec.name
        root = self._files.free_root(name)
        self._files.put_image(spec.image, root)
        made = step(
            "New-VM",
            Name=name,
            Generation=2,
            MemoryStartupBytes=wide(spec.memory_mib * _MIB),
            VHDPath=root,
            BootDevice="VHD",
            Path=self._files.guest(name),
        )
        told = self._link.run(
            doing, made, step("Select-Object", Property=["Id"]), feature=Feature.LAUNCH
        )
        vm = str(told[0]["Id"])
        self._devices.on(doing, vm, step("Set-VM", Notes=MARK, CheckpointType="Standard"))
        self._devices.on(doing, vm, step("Set-VMFirmware", EnableSecureBoot="Off"))
        self._size(doing, vm, spec.memory_mib, spec.cpus)
        self._devices.on(doing, vm, step("Get-VMNetworkAdapter"), step("Remove-VMNetworkAdapter"))
        for nic in spec.nics:
            self._devices.on(doing, vm, self._devices.card(nic))
        if spec.tpm:
            self._devices.on(doing, vm, step("Set-VMKeyProtector", NewLocalKeyProtector=None))
            self._devices.on(doing, vm, step("Enable-VMTPM"), feature=Feature.BOOT_EMULATED_TPM)
        if spec.config_drive is not None:
            image = self._files.guest(name, _DRIVE)
            self._files.put_bytes(libvirt_files.config_drive(spec.config_drive), image)
            self._devices.on(doing, vm, step("Add-VMDvdDrive", Path=image))

    def _size(self, doing: str, vm: str, memory_mib: int, cpus: int) -> None:
        memory = wide(memory_mib * _MIB)
        self._devices.on(
            doing, vm, step("Set-VMMemory", StartupBytes=memory, DynamicMemoryEnabled=False)
        )
        self._devices.on(doing, vm, step("Set-VMProcessor", Count=cpus))

    def info(self, name: str) -> GuestInfo:
        """What its machine says."""
        told = self._facts.guest(name)
        return GuestInfo(
            state=state_of(told),
            memory_mib=int(told["MemoryStartup"]) // _MIB,
            cpus=int(told["ProcessorCount"]),
            volumes=self._devices.volumes(told["Id"]),
            macs=self._devices.macs(told["Id"]),
            host=self.name,
        )

    def power_off(self, name: str) -> None:
        """Turned off; a suspended guest's memory is thrown away."""
        self._turn_off(self._facts.guest(name))

    def _turn_off(self, told: Record) -> None:
        doing, state = f"power off {told['Name']}", state_of(told)
        if state is GuestState.SUSPENDED:
            self._devices.on(
                doing, told["Id"], step("Remove-VMSavedState"), feature=Feature.TERMINATE
            )
        elif state is not GuestState.SHUTOFF:
            off = step("Stop-VM", TurnOff=None, Force=None)
            self._devices.on(doing, told["Id"], off, feature=Feature.TERMINATE)

    def delete(self, name: str) -> None:
        """Machine, checkpoints and its folder; volumes stay.

        Raises:
            CallerFault: Somebody else has a machine of that name.
        """
        check_name(name)
        found = self._facts.find(name)
        if not all(map(self._has_made, found)):
            raise CallerFault(f"{name} is not ours: its notes lack our mark")
        for one in found:
            self._remove(one)
        if not found:
            self._files.remove(self._files.guest(name))

    def _remove(self, told: Record) -> None:
        name, vm = str(told["Name"]), told["Id"]
        self._turn_off(told)
        gone = step("Remove-VMSnapshot", Confirm=False)
        self._devices.on(f"remove the checkpoints of {name}", vm, step("Get-VMSnapshot"), gone)
        self._devices.await_merge(vm)
        self._devices.on(
            f"remove {name}", vm, step("Remove-VM", Force=None), feature=Feature.TERMINATE
        )
        self._files.remove(self._files.guest(name))

    def console(self, name: str) -> Console:
        """There is none.

        Raises:
            Unsupported: Always.
        """
        self._facts.guest(name)
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def screen(self, name: str, kind: str) -> Screen:
        """The host's own port for the screens of all its guests."""
        self._facts.guest(name)
        if kind != "rdp":
            self.cannot(Feature(f"console.{kind}"))
        return Screen(kind="rdp", host=self._link.where.host, port=RDP_PORT)

    def start(self, name: str) -> None:
        """Start it."""
        told = self._facts.guest(name)
        if state_of(told) is not GuestState.RUNNING:
            self._devices.on(f"start {name}", told["Id"], step("Start-VM"), feature=Feature.LAUNCH)

    def shutdown(self, name: str) -> None:
        """Ask the guest, by its integration service."""
        self._do(f"shut down {name}", name, step("Stop-VM", Force=None), Feature.TERMINATE)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """A reset, or a shutdown and a start: Restart-VM knows the reset only."""
        if hard:
            self._do(f"reboot {name}", name, step("Restart-VM", Force=None), Feature.REBOOT)
            return
        self.shutdown(name)
        self.start(name)

    def pause(self, name: str) -> None:
        """Stop its processors."""
        told = self._facts.guest(name)
        if state_of(told) is not GuestState.PAUSED:
            self._devices.on(f"pause {name}", told["Id"], step("Suspend-VM"), feature=Feature.PAUSE)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        told = self._facts.guest(name)
        if state_of(told) is not GuestState.RUNNING:
            self._devices.on(
                f"unpause {name}", told["Id"], step("Resume-VM"), feature=Feature.UNPAUSE
            )

    def suspend(self, name: str) -> None:
        """Memory goes to a file beside its disk."""
        self._do(f"suspend {name}", name, step("Save-VM"), Feature.SUSPEND)

    def resume(self, name: str) -> None:
        """Started with it."""
        self._do(f"resume {name}", name, step("Start-VM"), Feature.RESUME)

    def snapshot(self, name: str, tag: str) -> None:
        """A checkpoint; the guest goes on."""
        made = step("Checkpoint-VM", SnapshotName=tag)
        self._do(f"snapshot {name}", name, made, Feature.SNAPSHOT)

    def revert(self, name: str, tag: str) -> None:
        """Go back and start."""
        vm = self._facts.guest(name)["Id"]
        shown = step("Select-Object", Property=["Id", "Name"])
        kept = self._devices.on(
            f"list the checkpoints of {name}", vm, step("Get-VMSnapshot"), shown
        )
        found = [one["Id"] for one in kept if one["Name"] == tag]
        if not found:
            raise CallerFault(f"{name} has no snapshot {tag}")
        self._link.run(
            f"revert {name}",
            step("Get-VMSnapshot", Id=str(found[-1])),
            step("Restore-VMSnapshot", Confirm=False),
            feature=Feature.SNAPSHOT,
        )
        self.start(name)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Off, changed, on."""
        check_size(memory_mib, cpus)
        with self._off(name) as vm:
            self._size(f"resize {name}", vm, memory_mib, cpus)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Another file in the place of its disk."""
        self._need_disk(image)
        with self._off(name) as vm:
            # What checkpoints need is beneath a difference: the old file is nobody's but ours.
            old, new = self._devices.root(name, vm), self._files.free_root(name)
            self._files.put_image(image, new)
            self._devices.boot(f"rebuild {name}", vm, new)
            self._files.remove(old)

    def rescue(self, name: str, image: GuestImage) -> None:
        """The rescue image takes the disk's place, and that goes behind it."""
        self._need_disk(image)
        doing, own, rescue = f"rescue {name}", self._root(name), self._rescue(name)
        if whole(own) == rescue:
            raise CallerFault(f"{name} is rescued already")
        with self._off(name) as vm:
            self._files.put_image(image, rescue)
            self._devices.boot(doing, vm, rescue)
            self._devices.plug(doing, vm, own)

    def unrescue(self, name: str) -> None:
        """The guest's own disk alone again."""
        doing, rescue = f"unrescue {name}", self._rescue(name)
        if whole(self._root(name)) != rescue:
            raise CallerFault(f"{name} is not rescued")
        folder = PureWindowsPath(rescue).parent
        with self._off(name) as vm:
            own = next(
                one
                for one in self._devices.drives(vm)
                if PureWindowsPath(one["Path"]).parent == folder and whole(one["Path"]) != rescue
            )
            self._devices.unplug(doing, vm, own)
            self._devices.boot(doing, vm, str(own["Path"]))
            self._files.remove(rescue)

    def cache_image(self, image: GuestImage) -> bool:
        """Keep it on the host, for launches to copy."""
        if not image.id:
            raise CallerFault("an image without an id cannot be cached")
        self._need_disk(image)
        path = self._files.image(image)
        if self._files.is_there(path):
            return False
        try:
            self._files.put_image(image, path)
        except BaseException:
            with suppress(HypervouchError):
                self._files.remove(path)
            raise
        return True

    def forget_image(self, image: GuestImage) -> None:
        """Remove it; guests have copies of their own."""
        self._files.remove(self._files.image(image))

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A dynamic VHDX in our folder."""
        check_name(name)
        check_disk_size(size_mib)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        if shared:
            self.cannot(Feature.MULTIATTACH_VOLUME)
        path = self._files.volume(name)
        if self._files.is_there(path):
            raise CallerFault(f"there is a volume {name} already")
        self._files.empty_disk(path, size_mib * _MIB)
        return Volume(name=name, size_mib=size_mib, path=path, format=DiskFormat.VHDX)

    def delete_volume(self, volume: Volume) -> None:
        """Remove it."""
        check_name(volume.name)
        self._files.remove(self._files.volume(volume.name))

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """At the next free place of its controller."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self.cannot(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
        vm = self._facts.guest(name)["Id"]
        if self._devices.plugged(vm, volume):
            raise CallerFault(f"{volume.name} is attached to {name} already")
        self._devices.plug(f"attach {volume.name} to {name}", vm, volume.path)

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Off its place."""
        vm, doing = self._facts.guest(name)["Id"], f"detach {volume.name} from {name}"
        found = self._devices.plugged(vm, volume)
        if not found:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        self._devices.unplug(doing, vm, found[0])

    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """Resize-VHD under the running guest."""
        plugged = self._devices.plugged(self._facts.guest(name)["Id"], volume)
        if not plugged:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        path = str(plugged[0]["Path"])
        if whole(path) != path:
            raise CallerFault(f"{volume.name} has a checkpoint, and is not made larger with it")
        check_disk_size(size_mib)
        if size_mib < volume.size_mib:
            raise CallerFault(f"{volume.name} has {volume.size_mib} MiB, and is not made smaller")
        larger = step("Resize-VHD", Path=path, SizeBytes=wide(size_mib * _MIB))
        self._link.run(f"extend {volume.name}", larger, feature=Feature.EXTEND_VOLUME)
        return replace(volume, size_mib=size_mib)

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Into the running guest."""
        if nic.tag:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        if nic.rules is not None:
            self.cannot(Feature.NETWORKING_SECURITYGROUPS)
        doing = f"attach {nic.mac} to {name}"
        self._do(doing, name, self._devices.card(nic), Feature.ATTACH_INTERFACE)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """By the name that its address gave it."""
        vm, doing = self._facts.guest(name)["Id"], f"detach {nic.mac} from {name}"
        wanted = step("Get-VMNetworkAdapter", Name=card_name(nic))
        if not self._devices.on(doing, vm, wanted, step("Select-Object", Property=["Name"])):
            raise CallerFault(f"{name} has no card {nic.mac}")
        gone = step("Remove-VMNetworkAdapter")
        self._devices.on(doing, vm, wanted, gone, feature=Feature.DETACH_INTERFACE)

    def create_network(self, name: str) -> None:
        """A private switch with our mark."""
        check_name(name)
        if name in {str(one["Name"]) for one in self._facts.switches()}:
            raise CallerFault(f"there is a switch {name} already")
        made = step("New-VMSwitch", Name=name, SwitchType="Private", Notes=MARK)
        feature = Feature.NETWORKING_TOPOLOGY_FLAT
        self._link.run(f"make the switch {name}", made, step("Out-Null"), feature=feature)

    def delete_network(self, name: str) -> None:
        """Remove the switch, if it is ours."""
        check_name(name)
        for one in self._facts.switches():
            if one["Name"] == name and is_ours(one):
                gone = step("Remove-VMSwitch", Name=name, Force=None)
                self._link.run(f"remove the switch {name}", gone)

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """Move-VM; with its disks where `block` is true, or where they are not shared.

        Raises:
            Unsupported: The other one is no Hyper-V host.
            CallerFault: It has volumes, which would be moved into its folder.
        """
        if not isinstance(to, HyperVHypervisor):
            raise Unsupported(Feature.LIVE_MIGRATE, "a guest moves between Hyper-V hosts only")
        vm = self._facts.guest(name)["Id"]
        wanted: dict[str, Any] = {"DestinationHost": to.name}
        if block or not self._files.is_shared:
            if self._devices.volumes(vm):
                raise CallerFault(f"{name} has volumes, and moves with its disks: detach them")
            wanted |= {"IncludeStorage": None, "DestinationStoragePath": to.folder_of(name)}
        self._devices.on(
            f"move {name}", vm, step("Move-VM", **wanted), feature=Feature.LIVE_MIGRATE
        )
        if not self._files.is_shared:
            self._files.remove(self._files.guest(name))  # its folder here is left empty

    def folder_of(self, name: str) -> str:
        """Where a guest's files lie on this host."""
        return self._files.guest(name)

    # Helpers -----------------------------------------------------------------------------

    def _do(self, doing: str, name: str, what: Step, feature: Feature) -> None:
        self._devices.on(doing, self._facts.guest(name)["Id"], what, feature=feature)

    @contextmanager
    def _off(self, name: str) -> Iterator[str]:
        """A guest that is off for a change, and runs afterwards."""
        told = self._facts.guest(name)
        self._turn_off(told)
        yield str(told["Id"])
        self.start(name)

    def _root(self, name: str) -> str:
        return self._devices.root(name, self._facts.guest(name)["Id"])

    def _rescue(self, name: str) -> str:
        return self._files.guest(name, _RESCUE)
