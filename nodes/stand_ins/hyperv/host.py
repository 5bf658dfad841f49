# SPDX-License-Identifier: Apache-2.0
"""A modelled host: its machines, files, switches, and how cmdlets find them."""

import fnmatch
import hashlib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PureWindowsPath
from typing import Any

from nodes.stand_ins.hyperv.objects import CmdletError, Named, Thing

STATES = {"Running": 2, "Off": 3, "Saved": 6, "Paused": 9}
_NO_ID = "InvalidParameter"
_macs = itertools.count(0x155D000100)

Given = dict[str, Any]
Cmdlet = Callable[["Host", Given, list[Thing]], Iterable[Thing]]
Each = Callable[["Host", "Machine", Given], None]
CMDLETS: dict[str, tuple[Cmdlet, frozenset[str]]] = {}
"""Each cmdlet by its name in lower case, with the parameters that it takes."""


def cmdlet(name: str, parameters: str = "") -> Callable[[Cmdlet], Cmdlet]:
    """Make a function a cmdlet that takes these parameters and no others."""

    def keep(function: Cmdlet) -> Cmdlet:
        CMDLETS[name.lower()] = function, frozenset(parameters.lower().split())
        return function

    return keep


def each_machine(name: str, parameters: str = "Name") -> Callable[["Each"], "Each"]:
    """Make a function a cmdlet that does something to each machine it is for, and gives nothing."""

    def keep(function: "Each") -> "Each":
        def run(host: "Host", given: Given, piped: list[Thing]) -> Iterable[Thing]:
            for one in host.targets(given, piped):
                function(host, one, given)
            return ()

        cmdlet(name, parameters)(run)
        return function

    return keep


@dataclass
class File:
    """A file: its bytes are counted and hashed, an archive's are kept.

    Attributes:
        virtual: A disk's size for its guest.
        parent: Path of the disk that this one is a difference of.
    """

    path: str
    virtual: int = 0
    parent: str = ""
    length: int = 0
    packed: bytearray = field(default_factory=bytearray)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, content: bytes) -> None:
        """Bytes at its end."""
        self.length += len(content)
        self.digest.update(content)
        if self.path.lower().endswith(".zip"):
            self.packed += content


@dataclass
class Drive:
    """A disk on a machine's SCSI controller."""

    path: str
    location: int


@dataclass
class Snapshot:
    """What a checkpoint keeps."""

    id: uuid.UUID
    name: str
    state: str
    cpus: int
    memory: int
    drives: list[Drive] = field(default_factory=list)


@dataclass
class Machine:
    """A virtual machine."""

    name: str
    memory: int = 512 << 20
    cpus: int = 1
    generation: int = 2
    notes: str = ""
    path: str = ""
    state: str = "Off"
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    drives: list[Drive] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    has_key: bool = False
    has_tpm: bool = False
    secure_boot: bool = True

    def shown(self, computer: str) -> Thing:
        """As Get-VM gives it."""
        is_on = self.state in {"Running", "Paused"}
        return Thing(
            ("VirtualMachine", "VirtualMachineBase"),
            {
                "Name": self.name,
                "VMName": self.name,
                "Id": self.id,
                "VMId": self.id,
                "State": Named("VMState", self.state, STATES[self.state]),
                "ProcessorCount": self.cpus,
                "MemoryStartup": self.memory,
                "MemoryAssigned": self.memory if is_on else 0,
                "Generation": self.generation,
                "Notes": self.notes,
                "Path": self.path,
                "Status": "Operating normally",
                "ComputerName": computer,
            },
            f"VirtualMachine (Name = '{self.name}') [Id = '{self.id}']",
        )

    def add_card(self, switch: str, name: str = "Network Adapter", mac: str = "") -> None:
        """One more network adapter."""
        mac = mac or f"00{next(_macs):010X}"
        self.cards.append({"Name": name, "SwitchName": switch, "MacAddress": mac})


