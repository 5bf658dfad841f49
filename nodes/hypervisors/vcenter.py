# SPDX-License-Identifier: Apache-2.0
"""vCenter by its SOAP API: `vcenter://user@host/DATACENTER/CLUSTER?datastore=...&network=...`.

One cluster is one hypervisor, as Nova has it: its hosts share their datastores, and vCenter
places guests on them. A guest's files lie in `[datastore] hypervouch/CLUSTER/NAME`, the machine
itself is marked in its extraConfig. `cleanup` removes only what has that mark and our prefix.
Guests boot disks: images that are a kernel and an initial RAM disk are refused.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar
from uuid import uuid4

from pyVmomi import vim

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import vcenter_devices as devices
from nodes.hypervisors import vcenter_place
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
)
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.local import check_name, check_properties, check_size
from nodes.hypervisors.tcp_console import TcpConsole
from nodes.hypervisors.vcenter_core import STATES
from nodes.hypervisors.vcenter_link import VcenterLink, address
from nodes.hypervisors.vcenter_missing import MISSING
from nodes.hypervisors.vcenter_volumes import VcenterVolumes

MARK, _OWNER = "hypervouch.owner", "hypervouch"
_RESCUED = "hypervouch.rescued"
_WHOLE = ("config.extraConfig", "runtime.powerState", "config.hardware.device")
"""What has to be known of a machine before it is removed."""
_TYPES, _MODES = frozenset({"vmware"}), frozenset({"hvm"})
_LINE_PORTS = (20000, 32768)  # below those that hosts dial from


def connect(url: str, access: Access) -> "VcenterHypervisor":
    """Connect to a cluster.

    Raises:
        CallerFault: The URL is wrong, names what is not there, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = VcenterLink(address(url), access)
    try:
        return VcenterHypervisor(link, access)
    except BaseException:
        link.close()
        raise


