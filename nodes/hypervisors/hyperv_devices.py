# SPDX-License-Identifier: Apache-2.0
"""Disks and cards of machines on a Hyper-V host; a machine is named by its GUID.

A checkpoint leaves each disk as it is and puts a difference in its place, `NAME_GUID.avhdx` beside
it: a disk is known by its own file's name all the same, see `whole`.
"""

import re
import time
from pathlib import PureWindowsPath
from typing import Any

from ci.model.feature import Feature
from nodes.hypervisors.base import PREFIX, Nic, Volume
from nodes.hypervisors.faults import NodeFault
from nodes.hypervisors.hyperv_link import HyperVLink, Record, step
from nodes.hypervisors.hyperv_session import Step

_PLACE = ["Path", "ControllerNumber", "ControllerLocation"]
_PAIR = 2
DISK = ".vhdx"
_AGAIN_S = 0.5
_GUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DIFFERENCE = re.compile(rf"(.+)_{_GUID}\.avhdx", re.IGNORECASE)


class Devices:
    """What is plugged into machines.

    Attributes:
        switch: Of cards that name no network; none when empty.
    """

    def __init__(self, link: HyperVLink, switch: str) -> None:
        self._link = link
        self.switch = switch

    def on(self, doing: str, vm: object, *steps: Step, feature: Feature | None = None) -> list[Any]:
        """Cmdlets for one machine."""
        return self._link.run(doing, step("Get-VM", Id=str(vm)), *steps, feature=feature)

    def drives(self, vm: object) -> list[Record]:
        """Its disks: path and place."""
        shown = step("Select-Object", Property=_PLACE)
        return self.on("list a guest's disks", vm, step("Get-VMHardDiskDrive"), shown)

    def root(self, name: str, vm: object) -> str:
        """Path of the disk that a guest boots.

        Raises:
            NodeFault: It has none.
        """
        for one in self.drives(vm):
            if (one["ControllerNumber"], one["ControllerLocation"]) == (0, 0):
                return str(one["Path"])
        raise NodeFault(f"{name} has no disk to boot", hint="delete it")

    def boot(self, doing: str, vm: object, path: str) -> None:
        """Another file at the place that it boots, which keeps the firmware's order."""
        at = step(
            "Get-VMHardDiskDrive", ControllerType="SCSI", ControllerNumber=0, ControllerLocation=0
        )
        self.on(doing, vm, at, step("Set-VMHardDiskDrive", Path=path))

    def plugged(self, vm: object, volume: Volume) -> list[Record]:
        """A volume's places, by its file's name: a move with storage changes the folder."""
        file = PureWindowsPath(volume.path).name.lower()
        return [one for one in self.drives(vm) if _file(one).name.lower() == file]

    def volumes(self, vm: object) -> frozenset[str]:
        """Names of our volumes that are plugged in."""
        paths = [_file(one) for one in self.drives(vm)]
        return frozenset(one.stem for one in paths if one.name.startswith(PREFIX))

    def await_merge(self, vm: object) -> None:
        """Wait until differences have gone into their disks: removed checkpoints leave that behind.

        Where it takes too long, the host says itself what it does not let us do meanwhile.
        """
        deadline = time.monotonic() + self._link.timeout_s
        while any(whole(one["Path"]) != one["Path"] for one in self.drives(vm)):
            if time.monotonic() >= deadline:
                return
            time.sleep(_AGAIN_S)

    def plug(self, doing: str, vm: object, path: str) -> None:
        """At the next free place of its controller."""
        at = step("Add-VMHardDiskDrive", ControllerType="SCSI", Path=path)
        self.on(doing, vm, at, feature=Feature.ATTACH_VOLUME)

    def unplug(self, doing: str, vm: object, drive: Record) -> None:
        """Off its place."""
        at = step(
            "Get-VMHardDiskDrive",
            ControllerType="SCSI",
            ControllerNumber=int(drive["ControllerNumber"]),
            ControllerLocation=int(drive["ControllerLocation"]),
        )
        gone = step("Remove-VMHardDiskDrive")
        self.on(doing, vm, at, gone, feature=Feature.DETACH_VOLUME)

    def macs(self, vm: object) -> frozenset[str]:
        """Hardware addresses of its cards, lower case."""
        shown = step("Select-Object", Property=["MacAddress"])
        told = self.on("list a guest's cards", vm, step("Get-VMNetworkAdapter"), shown)
        return frozenset(_with_colons(str(one["MacAddress"]).lower()) for one in told)

    def card(self, nic: Nic) -> Step:
        """A card to be added; its name is made of its address."""
        switch = nic.network or self.switch
        named: dict[str, Any] = {"SwitchName": switch} if switch else {}
        mac = nic.mac.replace(":", "").upper()
        return step("Add-VMNetworkAdapter", Name=card_name(nic), StaticMacAddress=mac, **named)


def card_name(nic: Nic) -> str:
    """What a card of ours is called on its host."""
    return f"{PREFIX}{nic.mac.replace(':', '').lower()}"


def whole(path: str) -> str:
    """The disk that a path is, or is a difference of."""
    place = PureWindowsPath(path)
    found = _DIFFERENCE.fullmatch(place.name)
    return str(place.with_name(f"{found[1]}{DISK}")) if found else path


def _file(drive: Record) -> PureWindowsPath:
    return PureWindowsPath(whole(str(drive["Path"])))


def _with_colons(mac: str) -> str:
    return ":".join(mac[at : at + _PAIR] for at in range(0, len(mac), _PAIR))
