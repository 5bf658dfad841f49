# SPDX-License-Identifier: Apache-2.0
"""Virtual hardware in vCenter's words: pure functions, nothing is called.

Keys of devices that are made are negative, as the API wants; those of controllers are VMware's
usual ones. A guest has two serial ports: the first is its line, reached over the network, the
second writes the kernel's log to a file beside its disks.
"""

from collections.abc import Iterable
from typing import Any

from pyVmomi import vim

from nodes.hypervisors.base import Nic, Volume
from nodes.hypervisors.faults import CallerFault

SCSI, IDE = 1000, 200
_OWN_UNIT = 7  # the controller's own place on its bus
_UNITS = 16
_ROOT_UNIT = 0

_Spec = vim.vm.device.VirtualDeviceSpec
_ADD, _EDIT, _REMOVE = _Spec.Operation.add, _Spec.Operation.edit, _Spec.Operation.remove


def controllers() -> list[Any]:
    """A paravirtual SCSI controller for disks; IDE, for the config drive, each machine has."""
    scsi = vim.vm.device.ParaVirtualSCSIController(key=SCSI, busNumber=0, sharedBus="noSharing")
    return [_Spec(operation=_ADD, device=scsi)]


def disk(path: str, unit: int, *, shared: bool = False) -> Any:
    """An existing virtual disk, `[datastore] folder/name.vmdk`."""
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName=path, diskMode="independent_persistent" if shared else "persistent"
    )
    if shared:
        backing.sharing = "sharingMultiWriter"
    device = vim.vm.device.VirtualDisk(
        key=-100 - unit, controllerKey=SCSI, unitNumber=unit, backing=backing
    )
    return _Spec(operation=_ADD, device=device)


def volume_names(devices: Iterable[Any], folder: str) -> frozenset[str]:
    """Names of the disks that lie in a folder, `[datastore] path/`."""
    paths = (one.backing.fileName for one in disks(devices))
    return frozenset(
        path.removeprefix(folder).removesuffix(".vmdk") for path in paths if path.startswith(folder)
    )


def macs(devices: Iterable[Any]) -> frozenset[str]:
    """Hardware addresses of its cards."""
    cards = (one for one in devices if isinstance(one, vim.vm.device.VirtualEthernetCard))
    return frozenset(str(one.macAddress).lower() for one in cards)


def config_drive(path: str) -> Any:
    """A CD with an ISO image of a datastore; kernels made for clouds know IDE and no AHCI."""
    device = vim.vm.device.VirtualCdrom(
        key=-200,
        controllerKey=IDE,
        unitNumber=0,
        backing=vim.vm.device.VirtualCdrom.IsoBackingInfo(fileName=path),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=True, connected=True, allowGuestControl=True
        ),
    )
    return _Spec(operation=_ADD, device=device)


def card(nic: Nic, network: Any, name: str, key: int) -> Any:
    """A vmxnet3 card with an address of ours."""
    device = vim.vm.device.VirtualVmxnet3(
        key=key,
        addressType="manual",
        macAddress=nic.mac,
        backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
            deviceName=name, network=network
        ),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=True, connected=True, allowGuestControl=True
        ),
    )
    return _Spec(operation=_ADD, device=device)


def line(port: int) -> Any:
    """A serial port that listens on the guest's host."""
    backing = vim.vm.device.VirtualSerialPort.URIBackingInfo(
        direction="server", serviceURI=f"tcp://:{port}"
    )
    device = vim.vm.device.VirtualSerialPort(key=-300, yieldOnPoll=True, backing=backing)
    return _Spec(operation=_ADD, device=device)


def log(path: str) -> Any:
    """A serial port that writes to a file of a datastore."""
    backing = vim.vm.device.VirtualSerialPort.FileBackingInfo(fileName=path)
    device = vim.vm.device.VirtualSerialPort(key=-301, yieldOnPoll=True, backing=backing)
    return _Spec(operation=_ADD, device=device)


def edit(device: Any) -> Any:
    """A device that was changed."""
    return _Spec(operation=_EDIT, device=device)


def remove(device: Any) -> Any:
    """A device goes; its file stays."""
    return _Spec(operation=_REMOVE, device=device)


def free_unit(devices: Iterable[Any]) -> int:
    """The first place for another disk.

    Raises:
        CallerFault: There is none left.
    """
    taken = {one.unitNumber for one in devices if getattr(one, "controllerKey", None) == SCSI}
    free = (unit for unit in range(_UNITS) if unit not in taken and unit != _OWN_UNIT)
    found = next(free, None)
    if found is None:
        raise CallerFault("the guest has no place for another disk", hint="detach one")
    return found


def find_disk(devices: Iterable[Any], volume: Volume) -> Any | None:
    """The disk that a volume is attached as."""
    return next((one for one in disks(devices) if one.backing.fileName == volume.path), None)


def disks(devices: Iterable[Any]) -> list[Any]:
    """Virtual disks among devices."""
    return [one for one in devices if isinstance(one, vim.vm.device.VirtualDisk)]


def root(devices: Iterable[Any]) -> Any | None:
    """The disk that a guest boots."""
    return next((one for one in disks(devices) if one.unitNumber == _ROOT_UNIT), None)


def find_card(devices: Iterable[Any], nic: Nic) -> Any | None:
    """The card with an address."""
    kind = vim.vm.device.VirtualEthernetCard
    cards = (one for one in devices if isinstance(one, kind))
    return next((one for one in cards if str(one.macAddress).lower() == nic.mac.lower()), None)


def line_port(devices: Iterable[Any]) -> int:
    """The port that a guest's line listens on; 0 where it has none."""
    kind = vim.vm.device.VirtualSerialPort.URIBackingInfo
    for one in devices:
        backing = getattr(one, "backing", None)
        if isinstance(backing, kind):
            return int(backing.serviceURI.rpartition(":")[2])
    return 0
