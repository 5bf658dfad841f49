# SPDX-License-Identifier: Apache-2.0
"""User Mode Linux: guests that are processes of this machine. `uml:///[PATH_OF_KERNEL]`.

Everything of a guest lies in `Access.work`: whoever connects with the same folder finds the
same guests, also after the process that made them was killed. That folder is the hypervisor:
`inventory` and `cleanup` look at nothing else. Root is needed for network cards only.

A guest boots the image's initial RAM disk, and has an empty disk of its own, ubda. Its kernel
is the program itself: Debian's package `user-mode-linux` brings it as `linux.uml`, with the
drivers that are added here.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from ci import proc
from ci.errors import ConfigError
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import local, uml_console, uml_image
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
from nodes.hypervisors.libvirt_files import config_drive
from nodes.hypervisors.uml_guest import (
    CONFIG_DRIVE,
    INITRD,
    RESCUE_INITRD,
    ROOT,
    Card,
    Disk,
    Folder,
    Record,
    card_argument,
    command,
    disk_argument,
    running,
)
from nodes.hypervisors.uml_mconsole import Refused, ask
from nodes.hypervisors.uml_missing import MISSING

_TYPES, _MODES = frozenset({"uml"}), frozenset({"uml"})
_LEAST_MIB, _ROOT_MIB = 64, 64
# Shell, so that somebody waits for guest and log keeper after we are gone.
_KEEPER = "exec >keeper.log 2>&1 </dev/null; log=$1 limit=$2 python=$3; shift 3\n"
_KEEPER += '"$@" <>console.in 2>&1 | "$python" -I "$log" "$limit"'


def connect(url: str, access: Access) -> "UmlHypervisor":
    """Connect to the guests of a folder.

    Args:
        url: `uml:///`, or with the path of a kernel: `uml:///usr/bin/linux.uml`.
        access: Its `work` holds the guests.

    Raises:
        CallerFault: The URL names a host, or no kernel.
        ConfigError: User Mode Linux is not installed.
    """
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.scheme != "uml":
        raise CallerFault(f"{url!r}: guests are processes of this machine", hint="use uml:///")
    wanted = parts.path if parts.path != "/" else ""
    found = shutil.which(wanted or "linux.uml")
    if found is None and wanted:
        raise CallerFault(f"{wanted} is no program", hint="name a User Mode Linux kernel")
    if found is None:
        raise ConfigError(
            "User Mode Linux is not installed", hint="apt-get install user-mode-linux"
        )
    return UmlHypervisor(Path(found), access)


class UmlHypervisor(Hypervisor):
    """The guests in one folder."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING

    def __init__(self, binary: Path, access: Access) -> None:
        self._binary = binary
        self._access = access
        work = access.work.resolve()
        self._guests, self._volumes = work / "uml", work / "volumes"
        with local.disk_faults(work):
            self._guests.mkdir(parents=True, exist_ok=True)
            self._volumes.mkdir(parents=True, exist_ok=True)
        try:
            self._release = proc.run([str(binary), "--version"], timeout_s=20).text.strip()
        except proc.CommandFailed as error:
            raise NodeFault(f"{binary} does not run: {error.message}") from error

    def system(self) -> System:
        """User Mode Linux, by its kernel's release."""
        versions = {"kernel": self._release, "host_kernel": os.uname().release}
        return System(
            key="uml", title="User Mode Linux", grade=self._access.grade, versions=versions
        )

    def status(self) -> HostStatus:
        """This machine."""
        return local.status()

    def inventory(self) -> Inventory:
        """Guests by their folders and by their processes, volumes by their files."""
        found = {path.name: self._folder(path.name).state() for path in self._guests.iterdir()}
        for folder in running(self._binary.name):
            if folder.parent == self._guests:
                found.setdefault(folder.name, GuestState.RUNNING)
        volumes = frozenset(path.stem for path in self._volumes.glob("*.raw"))
        return Inventory(guests=found, volumes=volumes)

    def cleanup(self) -> tuple[str, ...]:
        """Remove all guests and volumes of ours in the folder, whoever made them."""
        found = self.inventory()
        guests = sorted(name for name in found.guests if name.startswith(PREFIX))
        volumes = sorted(name for name in found.volumes if name.startswith(PREFIX))
        for name in guests:
            self.delete(name)
        for name in volumes:
            self._volume_path(name).unlink(missing_ok=True)
        return (*guests, *volumes)

    def close(self) -> None:
        """Nothing is held."""

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Make a folder for the guest and boot it."""
        self._check(spec)
        folder = self._folder(spec.name)
        try:
            with local.disk_faults(self._guests):
                folder.path.mkdir()
        except NodeFault as fault:
            if isinstance(fault.__cause__, FileExistsError):
                raise CallerFault(f"there is a guest {spec.name} already") from fault
            raise
        try:
            with local.disk_faults(folder.path):
                self._fill(folder, spec)
            self._boot(folder)
        except BaseException:
            self.delete(spec.name)
            raise

    def info(self, name: str) -> GuestInfo:
        """What it was started with: neither memory nor its one processor change as it runs."""
        folder, record = self._known(name)
        return GuestInfo(state=folder.state(), memory_mib=record.memory_mib, cpus=1)

    def power_off(self, name: str) -> None:
        """Kill its processes."""
        folder, _ = self._known(name)
        self._kill(folder)

    def delete(self, name: str) -> None:
        """Kill its processes and remove its folder."""
        local.check_name(name)
        folder = self._folder(name)
        self._kill(folder)
        shutil.rmtree(folder.path, ignore_errors=True)

    def console(self, name: str) -> Console:
        """Console 0, from now on."""
        folder, _ = self._known(name)
        return uml_console.UmlConsole(folder.path, folder.alive)

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """At most the last two MiB: what is older is thrown away as it comes."""
        folder, _ = self._known(name)
        return uml_console.tail(folder.path, limit_bytes)

    def start(self, name: str) -> None:
        """Boot it with the disks and cards it has."""
        folder, _ = self._known(name)
        if not folder.alive():
            self._boot(folder)

    def shutdown(self, name: str) -> None:
        """Press ctrl-alt-del: the guest's init gets SIGINT."""
        folder = self._running(name)
        if folder.state() == GuestState.PAUSED:
            raise CallerFault(f"{name} is paused", hint="unpause it first")
        self._ask(folder, "cad")
        self._await(lambda: not folder.alive(), f"{name} does not end")

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """End it, by ctrl-alt-del or by killing it, and boot it with the disks it has."""
        if hard:
            self._kill(self._known(name)[0])
        else:
            self.shutdown(name)
        self.start(name)

    def pause(self, name: str) -> None:
        """Stop its kernel; only the management console is heard."""
        folder = self._running(name)
        self._ask(folder, "stop", harmless="Already stopped")
        folder.mark_paused(paused=True)

    def unpause(self, name: str) -> None:
        """Let it go on."""
        folder = self._running(name)
        self._ask(folder, "go", harmless="Not stopped")
        folder.mark_paused(paused=False)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Boot it with other memory; it has one processor."""
        folder, record = self._known(name)
        if cpus != 1:
            raise Unsupported(Feature.RESIZE, "memory only: it has one processor")
        self._check_size(memory_mib, cpus)
        self._kill(folder)
        folder.save(record.model_copy(update={"memory_mib": memory_mib}))
        self._boot(folder)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Boot another image with an empty disk; volumes and cards stay, injected files go."""
        folder, record = self._known(name)
        uml_image.check(image, _TYPES, _MODES)
        self._kill(folder)
        with local.disk_faults(folder.path):
            uml_image.write_initrd(folder.path / INITRD, image, self._release, {})
            _make_root(folder.path / ROOT)
        folder.save(record.model_copy(update={"rescued": False}))
        self._boot(folder)

    def rescue(self, name: str, image: GuestImage) -> None:
        """Boot another image beside its own; disks and cards stay."""
        folder, record = self._known(name)
        uml_image.check(image, _TYPES, _MODES)
        self._kill(folder)
        with local.disk_faults(folder.path):
            uml_image.write_initrd(folder.path / RESCUE_INITRD, image, self._release, {})
        folder.save(record.model_copy(update={"rescued": True}))
        self._boot(folder)

    def unrescue(self, name: str) -> None:
        """Boot its own image again."""
        folder, record = self._known(name)
        self._kill(folder)
        (folder.path / RESCUE_INITRD).unlink(missing_ok=True)
        folder.save(record.model_copy(update={"rescued": False}))
        self._boot(folder)

    # Volumes and cards -------------------------------------------------------------------

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A sparse file."""
        local.check_name(name)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        path = self._volume_path(name)
        if path.exists():
            raise CallerFault(f"there is a volume {name} already")
        with local.disk_faults(path.parent), path.open("xb") as file:
            file.truncate(size_mib << 20)
        return Volume(
            name=name, size_mib=size_mib, path=str(path), format=DiskFormat.RAW, shared=shared
        )

    def delete_volume(self, volume: Volume) -> None:
        """Remove its file."""
        local.check_name(volume.name)
        self._volume_path(volume.name).unlink(missing_ok=True)

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """Read its file."""
        with self._volume_file(volume).open("rb") as file:
            return file.read(count)

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Hot-plug a ubd device; its serial number is the volume's name."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self.cannot(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
        folder, record = self._running(name), self._known(name)[1]
        if any(disk.serial == volume.name for disk in record.disks):
            raise CallerFault(f"{volume.name} is attached to {name} already")
        letter = record.free_letter()
        if not letter:
            raise CallerFault(f"{name} has no room for one more disk")
        path = self._volume_file(volume)
        disk = Disk(letter=letter, path=path, serial=volume.name, shared=volume.shared)
        self._ask(folder, f"config {disk_argument(disk, folder.path)}")
        folder.save(record.model_copy(update={"disks": (*record.disks, disk)}))

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Unplug it; waits while the guest has it open."""
        folder, record = self._running(name), self._known(name)[1]
        found = [disk for disk in record.disks if disk.serial == volume.name]
        if not found:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        self._remove(folder, f"ubd{found[0].letter}")
        rest = tuple(disk for disk in record.disks if disk.serial != volume.name)
        folder.save(record.model_copy(update={"disks": rest}))

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Hot-plug a card; its tap device comes and goes with the guest's end of it."""
        self._check_card(nic)
        _need_root()
        folder, record = self._running(name), self._known(name)[1]
        card = Card(number=record.free_number(), mac=nic.mac)
        self._ask(folder, f"config {card_argument(card)}")
        folder.save(record.model_copy(update={"cards": (*record.cards, card)}))

    def detach_interface(self, name: str, nic: Nic) -> None:
        """Unplug it; waits while the guest has it up."""
        folder, record = self._running(name), self._known(name)[1]
        found = [card for card in record.cards if card.mac.lower() == nic.mac.lower()]
        if not found:
            raise CallerFault(f"{name} has no card {nic.mac}")
        self._remove(folder, f"eth{found[0].number}")
        rest = tuple(card for card in record.cards if card != found[0])
        folder.save(record.model_copy(update={"cards": rest}))

    # Within ------------------------------------------------------------------------------

    def _check(self, spec: GuestSpec) -> None:
        local.check_name(spec.name)
        uml_image.check(spec.image, _TYPES, _MODES)
        self._check_size(spec.memory_mib, spec.cpus)
        self.refuse_missing(spec)
        if spec.nics:
            _need_root()

    def _check_card(self, nic: Nic) -> None:
        for feature, asked in (
            (Feature.ATTACH_TAGGED_INTERFACE, bool(nic.tag)),
            (Feature.NETWORKING_TOPOLOGY_FLAT, bool(nic.network)),
            (Feature.NETWORKING_SECURITYGROUPS, nic.rules is not None),
        ):
            if asked:
                self.cannot(feature)

    def _check_size(self, memory_mib: int, cpus: int) -> None:
        if cpus != 1:
            raise CallerFault("User Mode Linux has one processor", hint="ask for cpus=1")
        if memory_mib < _LEAST_MIB:
            raise CallerFault(f"{memory_mib} MiB are too few", hint=f"at least {_LEAST_MIB}")

    def _fill(self, folder: Folder, spec: GuestSpec) -> None:
        """Everything but the process."""
        uml_image.write_initrd(folder.path / INITRD, spec.image, self._release, spec.files)
        if spec.config_drive is not None:
            (folder.path / CONFIG_DRIVE).write_bytes(config_drive(spec.config_drive))
        _make_root(folder.path / ROOT)
        os.mkfifo(folder.path / uml_console.INPUT)
        folder.save(
            Record(
                name=spec.name,
                memory_mib=spec.memory_mib,
                arguments=spec.kernel_arguments,
                memory_file=spec.memory_file,
                config_drive=spec.config_drive is not None,
                cards=tuple(Card(number=n, mac=nic.mac) for n, nic in enumerate(spec.nics)),
            )
        )

    def _boot(self, folder: Folder) -> None:
        """Start its processes and wait until its kernel answers.

        Raises:
            NodeFault: It ended at once.
            TransientFault: It does not answer in time.
        """
        record = self._known(folder.path.name)[1]
        folder.clear_console()
        keeper = [uml_console.__file__, str(uml_console.LIMIT_BYTES), sys.executable]
        argv = ["setsid", "--fork", "sh", "-c", _KEEPER, "uml", *keeper]
        argv += command(self._binary, record, folder.path)
        env = {"TMPDIR": str(folder.path)} if record.memory_file else None
        try:
            proc.run(argv, cwd=folder.path, env=env, timeout_s=self._access.timeout_s)
        except proc.CommandFailed as error:
            raise NodeFault(f"{record.name} did not start: {error.message}") from error
        began = False
        for _ in proc.wait_until(time.monotonic() + self._access.timeout_s, every_s=0.05):
            alive = folder.alive()
            if alive and self._answers(folder):
                return
            if began and not alive:
                said = uml_console.tail(folder.path, 1000).decode("utf-8", "replace").split("\n")
                last = next((line.strip() for line in reversed(said) if line.strip()), "nothing")
                raise NodeFault(f"{record.name} ended as it started; it said: {last}")
            began = alive or began or (folder.path / uml_console.LOG).exists()
        self._kill(folder)
        raise TransientFault(f"{record.name} does not answer", hint="is the machine busy?")

    def _answers(self, folder: Folder) -> bool:
        try:
            ask(folder.monitor, "version", 5)
        except (TransientFault, Refused):
            return False
        return True

    def _ask(self, folder: Folder, request: str, *, harmless: str = "") -> None:
        """Give an order to a guest's management console.

        Raises:
            CallerFault: It refuses it.
            TransientFault: It does not answer.
        """
        try:
            ask(folder.monitor, request, self._access.timeout_s)
        except Refused as refused:
            if not harmless or harmless not in refused.words:
                raise CallerFault(f"{folder.path.name} refuses {request!r}: {refused}") from refused

    def _remove(self, folder: Folder, device: str) -> None:
        """Unplug a device, as soon as the guest lets go of it."""

        def gone() -> bool:
            try:
                ask(folder.monitor, f"remove {device}", 10)
            except Refused:
                return False
            return True

        self._await(gone, f"{folder.path.name} does not let go of {device}")

    def _await(self, done: Callable[[], bool], complaint: str) -> None:
        for _ in proc.wait_until(time.monotonic() + self._access.timeout_s):
            if done():
                return
        raise TransientFault(f"{complaint} within {self._access.timeout_s:g} s")

    def _kill(self, folder: Folder) -> None:
        if not folder.kill():
            raise NodeFault(f"processes of {folder.path.name} do not end", hint="see ps")
        if folder.path.exists():
            folder.mark_paused(paused=False)
            shutil.rmtree(folder.path / folder.path.name, ignore_errors=True)

    def _folder(self, name: str) -> Folder:
        return Folder(self._guests / name, self._binary)

    def _known(self, name: str) -> tuple[Folder, Record]:
        local.check_name(name)
        folder = self._folder(name)
        record = folder.load()
        if record is None:
            raise CallerFault(f"there is no guest {name}")
        return folder, record

    def _running(self, name: str) -> Folder:
        folder, _ = self._known(name)
        if not folder.alive():
            raise CallerFault(f"{name} does not run", hint="start it first")
        return folder

    def _volume_path(self, name: str) -> Path:
        return self._volumes / f"{name}.raw"

    def _volume_file(self, volume: Volume) -> Path:
        local.check_name(volume.name)
        path = self._volume_path(volume.name)
        if not path.is_file() or volume.format != DiskFormat.RAW:
            raise CallerFault(f"there is no raw volume {volume.name} here")
        return path


def _make_root(path: Path) -> None:
    """An empty disk, the guest's own, in place of an older one."""
    with path.open("wb") as file:
        file.truncate(_ROOT_MIB << 20)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise CallerFault("a network card of a guest is a tap device", hint="that needs root")
