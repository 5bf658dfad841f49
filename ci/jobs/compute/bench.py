# SPDX-License-Identifier: Apache-2.0
"""What tests of the suite work with: a hypervisor, its guests, and their word for it.

A guest is asked by its agent. One that falls silent in the middle of a test is that test's
failure, unless the hypervisor itself is gone; one that never boots at all, twice, is the
node's trouble and no test's. Behind a stand-in no guest runs: a test that would ask one is left
as not tried, and what the hypervisor says by itself is asked in `tests/test_told.py`.
"""

import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ci.jobs.compute.record import NOT_TRIED
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import (
    PREFIX,
    DiskFormat,
    GuestImage,
    GuestInfo,
    GuestSpec,
    GuestState,
    Hypervisor,
    Nic,
    Volume,
)
from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.guest import Answer, GuestAgent
from nodes.images.bootable import bootable
from nodes.images.tiny import marked, tiny

MIB = 1 << 20
SECTORS_OF_MIB = 2048
_MEMORY_MIB = {"ppc64le": 384}
"""Where the default is too little: pages of 64 KiB, and `mke2fs` ended in a panic."""
_ARCHITECTURES = {
    "libvirt-qemu-s390x": "s390x",
    "libvirt-qemu-ppc64": "ppc64le",
    "libvirt-qemu-aarch64": "aarch64",
}
_SHARED_KERNEL = frozenset({"libvirt-lxc", "docker", "podman"})
_DUMMY = "dummy"
_STAND_INS = frozenset({Grade.SIMULATOR, Grade.EMULATOR})
_DISK_MIB = 8
NEEDS_A_GUEST = "needs a guest"
OTHER = "other"
"""What a guest booted from `Bench.other_image` calls its image."""
_LOOK_S = 0.2
_ANSWER_S = 60.0
_SOUND_S = 20.0


def not_tried(why: str) -> NoReturn:
    """Leave a test for a reason that lies with the lab: no evidence of anything."""
    pytest.skip(f"{NOT_TRIED}{why}")


class Silent(AssertionError):
    """A guest that answered before does not any more."""


