# SPDX-License-Identifier: Apache-2.0
"""What a build leaves on a node that stays: a look before, a look after, and the difference.

Guests, volumes, networks and snapshots by the hypervisor's adapter, which logs in to an API of
the hypervisor's own by the password that the provider names; marked processes, listening
TCP sockets of the login's account and entries of some directories by one round trip over SSH.
Only a node that is the one slot of its provider is looked at: where several builds share a
machine nobody can tell whose a thing is. This machine itself is not searched for files.

What is certainly the build's is removed: processes with the work directory's mark, what is new
in that directory, guests and volumes with our prefix, what is new in directories that the
configuration gives to builds (`scratch`). New entries of other watched directories are
noted and left alone, and so are sockets where the login is root: the system's services are
root's too. So are guests and all else without our prefix that are new behind an API: a vCenter
may be others' as well. Whatever else is new and stays costs the node its place in work.
"""

import hashlib
import posixpath
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote

import paramiko

from ci import plain
from ci.errors import HypervouchError, NodeUnavailable
from ci.log import get
from ci.model.node import Endpoint, Transport
from nodes.health import PinnedBackend
from nodes.hypervisors.base import PREFIX, Hypervisor
from nodes.reach import Connect, has_api

WATCHED = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - watched, nothing is made there
MOST = 200
"""Things that are written down of one build."""
_OWN = (".hypervouch-", ".preflight")

# NUL ends each: a name may hold anything else. `-O`: the account that we log in as.
_SCRIPT = r"""
for d in "$@"; do for f in "$d"/* "$d"/.[!.]* "$d"/..?*; do
  if [ -L "$f" ] || [ -O "$f" ]; then printf 'file %s\0' "$f"; fi
done; done
awk -v u="$(id -u)" '$4 == "0A" && $8 == u { print "socket " $2 }' \
  /proc/net/tcp /proc/net/tcp6 2>/dev/null | tr '\n' '\0'
for f in $(grep -ls "HYPERVOUCH_SESSION=$family" /proc/[0-9]*/environ 2>/dev/null); do
  p=${f#/proc/}; p=${p%/environ}; c=
  read -r c 2>/dev/null </proc/$p/comm && printf 'process %s %s\0' "$p" "$c"
done
exit 0
"""


class Kind(StrEnum):
    """What kind of thing was left."""

    GUEST = "guest"
    VOLUME = "volume"
    NETWORK = "network"
    SNAPSHOT = "snapshot"
    FILE = "file"
    SOCKET = "socket"
    PROCESS = "process"


class Fate(StrEnum):
    """What became of it."""

    REMOVED = "removed"
    NOTED = "noted"  # not ours for certain, and in nobody's way
    STAYS = "stays"  # the node is out of work for it


Thing = tuple[Kind, str]
_THERE = frozenset({Kind.GUEST, Kind.VOLUME, Kind.NETWORK, Kind.SNAPSHOT})


@dataclass(frozen=True, kw_only=True)
class Left:
    """One thing that a build left behind."""

    kind: Kind
    name: str
    fate: Fate

    def record(self, node: str) -> dict[str, str]:
        """As it is kept with the attempt."""
        return {
            "node": node,
            "kind": self.kind.value,
            "name": plain.line(self.name, 300),
            "fate": self.fate.value,
        }


class Leftovers:
    """Looks at nodes before and after a build, and tidies up.

    Args:
        connect: Gives a node's hypervisor.
        watched: Directories where new entries are noted.
    """

    def __init__(self, connect: Connect, *, watched: Sequence[str] = WATCHED) -> None:
        self._connect = connect
        self._watched = tuple(watched)
        self._log = get("lease")

    def look(self, endpoint: Endpoint, scratch: Sequence[str] = ()) -> frozenset[Thing]:
        """Everything there is now.

        Raises:
            NodeUnavailable: The node or its hypervisor does not answer.
        """
        with self._connected(endpoint) as hypervisor:
            return self._look(endpoint, hypervisor, scratch)

    def settle(
        self,
        endpoint: Endpoint,
        before: Collection[Thing],
        scratch: Sequence[str] = (),
        *,
        alone: bool = True,
    ) -> tuple[Left, ...]:
        """Find what a build left, remove what is its own, and look again.

        Args:
            endpoint: Of the node.
            before: What was there.
            scratch: Directories that belong to builds.
            alone: Whether no other build uses the hypervisor; else nobody looks into it.

        Raises:
            NodeUnavailable: The node or its hypervisor does not answer.
        """
        with self._connected(endpoint) if alone else nullcontext() as hypervisor:
            new = self._look(endpoint, hypervisor, scratch) - frozenset(before)
            if not new:
                return ()
            self._remove(endpoint, hypervisor, new, (endpoint.workdir, *scratch))
            still = self._look(endpoint, hypervisor, scratch)
        left = [_judged(thing, still, endpoint, scratch) for thing in sorted(new)]
        told = [one for one in left if not _usual(one, endpoint)]
        if told:
            self._log.info(
                "a build left something", action="leftovers", count=len(told), node=endpoint.host
            )
        return tuple(sorted(told, key=lambda one: one.fate is not Fate.STAYS)[:MOST])

    def _look(
        self, endpoint: Endpoint, hypervisor: Hypervisor | None, scratch: Sequence[str]
    ) -> frozenset[Thing]:
        found = set(_host(endpoint, (endpoint.workdir, *self._watched, *scratch)))
        if hypervisor is not None:
            found.update(_on(hypervisor))
        return frozenset(found)

    @contextmanager
    def _connected(self, endpoint: Endpoint) -> Iterator[Hypervisor | None]:
        """The node's hypervisor, for as long as the block takes."""
        hypervisor = self._connect(endpoint)
        try:
            yield hypervisor
        finally:
            if hypervisor is not None:
                hypervisor.close()

    def _remove(
        self,
        endpoint: Endpoint,
        hypervisor: Hypervisor | None,
        new: Collection[Thing],
        ours: Sequence[str],
    ) -> None:
        """Remove what is the build's; what cannot be is found by the next look."""
        pids = [name.split()[0] for kind, name in new if kind is Kind.PROCESS]
        files = [name for kind, name in new if kind is Kind.FILE and _within(name, ours)]
        steps = [f"kill -9 {' '.join(pids)} 2>/dev/null"] if pids else []
        steps += [
            "rm -rf -- " + " ".join(map(quote, files[start : start + 100]))
            for start in range(0, len(files), 100)
        ]
        if steps:
            _run(endpoint, "\n".join([*steps, "exit 0"]))
        kinds = {Kind.GUEST, Kind.VOLUME, Kind.SNAPSHOT}
        ours_there = any(kind in kinds and _named_by_us(name) for kind, name in new)
        if hypervisor is not None and ours_there:
            try:
                hypervisor.cleanup()
            except HypervouchError as error:
                self._log.warning("not cleaned", action="leftovers", reason=str(error))


