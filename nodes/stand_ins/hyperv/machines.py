# SPDX-License-Identifier: Apache-2.0
"""Cmdlets for machines, their checkpoints and firmware, and for the host itself."""

import itertools
import uuid
from collections.abc import Iterable
from pathlib import PureWindowsPath

from nodes.stand_ins.hyperv.host import (
    STATES,
    Drive,
    Given,
    Host,
    Machine,
    Snapshot,
    cmdlet,
    each_machine,
)
from nodes.stand_ins.hyperv.objects import CmdletError, Named, Thing


@cmdlet("Get-VMHost")
def get_vmhost(host: Host, _given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """The host."""
    values = {
        "Name": host.name,
        "ComputerName": host.name,
        "LogicalProcessorCount": 16,
        "MemoryCapacity": 64 << 30,
        "VirtualMachineMigrationEnabled": bool(host.peers),
    }
    yield Thing(("VMHost",), values)


@cmdlet("Get-CimInstance", "ClassName Property")
def get_cim_instance(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """The operating system."""
    name = str(given.get("classname", ""))
    if name.lower() != "win32_operatingsystem":
        raise CmdletError(f"Invalid class {name}", "HRESULT 0x80041010", "MetadataError", name)
    values = {
        "Caption": "Windows Server (emulator)",
        "Version": "10.0.20348",
        "LastBootUpTime": host.booted,
    }
    yield Thing((), values)


@cmdlet("Get-VM", "Name Id")
def get_vm(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Machines: all, by name, or by GUID."""
    if "id" in given:
        found = [host.by_id(given["id"])]
    elif given or piped:
        found = host.targets(given, piped)
    else:
        found = list(host.machines.values())
    return [one.shown(host.name) for one in found]


@cmdlet("New-VM", "Name MemoryStartupBytes Generation VHDPath BootDevice Path SwitchName")
def new_vm(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A machine with one card; a name may be taken twice."""
    made = Machine(
        str(given.get("name", "New Virtual Machine")),
        memory=int(given.get("memorystartupbytes", 512 << 20)),
        generation=int(given.get("generation", 1)),
    )
    if "vhdpath" in given:
        made.drives.append(Drive(host.file(given["vhdpath"]).path, 0))
    made.path = str(PureWindowsPath(str(given.get("path", "c:\\"))) / made.name)
    made.add_card(str(given.get("switchname", "")))
    host.machines[made.id] = made
    yield made.shown(host.name)


@each_machine("Remove-VM", "Name Force")
def remove_vm(host: Host, one: Machine, _given: Given) -> None:
    """A machine that is off; its disks stay."""
    if one.state not in {"Off", "Saved"}:
        message = f"'{one.name}' cannot be removed: it is in the state {one.state}."
        raise CmdletError(message, "InvalidState", "InvalidOperation", one.name)
    del host.machines[one.id]


_CHANGES = (
    ("Start-VM", "Name", "Off Saved Paused Running", "Running"),
    # A reset: also of what runs no guest that listens.
    ("Restart-VM", "Name Force", "Running Paused", "Running"),
    ("Suspend-VM", "Name", "Running", "Paused"),
    ("Resume-VM", "Name", "Paused", "Running"),
    ("Save-VM", "Name", "Running Paused", "Saved"),
    ("Remove-VMSavedState", "VMName", "Saved", "Off"),
)
"""Cmdlets that change a state alone: their parameters, states that they take, and the new one."""


def _changing(name: str, parameters: str, allowed: str, state: str) -> None:
    @each_machine(name, parameters)
    def change(host: Host, one: Machine, _given: Given) -> None:
        host.change(one, allowed, state)


for _change in _CHANGES:
    _changing(*_change)


@each_machine("Stop-VM", "Name TurnOff Force Save")
def stop_vm(host: Host, one: Machine, given: Given) -> None:
    """Shut down, or turned off."""
    allowed = "Running Paused" if given.get("turnoff") else "Running"
    host.change(one, allowed, "Off")


def _off(one: Machine) -> None:
    if one.state != "Off":
        message = "The operation cannot be performed while the virtual machine is in its state."
        raise CmdletError(message, "InvalidState", "InvalidOperation", one.name)


@each_machine("Set-VM", "Name Notes AutomaticCheckpointsEnabled CheckpointType")
def set_vm(_host: Host, one: Machine, given: Given) -> None:
    """Its notes."""
    one.notes = str(given.get("notes", one.notes))


@each_machine("Set-VMProcessor", "VMName Count")
def set_processor(_host: Host, one: Machine, given: Given) -> None:
    """How many."""
    _off(one)
    one.cpus = int(given["count"])


@each_machine("Set-VMMemory", "VMName StartupBytes DynamicMemoryEnabled")
def set_memory(_host: Host, one: Machine, given: Given) -> None:
    """How much."""
    _off(one)
    one.memory = int(given.get("startupbytes", one.memory))


@each_machine("Set-VMFirmware", "VMName EnableSecureBoot")
def set_firmware(_host: Host, one: Machine, given: Given) -> None:
    """Secure boot on or off."""
    one.secure_boot = str(given["enablesecureboot"]).lower() == "on"


@each_machine("Set-VMKeyProtector", "VMName NewLocalKeyProtector")
def set_key_protector(_host: Host, one: Machine, _given: Given) -> None:
    """A key for its TPM."""
    one.has_key = True


@each_machine("Enable-VMTPM", "VMName")
def enable_tpm(_host: Host, one: Machine, _given: Given) -> None:
    """A TPM, which takes a key first."""
    if not one.has_key:
        raise CmdletError("A key protector is not defined.", "OperationFailed")
    one.has_tpm = True


@each_machine("Move-VM", "Name DestinationHost IncludeStorage DestinationStoragePath")
def move_vm(host: Host, one: Machine, given: Given) -> None:
    """To a peer, with its storage or without."""
    wanted = str(given.get("destinationhost", ""))
    to = host.peers.get(wanted)
    local = [drive.path for drive in one.drives if not drive.path.startswith("\\\\")]
    if to is None:
        message = f"Virtual machine migration operation failed at source: no host {wanted!r}."
        raise CmdletError(message, "OperationFailed", "InvalidOperation", one.name)
    if local and not given.get("includestorage"):
        message = f"The destination host has no access to {local[0]}."
        raise CmdletError(message, "OperationFailed", "InvalidOperation", one.name)
    for path in [*itertools.chain.from_iterable(map(host.chain, local)), *one.images]:
        to.files[path.lower()] = host.files.pop(path.lower())
    to.folders.add(str(given.get("destinationstoragepath", "c:\\")).lower())
    one.path = str(given.get("destinationstoragepath", one.path))
    to.machines[one.id] = host.machines.pop(one.id)


# Checkpoints ----------------------------------------------------------------------------------


def _shown(one: Machine, kept: Snapshot) -> Thing:
    values = {
        "Name": kept.name,
        "Id": kept.id,
        "VMName": one.name,
        "VMId": one.id,
        "State": Named("VMState", kept.state, STATES[kept.state]),
    }
    return Thing(("VMSnapshot", "VirtualMachineBase"), values)


@each_machine("Checkpoint-VM", "Name SnapshotName")
def checkpoint_vm(host: Host, one: Machine, given: Given) -> None:
    """One more: each disk stays as it is beneath a difference."""
    state = "Saved" if one.state == "Running" else one.state
    name = str(given.get("snapshotname", one.name))
    kept = Snapshot(uuid.uuid4(), name, state, one.cpus, one.memory, one.drives)
    one.snapshots.append(kept)
    one.drives = _over(host, kept)


def _over(host: Host, kept: Snapshot) -> list[Drive]:
    return [Drive(host.difference(drive.path), drive.location) for drive in kept.drives]


def _merge(host: Host, one: Machine) -> None:
    """Without checkpoints, differences go into their disks."""
    for drive in one.drives:
        *above, drive.path = host.chain(drive.path)
        for path in above:
            host.files.pop(path.lower())


@cmdlet("Get-VMSnapshot", "VMName Name Id")
def get_snapshot(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """By machine, or by GUID."""
    if "id" in given:
        wanted = uuid.UUID(str(given["id"]))
        machines = list(host.machines.values())
    else:
        wanted, machines = None, host.targets(given, piped)
    found = [(one, kept) for one in machines for kept in one.snapshots if wanted in {None, kept.id}]
    if wanted and not found:
        message = f"Hyper-V was unable to find a checkpoint with id {wanted}."
        raise CmdletError(message, "InvalidParameter", "InvalidArgument", str(wanted))
    return [_shown(one, kept) for one, kept in found]


@cmdlet("Restore-VMSnapshot", "Confirm")
def restore_snapshot(host: Host, _given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Size and state as they were."""
    for thing in piped:
        one = host.by_id(thing.values["VMId"])
        kept = next(kept for kept in one.snapshots if kept.id == thing.values["Id"])
        one.cpus, one.memory, one.state = kept.cpus, kept.memory, kept.state
        for drive in one.drives:
            if drive.path.endswith(".avhdx"):
                host.files.pop(drive.path.lower(), None)
        one.drives = _over(host, kept)
    return ()


@cmdlet("Remove-VMSnapshot", "Confirm IncludeAllChildSnapshots")
def remove_snapshot(host: Host, _given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Forgotten."""
    for thing in piped:
        one = host.by_id(thing.values["VMId"])
        one.snapshots = [kept for kept in one.snapshots if kept.id != thing.values["Id"]]
        if not one.snapshots:
            _merge(host, one)
    return ()
