# SPDX-License-Identifier: Apache-2.0
"""PowerVM by its console's REST API: `powervm://user@console/SYSTEM`. Never run.

Facts, inventory and power of partitions that are there, and nothing more: Nova removed its driver
in 2022, and no server of that API was ever within reach. Only partitions whose name begins with
our prefix are switched; none is made or removed.
"""

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree as ET

import httpx

from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors.base import (
    Access,
    Console,
    GuestInfo,
    GuestSpec,
    GuestState,
    HostStatus,
    Hypervisor,
    Inventory,
)
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.powervm_link import PowerVmLink, address, text
from nodes.hypervisors.powervm_missing import MISSING

_STATES = {
    "running": GuestState.RUNNING,
    "starting": GuestState.RUNNING,
    "shutting down": GuestState.RUNNING,
    "open firmware": GuestState.RUNNING,
    "hardware discovery": GuestState.RUNNING,
    "migrating running": GuestState.RUNNING,
    "suspending": GuestState.RUNNING,
    "resuming": GuestState.RUNNING,
    "suspended": GuestState.SUSPENDED,
    "not activated": GuestState.SHUTOFF,
    "not available": GuestState.SHUTOFF,
    "migrating not active": GuestState.SHUTOFF,
}
_OFF = {"operation": "shutdown", "immediate": "true"}
_SOFT = {"operation": "osshutdown"}
_AGAIN = {"restart": "true"}


def connect(
    url: str, access: Access, transport: httpx.BaseTransport | None = None
) -> "PowerVmHypervisor":
    """Connect to a console.

    Raises:
        CallerFault: The URL is wrong, names no system of it, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = PowerVmLink(address(url), access, transport)
    try:
        return PowerVmHypervisor(link, access)
    except BaseException:
        link.close()
        raise


class PowerVmHypervisor(Hypervisor):
    """One managed system; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    runs_guests: ClassVar[bool] = False

    def __init__(self, link: PowerVmLink, access: Access) -> None:
        """Find the system.

        Raises:
            CallerFault: It is not there, or there are several and none is named.
        """
        self._link = link
        self._access = access
        told = {text(one, "SystemName"): uuid for uuid, one in self._systems()}
        wanted = link.where.system
        fits = [uuid for name, uuid in told.items() if wanted in {"", name}]
        if len(fits) != 1:
            known = ", ".join(sorted(told)) or "none"
            raise CallerFault(
                f"{link.where.host} has {len(fits)} systems {wanted!r}",
                hint=f"it manages {known}",
            )
        self._uuid = fits[0]

    def _systems(self) -> list[tuple[str, ET.Element]]:
        return self._link.read("ManagedSystem", "ManagedSystem")

    def _system(self) -> ET.Element:
        for uuid, one in self._systems():
            if uuid == self._uuid:
                return one
        raise CallerFault(f"the system {self._uuid} is gone")

    def system(self) -> System:
        """Nova's column of 2020, with the machine that the console names."""
        told = self._system()
        names = ("MachineType", "Model", "SerialNumber")
        versions = {"machine": "-".join(text(told, name) for name in names)}
        return System(key="powervm", title="PowerVM", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """What the console says; it does not tell since when the system runs."""
        told = self._system()
        return HostStatus(
            hostname=text(told, "SystemName"),
            address=text(told, "PrimaryIPAddress"),
            uptime_s=0.0,
            memory_mib=_number(text(told, "InstalledSystemMemory")),
            cpus=_number(text(told, "InstalledSystemProcessorUnits")),
        )

    def inventory(self) -> Inventory:
        """The system's partitions."""
        told = self._partitions().values()
        return Inventory(guests={text(one, "PartitionName"): _state(one) for one in told})

    def _partitions(self) -> dict[str, ET.Element]:
        path = f"ManagedSystem/{self._uuid}/LogicalPartition"
        return dict(self._link.read(path, "LogicalPartition"))

    def cleanup(self) -> tuple[str, ...]:
        """Nothing is ever made here."""
        return ()

    def close(self) -> None:
        """Log off."""
        self._link.close()

    def launch(self, spec: GuestSpec) -> None:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        check_name(spec.name)
        self.cannot(Feature.LAUNCH)

    def info(self, name: str) -> GuestInfo:
        """State, memory and processors of a partition."""
        _, told = self._find(name)
        memory = text(told, "CurrentMemory") or text(told, "DesiredMemory")
        cpus = text(told, "DesiredVirtualProcessors") or text(told, "DesiredProcessors")
        return GuestInfo(state=_state(told), memory_mib=_number(memory), cpus=_number(cpus))

    def start(self, name: str) -> None:
        """Power it on."""
        uuid, told = self._ours(name)
        if _state(told) is not GuestState.RUNNING:
            self._run(f"start {name}", uuid, "PowerOn", {})

    def power_off(self, name: str) -> None:
        """At once."""
        uuid, told = self._ours(name)
        if _state(told) is not GuestState.SHUTOFF:
            self._run(f"power off {name}", uuid, "PowerOff", _OFF)

    def shutdown(self, name: str) -> None:
        """By its operating system, which the console reaches by RMC."""
        self._run(f"shut down {name}", self._ours(name)[0], "PowerOff", _SOFT)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """The same, and on again."""
        how = (_OFF if hard else _SOFT) | _AGAIN
        self._run(f"reboot {name}", self._ours(name)[0], "PowerOff", how)

    def delete(self, name: str) -> None:
        """Nothing of ours can be there.

        Raises:
            CallerFault: There is a partition of that name, which we did not make.
        """
        check_name(name)
        if name in self.inventory().guests:
            raise CallerFault(f"{name} is not ours: this adapter makes no partitions")

    def console(self, name: str) -> Console:
        """Not here.

        Raises:
            Unsupported: Always.
        """
        self._find(name)
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def _run(self, doing: str, uuid: str, operation: str, how: Mapping[str, str]) -> None:
        self._link.run(doing, f"LogicalPartition/{uuid}", operation, how)

    def _ours(self, name: str) -> tuple[str, ET.Element]:
        check_name(name)
        return self._find(name)

    def _find(self, name: str) -> tuple[str, ET.Element]:
        for uuid, told in self._partitions().items():
            if text(told, "PartitionName") == name:
                return uuid, told
        raise CallerFault(f"there is no partition {name}", hint="look at the inventory")


def _number(told: str) -> int:
    """A whole number of what a console tells; 0 where that is none."""
    try:
        return int(float(told or 0))
    except (ValueError, OverflowError):
        return 0


def _state(told: ET.Element) -> GuestState:
    return _STATES.get(text(told, "PartitionState").lower(), GuestState.CRASHED)
