# SPDX-License-Identifier: Apache-2.0
"""The nodes of the lab by name: built, brought up, looked at and taken down, each repeatable.

Everything of a node is in a folder of its own, so that any process finds it again. Going down
ends only what coming up started.
"""

import json
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from ci.model.result import Grade
from nodes.images import build as images
from nodes.images.build import Progress
from nodes.images.tiny import tiny
from nodes.lab import engines, libvirt_host, nested_image
from nodes.lab.apis import ApiHost
from nodes.lab.libvirt_host import LibvirtHost
from nodes.lab.nested import HOST, NestedNode
from nodes.lab.nested_ready import has_wires, qemu_version
from nodes.lab.personas import PERSONAS, Neighbour
from nodes.lab.stand_ins import STAND_INS, StandIn

STOP_S = 60.0
ADDRESSES = ("10.78.0.1", "10.78.0.2")
"""Of a nested node and of its second one, on the wire between them."""

_UML = {"linux.uml": "user-mode-linux", "uml_mconsole": "uml-utilities"}
_EMULATORS = {
    "s390x": ("qemu-system-s390x", "qemu-system-misc"),
    "ppc64le": ("qemu-system-ppc64", "qemu-system-ppc"),
    "aarch64": ("qemu-system-aarch64", "qemu-system-arm"),
}
"""By `uname -m`: the program that emulates it, and the Debian package that brings that."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How a node that is up is reached.

    Attributes:
        urls: Of its hypervisors, best first; none of a node that has no hypervisor.
        grade: How real they are.
        port: Loopback port of its SSH server; 0 where it is this machine.
        key_file: Private key for it.
        known_hosts: File with its pinned host key.
        facts: Versions, and how it was started.
        password_file: File with the password, where it is an API of its own.
        ca_file: Certificates that sign that API's own.
        real_guests: Whether guests run behind it although it stands in.
        seconds: For each of `urls` that of another host like it, where one is up.
    """

    urls: tuple[str, ...]
    grade: Grade
    port: int = 0
    key_file: Path | None = None
    known_hosts: Path | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    real_guests: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    seconds: tuple[str, ...] = ()


class LabNode(ABC):
    """A node of the lab.

    Attributes:
        name: As the command line has it.
        title: What it is, for people.
        root: Whether it takes root to bring it up.
        pairs: Whether two of them are two hosts to each other, and guests go from one to the other.
        hypervisor: Whether there is one on it.
        second_of: The node beside which it is the second one; empty for most.
        stands_in: Whether it only stands in for a hypervisor; such a one comes up when it is named.
    """

    root: bool = False
    pairs: bool = False
    second_of: str = ""
    stands_in: bool = False

    def __init__(self, name: str, title: str, *, hypervisor: bool = True) -> None:
        self.name = name
        self.title = title
        self.hypervisor = hypervisor

    @abstractmethod
    def lacks(self) -> tuple[str, ...]:
        """Debian packages that it needs and this machine has not."""

    def build(self, say: Progress) -> None:
        """Make whatever can be made before it is up; `say` is told each stage."""
        tiny(progress=say)

    @abstractmethod
    def up(self, folder: Path, say: Progress) -> None:
        """Bring it up; one that is up is left as it is."""

    @abstractmethod
    def down(self, folder: Path) -> None:
        """Take it down."""

    @abstractmethod
    def reach(self, folder: Path) -> Reach | None:
        """How it is reached; None when it is not up."""


class LibvirtNode(LabNode):
    """A private libvirt host on this machine, for one of its drivers."""

    root = True

    def __init__(self, name: str, title: str, *, driver: str, query: str = "") -> None:
        super().__init__(name, title)
        self._driver = driver
        self._query = query
        self.pairs = driver == "qemu"

    def lacks(self) -> tuple[str, ...]:
        """The packages of libvirt."""
        return libvirt_host.missing_tools()

    def up(self, folder: Path, say: Progress) -> None:
        """Start its daemons."""
        say("starting libvirtd; the first time on a machine takes a minute")
        self._host(folder).start()

    def down(self, folder: Path) -> None:
        """End its guests and its daemons."""
        self._host(folder).stop()

    def reach(self, folder: Path) -> Reach | None:
        """By its socket."""
        host = self._host(folder)
        if not host.is_running():
            return None
        return Reach(urls=(host.uri(self._driver) + self._query,), grade=Grade.BARE)

    def _host(self, folder: Path) -> LibvirtHost:
        return LibvirtHost(folder, f"hv-{self.name}")


