# SPDX-License-Identifier: Apache-2.0
"""Xen by its own toolstack: `xl` on a host reached over SSH, `xl+ssh://root@host:22?type=pvh`.

A guest's files lie in a folder of its own on the host, with a record of what it is, so that any
process goes on where another left. Kernels and initial RAM disks are kept by their digest.
`type` is `pvh` (default), `pv` or `hvm`; `bridge` is the network bridge of its cards (br0).
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import ClassVar

from ci import proc
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files, xen_words
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
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.local import check_name, check_properties, need_file
from nodes.hypervisors.xen_link import Answered, XenLink, address
from nodes.hypervisors.xen_words import Domain, GuestType, Record

OPTIONS = frozenset({"type", "bridge"})
_HOME = "/var/lib/hypervouch/xl"
_GUESTS, _IMAGES, _VOLUMES = f"{_HOME}/guests", f"{_HOME}/images", f"{_HOME}/volumes"
_LOGS = "/var/log/xen/console"
_ROOT_MIB = 64
_KERNELS = {b"\x55\xaa": 0x1FE, b"\x7fELF": 0}
_ARCHIVES = {b"\x1f\x8b": 0, b"070701": 0, b"\xfd7zXZ": 0, b"(\xb5/\xfd": 0}
_MODES = {GuestType.PV: {"xen"}, GuestType.PVH: {"xen", "pvh"}, GuestType.HVM: {"hvm"}}
_POLL_S = 0.5
_LOOK = (
    f"mkdir -p {_GUESTS} {_IMAGES} {_VOLUMES}; xl list || exit 1; echo =; ls {_GUESTS}; echo =; "
    f"ls {_VOLUMES}; echo =; ls {_GUESTS}/*/memory 2>/dev/null; echo =; "
    "ip -o link show type bridge"
)


def connect(url: str, access: Access) -> "XlHypervisor":
    """Connect to a Xen host.

    Raises:
        CallerFault: The URL is wrong, or a key is missing.
        TransientFault: It does not answer.
        NodeFault: It refuses us, showed another host key, or has no Xen.
    """
    where = address(url, OPTIONS)
    kind = where.options.get("type", GuestType.PVH.value)
    if kind not in set(GuestType):
        raise CallerFault(f"?type={kind} is no type of Xen guests", hint="use pvh, pv or hvm")
    link = XenLink(where, access)
    try:
        return XlHypervisor(
            link, access, kind=GuestType(kind), bridge=where.options.get("bridge", "br0")
        )
    except BaseException:
        link.close()
        raise


class XlHypervisor(Hypervisor):
    """One Xen host; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = xen_words.MISSING

    def __init__(self, link: XenLink, access: Access, *, kind: GuestType, bridge: str) -> None:
        """See that there is a Xen.

        Raises:
            NodeFault: There is none.
        """
        self._link = link
        self._access = access
        self._kind = kind
        self._bridge = bridge
        self._told = xen_words.parse_info(link.run(["xl", "info"]).text)

    @property
    def host(self) -> tuple[str, int]:
        """Address and port of the Xen host."""
        return self._link.where.host, self._link.where.port

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Xen's column."""
        versions = {
            "xen": self._told.get("xen_version", ""),
            "kernel": self._told.get("release", ""),
            "guest-type": self._kind.value,
        }
        return System(key="xen-xl", title="Xen (xl)", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """What dom0 says of the machine; memory is the machine's and not dom0's."""
        script = "cat /proc/uptime; hostname -I; grep -m1 ^flags /proc/cpuinfo"
        uptime, addresses, flags = self._sh(script).text.splitlines()[:3]
        return HostStatus(
            hostname=self._told.get("host", ""),
            address=addresses.split()[0] if addresses.split() else self._link.where.host,
            uptime_s=float(uptime.split()[0]),
            memory_mib=int(self._told.get("total_memory", 0)),
            cpus=int(self._told.get("nr_cpus", 0)),
            cpu_traits=tuple(sorted(flags.partition(":")[2].lower().split())),
        )

    def inventory(self) -> Inventory:
        """Domains, what we keep of guests that do not run, volumes and bridges."""
        domains, ours, volumes, suspended, bridges = self._look()
        guests = {name: domain.state for name, domain in domains.items()}
        for name in ours - set(guests):
            guests[name] = GuestState.SUSPENDED if name in suspended else GuestState.SHUTOFF
        return Inventory(guests=guests, volumes=volumes, networks=bridges)

    def cleanup(self) -> tuple[str, ...]:
        """Remove every guest and volume of ours, and the kernels that were kept."""
        found = self.inventory()
        guests = sorted(name for name in found.guests if name.startswith(PREFIX))
        volumes = sorted(name for name in found.volumes if name.startswith(PREFIX))
        for name in guests:
            self.delete(name)
        paths = [f"{_VOLUMES}/{name}" for name in volumes]
        self._link.run(["rm", "-rf", "--", _IMAGES, *paths])
        return (*guests, *volumes)

    def close(self) -> None:
        """Give the connection back."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Make and start a guest."""
        check_name(spec.name)
        self._check(spec)
        domains, ours, *_ = self._look()
        if spec.name in domains or spec.name in ours:
            raise CallerFault(f"there is a guest {spec.name} already", hint="delete it first")
        kernel, initrd = self._upload(spec.image, spec.files)
        record = Record(
            memory_mib=spec.memory_mib,
            cpus=spec.cpus,
            kernel=kernel,
            initrd=initrd,
            arguments=spec.kernel_arguments,
            macs=tuple(nic.mac for nic in spec.nics),
            config_drive=spec.config_drive is not None,
        )
        place = self._place(spec.name)
        text = xen_words.configuration(spec.name, record, self._kind, place, self._bridge)
        try:
            make = 'mkdir -p "$1" && truncate -s "$2" "$1/disk.img"'
            self._sh(make, place, f"{_ROOT_MIB}M")
            if spec.config_drive is not None:
                drive = libvirt_files.config_drive(spec.config_drive)
                self._link.put(drive, f"{place}/config.iso")
            self._keep(spec.name, record, text)
            self._create(spec.name)
        except BaseException:
            self.delete(spec.name)
            raise

    def info(self, name: str) -> GuestInfo:
        """State, memory and processors."""
        domains, ours, _, suspended, _ = self._look()
        if domain := domains.get(name):
            return GuestInfo(state=domain.state, memory_mib=domain.memory_mib, cpus=domain.cpus)
        if name not in ours:
            raise self._unknown(name)
        record = self._record(name)
        state = GuestState.SUSPENDED if name in suspended else GuestState.SHUTOFF
        return GuestInfo(state=state, memory_mib=record.memory_mib, cpus=record.cpus)

    def start(self, name: str) -> None:
        """Start what is shut off."""
        state = self.info(name).state
        if state is GuestState.SUSPENDED:
            self.resume(name)
        elif state is not GuestState.RUNNING:
            self.power_off(name)
            self._create(name)

    def power_off(self, name: str) -> None:
        """End it at once; memory that was kept is given up."""
        domains, ours, *_ = self._look()
        if name not in domains and name not in ours:
            raise self._unknown(name)
        self._destroy(name)
        self._link.run(["rm", "-f", "--", f"{self._place(name)}/memory"])

    def delete(self, name: str) -> None:
        """End and remove it; repeatable."""
        check_name(name)
        self._destroy(name)
        gone = [self._place(name), f"{_LOGS}/guest-{name}.log"]
        self._link.run(["rm", "-rf", "--", *gone])

    def shutdown(self, name: str) -> None:
        """Ask it by its control device, or by ACPI, and wait until it is gone."""
        self._running(name)
        self._xl("shutdown", "-F", name)
        self._await_gone(name)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Let it boot anew."""
        before = self._running(name)
        if hard:
            self._destroy(name)
            self._create(name)
            return
        self._xl("reboot", "-F", name)
        for _ in self._turns():
            now = self._domains().get(name)
            if now is not None and now.number != before.number:
                return
        raise TransientFault(f"{name} does not boot anew when asked", retryable=True)

    def pause(self, name: str) -> None:
        """Stop its processors; Xen counts pauses, so what is paused is left alone."""
        if self._running(name).state is not GuestState.PAUSED:
            self._xl("pause", name)
            self._await_state(name, GuestState.PAUSED)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        if self._running(name).state is GuestState.PAUSED:
            self._xl("unpause", name)
            self._await_state(name, GuestState.RUNNING)

    def suspend(self, name: str) -> None:
        """Write its memory to a file and end it."""
        self._running(name)
        kept = f"{self._place(name)}/memory"
        script = 'xl save "$1" "$2.part" >&2 && mv "$2.part" "$2"'
        self._sh(script, name, kept, timeout_s=4 * self._access.timeout_s)
        self._await_gone(name)

    def resume(self, name: str) -> None:
        """Start it with the memory it had."""
        if self.info(name).state is not GuestState.SUSPENDED:
            raise CallerFault(f"{name} is not suspended")
        script = 'xl restore "$1" >&2 && rm "$1"'
        kept = f"{self._place(name)}/memory"
        self._sh(script, kept, timeout_s=4 * self._access.timeout_s)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Boot it anew with another size."""
        self._again(name, replace(self._record(name), memory_mib=memory_mib, cpus=cpus))

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Another image and an empty disk under the same name and cards."""
        record = self._record(name)
        self._check_image(image)
        kernel, initrd = self._upload(image, {})
        self._destroy(name)
        disk = f"{self._place(name)}/disk.img"
        self._sh('rm -f "$1" && truncate -s "$2" "$1"', disk, f"{_ROOT_MIB}M")
        self._again(name, replace(record, kernel=kernel, initrd=initrd))

    def rescue(self, name: str, image: GuestImage) -> None:
        """Boot it from another kernel and initial RAM disk, its disks attached."""
        record = self._record(name)
        self._check_image(image)
        kernel, initrd = self._upload(image, {})
        place = self._place(name)
        self._link.run(["cp", "-n", f"{place}/record.json", f"{place}/rescued.json"])
        self._again(name, replace(record, kernel=kernel, initrd=initrd))

    def unrescue(self, name: str) -> None:
        """Boot it from its own again."""
        place = self._place(name)
        own = self._link.run(["cat", f"{place}/rescued.json"], check=False)
        if own.status:
            raise CallerFault(f"{name} is not rescued")
        self._again(name, _read_record(own.text))
        self._link.run(["rm", "-f", f"{place}/rescued.json"])

    def console(self, name: str) -> Console:
        """Its paravirtual console."""
        self._running(name)
        return self._link.line(["xl", "console", "-t", "pv", name])

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """What xenconsoled wrote down of it."""
        check_name(name)
        log = f"{_LOGS}/guest-{name}.log"
        return self._link.run(["tail", "-c", str(limit_bytes), log], check=False).out

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A sparse file of dom0."""
        check_name(name)
        if shared:
            self.cannot(Feature.MULTIATTACH_VOLUME)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        path = f"{_VOLUMES}/{name}"
        script = (
            'mkdir -p "$(dirname "$1")"; if [ -e "$1" ]; then exit 9; fi; truncate -s "$2" "$1"'
        )
        done = self._sh(script, path, f"{size_mib}M", check=False)
        if done.status == 9:  # noqa: PLR2004 - the script's own
            raise CallerFault(f"there is a volume {name} already")
        if done.status:
            raise NodeFault(f"cannot make volume {name}: {done.complaint}")
        return Volume(name=name, size_mib=size_mib, path=path, format=DiskFormat.RAW)

    def delete_volume(self, volume: Volume) -> None:
        """Remove its file; repeatable."""
        check_name(volume.name)
        self._link.run(["rm", "-f", "--", f"{_VOLUMES}/{volume.name}"])

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """Its first bytes, as dom0 sees them."""
        return self._link.run(["head", "-c", str(count), volume.path]).out

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Attach its file as the next free device."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        self._running(name)
        record = self._record(name)
        free = [d for d in xen_words.VOLUME_DEVICES if d not in record.volumes.values()]
        if volume.path in record.volumes or not free:
            raise CallerFault(f"{volume.name} is attached already, or {name} has no device free")
        self._xl("block-attach", name, xen_words.block_target(volume.path, free[0]))
        self._note(name, replace(record, volumes={**record.volumes, volume.path: free[0]}))

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Detach it and wait until its backend is gone."""
        self._running(name)
        record = self._record(name)
        device = record.volumes.get(volume.path)
        if device is None:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        self._xl("block-detach", name, device)
        rest = {path: at for path, at in record.volumes.items() if path != volume.path}
        self._note(name, replace(record, volumes=rest))

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Attach a card."""
        if nic.tag:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        self._running(name)
        record = self._record(name)
        self._xl("network-attach", name, *xen_words.card(nic.mac, self._bridge))
        self._note(name, replace(record, macs=(*record.macs, nic.mac)))

    def detach_interface(self, name: str, nic: Nic) -> None:
        """Detach it."""
        self._running(name)
        record = self._record(name)
        if nic.mac not in record.macs:
            raise CallerFault(f"{name} has no card {nic.mac}")
        self._xl("network-detach", name, nic.mac)
        self._note(name, replace(record, macs=tuple(m for m in record.macs if m != nic.mac)))

    # Hosts -------------------------------------------------------------------------------

    def live_migrate(self, name: str, to: Hypervisor, *, block: bool = False) -> None:
        """Move a PVH or HVM guest to another domain of the same host."""
        if self._kind is GuestType.PV:
            reason = "this Xen cannot log the dirty pages of PV guests here (logdirty: EOPNOTSUPP)"
            raise Unsupported(Feature.LIVE_MIGRATE, reason)
        if not isinstance(to, XlHypervisor) or to.host != self.host or block:
            reason = "between hosts without shared storage: only to the same host, as xl allows"
            raise Unsupported(Feature.LIVE_MIGRATE, reason)
        before = self._running(name)
        self._xl("migrate", name, "localhost", timeout_s=4 * self._access.timeout_s)
        for _ in self._turns():
            now = self._domains().get(name)
            if now is not None and now.number != before.number:
                return
        raise NodeFault(f"{name} did not arrive after its migration")

    # How it is done ----------------------------------------------------------------------

    def _check(self, spec: GuestSpec) -> None:
        self._check_image(spec.image)
        asked = {
            Feature.CONSOLE_VNC: spec.graphics == "vnc",
            Feature.CONSOLE_SPICE: spec.graphics == "spice",
            Feature.UEFI_BOOT: spec.firmware == "uefi",
            Feature.BOOT_EMULATED_TPM: spec.tpm,
            Feature.FILE_BACKED_MEMORY: spec.memory_file,
            Feature.DEVICE_TAGS: any(nic.tag for nic in spec.nics),
        }
        for feature in (feature for feature, wanted in asked.items() if wanted):
            self.cannot(feature)

    def _check_image(self, image: GuestImage) -> None:
        check_properties(image, frozenset({"xen"}), frozenset(_MODES[self._kind]))
        if image.arch != "x86_64":
            raise CallerFault(f"the image is for {image.arch}, this host is x86_64")
        if image.kernel is None and image.disk is not None:
            raise CallerFault(
                "this adapter boots a kernel, the image is a disk", hint="give kernel and initrd"
            )
        need_file(image.kernel, "kernel", _KERNELS)
        need_file(image.initrd, "initial RAM disk", _ARCHIVES)

    def _upload(self, image: GuestImage, files: Mapping[str, bytes]) -> tuple[str, str]:
        """Put kernel and initial RAM disk where they are not yet; gives their paths there."""
        kernel = need_file(image.kernel, "kernel", _KERNELS).read_bytes()
        initrd = need_file(image.initrd, "initial RAM disk", _ARCHIVES).read_bytes()
        wanted = {
            f"{_IMAGES}/{hashlib.sha256(content).hexdigest()[:32]}": content
            for content in (kernel, libvirt_files.injected(initrd, files))
        }
        find = f'mkdir -p {_IMAGES}; for path; do [ ! -f "$path" ] || echo "$path"; done'
        there = self._sh(find, *wanted).text.split()
        for path, content in wanted.items():
            if path not in there:
                self._link.put(content, path)
        first, second = wanted
        return first, second

    def _create(self, name: str) -> None:
        """Start it from its file, with an empty log; tried again where libxl lost patience.

        libxl waits 10 to 40 s for what dom0 has to do, which a busy node does not always keep.
        """
        words = (f"{_LOGS}/guest-{name}.log", f"{self._place(name)}/guest.cfg")
        script = ': >"$1"; exec xl create -q "$2" >&2'
        limit_s = 4 * self._access.timeout_s
        done = self._sh(script, *words, timeout_s=limit_s, check=False)
        if done.status:
            self._destroy(name)
            done = self._sh(script, *words, timeout_s=limit_s, check=False)
        if done.status:
            raise NodeFault(f"xl cannot create {name}: {done.complaint}", hint="see /var/log/xen")

    def _again(self, name: str, record: Record) -> None:
        """End it, and start it as what the record says."""
        place = self._place(name)
        text = xen_words.configuration(name, record, self._kind, place, self._bridge)
        self._destroy(name)
        self._link.run(["rm", "-f", "--", f"{place}/memory"])
        self._keep(name, record, text)
        self._create(name)

    def _destroy(self, name: str) -> None:
        done = self._link.run(["xl", "destroy", name], check=False)
        if done.status and "invalid domain identifier" not in done.err.decode("utf-8", "replace"):
            raise NodeFault(f"cannot end {name}: {done.complaint}")
        if not done.status:
            self._await_gone(name)

    def _await_gone(self, name: str) -> None:
        """Wait until the toolstack has cleared it: until then its disks are in use."""
        for _ in self._turns():
            if self._link.run(["xl", "domid", name], check=False).status:
                return
        raise TransientFault(f"{name} does not end", retryable=True)

    def _await_state(self, name: str, state: GuestState) -> None:
        for _ in self._turns():
            if self._running(name).state is state:
                return
        raise TransientFault(f"{name} does not become {state}", retryable=True)

    def _turns(self) -> Iterator[None]:
        return proc.wait_until(time.monotonic() + self._access.timeout_s, every_s=_POLL_S)

    def _running(self, name: str) -> Domain:
        domain = self._domains().get(name)
        if domain is None:
            self._record(name)
            raise CallerFault(f"{name} does not run", hint="start it first")
        return domain

    def _domains(self) -> dict[str, Domain]:
        return xen_words.parse_list(self._link.run(["xl", "list"]).text)

    def _look(
        self,
    ) -> tuple[dict[str, Domain], set[str], frozenset[str], set[str], frozenset[str]]:
        """Domains, our guests, volumes, those whose memory is kept, and bridges."""
        listing, ours, volumes, kept, bridges = self._sh(_LOOK).text.split("=\n", 4)
        return (
            xen_words.parse_list(listing),
            set(ours.split()),
            frozenset(volumes.split()),
            {path.split("/")[-2] for path in kept.split()},
            frozenset(line.split(":")[1].strip() for line in bridges.splitlines()),
        )

    def _record(self, name: str) -> Record:
        check_name(name)
        read = self._link.run(["cat", f"{self._place(name)}/record.json"], check=False)
        if read.status:
            raise self._unknown(name)
        return _read_record(read.text)

    def _note(self, name: str, record: Record) -> None:
        """Keep what changed, for its next start."""
        text = xen_words.configuration(name, record, self._kind, self._place(name), self._bridge)
        self._keep(name, record, text)

    def _keep(self, name: str, record: Record, configuration: str) -> None:
        """Write both files of a guest, each whole or not at all."""
        script = (
            'cd "$1" && printf %s "$2" >guest.part && mv guest.part guest.cfg && '
            'printf %s "$3" >record.part && mv record.part record.json'
        )
        self._sh(script, self._place(name), configuration, json.dumps(asdict(record)))

    def _unknown(self, name: str) -> CallerFault:
        return CallerFault(f"there is no guest {name} on {self._link.where.host}")

    def _place(self, name: str) -> str:
        return f"{_GUESTS}/{name}"

    def _xl(self, *words: str, timeout_s: float = 0.0) -> None:
        self._link.run(["xl", *words], timeout_s=timeout_s)

    def _sh(self, script: str, *words: str, timeout_s: float = 0.0, check: bool = True) -> Answered:
        """A fixed script of ours; its arguments are `$1`, `$2`, ..., never pasted."""
        argv = ["sh", "-c", script, "hypervouch", *words]
        return self._link.run(argv, timeout_s=timeout_s, check=check)


def _read_record(text: str) -> Record:
    try:
        read = json.loads(text)
        return Record(**{**read, "macs": tuple(read["macs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise NodeFault(f"a guest's record on the host cannot be read: {error}") from error