class Guest:
    """One guest of ours.

    Attributes:
        spec: What was launched.
        home: The hypervisor it is on now.
    """

    def __init__(
        self, home: Hypervisor, spec: GuestSpec, boot_s: float, *, can_be_asked: bool = True
    ) -> None:
        self.home = home
        self._can_be_asked = can_be_asked
        self.spec = spec
        self.name = spec.name
        self._boot_s = boot_s
        self._answer_s = min(boot_s, _ANSWER_S)
        self._agent: GuestAgent | None = None

    def ask(self, command: str, timeout_s: float | None = None) -> Answer:
        """Ask its agent; see `nodes.hypervisors.guest`.

        Raises:
            Silent: It gave no answer.
        """
        try:
            return self.agent.ask(command, self._answer_s if timeout_s is None else timeout_s)
        except TransientFault as error:
            raise Silent(error.message) from error

    @property
    def agent(self) -> GuestAgent:
        """Its agent, over a console that is opened anew when it ended.

        Leaves the test (`not tried`) where no guest runs.
        """
        if not self._can_be_asked:
            not_tried(NEEDS_A_GUEST)
        if self._agent is None:
            console = self.home.console(self.name)
            self._agent = GuestAgent(
                console, self.name, reopen=lambda: self.home.console(self.name)
            )
        return self._agent

    def moved(self, home: Hypervisor) -> None:
        """It is on another host now."""
        self.let_go()
        self.home = home

    def let_go(self) -> None:
        """Close its console."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def answers(self, within_s: float) -> bool:
        """Whether it answers in time."""
        try:
            self.ask("ping", within_s)
        except Silent:
            return False
        return True

    def info(self) -> Answer:
        """What it says of itself: `boot_id`, `arch`, `cpus`, `uefi`, `tpm` and more."""
        return self.ask("info")

    def boot_id(self) -> str:
        """Another one after each boot."""
        return str(self.info()["boot_id"])

    def booted_after(self, old: str) -> None:
        """Wait for a boot with another id than `old`.

        Raises:
            Silent: None came.
        """
        wait_until(lambda: self._boots(old), self._boot_s, f"{self.name} did not boot anew")

    def booted(self) -> None:
        """Wait until it answers, while it may still boot.

        Raises:
            Silent: It did not in time.
        """
        self.ask("ping", self._boot_s)

    def _boots(self, old: str) -> bool:
        try:
            return self.boot_id() != old
        except Silent:
            return False

    def count(self) -> tuple[int, str]:
        """Raise the counter in its memory by one; gives it with the boot id."""
        answer = self.ask("counter")
        return int(answer["counter"]), str(answer["boot_id"])

    def memory_mib(self) -> float:
        """The memory it may use."""
        answer = self.ask("mem")
        sizes = [int(answer[key]) for key in ("mem_kb", "limit_kb") if answer.get(key)]
        return min(sizes) / 1024

    def has_shell(self) -> bool:
        """Whether it can run commands: a modelled one cannot."""
        return bool(self.ask("exec true")["rc"] == 0)

    def run(self, command: str, timeout_s: float | None = None) -> str:
        """What a command of its shell said.

        Raises:
            AssertionError: It failed.
        """
        answer = self.ask(f"exec {command}", timeout_s)
        if answer["rc"]:
            raise AssertionError(f"the guest could not {command}: {answer['out']}")
        return str(answer["out"]).strip()

    def disks(self) -> dict[str, Any]:
        """Size in `sectors` and `serial` of its disks by device name."""
        return dict(self.ask("disks")["disks"])

    def macs(self) -> set[str]:
        """Hardware addresses of its network cards."""
        return {str(nic["mac"]).lower() for nic in self.ask("nics")["nics"].values()}

    def write(self, device: str, text: str) -> None:
        """Put text at the beginning of a disk.

        Raises:
            AssertionError: It could not.
        """
        if not self.ask(f"write {device} {text}")["ok"]:
            raise AssertionError(f"the guest cannot write to {device}")

    def read(self, device: str, count: int) -> str:
        """The first bytes of a disk, zeros left out."""
        return str(self.ask(f"read {device} {count}")["data"])


@dataclass(frozen=True, kw_only=True)
class Manner:
    """What is otherwise in a run that is recorded, or is the replay of one.

    Attributes:
        mark: Four hexadecimal digits for names and addresses; others each time when empty.
        is_told_alone: Whether no guest is asked, whatever runs there.
        tests: Only these, by their ids; None for all.
        replay_of: The recording that answers instead of a hypervisor, or nothing.
    """

    mark: str = ""
    is_told_alone: bool = False
    tests: frozenset[str] | None = None
    replay_of: str = ""


class Bench:
    """A hypervisor under test.

    Args:
        hypervisor: Connected.
        second: Another host of the same kind, for what takes two; None where there is none.
        apart: The same host with disks of its own, where `second` shares ours.
        work: Directory for files of our own.
        boot_s: Seconds that a guest may take to boot, and to answer.
        progress: Told what is waited for.
        real_guests: Guests run behind it although its grade is a stand-in's.
        manner: How this run differs from others; see there.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        second: Hypervisor | None,
        apart: Hypervisor | None = None,
        *,
        work: Path,
        boot_s: float,
        progress: Callable[[str], None],
        real_guests: bool = False,
        manner: Manner | None = None,
    ) -> None:
        manner = manner or Manner()
        self.replay_of = manner.replay_of
        self.hypervisor = hypervisor
        self.second = second
        self.apart = apart
        told = hypervisor.system()
        self.system = replace(told, grade=Grade.NONE) if manner.replay_of else told
        self.modelled = self.system.key == _DUMMY
        self.shared_kernel = self.system.key in _SHARED_KERNEL
        stands_in = self.system.grade in _STAND_INS and not self.modelled
        asks = hypervisor.runs_guests and (real_guests or not stands_in)
        self.asks_guests = asks and not manner.is_told_alone
        self.moment_s = 0.3 if self.modelled else 4.0
        self.boot_s = boot_s
        self.image = self._image(work, progress)
        self.other_image = self._marked(work, progress)
        self._run = manner.mark or secrets.token_hex(2)
        self._made = 0
        self._guests: list[Guest] = []
        self._volumes: list[Volume] = []
        self._networks: list[str] = []

    def _image(self, work: Path, progress: Callable[[str], None]) -> GuestImage:
        if self.modelled:
            nothing = work / "tiny.initrd"
            nothing.touch()
            return GuestImage(initrd=nothing)
        arch = _ARCHITECTURES.get(self.system.key, platform.machine())
        if not self.asks_guests:
            return _placeholder(work, arch)
        self._plain = tiny(arch=arch, progress=progress)
        return self._disk_of(self._plain, progress)

    def _marked(self, work: Path, progress: Callable[[str], None]) -> GuestImage:
        """The image with another word in it."""
        if not self.asks_guests:
            return _placeholder(work, self.image.arch, OTHER)
        if self.modelled:
            return marked(self.image, OTHER, work)
        return self._disk_of(marked(self._plain, OTHER, work), progress)

    def _disk_of(self, image: GuestImage, progress: Callable[[str], None]) -> GuestImage:
        """With a disk, where that is what is booted."""
        return bootable(image, progress=progress) if self.hypervisor.boots_disks else image

    def keep_images(self) -> None:
        """Put our images where the host keeps them: each launch would copy them over the network.

        A host that has no such place is left alone.

        Raises:
            NodeUnavailable: They do not reach it.
        """
        if Feature.CACHE_IMAGES in self.hypervisor.missing:
            return
        self.image = replace(self.image, id=f"{self._run}-plain")
        self.other_image = replace(self.other_image, id=f"{self._run}-{OTHER}")
        for image in (self.image, self.other_image):
            self.hypervisor.cache_image(image)

    def forget_images(self) -> None:
        """Remove what `keep_images` put there, once no guest is left; repeatable."""
        for image in (self.image, self.other_image):
            if image.id:
                self.hypervisor.forget_image(image)

    def need(self, feature: Feature) -> None:
        """Leave the test where the adapter says that there is no such thing.

        Raises:
            Unsupported: It says so.
        """
        if feature in self.hypervisor.missing:
            self.hypervisor.cannot(feature)

    def name(self, what: str) -> str:
        """A name that nothing has yet."""
        self._made += 1
        return f"{PREFIX}{self._run}-{what}{self._made}"

    def mac(self) -> str:
        """A hardware address that nothing has yet."""
        self._made += 1
        return f"52:54:00:{self._run[:2]}:{self._run[2:]}:{self._made % 256:02x}"

    def launch(self, *, wait: bool = True, **wanted: Any) -> Guest:
        """Make a guest and wait until it answers, where there is one that can.

        Raises:
            TransientFault: Two guests in a row never answered.
        """
        self._make_room()
        for tries_left in (1, 0):
            nics = (Nic(mac=self.mac()),)
            memory = _MEMORY_MIB.get(self.image.arch, GuestSpec.memory_mib)
            basis = GuestSpec(name=self.name("g"), image=self.image, nics=nics, memory_mib=memory)
            spec = replace(basis, **wanted)
            guest = Guest(self.hypervisor, spec, self.boot_s, can_be_asked=self.asks_guests)
            self._guests.append(guest)
            self.hypervisor.launch(guest.spec)
            try:
                if wait and self.asks_guests:
                    guest.agent.ready(self.boot_s)
            except TransientFault:
                self.delete(guest)
                if not tries_left:
                    raise
            else:
                break
        return guest

    def _make_room(self) -> None:
        """A bare machine is one guest: the oldest ones go."""
        room = self.hypervisor.guests_at_once
        while room and len(self._guests) >= room:
            self.delete(self._guests[0])

    def volume(self, size_mib: int = 16, **wanted: Any) -> Volume:
        """Make a volume that goes with the test."""
        volume = self.hypervisor.create_volume(self.name("v"), size_mib, **wanted)
        self._volumes.append(volume)
        return volume

    def fits(self, info: GuestInfo, *, memory_mib: int, cpus: int) -> bool:
        """Whether a guest has that size; at least that where it has the size of a machine."""
        if Feature.RESIZE in self.hypervisor.missing:
            return info.memory_mib >= memory_mib and info.cpus >= cpus
        return (info.memory_mib, info.cpus) == (memory_mib, cpus)

    def network(self) -> str:
        """Make a network that goes with the test; gives its name."""
        name = self.name("n")
        self.hypervisor.create_network(name)
        self._networks.append(name)
        return name

    def delete(self, guest: Guest) -> None:
        """Remove a guest wherever it is."""
        guest.let_go()
        for host in (self.hypervisor, self.second, self.apart):
            if host is not None:
                host.delete(guest.name)
        if guest in self._guests:
            self._guests.remove(guest)

    def tidy(self, keep: Guest | None) -> None:
        """Remove what a test made, but for one guest; volumes after the guests that had them."""
        for guest in tuple(self._guests):
            if guest is not keep:
                self.delete(guest)
        if keep is not None and keep in self._guests:
            lost = bool(self._volumes) and not self.asks_guests
            if lost or not self.sound(keep):
                self.delete(keep)
        for volume in tuple(self._volumes):
            if keep is not None and keep in self._guests and self.asks_guests:
                self._detach(keep, volume)
            self.hypervisor.delete_volume(volume)
            self._volumes.remove(volume)
        for network in tuple(self._networks):
            self.hypervisor.delete_network(network)
            self._networks.remove(network)

    def _detach(self, guest: Guest, volume: Volume) -> None:
        """A test that failed may have left it attached; then the guest goes, too."""
        if find_disk(guest, volume) is not None:
            self.delete(guest)

    def knows(self, guest: Guest) -> bool:
        """Whether the guest was not deleted."""
        return guest in self._guests

    def sound(self, guest: Guest) -> bool:
        """Whether a guest can be used by the next test."""
        state = self.hypervisor.inventory().guests.get(guest.name)
        if state is not GuestState.RUNNING or not self.asks_guests:
            return state is GuestState.RUNNING
        return guest.answers(min(self.boot_s, _SOUND_S))

    def probe(self) -> None:
        """Look whether the hypervisor itself still works.

        Raises:
            NodeUnavailable: It does not.
        """
        if self.hypervisor.system().key != self.system.key:
            raise NodeFault("the hypervisor is another one than at the start")
        self.hypervisor.inventory()

    def attached(self, guest: Guest, volume: Volume) -> str:
        """Attach a volume for a test of something else; gives its name in the guest.

        Leaves the test (`not tried`) where that does not work: it has a test of its own.
        """
        self.hypervisor.attach_volume(guest.name, volume)
        try:
            return disk_of(guest, volume, self.boot_s)
        except AssertionError as error:
            not_tried(f"attaching a volume does not work: {error}")

    def with_card(self, guest: Guest) -> Nic:
        """The same for a network card."""
        nic = Nic(mac=self.mac())
        self.hypervisor.attach_interface(guest.name, nic)
        try:
            wait_until(lambda: nic.mac in guest.macs(), self.boot_s, "the guest sees no new card")
        except AssertionError as error:
            not_tried(f"attaching a network card does not work: {error}")
        return nic