class OtherMachine(LibvirtNode):
    """A libvirt host whose guests are of another machine, all of it emulated."""

    def __init__(self, name: str, title: str, *, arch: str) -> None:
        super().__init__(name, title, driver="qemu", query=f"&type=qemu&arch={arch}")
        self._arch = arch

    def lacks(self) -> tuple[str, ...]:
        """The packages of libvirt, and the emulator's."""
        program, package = _EMULATORS[self._arch]
        lacks = () if shutil.which(program) else (package,)
        return tuple(sorted({*super().lacks(), *lacks}))

    def build(self, say: Progress) -> None:
        """The guest of that machine."""
        tiny(arch=self._arch, progress=say)


class EngineNode(LabNode):
    """A container engine with namespaces of its own."""

    root = True

    def lacks(self) -> tuple[str, ...]:
        """The engine's packages."""
        return engines.missing(self.name)

    def up(self, folder: Path, say: Progress) -> None:
        """Start its daemon."""
        if self.reach(folder):
            return
        say("starting its daemon")
        daemon = engines.launch(self.name, folder)
        note = {"pid": daemon.pid, "born": proc.start_tick(daemon.pid)}
        (folder / "daemon.json").write_text(json.dumps(note))
        # It is not ours to wait for: it outlives this process.
        daemon.returncode = 0

    def down(self, folder: Path) -> None:
        """End its daemon, and its containers: Podman's outlive the service."""
        pid, born = self._daemon(folder)
        if proc.is_running(pid, born):
            proc.kill_group(pid, signal.SIGTERM)
            for _ in proc.wait_until(time.monotonic() + STOP_S, every_s=0.1):
                if not proc.is_running(pid, born):
                    break
            else:
                proc.kill_group(pid)
        engines.sweep(folder)

    def reach(self, folder: Path) -> Reach | None:
        """By its socket."""
        if not proc.is_running(*self._daemon(folder)):
            return None
        return Reach(urls=(f"{self.name}://{folder / 'sock'}",), grade=Grade.BARE)

    def _daemon(self, folder: Path) -> tuple[int, str]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads((folder / "daemon.json").read_text())
            return int(note["pid"]), str(note["born"])
        return 0, "none"


class UmlNode(LabNode):
    """User Mode Linux: guests are processes, so there is nothing to be brought up."""

    def lacks(self) -> tuple[str, ...]:
        """Its kernel and its console program."""
        return tuple(package for name, package in _UML.items() if shutil.which(name) is None)

    def up(self, folder: Path, say: Progress) -> None:
        """Note that it is wanted."""
        del say
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "up").touch()

    def down(self, folder: Path) -> None:
        """Note that it is not."""
        (folder / "up").unlink(missing_ok=True)

    def reach(self, folder: Path) -> Reach | None:
        """On this machine."""
        up = (folder / "up").exists() and not self.lacks()
        return Reach(urls=("uml:///",), grade=Grade.BARE) if up else None


class ApiNode(LabNode):
    """What stands in for a hypervisor with an API of its own: a process on loopback."""

    stands_in = True

    def __init__(self, kind: StandIn) -> None:
        """A node of this kind."""
        super().__init__(kind.name, kind.title)
        self._kind = kind
        self.root = kind.root

    def lacks(self) -> tuple[str, ...]:
        """Its packages."""
        return self._kind.lacks()

    def build(self, say: Progress) -> None:
        """The program itself; there is no guest to be made."""
        self._kind.build(say)

    def up(self, folder: Path, say: Progress) -> None:
        """Start its process."""
        self._kind.start(ApiHost(folder), say)

    def down(self, folder: Path) -> None:
        """End it."""
        self._kind.stop(ApiHost(folder))

    def reach(self, folder: Path) -> Reach | None:
        """By its URL, with the password and the certificate of its folder."""
        host = ApiHost(folder)
        if not host.is_running():
            return None
        return Reach(
            urls=(self._kind.url(host),),
            grade=self._kind.grade,
            password_file=host.password_file,
            ca_file=host.ca_file,
            seconds=(second,) if (second := self._kind.second(host)) else (),
            real_guests=self._kind.real_guests,
        )