class VcenterHypervisor(VcenterVolumes):
    """One cluster; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    boots_disks: ClassVar[bool] = True
    migrates_within: ClassVar[bool] = True

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Nova's column of VMware, with the versions that vCenter gives."""
        about = self._link.content.about
        versions = {"vcenter": about.version, "build": about.build, "api": about.apiVersion}
        versions |= {"product": about.fullName, **self._place.facts()}
        return System(
            key="vmware",
            title="VMware vCenter",
            grade=self._access.grade,
            versions={name: str(told) for name, told in versions.items()},
        )

    def status(self) -> HostStatus:
        """The cluster's sums; the uptime is that of the host that booted first."""
        told = self._link.props(self._place.cluster, "summary")["summary"]
        booted, models = [], set()
        paths = ("runtime.bootTime", "summary.hardware.cpuModel")
        for _, host in self._link.all(vim.HostSystem, self._place.cluster, *paths):
            booted.append(host.get("runtime.bootTime"))
            models.add(str(host.get("summary.hardware.cpuModel", "")).lower())
        since = min((when for when in booted if when is not None), default=datetime.now(UTC))
        return HostStatus(
            hostname=f"{self._place.cluster_name} on {self._link.where.host}",
            address=self._link.where.host,
            uptime_s=max((datetime.now(UTC) - since).total_seconds(), 0.0),
            memory_mib=int(told.totalMemory) >> 20,
            cpus=int(told.numCpuThreads),
            cpu_traits=tuple(sorted(models - {""})),
        )

    def inventory(self) -> Inventory:
        """The cluster's machines with their snapshots, our volumes, networks."""
        guests, snapshots = {}, set()
        paths = ("name", "runtime.powerState", "snapshot")
        for _, told in self._link.all(vim.VirtualMachine, self._place.cluster, *paths):
            name = str(told.get("name", ""))
            guests[name] = STATES.get(told.get("runtime.powerState", ""), GuestState.CRASHED)
            tree = told["snapshot"].rootSnapshotList if told.get("snapshot") else ()
            snapshots |= {f"{name}/{one.name}" for one in _flat(tree)}
        networks = vcenter_place.networks_of(self._link, self._place.cluster)
        return Inventory(
            guests=guests,
            volumes=frozenset(self._store.volume_names()),
            networks=frozenset(networks),
            snapshots=frozenset(snapshots),
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove guests that carry our mark and our prefix, our volumes, and what launches left."""
        paths = ("name", "config.extraConfig")
        found = list(self._link.all(vim.VirtualMachine, self._place.cluster, *paths))
        ours = [(str(told["name"]), one) for one, told in found if _is_ours(told)]
        for name, guest in ours:
            self._remove(name, guest, self._link.props(guest, *_WHOLE))
        guests = sorted(name for name, _ in ours)
        theirs = {told.get("name", "") for _, told in found} - set(guests)
        for name in sorted(self._store.guest_folders() - theirs):
            self._store.remove(f"{self._store.home}/{name}")
        volumes = sorted(name for name in self._store.volume_names() if name.startswith(PREFIX))
        for name in volumes:
            self._store.delete_disk(self._store.volume_path(name))
        return (*guests, *volumes)

    def close(self) -> None:
        """Log out."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Write a guest's disk, make its machine and start it."""
        self._check(spec)
        if self._find(spec.name) is not None:
            raise CallerFault(f"there is a guest {spec.name} already")
        folder, known_as = self._store.claim(spec.name), str(uuid4())
        try:
            made = self._make(spec, folder, known_as)
            self._run(f"start {spec.name}", made.PowerOnVM_Task, Feature.REBOOT)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError, Unsupported):
                self._undo(spec.name, folder, known_as)
            raise

    def _undo(self, name: str, folder: str, known_as: str) -> None:
        """Remove what this very launch has made: another one's guest may have the name."""
        index, where = self._link.content.searchIndex, self._place.datacenter
        guest = self._link.call(
            f"look for {name}",
            lambda: index.FindByUuid(where, known_as, vmSearch=True, instanceUuid=True),
        )
        told = self._link.props(guest, "name", *_WHOLE) if guest is not None else {}
        # A recording draws the same UUIDs as any other, each for names of its own.
        if told.get("name") == name:
            self._remove(name, guest, told)
        self._store.remove(folder)

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        self.refuse_missing(spec)
        check_size(spec.memory_mib, spec.cpus)
        self._need_disk(spec.image)

    def _make(self, spec: GuestSpec, folder: str, known_as: str) -> Any:
        """Its machine; `known_as` is its instance UUID, as Nova gives it one."""
        root = self._store.write_image(spec.image, f"{folder}/root.vmdk")
        changes = [*devices.controllers(), devices.disk(root, 0)]
        for at, nic in enumerate(spec.nics):
            key = -400 - at
            changes.append(devices.card(nic, self._place.network, self._place.network_name, key))
        if spec.config_drive is not None:
            self._store.put(f"{folder}/config.iso", files.config_drive(spec.config_drive))
            changes.append(devices.config_drive(self._store.path(f"{folder}/config.iso")))
        changes += [
            devices.line(self._free_port()),
            devices.log(self._store.path(f"{folder}/console.log")),
        ]
        config = vim.vm.ConfigSpec(
            name=spec.name,
            instanceUuid=known_as,
            memoryMB=spec.memory_mib,
            numCPUs=spec.cpus,
            guestId="otherLinux64Guest",
            firmware="efi" if _is_uefi(spec) else "bios",
            files=vim.vm.FileInfo(vmPathName=f"[{self._place.datastore_name}]"),
            extraConfig=[vim.option.OptionValue(key=MARK, value=_OWNER)],
            deviceChange=changes,
        )
        place, host = self._place, None
        if place.drs == "off":  # then nobody chooses a host for us
            host = next(iter(self._usable_hosts()))
        return self._link.run(
            f"make {spec.name}",
            lambda: place.folder.CreateVM_Task(config, place.pool, host),
            Feature.LAUNCH,
        )

    def info(self, name: str) -> GuestInfo:
        """What vCenter says."""
        guest = self._guest(name)
        paths = ("runtime.powerState", "config.hardware.memoryMB", "config.hardware.numCPU")
        told = self._link.props(guest, *paths, "config.hardware.device", "runtime.host")
        found = told.get("config.hardware.device", ())
        host = told.get("runtime.host")
        return GuestInfo(
            state=STATES.get(told.get(paths[0], ""), GuestState.CRASHED),
            memory_mib=int(told.get(paths[1], 0)),
            cpus=int(told.get(paths[2], 0)),
            volumes=devices.volume_names(found, self._store.path(f"{self._store.volumes}/")),
            macs=devices.macs(found),
            host=str(self._link.props(host, "name").get("name", "")) if host else "",
        )

    def power_off(self, name: str) -> None:
        """Off; a suspended guest's memory is thrown away."""
        self._halt(name, self._guest(name))

    def _halt(self, name: str, guest: Any) -> None:
        if self._state(guest) is not GuestState.SHUTOFF:
            self._run(f"power off {name}", guest.PowerOffVM_Task, Feature.TERMINATE)

    def delete(self, name: str) -> None:
        """Destroy the machine and its folder; volumes are detached before, and stay."""
        check_name(name)
        # Its files must not go while it is there, perhaps in a folder of somebody's.
        guest = self._find(name) or vcenter_place.machine(self._link, self._place, name)
        if guest is not None:
            told = self._link.props(guest, *_WHOLE)
            if not _has_mark(told):
                raise CallerFault(f"{name} is not ours: it lacks our mark {MARK}")
            self._remove(name, guest, told)
        self._store.remove(f"{self._store.home}/{name}")

    def _remove(self, name: str, guest: Any, told: Mapping[str, Any]) -> None:
        """By the machine itself: somebody may have put it into another folder.

        Args:
            name: What it is called in messages.
            guest: vCenter's.
            told: Its properties _WHOLE.
        """
        if told.get("runtime.powerState") != "poweredOff":
            self._run(f"power off {name}", guest.PowerOffVM_Task, Feature.TERMINATE)
        self._keep_volumes(name, guest, told.get("config.hardware.device", ()))
        self._run(f"remove {name}", guest.Destroy_Task, Feature.TERMINATE)

    def _keep_volumes(self, name: str, guest: Any, found: Iterable[Any]) -> None:
        """Destroying a machine deletes each disk that it has."""
        prefix = self._store.path(f"{self._store.volumes}/")
        kept = [one for one in devices.disks(found) if one.backing.fileName.startswith(prefix)]
        if kept:
            config = vim.vm.ConfigSpec(deviceChange=[devices.remove(one) for one in kept])
            task = partial(guest.ReconfigVM_Task, config)
            self._run(f"change {name}", task, Feature.DETACH_VOLUME)

    def console(self, name: str) -> Console:
        """The first serial port, over TCP on the host that the guest is on now."""
        guest = self._guest(name)
        port = devices.line_port(self._devices(guest))
        host = self._link.props(guest, "runtime.host").get("runtime.host")
        if not port or host is None:
            raise NodeFault(f"{name} has no serial port on the network", hint="was it changed?")
        return TcpConsole(self._host_address(host), port, self._link.timeout_s)

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """The end of what the second serial port wrote to its file."""
        self._guest(name)
        return self._store.read(f"{self._store.home}/{name}/console.log", last=limit_bytes)

    def start(self, name: str) -> None:
        """Power on."""
        guest = self._guest(name)
        if self._state(guest) is not GuestState.RUNNING:
            self._run(f"start {name}", guest.PowerOnVM_Task, Feature.REBOOT)

    def shutdown(self, name: str) -> None:
        """Ask VMware Tools in the guest."""
        guest = self._guest(name)
        self._link.call(f"shut down {name}", guest.ShutdownGuest, Feature.TERMINATE)
        self._until(guest, name, GuestState.SHUTOFF)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Ask VMware Tools in the guest, or reset."""
        guest = self._guest(name)
        if hard:
            self._run(f"reset {name}", guest.ResetVM_Task, Feature.REBOOT)
        else:
            self._link.call(f"reboot {name}", guest.RebootGuest, Feature.REBOOT)

    def suspend(self, name: str) -> None:
        """Memory goes to a file beside the disks."""
        guest = self._guest(name)
        self._run(f"suspend {name}", guest.SuspendVM_Task, Feature.SUSPEND)

    def resume(self, name: str) -> None:
        """Power on what is suspended."""
        guest = self._guest(name)
        self._run(f"resume {name}", guest.PowerOnVM_Task, Feature.RESUME)

    def snapshot(self, name: str, tag: str) -> None:
        """Disks only: the guest goes on."""
        guest = self._guest(name)
        self._run(
            f"snapshot {name}",
            lambda: guest.CreateSnapshot_Task(tag, "hypervouch", memory=False, quiesce=False),
            Feature.SNAPSHOT,
        )

    def revert(self, name: str, tag: str) -> None:
        """Go back and start."""
        guest = self._guest(name)
        tree = self._link.props(guest, "snapshot").get("snapshot")
        found = [one for one in _flat(tree.rootSnapshotList if tree else ()) if one.name == tag]
        if not found:
            raise CallerFault(f"{name} has no snapshot {tag}")
        self._run(f"revert {name}", found[0].snapshot.RevertToSnapshot_Task, Feature.SNAPSHOT)
        self.start(name)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Off, changed, on."""
        check_size(memory_mib, cpus)
        config = vim.vm.ConfigSpec(memoryMB=memory_mib, numCPUs=cpus)
        with self._off(name) as guest:
            self._run(f"resize {name}", lambda: guest.ReconfigVM_Task(config), Feature.RESIZE)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Another disk in the place of the old one."""
        self._need_disk(image)
        with self._off(name) as guest:
            old = devices.root(self._devices(guest))
            if old is None:
                raise NodeFault(f"{name} has no disk", hint="delete it")
            self._reconfigure(name, [devices.remove(old)], Feature.REBUILD)
            self._store.delete_disk(old.backing.fileName)
            root = self._store.write_image(image, f"{self._store.home}/{name}/root.vmdk")
            self._reconfigure(name, [devices.disk(root, 0)], Feature.REBUILD)

    def rescue(self, name: str, image: GuestImage) -> None:
        """The rescue image's disk goes before the guest's own."""
        self._need_disk(image)
        with self._off(name) as guest:
            if self._option(guest, _RESCUED):
                raise CallerFault(f"{name} is rescued already")
            own = devices.root(self._devices(guest))
            if own is None:
                raise NodeFault(f"{name} has no disk", hint="delete it")
            made = self._store.write_image(image, f"{self._store.home}/{name}/rescue.vmdk")
            self._reconfigure(name, [devices.remove(own)], Feature.RESCUE)
            unit = devices.free_unit(self._devices(guest)) or 1
            added = [devices.disk(made, 0), devices.disk(own.backing.fileName, unit)]
            self._reconfigure(name, added, Feature.RESCUE, {_RESCUED: own.backing.fileName})

    def unrescue(self, name: str) -> None:
        """The guest's own disk alone again."""
        with self._off(name) as guest:
            path = self._option(guest, _RESCUED)
            if not path:
                raise CallerFault(f"{name} is not rescued")
            found = devices.disks(self._devices(guest))
            both = [one for one in found if one.unitNumber == 0 or one.backing.fileName == path]
            self._reconfigure(name, [devices.remove(one) for one in both], Feature.RESCUE)
            own = [devices.disk(path, 0)]
            self._reconfigure(name, own, Feature.RESCUE, {_RESCUED: ""})
            self._store.delete_disk(self._store.path(f"{self._store.home}/{name}/rescue.vmdk"))

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """VMotion to another host of the cluster."""
        if to is not self or block:
            raise Unsupported(
                Feature.LIVE_MIGRATE,
                "this adapter moves guests between hosts of one cluster, which share their disks",
            )
        guest = self._guest(name)
        here = self._link.props(guest, "runtime.host")["runtime.host"]
        others = [host for host in self._usable_hosts() if host != here]
        if not others:
            raise NodeFault(
                f"{self._place.cluster_name} has no second host in use that reaches "
                f"{self._place.datastore_name}: it is {self._place.facts()['datastore']}",
                hint="name a datastore that hosts share: ?datastore=NAME",
            )
        self._run(
            f"move {name}",
            lambda: guest.MigrateVM_Task(None, others[0], "defaultPriority"),
            Feature.LIVE_MIGRATE,
        )

    # Helpers -----------------------------------------------------------------------------

    def _usable_hosts(self) -> list[Any]:
        found = vcenter_place.usable_hosts(self._link, self._place)
        if not found:
            raise NodeFault(
                f"no host of {self._place.cluster_name} is in use and reaches "
                f"{self._place.datastore_name}",
                hint="look at the cluster's hosts in vCenter",
            )
        return found

    @contextmanager
    def _off(self, name: str) -> Iterator[Any]:
        """A guest that is off for a change, and runs afterwards."""
        guest = self._guest(name)
        self.power_off(name)
        yield guest
        self.start(name)

    def _until(self, guest: Any, name: str, state: GuestState) -> None:
        if not self._link.wait(lambda: self._state(guest) is state):
            raise TransientFault(
                f"{name}: not seen within {self._link.timeout_s:g} s that it is {state}",
                hint="look at its console log",
                retryable=True,
            )

    def _host_address(self, host: Any) -> str:
        """Where a host is reached: the address of its first management card, else its name."""
        told = self._link.props(host, "config.network.vnic", "name")
        for card in told.get("config.network.vnic", ()):
            if card.spec.ip is not None and card.spec.ip.ipAddress:
                return str(card.spec.ip.ipAddress)
        return str(told.get("name", ""))

    def _free_port(self) -> int:
        """A port for a guest's line that no guest of ours in the cluster has."""
        taken = vcenter_place.line_ports(self._link, self._place)
        # Not the first one: launches at the same time would choose the same.
        free = [port for port in range(*_LINE_PORTS) if port not in taken]
        if not free:
            raise NodeFault(f"{self._place.cluster_name} has no port left for a serial line")
        return secrets.choice(free)

    def _need_disk(self, image: GuestImage) -> None:
        check_properties(image, _TYPES, _MODES)
        if image.disk is None:
            raise CallerFault(
                "vCenter boots disks, and the image has none",
                hint="name a bootable one; nodes.images.bootable makes one of the tiny guest",
            )


def _flat(tree: Any) -> Iterator[Any]:
    """A tree of snapshots, each before its children."""
    for one in tree:
        yield one
        yield from _flat(one.childSnapshotList)


def _is_uefi(spec: GuestSpec) -> bool:
    """Whether a guest was asked to boot by UEFI, or its image cannot do otherwise."""
    return "uefi" in {spec.firmware, spec.image.properties.get("hw_firmware_type", "").lower()}


def _is_ours(told: Mapping[str, Any]) -> bool:
    return _has_mark(told) and str(told.get("name", "")).startswith(PREFIX)


def _has_mark(told: Mapping[str, Any]) -> bool:
    options = told.get("config.extraConfig", ())
    return any((one.key, one.value) == (MARK, _OWNER) for one in options)
