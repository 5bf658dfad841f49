# SPDX-License-Identifier: Apache-2.0
"""The Xen host behind `nodes.hypervisors.xen_xl`: what it says of itself, and how it is spoken to.

A guest's files lie in a folder of its own on the host, with a record of what it is, so that any
process goes on where another left.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict

from ci import proc
from ci.model.evidence import System
from nodes.hypervisors import xen_words
from nodes.hypervisors.base import Access, GuestState, HostStatus, Hypervisor, Inventory
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.shell_link import Answered, ShellLink
from nodes.hypervisors.xen_words import Domain, GuestType, Record

_HOME = "/var/lib/hypervouch/xl"
GUESTS, IMAGES, VOLUMES = f"{_HOME}/guests", f"{_HOME}/images", f"{_HOME}/volumes"
_POLL_S = 0.5
# libxl gives dom0 10 to 60 s for a device or QEMU: constants of its build.
_LATE = re.compile(r"timed out|timeout", re.IGNORECASE)
_LOOK = (
    f"mkdir -p {GUESTS} {IMAGES} {VOLUMES}; xl list || exit 1; echo =; ls {GUESTS}; echo =; "
    f"ls {VOLUMES}; echo =; ls {GUESTS}/*/memory 2>/dev/null; echo =; "
    "ip -o link show type bridge"
)


class XlHost(Hypervisor):
    """The part of the adapter that looks, and what the other parts are made of."""

    def __init__(self, link: ShellLink, access: Access, *, kind: GuestType, bridge: str) -> None:
        """See that there is a Xen.

        Raises:
            NodeFault: There is none.
        """
        self._link = link
        self._access = access
        self._kind = kind
        self._bridge = bridge
        self._told = xen_words.parse_info(link.run(["xl", "info"]).text)

    @property
    def host(self) -> tuple[str, int]:
        """Address and port of the Xen host."""
        return self._link.where.host, self._link.where.port

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Xen's column."""
        versions = {
            "xen": self._told.get("xen_version", ""),
            "kernel": self._told.get("release", ""),
            "guest-type": self._kind.value,
        }
        return System(key="xen-xl", title="Xen (xl)", grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """What dom0 says of the machine; memory is the machine's and not dom0's."""
        script = "cat /proc/uptime; hostname -I; grep -m1 ^flags /proc/cpuinfo"
        uptime, addresses, flags = self._sh(script).text.splitlines()[:3]
        return HostStatus(
            hostname=self._told.get("host", ""),
            address=addresses.split()[0] if addresses.split() else self._link.where.host,
            uptime_s=float(uptime.split()[0]),
            memory_mib=int(self._told.get("total_memory", 0)),
            cpus=int(self._told.get("nr_cpus", 0)),
            cpu_traits=tuple(sorted(flags.partition(":")[2].lower().split())),
        )

    def inventory(self) -> Inventory:
        """Domains, what we keep of guests that do not run, volumes and bridges."""
        domains, ours, volumes, suspended, bridges = self._look()
        guests = {name: domain.state for name, domain in domains.items()}
        for name in ours - set(guests):
            guests[name] = GuestState.SUSPENDED if name in suspended else GuestState.SHUTOFF
        return Inventory(guests=guests, volumes=volumes, networks=bridges)

    def close(self) -> None:
        """Give the connection back."""
        self._link.close()

    # How it is done ----------------------------------------------------------------------

    def _destroy(self, name: str) -> None:
        """End it; whoever else ends it at the same time, as xl's own process may, is no matter."""
        said = ""
        for _ in self._turns():
            said = self._link.run(["xl", "destroy", name], check=False).complaint
            if self._is_gone(name):
                return
        raise NodeFault(f"cannot end {name}: {said}")

    def _is_gone(self, name: str) -> bool:
        """Whether the toolstack has cleared it: until then its disks are in use."""
        return self._link.run(["xl", "domid", name], check=False).status != 0

    def _await_gone(self, name: str) -> None:
        for _ in self._turns():
            if self._is_gone(name):
                return
        raise TransientFault(f"{name} does not end", retryable=True)

    def _await_state(self, name: str, state: GuestState) -> None:
        for _ in self._turns():
            if self._running(name).state is state:
                return
        raise TransientFault(f"{name} does not become {state}", retryable=True)

    def _turns(self) -> Iterator[None]:
        return proc.wait_until(time.monotonic() + self._access.timeout_s, every_s=_POLL_S)

    def _running(self, name: str) -> Domain:
        domain = self._domains().get(name)
        if domain is None:
            self._record(name)
            raise CallerFault(f"{name} does not run", hint="start it first")
        return domain

    def _domains(self) -> dict[str, Domain]:
        return xen_words.parse_list(self._link.run(["xl", "list"]).text)

    def _look(
        self,
    ) -> tuple[dict[str, Domain], set[str], frozenset[str], set[str], frozenset[str]]:
        """Domains, our guests, volumes, those whose memory is kept, and bridges."""
        listing, ours, volumes, kept, bridges = self._sh(_LOOK).text.split("=\n", 4)
        return (
            xen_words.parse_list(listing),
            set(ours.split()),
            frozenset(volumes.split()),
            {path.split("/")[-2] for path in kept.split()},
            frozenset(line.split(":")[1].strip() for line in bridges.splitlines()),
        )

    def _record(self, name: str) -> Record:
        check_name(name)
        read = self._link.run(["cat", f"{self._place(name)}/record.json"], check=False)
        if read.status:
            raise self._unknown(name)
        return read_record(read.text)

    def _note(self, name: str, record: Record) -> None:
        """Keep what changed, for its next start."""
        text = xen_words.configuration(name, record, self._kind, self._place(name), self._bridge)
        self._keep(name, record, text)

    def _keep(self, name: str, record: Record, configuration: str) -> None:
        """Write both files of a guest, each whole or not at all."""
        script = (
            'cd "$1" && printf %s "$2" >guest.part && mv guest.part guest.cfg && '
            'printf %s "$3" >record.part && mv record.part record.json'
        )
        self._sh(script, self._place(name), configuration, json.dumps(asdict(record)))

    def _unknown(self, name: str) -> CallerFault:
        return CallerFault(f"there is no guest {name} on {self._link.where.host}")

    def _place(self, name: str) -> str:
        return f"{GUESTS}/{name}"

    def _xl(self, *words: str, timeout_s: float = 0.0) -> None:
        done = self._link.run(["xl", *words], timeout_s=timeout_s, check=False)
        if done.status:
            raise _failure(f"xl {words[0]} failed on {self._link.where.host}: {done.complaint}")

    def _sh(self, script: str, *words: str, timeout_s: float = 0.0, check: bool = True) -> Answered:
        """A fixed script of ours; its arguments are `$1`, `$2`, ..., never pasted."""
        argv = ["sh", "-c", script, "hypervouch", *words]
        return self._link.run(argv, timeout_s=timeout_s, check=check)


def _failure(said: str) -> NodeFault | TransientFault:
    """Whose turn it is: what libxl lost patience with, on a busy host, may be tried again."""
    if _LATE.search(said):
        return TransientFault(said, hint="dom0 is too slow: is the host busy?", retryable=True)
    return NodeFault(said, hint="see /var/log/xen there")


def read_record(text: str) -> Record:
    """What was kept of a guest.

    Raises:
        NodeFault: It cannot be read.
    """
    try:
        read = json.loads(text)
        lists = {key: tuple(read.get(key, ())) for key in ("macs", "guarded")}
        return Record(**{**read, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise NodeFault(f"a guest's record on the host cannot be read: {error}") from error
