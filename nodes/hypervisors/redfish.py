# SPDX-License-Identifier: Apache-2.0
"""One bare machine by Redfish: `redfish://user@host/redfish/v1/Systems/ID?images=URL`.

The machine of the URL is the hypervisor and its one guest. Redfish has nowhere to write whose it
is: which guest it is stands in a file of our working directory. A machine that runs and has
no such file is somebody else's: `launch` refuses it, and `cleanup` leaves it alone.

It is started from virtual media that the controller fetches from the folder `images`, from the
network (`boot=pxe`) or from its own disk (`boot=hdd`); the image is looked at in the first case.
It has the cards that are in it: a plain card that a guest asks for changes nothing.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import quote

import sushy

from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors.base import (
    PREFIX,
    Access,
    Console,
    GuestInfo,
    GuestSpec,
    GuestState,
    HostStatus,
    Hypervisor,
    Inventory,
)
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.local import check_name, check_properties, check_size, disk_faults
from nodes.hypervisors.redfish_link import RedfishLink, address, short
from nodes.hypervisors.redfish_missing import MISSING

_TYPES, _MODES = frozenset({"baremetal", "redfish"}), frozenset({"baremetal"})
_ON, _OFF = "On", "Off"
_SOURCES = {
    "cd": sushy.BootSource.CD,
    "pxe": sushy.BootSource.PXE,
    "hdd": sushy.BootSource.HDD,
}
_MEDIA = (sushy.VirtualMediaType.CD, sushy.VirtualMediaType.DVD)
_GIB_MIB = 1024


def connect(url: str, access: Access) -> "RedfishHypervisor":
    """Connect to a machine's controller.

    Raises:
        CallerFault: The URL is wrong, names no machine that is there, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    return RedfishHypervisor(RedfishLink(address(url), access), access)