def wait_until(check: Callable[[], bool], timeout_s: float, why: str) -> None:
    """Look again and again.

    Raises:
        AssertionError: It never came to be.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() >= deadline:
            raise AssertionError(f"{why} in {timeout_s:g} s")
        time.sleep(_LOOK_S)


def _placeholder(work: Path, arch: str, mark: str = "tiny") -> GuestImage:
    """What nobody will boot: the files of an image, and little in them."""
    kernel, initrd, disk = (work / f"{mark}.{kind}" for kind in ("kernel", "initrd", "raw"))
    kernel.write_text(mark)
    initrd.write_text(mark)
    with disk.open("wb") as file:
        file.write(mark.encode())
        file.truncate(_DISK_MIB * MIB)
    return GuestImage(
        arch=arch, kernel=kernel, initrd=initrd, disk=disk, disk_format=DiskFormat.RAW
    )


def find_disk(guest: Guest, volume: Volume) -> str | None:
    """Under which name a guest has a volume: by its serial, else by its size; None if not."""
    disks = guest.disks()
    for name, disk in disks.items():
        if disk["serial"] and disk["serial"] == volume.name[:20]:
            return name
    sectors = volume.size_mib * SECTORS_OF_MIB
    same = [n for n, d in disks.items() if d["sectors"] == sectors and not d["serial"]]
    return same[0] if len(same) == 1 else None


def disk_of(guest: Guest, volume: Volume, timeout_s: float) -> str:
    """The same, waited for.

    Raises:
        AssertionError: The guest never saw it.
    """
    wait_until(
        lambda: find_disk(guest, volume) is not None,
        timeout_s,
        f"{guest.name} does not see a disk of {volume.size_mib} MiB",
    )
    return find_disk(guest, volume) or ""