class Nested(LabNode):
    """A hypervisor inside a QEMU guest, alone or as one of two with a wire between them."""

    def __init__(self, name: str, *, kind: str = "", beside: str = "", second_of: str = "") -> None:
        """A node.

        Args:
            name: Its own.
            kind: The persona that it is, where that has not its name and it is no second one.
            beside: Name of its second one.
            second_of: Name of the node whose second one it is, of the same persona.
        """
        self._kind = PERSONAS[second_of or kind or name]
        title = f"a second one beside {second_of}" if second_of else self._kind.title
        super().__init__(name, title, hypervisor=bool(self._kind.urls))
        self.second_of = second_of
        self._peer = beside or second_of

    def lacks(self) -> tuple[str, ...]:
        """What an image and its node need."""
        return images.missing_tools()

    def build(self, say: Progress) -> None:
        """The image of all nested nodes, and the guest they boot."""
        nested_image.image(progress=say)
        super().build(say)

    def up(self, folder: Path, say: Progress) -> None:
        """Restore or boot it."""
        node = NestedNode(folder, self._kind, neighbour=self._neighbour(folder), progress=say)
        node.start()
        if self._neighbour(folder) and (other := self._other(folder)).is_running():
            pinned = [_own_pin(node), _own_pin(other)]
            for one, lines in ((node, pinned), (other, pinned[::-1])):
                (one.folder / "known_hosts").write_text("".join(lines))

    def down(self, folder: Path) -> None:
        """End its QEMU and remove its disk; what it shared goes with the last of the two."""
        NestedNode(folder, self._kind).stop()
        if self._peer and not self._other(folder).is_running():
            shutil.rmtree(self._shared(folder), ignore_errors=True)

    def reach(self, folder: Path) -> Reach | None:
        """By SSH on loopback."""
        node = NestedNode(folder, self._kind)
        if not node.is_running():
            return None
        end = node.endpoint()
        urls: tuple[str, ...] = self._kind.hypervisors(HOST, end.port)
        seconds: tuple[str, ...] = ()
        if (near := self._neighbour(folder)) and (other := self._other(folder)).is_running():
            there = self._kind.hypervisors(HOST, other.endpoint().port)
            urls = tuple(url + near.options(near.address) for url in urls)
            seconds = tuple(url + near.options(near.other) for url in there)
        return Reach(
            urls=urls,
            grade=end.grade,
            port=end.port,
            key_file=end.key_file,
            known_hosts=end.known_hosts,
            facts=end.facts,
            seconds=seconds,
        )

    def _neighbour(self, folder: Path) -> Neighbour | None:
        """What it has in common with the other one of two."""
        if not self._peer or not has_wires(qemu_version()):
            return None
        addresses = ADDRESSES[::-1] if self.second_of else ADDRESSES
        return Neighbour(
            name=self.name,
            address=addresses[0],
            other=addresses[1],
            peer=folder.parent / self._peer,
            shared=self._shared(folder),
        )

    def _shared(self, folder: Path) -> Path:
        return folder.parent / f"{self._kind.name}-shared"

    def _other(self, folder: Path) -> NestedNode:
        return NestedNode(folder.parent / self._peer, self._kind)


def _own_pin(node: NestedNode) -> str:
    """The line of known_hosts that is about a node itself: the first one."""
    return (node.folder / "known_hosts").read_text().splitlines(keepends=True)[0]


LAB: dict[str, LabNode] = {
    node.name: node
    for node in (
        LibvirtNode(
            "libvirt", "libvirt with QEMU, emulated (TCG)", driver="qemu", query="&type=qemu"
        ),
        OtherMachine("s390x", "libvirt with QEMU, TCG stand-in for KVM on s390x", arch="s390x"),
        OtherMachine("ppc64", "libvirt with QEMU, TCG stand-in for KVM on ppc64", arch="ppc64le"),
        OtherMachine("aarch64", "libvirt with QEMU, TCG stand-in for KVM on arm64", arch="aarch64"),
        LibvirtNode("lxc", "libvirt with LXC", driver="lxc"),
        UmlNode("uml", "User Mode Linux"),
        EngineNode("docker", "Docker"),
        EngineNode("podman", "Podman with runc"),
        Nested("xen"),
        Nested("kvm", beside="kvm2"),
        Nested("kvm2", second_of="kvm"),
        Nested("lxc-v2", kind="lxc"),
        Nested("plain"),
        *map(ApiNode, STAND_INS),
    )
}


def default_state() -> Path:
    """The lab's state folder of this user, by the XDG rules."""
    base = os.environ.get("XDG_STATE_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".local/state"
    return home / "hypervouch/lab"


def chosen(names: Iterable[str]) -> tuple[LabNode, ...]:
    """Nodes by name, each once; all that are real where no name is given.

    Raises:
        ConfigError: A name is unknown.
    """
    real = tuple(name for name, node in LAB.items() if not node.stands_in)
    wanted = tuple(dict.fromkeys(names)) or real
    for name in wanted:
        if name not in LAB:
            raise ConfigError(f"there is no lab node {name}", hint=f"use {', '.join(LAB)}")
    return tuple(LAB[name] for name in wanted)


def require(nodes: Iterable[LabNode]) -> None:
    """See that everything is installed, before anything is started.

    Raises:
        ConfigError: Something is missing; the hint is the command that installs it.
    """
    lacks = sorted({package for node in nodes for package in node.lacks()})
    if lacks:
        raise ConfigError(
            f"the lab needs packages that are not installed: {', '.join(lacks)}",
            hint=f"apt-get install --no-install-recommends {' '.join(lacks)}",
        )