class RedfishHypervisor(Hypervisor):
    """One machine; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    runs_guests: ClassVar[bool] = False  # they run, and no console leads to them
    boots_disks: ClassVar[bool] = True
    guests_at_once: int = 1

    def __init__(self, link: RedfishLink, access: Access) -> None:
        """Nothing is asked yet."""
        self._link = link
        self._access = access
        where = f"{link.where.host}:{link.where.port}{link.where.path}"
        known_as = hashlib.sha256(where.encode()).hexdigest()[:16]
        self._mark = (access.marks or access.work) / f"redfish-{known_as}"

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """A column of ours: Nova reaches bare machines by Ironic only."""
        told = self._link.told()
        versions = {
            "redfish": self._link.root.redfish_version,
            "maker": told.get("Manufacturer"),
            "model": told.get("Model"),
            "firmware": told.get("BiosVersion"),
        }
        return System(
            key="redfish",
            title="bare metal (Redfish)",
            grade=self._access.grade,
            versions={name: short(value) for name, value in versions.items() if value},
        )

    def status(self) -> HostStatus:
        """What the controller says; the uptime it does not know."""
        told = self._link.told()
        return HostStatus(
            hostname=short(told.get("HostName") or told.get("Name") or self._link.where.path),
            address=self._link.where.host,
            uptime_s=0.0,
            memory_mib=_memory(told),
            cpus=_cpus(told),
        )

    def inventory(self) -> Inventory:
        """The machine, by the name of our guest or by its own; nothing when it is off and free."""
        told = self._link.told()
        guest, state = self._guest(), _state(told)
        if not guest and state is GuestState.SHUTOFF:
            return Inventory()
        return Inventory(guests={guest or short(told.get("Name")) or "?": state})

    def cleanup(self) -> tuple[str, ...]:
        """Turn the machine off and give it back, when it is ours."""
        guest = self._guest()
        if not guest.startswith(PREFIX):
            return ()
        self.delete(guest)
        return (guest,)

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Take the machine, choose what it boots, and turn it on."""
        self._check(spec)
        told = self._link.told()
        if _state(told) is not GuestState.SHUTOFF and not self._guest():
            raise TransientFault(
                "the machine runs, and nobody here has started it",
                hint="turn it off when it is not used: only then it is taken",
                retryable=True,
            )
        self._take(spec.name, told.get("Boot") or {})
        try:
            if self._link.where.boot == "cd":
                self._insert(spec)
            source = _SOURCES[self._link.where.boot]
            self._boot_from(source.value, sushy.BootSourceOverrideEnabled.CONTINUOUS.value)
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(CallerFault, NodeFault, TransientFault, Unsupported):
                self.delete(spec.name)
            raise

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
        check_properties(spec.image, _TYPES, _MODES)
        self.refuse_missing(spec)
        if self._link.where.boot == "cd" and spec.image.disk is None:
            raise CallerFault("the image has no disk, which would be its virtual medium")

    def _insert(self, spec: GuestSpec) -> None:
        disk = spec.image.disk
        source = f"{self._link.where.images}/{quote(disk.name if disk else '')}"
        doing = f"insert {source}"
        with self._link.asking(doing, Feature.LAUNCH):
            drive = self._drive()
            if drive is None:
                raise Unsupported(Feature.LAUNCH, "its controller has no virtual CD")
            if drive.inserted:
                drive.eject_media()
            drive.insert_media(source, inserted=True, write_protected=True)

    def _drive(self) -> Any:
        """The virtual CD: of the machine by newer editions of Redfish, else of its manager."""
        media: list[Any] = []
        lacks = (sushy.exceptions.MissingAttributeError, AttributeError)
        with suppress(*lacks):
            media += self._link.machine.virtual_media.get_members()
        if not media:
            with suppress(*lacks):
                for manager in self._link.machine.managers:
                    media += manager.virtual_media.get_members()
        return next((one for one in media if set(one.media_types or ()) & set(_MEDIA)), None)

    def _boot_from(self, source: str, enabled: str) -> None:
        with self._link.asking(f"boot from {source}", Feature.LAUNCH):
            self._link.machine.set_system_boot_options(
                sushy.BootSource(source), enabled=sushy.BootSourceOverrideEnabled(enabled)
            )

    def info(self, name: str) -> GuestInfo:
        """What the controller says."""
        self._ours(name)
        told = self._link.told()
        return GuestInfo(state=_state(told), memory_mib=_memory(told), cpus=_cpus(told))

    def power_off(self, name: str) -> None:
        """Off at once."""
        self._ours(name)
        doing = f"power off {name}"
        if self._link.told().get("PowerState") != _OFF:
            self._link.reset(doing, sushy.ResetType.FORCE_OFF, Feature.TERMINATE)
            self._link.await_power(doing, _OFF)

    def delete(self, name: str) -> None:
        """Off, the virtual medium out, booting as before, and the machine given back."""
        check_name(name)
        note = self._note()
        if note.get("guest") != name:
            return
        self.power_off(name)
        if note.get("boot") == "cd":
            with self._link.asking(f"eject the medium of {name}"):
                drive = self._drive()
                if drive is not None and drive.inserted:
                    drive.eject_media()
        self._restore(note)
        # The mark goes last: what dies before is found by the next cleaning.
        self._mark.unlink(missing_ok=True)

    def _restore(self, note: Mapping[str, str]) -> None:
        """What it booted before; a source that only its vendor knows is left to its owner."""
        target, enabled = note.get("target", ""), note.get("enabled", "") or "Disabled"
        if target in {one.value for one in sushy.BootSource} and enabled in {
            one.value for one in sushy.BootSourceOverrideEnabled
        }:
            self._boot_from(target, enabled)

    def console(self, name: str) -> Console:
        """None."""
        del name
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def start(self, name: str) -> None:
        """On."""
        self._ours(name)
        doing = f"start {name}"
        if self._link.told().get("PowerState") != _ON:
            self._link.reset(doing, sushy.ResetType.ON, Feature.REBOOT)
            self._link.await_power(doing, _ON)

    def shutdown(self, name: str) -> None:
        """Press the power button (ACPI), and wait."""
        self._ours(name)
        doing = f"shut down {name}"
        self._link.reset(doing, sushy.ResetType.GRACEFUL_SHUTDOWN, Feature.TERMINATE)
        self._link.await_power(doing, _OFF)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Reset it or, soft, ask its system; when that is done a controller does not tell."""
        self._ours(name)
        kind = sushy.ResetType.FORCE_RESTART if hard else sushy.ResetType.GRACEFUL_RESTART
        self._link.reset(f"reboot {name}", kind, Feature.REBOOT)
        self._link.await_power(f"reboot {name}", _ON)

    # Whose it is -------------------------------------------------------------------------

    def _note(self) -> dict[str, str]:
        """What we wrote down when we took the machine; nothing when it is not ours."""
        with disk_faults(self._mark):
            text = self._mark.read_text() if self._mark.exists() else "{}"
        try:
            return {str(key): str(value) for key, value in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise NodeFault(
                f"{self._mark} does not say whose the machine is", hint="look, and remove it"
            ) from error

    def _guest(self) -> str:
        """The guest that the machine is; empty when it is not ours."""
        return self._note().get("guest", "")

    def _take(self, name: str, boots: Mapping[str, Any]) -> None:
        """Write down whose the machine is, and how it booted; one process can."""
        note = {
            "guest": name,
            "boot": self._link.where.boot,
            "target": str(boots.get("BootSourceOverrideTarget") or ""),
            "enabled": str(boots.get("BootSourceOverrideEnabled") or ""),
        }
        with disk_faults(self._mark):
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            beside = self._mark.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            beside.write_text(json.dumps(note))
            try:
                os.link(beside, self._mark)
            except FileExistsError:
                other = self._guest()
            else:
                return
            finally:
                beside.unlink()
        if other == name:
            raise CallerFault(f"there is a guest {name} already")
        raise TransientFault(
            f"the machine is taken: it is {short(other)}", hint="wait for it", retryable=True
        )

    def _ours(self, name: str) -> None:
        check_name(name)
        if self._guest() != name:
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")


def _state(told: Mapping[str, Any]) -> GuestState:
    """A machine on its way up or down still runs."""
    return GuestState.SHUTOFF if told.get("PowerState") == _OFF else GuestState.RUNNING


def _memory(told: Mapping[str, Any]) -> int:
    return int(_number(told.get("MemorySummary"), "TotalSystemMemoryGiB") * _GIB_MIB)


def _cpus(told: Mapping[str, Any]) -> int:
    summary = told.get("ProcessorSummary")
    return int(_number(summary, "LogicalProcessorCount") or _number(summary, "Count"))


def _number(summary: object, key: str) -> float:
    """A number that a controller may leave out, or tell as null."""
    value = summary.get(key) if isinstance(summary, Mapping) else None
    return float(value) if isinstance(value, int | float) else 0.0
