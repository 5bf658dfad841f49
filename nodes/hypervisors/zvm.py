# SPDX-License-Identifier: Apache-2.0
"""z/VM by IBM's Cloud Connector: `zvm://connector:443`, with the admin's token.

A guest is a user of at most eight characters. Ours are `HV` and six more that follow from the name;
which name is whose is kept in a file of `access.work` before the user is made, and only users
that stand there are ever removed. The connector does not tell whether a guest is paused: the
adapter remembers what it did itself.

Nothing here was tried on a z/VM. The counterpart is the connector's own server over a model of CP
and SMAPI: there, a guest is made and started without an image.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
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
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported
from nodes.hypervisors.local import check_name, check_properties
from nodes.hypervisors.zvm_link import ZvmLink, address
from nodes.hypervisors.zvm_missing import AGENT, DEPLOY, HOST, MISSING

_NAMES = "zvm-names.json"
_USER = re.compile(r"HV[A-Z2-7]{6}")
_DISK = {"size": "1g", "is_boot_disk": True}
_SIZE = re.compile(r"USER \S+ \S+ (\d+)([MG])", re.IGNORECASE)
_CPU = ("COMMAND DEFINE CPU ", "CPU ")
_MIB_PER = {"M": 1, "G": 1024}


def connect(url: str, access: Access) -> "ZvmHypervisor":
    """Connect to a connector.

    Raises:
        CallerFault: The URL is wrong, or there is no token.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = ZvmLink(address(url), access)
    try:
        return ZvmHypervisor(link, access)
    except BaseException:
        link.close()
        raise


def user_of(name: str) -> str:
    """The user that a guest of ours is."""
    digest = hashlib.sha256(name.encode()).digest()
    return "HV" + base64.b32encode(digest).decode()[:6]


def size_of(entry: Sequence[str]) -> tuple[int, int]:
    """MiB of memory and processors that a directory entry gives.

    Raises:
        NodeFault: It has no size.
    """
    found = next((match for match in map(_SIZE.match, entry) if match), None)
    if found is None:
        raise NodeFault("the directory entry of a guest has no size")
    cpus = sum(line.upper().startswith(_CPU) for line in entry)
    return int(found[1]) * _MIB_PER[found[2].upper()], max(cpus, 1)