def trouble_of(left: Iterable[Left]) -> str:
    """Why the node cannot stay in work; empty where all is gone, or in nobody's way."""
    there = [one for one in left if one.fate is Fate.STAYS]
    stays = [f"{one.kind} {plain.line(one.name, plain.NAME)}" for one in there]
    if not stays:
        return ""
    more = f" and {len(stays) - 5} more" if len(stays) > 5 else ""  # noqa: PLR2004
    return f"a build left what could not be removed: {', '.join(stays[:5])}{more}"


def _on(hypervisor: Hypervisor) -> Iterable[Thing]:
    there = hypervisor.inventory()
    for kind, names in (
        (Kind.GUEST, there.guests),
        (Kind.VOLUME, there.volumes),
        (Kind.NETWORK, there.networks),
        (Kind.SNAPSHOT, there.snapshots),
    ):
        yield from ((kind, name) for name in names)


def _host(endpoint: Endpoint, directories: Sequence[str]) -> Iterable[Thing]:
    """Files, sockets and processes of a node that is reached over SSH."""
    if endpoint.transport is not Transport.SSH:
        return ()
    places = " ".join(quote(one.rstrip("/")) for one in dict.fromkeys(directories))
    return parse(_run(endpoint, f"set -- {places}\nfamily={family(endpoint.workdir)}\n{_SCRIPT}"))


def family(workdir: str) -> str:
    """What the marks of all sessions in a work directory begin with, as in `ci.runners.scripts`.

    Another build on the same machine has another directory, and so another family.
    """
    return hashlib.sha256(posixpath.normpath(workdir).encode()).hexdigest()[:16]


def parse(said: bytes) -> list[Thing]:
    """Read what the script printed: `KIND NAME`, each ended by NUL."""
    found: list[Thing] = []
    for part in said.split(b"\0"):
        kind, _, name = part.decode("utf-8", "replace").strip("\n").partition(" ")
        if not name or kind not in set(Kind):
            continue
        if kind == Kind.FILE and name.rpartition("/")[2].startswith(_OWN):
            continue
        found.append((Kind(kind), address(name) if kind == Kind.SOCKET else name))
    return found


def address(text: str) -> str:
    """`0100007F:1F90` as /proc/net/tcp has it, as `127.0.0.1:8080`; IPv6 by its port alone."""
    host, _, port = text.partition(":")
    number = int(port, 16)
    if len(host) != 8:  # noqa: PLR2004 - four bytes
        return f"[{host.lower()}]:{number}"
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host))) + f":{number}"


def _run(endpoint: Endpoint, script: str) -> bytes:
    backend = PinnedBackend(endpoint)
    try:
        return bytes(backend.run("sh -c %s", script).stdout_bytes)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise NodeUnavailable(
            f"the look at {endpoint.host} broke off: {error}", retryable=True
        ) from error
    finally:
        backend.close()


def _judged(
    thing: Thing, still: Collection[Thing], endpoint: Endpoint, scratch: Sequence[str]
) -> Left:
    kind, name = thing
    fate = Fate.REMOVED
    if thing in still:
        elsewhere = kind is Kind.FILE and not _within(name, (endpoint.workdir, *scratch))
        of_the_system = kind is Kind.SOCKET and endpoint.user == "root"
        of_others = kind in _THERE and has_api(endpoint) and not _ours(name)
        fate = Fate.NOTED if elsewhere or of_the_system or of_others else Fate.STAYS
    return Left(kind=kind, name=name, fate=fate)


def _usual(one: Left, endpoint: Endpoint) -> bool:
    """What every build leaves in its work directory, and goes with it: not worth a word."""
    above = one.kind is Kind.FILE and f"{endpoint.workdir}/".startswith(f"{one.name}/")
    ours = one.kind is Kind.FILE and one.name.startswith(f"{endpoint.workdir.rstrip('/')}/checkout")
    return above or (ours and one.fate is Fate.REMOVED)


def _within(name: str, directories: Sequence[str]) -> bool:
    return any(name.startswith(f"{one.rstrip('/')}/") for one in directories)


def _ours(name: str) -> bool:
    """Whether it is ours or belongs to one of ours: a snapshot is GUEST/NAME."""
    return any(part.startswith(PREFIX) for part in name.split("/"))


def _named_by_us(name: str) -> bool:
    return name.rpartition("/")[2].startswith(PREFIX)
