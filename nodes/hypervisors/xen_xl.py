# SPDX-License-Identifier: Apache-2.0
"""Xen by its own toolstack: `xl` on a host reached over SSH, `xl+ssh://root@host:22?type=pvh`.

A guest's files lie in a folder of its own on the host, with a record of what it is, so that any
process goes on where another left. Kernels and initial RAM disks are kept by their digest.
`type` is `pvh` (default), `pv` or `hvm`; `bridge` is the network bridge of its cards (br0).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files, tunnel, xen_words
from nodes.hypervisors.base import (
    PREFIX,
    Access,
    Console,
    GuestImage,
    GuestInfo,
    GuestSpec,
    GuestState,
    Hypervisor,
    Screen,
)
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.local import check_name, check_size
from nodes.hypervisors.shell_link import ShellLink
from nodes.hypervisors.xen_devices import XlDevices
from nodes.hypervisors.xen_host import IMAGES, VOLUMES, read_record
from nodes.hypervisors.xen_images import XlImages
from nodes.hypervisors.xen_words import GuestType, Record, address

OPTIONS = frozenset({"type", "bridge"})
_LOGS = "/var/log/xen/console"
_ROOT_MIB = 64
_GRACE_S = 60.0
_TIMED_OUT = frozenset({124, 137})
"""What `timeout` ends with when it ended its command."""


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
    link = ShellLink(where, access)
    try:
        return XlHypervisor(
            link, access, kind=GuestType(kind), bridge=where.options.get("bridge", "br0")
        )
    except BaseException:
        link.close()
        raise


class XlHypervisor(XlDevices, XlImages):
    """One Xen host; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = xen_words.MISSING
    migrates_within: ClassVar[bool] = True

    def cleanup(self) -> tuple[str, ...]:
        """Remove every guest, volume and network of ours, and the kernels that were kept.

        A guest is ours by its prefix and by the folder that we made for it.
        """
        found = self.inventory()
        folders = self._look()[1]
        guests = sorted(n for n in found.guests if n.startswith(PREFIX) and n in folders)
        volumes = sorted(name for name in found.volumes if name.startswith(PREFIX))
        for name in guests:
            self.delete(name)
        networks = sorted(name for name in found.networks if name.startswith(PREFIX))
        for name in networks:
            self.delete_network(name)
        paths = [f"{VOLUMES}/{name}" for name in volumes]
        self._link.run(["rm", "-rf", "--", IMAGES, *paths])
        return (*guests, *volumes, *networks)

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Make and start a guest."""
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
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
            screen=spec.graphics == "vnc",
            root=spec.root.path if spec.root else "",
            networks={nic.mac: nic.network for nic in spec.nics if nic.network},
            guarded=tuple(nic.mac for nic in spec.nics if nic.rules is not None),
        )
        place = self._claim(spec.name)
        text = xen_words.configuration(spec.name, record, self._kind, place, self._bridge)
        try:
            size = f"{0 if record.root else _ROOT_MIB}M"
            self._sh('truncate -s "$2" "$1/disk.img"', place, size)
            if spec.config_drive is not None:
                drive = libvirt_files.config_drive(spec.config_drive)
                self._link.put(drive, f"{place}/config.iso")
            self._keep(spec.name, record, text)
            self._guard(spec.nics)
            self._create(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self.delete(spec.name)
            raise

    def _claim(self, name: str) -> str:
        """Make a guest's folder, which one launch alone can: whoever made it may undo it.

        Raises:
            CallerFault: It is there already.
        """
        place = self._place(name)
        script = 'mkdir -p "${1%/*}" && { mkdir "$1" || [ -d "$1" ]; } 2>&1'
        if self._sh(script, place).text.strip():
            raise CallerFault(
                f"there is a guest {name} already, or a folder that one has left: {place}",
                hint="choose another name, or delete that one",
            )
        return place

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
        """End and remove it; repeatable.

        Raises:
            CallerFault: It is a domain that we made no folder for.
        """
        check_name(name)
        there = self._link.run(["test", "-d", self._place(name)], check=False)
        if there.status and name in self._domains():
            raise CallerFault(f"{name} is not ours: it has no folder {self._place(name)}")
        self._destroy(name)
        kept = self._link.run(["cat", f"{self._place(name)}/record.json"], check=False)
        # Without a record that can be read there is still a guest to be removed.
        guarded: tuple[str, ...] = ()
        with suppress(NodeFault):
            guarded = read_record(kept.text).guarded
        self._unguard(guarded)
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
        disk = record.root or f"{self._place(name)}/disk.img"
        self._sh('size=$(stat -c %s "$1"); truncate -s 0 "$1" && truncate -s "$size" "$1"', disk)
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
        self._again(name, read_record(own.text))
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

    def screen(self, name: str, kind: str) -> Screen:
        """Its VNC server in dom0, through a tunnel."""
        feature = Feature(f"console.{kind}")
        if feature is not Feature.CONSOLE_VNC:
            self.cannot(feature)
        domain = self._running(name)
        key = f"/local/domain/{domain.number}/console/vnc-port"
        found = self._link.run(["xenstore-read", key], check=False)
        if found.status:
            raise CallerFault(f"{name} has no screen", hint="launch it with graphics vnc")
        port = self._link.tunnels.port(xen_words.SCREEN_HOST, int(found.text))
        return Screen(kind=kind, host=tunnel.HOST, port=port)

    def crash_dump(self, name: str) -> int:
        """Write its memory to a file in dom0.

        Of PVH and HVM guests `xl dump-core` probably tries every page frame up to nearly 4 GiB,
        present or not: on an emulated processor it did not come to an end.

        Raises:
            TransientFault: It did not end in twice the time of a call.
        """
        self._running(name)
        core = f"{self._place(name)}/core"
        limit_s = int(2 * self._access.timeout_s)
        script = (
            'rm -f "$2"; timeout -k 5 "$3" xl dump-core "$1" "$2" >&2 || '
            '{ status=$?; rm -f "$2"; exit $status; }; stat -c %s "$2"'
        )
        words = (script, name, core, str(limit_s))
        done = self._sh(*words, timeout_s=limit_s + _GRACE_S, check=False)
        if done.status in _TIMED_OUT:
            raise TransientFault(
                f"xl dump-core of {name} did not end in {limit_s} s",
                hint="give it more time (--timeout), or a processor that is not emulated",
            )
        if done.status:
            raise NodeFault(f"xl dump-core of {name} failed: {done.complaint}")
        return int(done.text)

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
            Feature.CONSOLE_SPICE: spec.graphics == "spice",
            Feature.UEFI_BOOT: spec.firmware == "uefi",
            Feature.BOOT_EMULATED_TPM: spec.tpm,
            Feature.FILE_BACKED_MEMORY: spec.memory_file,
            Feature.BOOT_STATELESS_FIRMWARE: spec.stateless,
            Feature.DEVICE_TAGS: any(nic.tag for nic in spec.nics),
            Feature.STORAGE_BLOCK_BACKEND_ISCSI: bool(spec.root and spec.root.source),
        }
        for feature in (feature for feature, wanted in asked.items() if wanted):
            self.cannot(feature)

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