class ZvmHypervisor(Hypervisor):
    """One z/VM; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    boots_disks: ClassVar[bool] = True

    def __init__(self, link: ZvmLink, access: Access) -> None:
        """Ask for the connector's version: whoever is refused is refused here."""
        self._link = link
        self._access = access
        self._paused: set[str] = set()
        told = link.call("ask for the version", "version")
        self._version = str(dict(told or {}).get("version", ""))

    def system(self) -> System:
        """Nova's column, with the connector's version."""
        versions = {"zvmconnector": self._version} if self._version else {}
        return System(key="zvm", title="zVM", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """Raises Unsupported: nobody has read that answer on a z/VM."""
        raise Unsupported(Feature.GET_HOST_INFO, HOST)

    def inventory(self) -> Inventory:
        """The connector's guests: ours by their names, others' by their users."""
        names = self._names()
        return Inventory(
            guests={names.get(user, user): self._state(user) for user in self._users()}
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove the guests that stand in our file."""
        there = set(self._users())
        ours = sorted(name for user, name in self._names().items() if user in there)
        for name in ours:
            self.delete(name)
        return tuple(ours)

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def launch(self, spec: GuestSpec) -> None:
        """Make a guest with an empty disk and start it; on a real z/VM it is refused.

        Raises:
            Unsupported: It is a real one: nothing here could deploy the image.
        """
        check_name(spec.name)
        self.refuse_missing(spec)
        if spec.nics:
            self.cannot(Feature.ATTACH_INTERFACE)
        check_properties(spec.image, frozenset({"zvm"}), frozenset({"hvm"}))
        if self._access.grade not in {Grade.SIMULATOR, Grade.EMULATOR}:
            raise Unsupported(Feature.LAUNCH, DEPLOY)
        user = user_of(spec.name)
        if user in self._users():
            raise CallerFault(f"there is a guest {spec.name} already")
        self._remember(user, spec.name)
        try:
            self._do(
                spec.name, "make", "guest_create", spec.cpus, spec.memory_mib, disk_list=[_DISK]
            )
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self.delete(spec.name)
            raise

    def info(self, name: str) -> GuestInfo:
        """What the directory and CP say of it."""
        user = self._user(name)
        told = self._link.call(f"look at {name}", "guest_get_definition_info", user)
        memory_mib, cpus = size_of([str(line) for line in dict(told).get("user_direct", ())])
        return GuestInfo(state=self._state(user), memory_mib=memory_mib, cpus=cpus)

    def start(self, name: str) -> None:
        """Log the guest on."""
        self._do(name, "start", "guest_start")

    def power_off(self, name: str) -> None:
        """Log the guest off."""
        self._do(name, "stop", "guest_stop")
        self._paused.discard(name)

    def shutdown(self, name: str) -> None:
        """Raises Unsupported: the connector asks an agent in the guest."""
        self._user(name)
        raise Unsupported(Feature.TERMINATE, AGENT)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Log the guest off and on; asking it takes an agent in the guest."""
        if not hard:
            self._user(name)
            raise Unsupported(Feature.REBOOT, AGENT)
        self._do(name, "reset", "guest_reset")
        self._paused.discard(name)

    def pause(self, name: str) -> None:
        """Stop its processors."""
        self._do(name, "pause", "guest_pause")
        self._paused.add(name)

    def unpause(self, name: str) -> None:
        """Let them go on."""
        self._do(name, "unpause", "guest_unpause")
        self._paused.discard(name)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Change the directory entry of a guest that is off, then start it."""
        if self.info(name).state is not GuestState.SHUTOFF:
            self.power_off(name)
        self._do(name, "resize", "guest_resize_cpus", cpus, feature=Feature.RESIZE)
        self._do(name, "resize", "guest_resize_mem", f"{memory_mib}M", feature=Feature.RESIZE)
        self.start(name)

    def delete(self, name: str) -> None:
        """Remove it from the directory."""
        user = user_of(name)
        if self._names().get(user) != name:
            return
        if user in self._users():
            self._link.call(f"delete {name}", "guest_delete", user)
        self._remember(user, "")
        self._paused.discard(name)

    def console(self, name: str) -> Console:
        """Raises Unsupported."""
        del name
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def _do(self, name: str, verb: str, call: str, *given: Any, **more: Any) -> None:
        user = user_of(name) if call == "guest_create" else self._user(name)
        self._link.call(f"{verb} {name}", call, user, *given, **more)

    def _user(self, name: str) -> str:
        """The user of a guest of ours.

        Raises:
            CallerFault: There is none.
        """
        user = user_of(name)
        if self._names().get(user) != name or user not in self._users():
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")
        return user

    def _users(self) -> tuple[str, ...]:
        told = self._link.call("list the guests", "guest_list")
        if not isinstance(told, list):
            raise NodeFault("the list of guests is none", hint="is it a z/VM Cloud Connector?")
        return tuple(str(user) for user in told)

    def _state(self, user: str) -> GuestState:
        told = self._link.call(f"ask whether {user} runs", "guest_get_power_state_real", user)
        if str(told) != "on":
            return GuestState.SHUTOFF
        paused = {user_of(name) for name in self._paused}
        return GuestState.PAUSED if user in paused else GuestState.RUNNING

    def _names(self) -> dict[str, str]:
        """Our own names by user; the file is ours, and what does not fit in it is left out."""
        try:
            told = json.loads(self._file().read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(told, dict):
            return {}
        return {
            str(user): str(name)
            for user, name in told.items()
            if _USER.fullmatch(str(user))
            and str(name).startswith(PREFIX)
            and user_of(str(name)) == user
        }

    def _remember(self, user: str, name: str) -> None:
        known = self._names()
        known.pop(user, None)
        if name:
            known[user] = name
        file = self._file()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(known))
            os.replace(fresh, file)  # noqa: PTH105 - replaced in one step
        except OSError as error:
            raise NodeFault(
                f"cannot note a guest in {file}: {error.strerror}", hint="free the disk"
            ) from error

    def _file(self) -> Path:
        where = self._link.where
        return self._access.work / f"{where.host.replace(':', '_')}-{where.port}-{_NAMES}"
