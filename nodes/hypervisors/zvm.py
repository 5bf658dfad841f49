# SPDX-License-Identifier: Apache-2.0
"""z/VM by IBM's Cloud Connector: `zvm://connector:443`, with the admin's token.

A guest is a user of at most eight characters. Ours are `HV` and six more that follow from the name;
which guest a user is stands in a file of its own below `access.marks`, written before the user
is made, and only users that have one are ever removed. The connector does not tell whether a
guest is paused: the adapter remembers what it did itself.

Nothing here was tried on a z/VM. The counterpart is the connector's own server over a model of CP
and SMAPI: there, a guest is made and started without an image.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from nodes.hypervisors.local import check_name, check_properties, check_size, disk_faults
from nodes.hypervisors.zvm_link import ZvmLink, address
from nodes.hypervisors.zvm_missing import AGENT, DEPLOY, HOST, MISSING

_DISK = {"size": "1g", "is_boot_disk": True}
_SIZE = re.compile(r"USER \S+ \S+ (\d+)([MG])", re.IGNORECASE)
_CPU = re.compile(r"(?:COMMAND DEFINE )?CPU (\w+)", re.IGNORECASE)
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
    # The connector writes one processor twice once it has changed their number.
    cpus = {match[1].upper() for match in map(_CPU.match, entry) if match}
    return int(found[1]) * _MIB_PER[found[2].upper()], max(len(cpus), 1)


class ZvmHypervisor(Hypervisor):
    """One z/VM; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    runs_guests: ClassVar[bool] = False  # the connector gives no line to ask them by
    boots_disks: ClassVar[bool] = True

    def __init__(self, link: ZvmLink, access: Access) -> None:
        """Ask for the connector's version: whoever is refused is refused here."""
        self._link = link
        self._access = access
        where = f"zvm-{link.where.host.replace(':', '_')}-{link.where.port}"
        self._marks = (access.marks or access.work) / where
        self._paused: set[str] = set()
        told = link.call("ask for the version", "version")
        if not isinstance(told, Mapping):
            raise NodeFault("it tells no version", hint="is it a z/VM Cloud Connector?")
        self._version = str(told.get("version", ""))

    def system(self) -> System:
        """Nova's column, with the connector's version."""
        versions = {"zvmconnector": self._version} if self._version else {}
        return System(key="zvm", title="zVM", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """Raises Unsupported: nobody has read that answer on a z/VM."""
        raise Unsupported(Feature.GET_HOST_INFO, HOST)

    def inventory(self) -> Inventory:
        """The connector's guests: ours by their names, others' by their users.

        Their states take a call for each guest: the connector has none for all.
        """
        names, guests = self._names(), {}
        for user in self._users():
            with suppress(CallerFault):  # it was removed since the list was made
                guests[names.get(user, user)] = self._state(user)
        return Inventory(guests=guests)

    def cleanup(self) -> tuple[str, ...]:
        """Remove the guests that have a file of ours, and files whose guest is gone."""
        there, known = set(self._users()), self._names()
        for name in known.values():
            self.delete(name)
        return tuple(sorted(name for user, name in known.items() if user in there))

    def close(self) -> None:
        """Disconnect."""
        self._link.close()

    def launch(self, spec: GuestSpec) -> None:
        """Make a guest with an empty disk and start it; on a real z/VM it is refused.

        Raises:
            Unsupported: It is a real one: nothing here could deploy the image.
        """
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
        self.refuse_missing(spec)
        check_properties(spec.image, frozenset({"zvm"}), frozenset({"hvm"}))
        if self._access.grade not in {Grade.SIMULATOR, Grade.EMULATOR}:
            raise Unsupported(Feature.LAUNCH, DEPLOY)
        user = user_of(spec.name)
        if user in self._users():
            raise CallerFault(f"there is a guest {spec.name} already")
        self._mark(user, spec.name)
        try:
            self._create(user, spec)
        except (CallerFault, NodeFault):
            # Whoever has taken the user since we looked keeps it: only our own file goes.
            self._forget(user)
            raise
        except BaseException:
            self._undo(spec.name)
            raise
        try:
            self._give_cards(user, spec)
            self.start(spec.name)
        except BaseException:
            self._undo(spec.name)
            raise

    def _undo(self, name: str) -> None:
        """Remove a guest whose file this very launch has written: nobody else has."""
        with suppress(HypervouchError):  # the first error is the one to be told
            self.delete(name)

    def _create(self, user: str, spec: GuestSpec) -> None:
        size = (spec.cpus, spec.memory_mib)
        doing = f"make {spec.name}"
        self._link.call(doing, "guest_create", user, *size, disk_list=[_DISK])

    def _give_cards(self, user: str, spec: GuestSpec) -> None:
        for nic in spec.nics:
            self._link.call(f"give {spec.name} a card", "guest_create_nic", user, mac_addr=nic.mac)

    def info(self, name: str) -> GuestInfo:
        """What the directory and CP say of it."""
        user = self._user(name)
        told = self._link.call(f"look at {name}", "guest_get_definition_info", user)
        entry = told.get("user_direct", ()) if isinstance(told, Mapping) else ()
        memory_mib, cpus = size_of([str(line) for line in entry])
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
        check_size(memory_mib, cpus)
        if self.info(name).state is not GuestState.SHUTOFF:
            self.power_off(name)
        self._do(name, "resize", "guest_resize_cpus", cpus, feature=Feature.RESIZE)
        size = f"{memory_mib}M" if memory_mib % _MIB_PER["G"] else f"{memory_mib // 1024}G"
        self._do(name, "resize", "guest_resize_mem", size, feature=Feature.RESIZE)
        self.start(name)

    def delete(self, name: str) -> None:
        """Remove it from the directory."""
        check_name(name)
        user = user_of(name)
        if self._names().get(user) != name:
            return
        if user in self._users():
            self._link.call(f"delete {name}", "guest_delete", user)
        # Our file goes last: what dies before is found by the next cleaning.
        self._forget(user)
        self._paused.discard(name)

    def console(self, name: str) -> Console:
        """Raises Unsupported."""
        del name
        self.cannot(Feature.CONSOLE_SERIAL_INTERACTIVE)

    def _do(self, name: str, verb: str, call: str, *given: Any, **more: Any) -> None:
        self._link.call(f"{verb} {name}", call, self._user(name), *given, **more)

    def _user(self, name: str) -> str:
        """The user of a guest of ours.

        Raises:
            CallerFault: There is none.
        """
        check_name(name)
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
        """Our own names by user; a file that does not fit its user says nothing."""
        known = {}
        with disk_faults(self._marks):
            for file in self._marks.glob("HV*") if self._marks.is_dir() else ():
                name = ""
                with suppress(FileNotFoundError):  # another thread's, removed just now
                    name = file.read_text(errors="replace").strip()
                if name.startswith(PREFIX) and user_of(name) == file.name:
                    known[file.name] = name
        return known

    def _mark(self, user: str, name: str) -> None:
        """Write down that a user is ours, which one launch alone can.

        Raises:
            CallerFault: That is written down already.
        """
        with disk_faults(self._marks):
            self._marks.mkdir(parents=True, exist_ok=True)
            try:
                with (self._marks / user).open("x") as file:
                    file.write(name)
            except FileExistsError as error:
                raise CallerFault(
                    f"there is a guest {name} already, or a file that one has left: "
                    f"{self._marks / user}",
                    hint="choose another name, or delete that one",
                ) from error
            except OSError:  # one without a name would be in the way, and nobody's
                self._forget(user)
                raise

    def _forget(self, user: str) -> None:
        with disk_faults(self._marks):
            (self._marks / user).unlink(missing_ok=True)
