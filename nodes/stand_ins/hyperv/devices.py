# SPDX-License-Identifier: Apache-2.0
"""Cmdlets for disks, cards, switches and files, and the general ones that join pipelines."""

import io
from collections.abc import Iterable
from pathlib import PureWindowsPath
from typing import Any
from zipfile import ZipFile

from nodes.stand_ins.hyperv.host import Drive, Given, Host, Machine, cmdlet, each_machine
from nodes.stand_ins.hyperv.objects import CmdletError, Named, Thing

_PLACES = 64
_CHUNK = 1 << 20

# Disks ----------------------------------------------------------------------------------------


@cmdlet("New-VHD", "Path SizeBytes Dynamic")
def new_vhd(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A disk, which must not be there."""
    path = str(given["path"])
    if path.lower() in host.files:
        raise CmdletError(f"The file exists: '{path}'.", "ObjectAlreadyExists", "ResourceExists")
    made = host.new_file(path)
    made.virtual = int(given["sizebytes"])
    made.add(b"vhdxfile")
    yield _disk(host, path)


@cmdlet("Get-VHD", "Path")
def get_vhd(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """One disk."""
    yield _disk(host, str(given["path"]))


def _disk(host: Host, path: str) -> Thing:
    file = host.file(path)
    return Thing(
        ("VirtualHardDisk",),
        {
            "Path": file.path,
            "Size": file.virtual,
            "FileSize": file.length,
            "VhdFormat": Named("VhdFormat", "VHDX", 3),
            "Attached": bool(_users(host, path)),
        },
    )


def _users(host: Host, path: str) -> list[Machine]:
    return [
        one
        for one in host.machines.values()
        if path.lower() in {name.lower() for drive in one.drives for name in host.chain(drive.path)}
    ]


@cmdlet("Resize-VHD", "Path SizeBytes")
def resize_vhd(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """Another size, of a disk that no difference lies over."""
    path = str(given["path"])
    over = [one.path for one in host.files.values() if one.parent.lower() == path.lower()]
    if over:
        message = f"Failed to resize the virtual disk '{path}': '{over[0]}' is a difference of it."
        raise CmdletError(message, "OperationFailed", "InvalidOperation", path)
    host.file(given["path"]).virtual = int(given["sizebytes"])
    return ()


@each_machine(
    "Add-VMHardDiskDrive", "VMName Path ControllerType ControllerNumber ControllerLocation"
)
def add_drive(host: Host, one: Machine, given: Given) -> None:
    """At a place, or the first free one."""
    path = host.file(given["path"]).path
    if _users(host, path):
        message = f"The disk is already connected to a virtual machine: '{path}'."
        raise CmdletError(message, "OperationFailed", "ResourceBusy", path)
    taken = {drive.location for drive in one.drives}
    free = next(place for place in range(_PLACES) if place not in taken)
    one.drives.append(Drive(path, int(given.get("controllerlocation", free))))


@cmdlet("Get-VMHardDiskDrive", "VMName ControllerType ControllerNumber ControllerLocation")
def get_drive(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """All, or the one at a place."""
    wanted = given.get("controllerlocation")
    for one in host.targets(given, piped):
        for drive in one.drives:
            if wanted is None or int(wanted) == drive.location:
                values = {
                    "VMName": one.name,
                    "VMId": one.id,
                    "Path": drive.path,
                    "ControllerType": Named("ControllerType", "SCSI", 1),
                    "ControllerNumber": 0,
                    "ControllerLocation": drive.location,
                }
                yield Thing(("HardDiskDrive",), values)


@cmdlet("Set-VMHardDiskDrive", "Path")
def set_drive(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Another file in the same place."""
    path = host.file(given["path"]).path
    for thing in piped:
        _found(host, thing).path = path
    return ()


@cmdlet("Remove-VMHardDiskDrive")
def remove_drive(host: Host, _given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Off its place."""
    for thing in piped:
        host.by_id(thing.values["VMId"]).drives.remove(_found(host, thing))
    return ()


def _found(host: Host, thing: Thing) -> Drive:
    one = host.by_id(thing.values["VMId"])
    place = thing.values["ControllerLocation"]
    return next(drive for drive in one.drives if drive.location == place)


@each_machine("Add-VMDvdDrive", "VMName Path")
def add_dvd(host: Host, one: Machine, given: Given) -> None:
    """An ISO image."""
    one.images.append(host.file(given["path"]).path)


# Cards and switches ---------------------------------------------------------------------------


@cmdlet("Add-VMNetworkAdapter", "VMName Name SwitchName StaticMacAddress")
def add_card(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """A card on a switch."""
    switch = str(given.get("switchname", ""))
    if switch and switch not in host.switches:
        message = f'Hyper-V was unable to find a virtual switch with name "{switch}".'
        raise CmdletError(message, "InvalidParameter", "InvalidArgument", switch)
    for one in host.targets({"vmname": given.get("vmname")}, piped):
        mac = str(given.get("staticmacaddress", ""))
        one.add_card(switch, str(given.get("name", "Network Adapter")), mac)
    return ()


@cmdlet("Get-VMNetworkAdapter", "VMName Name")
def get_card(host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Cards of machines."""
    for one in host.targets({"vmname": given.get("vmname")}, piped):
        for card in one.cards:
            if given.get("name") in {None, card["Name"]}:
                yield Thing(("VMNetworkAdapter",), {"VMName": one.name, "VMId": one.id, **card})


@cmdlet("Remove-VMNetworkAdapter")
def remove_card(host: Host, _given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Cards off their machines."""
    for thing in piped:
        one = host.by_id(thing.values["VMId"])
        mac = thing.values["MacAddress"]
        one.cards = [card for card in one.cards if card["MacAddress"] != mac]
    return ()


@cmdlet("Get-VMSwitch")
def get_switch(host: Host, _given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """All switches."""
    return [
        Thing(("VMSwitch",), {"Name": name, "Notes": told["notes"]})
        for name, told in host.switches.items()
    ]


@cmdlet("New-VMSwitch", "Name SwitchType Notes")
def new_switch(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A private or internal one."""
    told = {"kind": str(given.get("switchtype", "")), "notes": str(given.get("notes", ""))}
    host.switches[str(given["name"])] = told
    return ()


@cmdlet("Remove-VMSwitch", "Name Force")
def remove_switch(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """One switch."""
    name = str(given["name"])
    if name not in host.switches:
        message = f'Hyper-V was unable to find a virtual switch with name "{name}".'
        raise CmdletError(message, "InvalidParameter", "InvalidArgument", name)
    del host.switches[name]
    return ()


# Files ----------------------------------------------------------------------------------------


@cmdlet("New-Item", "Path ItemType Force")
def new_item(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A folder with those above it, or an empty file."""
    path = PureWindowsPath(str(given["path"]))
    if str(given["itemtype"]).lower() == "directory":
        if str(path).lower() in host.folders and "force" not in given:
            words = f"An item with the specified name {path} already exists."
            raise CmdletError(words, "DirectoryExist", "ResourceExists")
        host.folders |= {str(one).lower() for one in (path, *path.parents)}
    else:
        host.new_file(str(path))
    yield Thing((), {"FullName": str(path)})


@cmdlet("Add-Content", "LiteralPath Value Encoding")
def add_content(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """Bytes at a file's end, as Windows PowerShell 5.1 takes them."""
    if str(given.get("encoding")).lower() != "byte" or not isinstance(given["value"], bytes):
        raise CmdletError("Bytes are expected here.", "ParameterArgumentTransformationError")
    host.file(given["literalpath"]).add(given["value"])
    return ()


@cmdlet("Expand-Archive", "LiteralPath DestinationPath Force")
def expand_archive(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """What an archive holds, into a folder."""
    folder = PureWindowsPath(str(given["destinationpath"]))
    with ZipFile(io.BytesIO(host.file(given["literalpath"]).packed)) as archive:
        for member in archive.infolist():
            made = host.new_file(str(folder / member.filename))
            with archive.open(member) as content:
                while chunk := content.read(_CHUNK):
                    made.add(chunk)
    return ()


@cmdlet("Get-FileHash", "LiteralPath Algorithm")
def get_file_hash(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """SHA-256."""
    digest = host.file(given["literalpath"]).digest.hexdigest().upper()
    yield Thing((), {"Algorithm": "SHA256", "Hash": digest})


@cmdlet("Copy-Item", "LiteralPath Destination")
def copy_item(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A file."""
    source = host.file(given["literalpath"])
    made = host.new_file(str(given["destination"]))
    made.virtual, made.length, made.digest = source.virtual, source.length, source.digest.copy()
    return ()


@cmdlet("Test-Path", "LiteralPath")
def is_there(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Any]:
    """Whether it is there."""
    path = str(given["literalpath"]).lower()
    return [path in host.files or path in host.folders]


@cmdlet("Get-ChildItem", "LiteralPath")
def get_child_item(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """What lies in a folder."""
    folder = PureWindowsPath(str(given["literalpath"]))
    if str(folder).lower() not in host.folders:
        host.file(folder)
    paths = [PureWindowsPath(one.path) for one in host.files.values()]
    paths += [PureWindowsPath(one) for one in host.folders]
    inside = [one for one in paths if one.parent == folder and one != folder]
    return [Thing((), {"Name": one.name, "FullName": str(one)}) for one in inside]


@cmdlet("Remove-Item", "LiteralPath Recurse Force Confirm")
def remove_item(host: Host, given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """A file that no machine uses, or a folder with all in it."""
    path = PureWindowsPath(str(given["literalpath"]))
    inside = [
        key
        for key in host.files
        if path in PureWindowsPath(key).parents or PureWindowsPath(key) == path
    ]
    if str(path).lower() not in host.folders and not inside:
        host.file(path)
    for key in inside:
        if any(one.state == "Running" for one in _users(host, key)):
            message = f"The process cannot access the file '{key}': it is in use."
            kind = "System.IO.IOException"
            raise CmdletError(message, "RemoveFileSystemItemIOError", "WriteError", key, kind)
        del host.files[key]
    host.folders = {
        one
        for one in host.folders
        if path not in PureWindowsPath(one).parents and PureWindowsPath(one) != path
    }
    return ()


# General --------------------------------------------------------------------------------------


@cmdlet("Select-Object", "Property")
def select_object(_host: Host, given: Given, piped: list[Thing]) -> Iterable[Thing]:
    """Some properties of each object."""
    wanted = given["property"]
    names = [wanted] if isinstance(wanted, str) else [str(one) for one in wanted]
    return [Thing((), {name: one.values.get(name) for name in names}) for one in piped]


@cmdlet("Out-Null")
def out_null(_host: Host, _given: Given, _piped: list[Thing]) -> Iterable[Thing]:
    """Nothing."""
    return ()
