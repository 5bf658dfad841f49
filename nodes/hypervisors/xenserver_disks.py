# SPDX-License-Identifier: Apache-2.0
"""Disks of a XenServer pool's storage: guests' own, volumes, and their links to guests."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from ci.errors import HypervouchError
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors.base import PREFIX, GuestImage
from nodes.hypervisors.faults import CallerFault, NodeFault
from nodes.hypervisors.xenserver_link import NULL, Record, XapiLink

MARK = {"hypervouch": "hypervouch"}
OWN = "hypervouch-own"  # goes with its guest
MEMBER = "hypervouch-member"  # who made it: a pool's storage is that of several nodes of ours
ROOT, CONFIG, RESCUE = WHATS = ("root", "config", "rescue")
PLACES = 16
QOS: Record = {"qos_algorithm_type": "", "qos_algorithm_params": {}}
_MIB = 1 << 20


class Disks:
    """What is on one storage repository.

    Attributes:
        storage: Its reference.
        member: Whom it is used by: uuid of a host.
    """

    def __init__(self, link: XapiLink, storage: str, member: str) -> None:
        self._link = link
        self.storage = storage
        self.member = member

    def of(self, vm: str) -> list[tuple[str, str]]:
        """Its links to disks, each with the disk."""
        links = [
            (one, self._link.record("VBD", one)) for one in self._link.record("VM", vm)["VBDs"]
        ]
        return [(one, str(told["VDI"])) for one, told in links if told["VDI"] != NULL]

    def root(self, name: str, vm: str) -> tuple[str, str]:
        """The link and the disk that a guest boots.

        Raises:
            NodeFault: It has none.
        """
        for link, disk in self.of(vm):
            if self._link.record("VBD", link)["userdevice"] == "0":
                return link, disk
        raise NodeFault(f"{name} has no disk to boot", hint="delete it")

    def is_own(self, disk: str) -> bool:
        """Whether a disk goes with its guest."""
        return OWN in self._link.record("VDI", disk)["other_config"]

    def own(self, doing: str, disks: Iterable[str]) -> None:
        """Mark disks as a guest's own, where they are not."""
        for disk in disks:
            told = self._link.record("VDI", disk)["other_config"]
            for key, value in (MARK | {OWN: "1", MEMBER: self.member}).items():
                if key not in told:
                    self._link.call(doing, "VDI.add_to_other_config", disk, key, value)

    def free_place(self, vm: str) -> str:
        """The first free place on a guest's bus.

        Raises:
            CallerFault: There is none left.
        """
        taken = {
            self._link.record("VBD", one)["userdevice"]
            for one in self._link.record("VM", vm)["VBDs"]
        }
        free = [str(at) for at in range(1, PLACES) if str(at) not in taken]
        if not free:
            raise CallerFault("the guest has no place for another disk", hint="detach one")
        return free[0]

    def volumes(self, *, made_here: bool = False) -> dict[str, str]:
        """Volumes that are not a guest's own, by name; those of this member, or the pool's."""
        told = self._link.records("VDI")
        return {
            str(one["name_label"]): ref
            for ref, one in told.items()
            if self._is_volume(one) and (self._is_of_member(one) or not made_here)
        }

    def _is_of_member(self, told: Record) -> bool:
        return bool(told["other_config"].get(MEMBER, self.member) == self.member)

    def volumes_of(self, vm: str) -> frozenset[str]:
        """Names of those that a guest has."""
        told = [self._link.record("VDI", disk) for _, disk in self.of(vm)]
        return frozenset(str(one["name_label"]) for one in told if self._is_volume(one))

    def _is_volume(self, told: Record) -> bool:
        ours = is_ours(told) and OWN not in told["other_config"]
        return ours and told["SR"] == self.storage and not told["is_a_snapshot"]

    def make(self, name: str, size: int, *, own: bool, shared: bool = False) -> str:
        """An empty disk of `size` bytes; `own` where it goes with its guest."""
        record = {
            "name_label": name,
            "name_description": "",
            "SR": self.storage,
            "virtual_size": str(size),
            "type": "user",
            "sharable": shared,
            "read_only": False,
            "other_config": MARK | {MEMBER: self.member} | ({OWN: "1"} if own else {}),
        }
        return self._link.run(f"make {name}", "VDI.create", record)

    def write(self, image: GuestImage, guest: str, what: str = ROOT) -> str:
        """A guest's own disk with an image's content."""
        with files.as_raw(image) as raw:
            return self._write_file(raw, f"{guest} {what}")

    def write_bytes(self, content: bytes, guest: str, what: str) -> str:
        """A guest's own disk with that content."""
        with NamedTemporaryFile(prefix="hv-config-") as file:
            file.write(content)
            file.flush()
            return self._write_file(Path(file.name), f"{guest} {what}")

    def _write_file(self, path: Path, name: str) -> str:
        """A raw file's content; a disk that is not filled does not stay."""
        disk = self.make(name, -(-path.stat().st_size // _MIB) * _MIB, own=True)
        try:
            self._link.upload(path, disk)
        except BaseException:
            with suppress(HypervouchError):
                self._link.run(f"remove {name}", "VDI.destroy", disk)
            raise
        return disk

    def sweep(self, guest: str) -> None:
        """Remove a guest's own disks that no guest has: something broke before they were linked."""
        for what in WHATS:
            name = f"{guest} {what}"
            found = self._link.call(f"look for {name}", "VDI.get_by_name_label", name)
            for ref in found:
                if self._is_left(self._link.record("VDI", ref)):
                    self._link.run(f"remove {name}", "VDI.destroy", ref)

    def left(self) -> dict[str, str]:
        """The names of all such disks of this member, by their references."""
        told = self._link.records("VDI").items()
        found = {ref: one for ref, one in told if self._is_left(one) and self._is_of_member(one)}
        return {ref: str(one["name_label"]) for ref, one in found.items()}

    def _is_left(self, told: Record) -> bool:
        own = is_ours(told) and OWN in told["other_config"]
        return own and told["SR"] == self.storage and not told["VBDs"]

    def plug_in(
        self,
        doing: str,
        vm: str,
        disk: str,
        place: str,
        *,
        bootable: bool = False,
        read_only: bool = False,
    ) -> str:
        """Link a disk to a guest at a place of its bus."""
        record = {
            "VM": vm,
            "VDI": disk,
            "userdevice": place,
            "bootable": bootable,
            "mode": "RO" if read_only else "RW",
            "type": "Disk",
            "empty": False,
            "other_config": {},
            **QOS,
        }
        return str(self._link.call(doing, "VBD.create", record))


def is_ours(told: Record) -> bool:
    """Whether a record carries our mark and our prefix."""
    marked = MARK.items() <= told["other_config"].items()
    return marked and str(told["name_label"]).startswith(PREFIX)
