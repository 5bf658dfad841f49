# SPDX-License-Identifier: Apache-2.0
"""Nested nodes: real hypervisors inside a QEMU guest that emulates its processor (TCG).

A node boots once per image and machine; what it then is, is kept as a RAM snapshot that later
starts restore in seconds. Each start gives it a fresh clock, boot id, random state, host key and
login key before it lets anybody in. It outlives who started it and is found again by its folder.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.images import keys, machine
from nodes.images.build import Progress, locked, require_tools
from nodes.images.machine import Machine, Shape
from nodes.images.ready import create_overlay
from nodes.lab.nested_image import image
from nodes.lab.nested_ready import LINKS, Build, Saved, leased, with_panic
from nodes.lab.personas import Neighbour, Persona
from nodes.login import log_in, wait_for_banner
from nodes.providers.qemu import personalise

HOST = "127.0.0.1"
LOGIN_S = 30.0
_OURS = ("node.json", "disk.qcow2", "memory", "wire.sock", "client_key", "known_hosts")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """What is kept on disk of a node that runs.

    Attributes:
        persona: What it is.
        pid: Of its QEMU.
        born: Start tick of that process.
        port: Loopback port of its SSH server.
        facts: For the evidence: versions, and how it was started.
    """

    persona: str
    pid: int
    born: str
    port: int
    facts: dict[str, str]


class NestedNode:
    """One node; two objects over the same folder are the same node. Not thread-safe."""

    def __init__(
        self,
        folder: Path,
        kind: Persona,
        *,
        cache: Path | None = None,
        shape: Shape | None = None,
        snapshot: bool = True,
        neighbour: Neighbour | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Nothing is started.

        Args:
            folder: Holds its disk, keys, sockets and logs.
            kind: What it is to be.
            cache: Where the image is; the user's own cache by default.
            shape: Size and network; the persona's own by default.
            snapshot: Restore it from RAM; off, it boots cold.
            neighbour: The node beside it, where it has one.
            progress: Told one short sentence before each stage.
        """
        self.folder = folder.absolute()
        self.kind = kind
        self._cache = cache
        self._shape = shape or Shape(memory_mib=kind.memory_mib)
        self._snapshot = snapshot
        self._neighbour = neighbour
        self._say = progress or (lambda _sentence: None)
        self._machine: Machine | None = None

    def record(self) -> NodeRecord | None:
        """What is known of it while it runs; None when it does not."""
        try:
            found = NodeRecord(**json.loads((self.folder / "node.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if proc.is_running(found.pid, found.born) else None

    def is_running(self) -> bool:
        """Whether its QEMU lives and was handed out."""
        return self.record() is not None

    def endpoint(self) -> Endpoint:
        """How to reach it.

        Raises:
            NodeUnavailable: It does not run.
        """
        found = self.record()
        if found is None:
            raise NodeUnavailable(
                f"the nested node {self.kind.name} does not run",
                hint=f"hypervouch lab up {self.kind.name}",
            )
        urls = self.kind.hypervisors(HOST, found.port)
        return Endpoint(
            transport=Transport.SSH,
            host=HOST,
            port=found.port,
            user="root",
            key_file=self.folder / "client_key",
            known_hosts=self.folder / "known_hosts",
            hypervisor=urls[0] if urls else "",
            grade=Grade.NESTED,
            facts=found.facts,
        )

    def start(self, timeout_s: float = 300.0) -> Endpoint:
        """Start it; one that runs is left as it is.

        Args:
            timeout_s: Seconds that one boot may take; the image's build has its own.

        Raises:
            ConfigError: A tool is missing, or the image cannot be built.
            NodeUnavailable: It panicked, or did not come up in time.
        """
        require_tools()
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", lambda: self._say("waiting for another start of it")):
            if not self.is_running():
                self._end()
                self._boot(self._build(), timeout_s)
            return self.endpoint()

    def stop(self) -> None:
        """End it and remove its disk and keys; repeatable."""
        if not self.folder.is_dir():
            return
        with locked(self.folder / ".lock"):
            self._end()

    def _build(self) -> Build:
        base = image(self._cache, progress=self._say)
        linked = self._neighbour is not None
        return Build(base=base, kind=self.kind, shape=self._shape, linked=linked)

    def _boot(self, build: Build, timeout_s: float) -> None:
        """Restore it, or boot it cold where that fails."""
        if self._snapshot:
            try:
                with leased(build, timeout_s=timeout_s, say=self._say) as saved:
                    self._say(f"restoring the {self.kind.name} node")
                    self._hand_out(build, saved, time.monotonic() + timeout_s)
            except NodeUnavailable as error:
                _log.warning(
                    "RAM snapshot failed, booting cold",
                    action="prepare",
                    node=self.kind.name,
                    why=str(error),
                )
                self._end()
            else:
                return
        self._say(f"booting the {self.kind.name} node")
        try:
            self._hand_out(build, None, time.monotonic() + timeout_s)
        except BaseException:
            self._end()
            raise

    def _hand_out(self, build: Build, saved: Saved | None, deadline: float) -> None:
        """Start QEMU, give the node its clock and its keys, and log in."""
        create_overlay(saved.disk if saved else build.base.disk, self.folder / "disk.qcow2")
        memory = saved.ram.memory if saved else self.folder / "memory"
        self._join()
        argv = build.argv(self.folder, memory, shared=not saved)
        if saved:
            argv += ["-incoming", "defer"]
        guest = self._machine = Machine(self.folder, argv, deadline)
        fresh = self._keys()
        line = personal(fresh, self.kind, self._neighbour, time.time())
        with_panic(self.folder, lambda: _wake(guest, saved, line))
        found = NodeRecord(
            persona=self.kind.name,
            pid=guest.process.pid,
            born=proc.start_tick(guest.process.pid) or "",
            port=guest.ssh_port(),
            facts={
                **build.base.facts,
                "persona": self.kind.name,
                "boot": "restored" if saved else "cold",
            },
        )
        guest.close()
        fresh.write(self.folder, HOST, found.port)
        beside = self.folder / "node.json.new"
        beside.write_text(json.dumps(found.__dict__))
        beside.replace(self.folder / "node.json")
        _await_login(self.endpoint(), deadline)

    def _join(self) -> None:
        """Put links to what it has in common with its neighbour into the folder."""
        if self._neighbour is None:
            return
        self._neighbour.shared.mkdir(parents=True, exist_ok=True)
        common = {"peer.sock": self._neighbour.peer / "wire.sock", "shared": self._neighbour.shared}
        for name, target in common.items():
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / name).symlink_to(target)

    def _keys(self) -> keys.HandOutKeys:
        """Keys for this hand-out; neighbours are entered with one and the same key."""
        fresh = keys.generate()
        if self._neighbour is None:
            return fresh
        try:
            held = (self._neighbour.peer / "client_key").read_bytes()
            return keys.with_client(fresh, held)
        except (OSError, ValueError):
            return fresh

    def _end(self) -> None:
        """Kill whatever runs in the folder, ours or a dead owner's, and clear it."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        machine.end_all_in(self.folder)
        for name in (
            "node.json",
            "disk.qcow2",
            "memory",
            "wire.sock",
            "client_key",
            "known_hosts",
            *LINKS,
        ):
            (self.folder / name).unlink(missing_ok=True)


def personal(
    fresh: keys.HandOutKeys, kind: Persona, neighbour: Neighbour | None, now: float
) -> bytes:
    """The line that a waiting node reads: as a disposable one's, and its name and address.

    Args:
        fresh: Keys of this hand-out.
        kind: What it is.
        neighbour: The node beside it; without one it has no address to be told.
        now: Seconds since the epoch.
    """
    name, address = (neighbour.name, neighbour.address) if neighbour else (kind.name, "-")
    line = personalise(fresh, now).removesuffix(b" end")
    return b" ".join([line, name.encode(), address.encode(), b"end"])


def _wake(guest: Machine, saved: Saved | None, line: bytes) -> None:
    """Wait until the node asks for its keys, and tell it."""
    if saved:
        guest.restore(saved.ram)
    else:
        guest.wait_for("ready")
    guest.say(line)
    guest.wait_for("up", again="ready", line=line)


def _await_login(endpoint: Endpoint, deadline: float) -> None:
    """Prove that the node lets us in and is the one whose host key we chose."""
    for _ in proc.wait_until(deadline, every_s=0.05):
        if wait_for_banner(endpoint, LOGIN_S):
            log_in(endpoint, LOGIN_S).close()
            return
    raise NodeUnavailable("the node booted but its SSH server does not answer", retryable=True)
