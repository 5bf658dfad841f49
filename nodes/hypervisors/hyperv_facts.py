# SPDX-License-Identifier: Apache-2.0
"""What a Hyper-V host says of itself and of its machines, and which of these are ours."""

from nodes.hypervisors.base import PREFIX, GuestState
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.hyperv_link import HyperVLink, Record, step
from nodes.hypervisors.local import check_name

MARK = "hypervouch"
"""In the notes of what we make."""

EMULATED = "(emulator)"
"""In the name of the Windows that our stand-in says it is."""

_SHOWN = ["Id", "Name", "State", "Notes", "ProcessorCount", "MemoryStartup", "Path"]
_STATES = {
    "Off": GuestState.SHUTOFF,
    "Hibernated": GuestState.SHUTOFF,
    "Paused": GuestState.PAUSED,
    "Saved": GuestState.SUSPENDED,
    "FastSaved": GuestState.SUSPENDED,
} | dict.fromkeys(
    ("Running", "Starting", "Stopping", "Saving", "Pausing", "Resuming", "Reset", "FastSaving"),
    GuestState.RUNNING,
)
_CRITICAL = "Critical"
"""Behind a state: the host has lost a machine's files. What is off is off nevertheless."""


class Facts:
    """What is there."""

    def __init__(self, link: HyperVLink) -> None:
        self._link = link

    def host(self) -> Record:
        """Name, processors, bytes of memory."""
        shown = ["Name", "LogicalProcessorCount", "MemoryCapacity"]
        told = self._link.run(
            "look at the host", step("Get-VMHost"), step("Select-Object", Property=shown)
        )
        return dict(told[0])

    def windows(self) -> Record:
        """Its system's name and version, and when it booted."""
        told = self._link.run(
            "look at Windows",
            step("Get-CimInstance", ClassName="Win32_OperatingSystem"),
            step("Select-Object", Property=["Caption", "Version", "LastBootUpTime"]),
        )
        return dict(told[0])

    def switches(self) -> list[Record]:
        """All switches: names and notes."""
        shown = step("Select-Object", Property=["Name", "Notes"])
        return self._link.run("list the switches", step("Get-VMSwitch"), shown)

    def machines(self) -> list[Record]:
        """All machines, ours and others'."""
        shown = step("Select-Object", Property=_SHOWN)
        return self._link.run("list the guests", step("Get-VM"), shown)

    def find(self, name: str) -> list[Record]:
        """Machines of a name, which Hyper-V lets several have.

        Raises:
            CallerFault: It is no name of ours.
        """
        check_name(name)  # and so no wildcards
        found = step("Get-VM", Name=name)
        return self._link.find(f"look for {name}", found, step("Select-Object", Property=_SHOWN))

    def guest(self, name: str) -> Record:
        """The one machine of a name.

        Raises:
            CallerFault: There is none, or there are several.
        """
        found = self.find(name)
        if len(found) != 1:
            hint = "look at the inventory"
            raise CallerFault(f"there is no guest {name}, or several: {len(found)}", hint=hint)
        return found[0]


def state_of(told: Record) -> GuestState:
    """In our words; one that runs without its files has crashed."""
    state = str(told["State"])
    if state.endswith(_CRITICAL):
        rest = _STATES.get(state.removesuffix(_CRITICAL), GuestState.CRASHED)
        return GuestState.CRASHED if rest is GuestState.RUNNING else rest
    return _STATES.get(state, GuestState.CRASHED)


def is_ours(told: Record) -> bool:
    """Whether a machine or a switch has our mark and a name of ours."""
    return MARK in str(told["Notes"] or "").split() and str(told["Name"]).startswith(PREFIX)