class Host:
    """One host.

    Attributes:
        lock: Held while a cmdlet works; all hosts of a process share it.
        peers: Where Move-VM can go, by name.
    """

    def __init__(self, name: str, lock: threading.RLock) -> None:
        self.name = name
        self.lock = lock
        self.machines: dict[uuid.UUID, Machine] = {}
        self.files: dict[str, File] = {}
        self.folders: set[str] = {"c:\\"}
        self.switches: dict[str, dict[str, str]] = {
            "ci-net": {"kind": "Internal", "notes": ""},
        }
        self.peers: dict[str, Host] = {}
        self.booted = datetime.now(UTC) - timedelta(hours=1)

    def by_id(self, wanted: object) -> Machine:
        """A machine by its GUID.

        Raises:
            CmdletError: There is none.
        """
        try:
            return self.machines[uuid.UUID(str(wanted))]
        except (ValueError, KeyError):
            message = f"Hyper-V was unable to find a virtual machine with id {wanted}."
            raise CmdletError(message, _NO_ID, "InvalidArgument", str(wanted)) from None

    def by_name(self, name: str) -> list[Machine]:
        """Machines by a name, in which wildcards work as in PowerShell.

        Raises:
            CmdletError: There is none, and the name has no wildcards.
        """
        found = [
            one
            for one in self.machines.values()
            if fnmatch.fnmatchcase(one.name.lower(), name.lower())
        ]
        if not found and not set(name) & set("*?["):
            message = f'Hyper-V was unable to find a virtual machine with name "{name}".'
            raise CmdletError(message, _NO_ID, "InvalidArgument", name)
        return found

    def targets(self, given: Given, piped: list[Thing]) -> list[Machine]:
        """The machines that a cmdlet is for: piped ones, or by -Name or -VMName.

        Raises:
            CmdletError: None was named.
        """
        if piped:
            return [self.by_id(one.values.get("VMId")) for one in piped]
        name = given.get("vmname", given.get("name"))
        if name is None:
            message = "Parameter set cannot be resolved using the specified named parameters."
            kind = "System.Management.Automation.ParameterBindingException"
            raise CmdletError(message, "AmbiguousParameterSet", "InvalidArgument", kind=kind)
        return self.by_name(str(name))

    def file(self, path: object) -> File:
        """A file.

        Raises:
            CmdletError: It is not there.
        """
        found = self.files.get(str(path).lower())
        if found is None:
            message = f"Cannot find path '{path}' because it does not exist."
            kind = "System.Management.Automation.ItemNotFoundException"
            raise CmdletError(message, "PathNotFound", "ObjectNotFound", str(path), kind)
        return found

    def chain(self, path: str) -> list[str]:
        """Paths of a disk and of those that it is a difference of, the last without a parent."""
        found = [path]
        while (file := self.files.get(found[-1].lower())) and file.parent:
            found.append(file.parent)
        return found

    def difference(self, path: str) -> str:
        """Path of a new, empty difference of a disk, beside it and named as Hyper-V does it."""
        last = PureWindowsPath(self.chain(path)[-1])
        name = f"{last.stem}_{str(uuid.uuid4()).upper()}.avhdx"
        made = self.new_file(str(last.with_name(name)))
        made.parent, made.virtual = path, self.file(path).virtual
        return made.path

    def new_file(self, path: str) -> File:
        """A file in a folder that is there.

        Raises:
            CmdletError: The folder is not.
        """
        folder = str(PureWindowsPath(path).parent)
        if folder.lower() not in self.folders:
            message = f"Could not find a part of the path '{path}'."
            kind = "System.IO.DirectoryNotFoundException"
            raise CmdletError(message, "PathNotFound", "ObjectNotFound", path, kind)
        made = self.files[path.lower()] = File(path)
        return made

    def change(self, machine: Machine, allowed: str, state: str) -> None:
        """Give a machine another state.

        Raises:
            CmdletError: Its present one does not allow it.
        """
        if machine.state not in allowed.split():
            message = (
                f"'{machine.name}' failed to change state. The operation cannot be performed while"
                " the object is in its current state."
            )
            raise CmdletError(message, "InvalidState", "InvalidOperation", machine.name)
        machine.state = state
