# SPDX-License-Identifier: Apache-2.0
"""Nested nodes: real hypervisors inside a QEMU guest that emulates its processor (TCG).

A node boots once per image and machine; what it then is, is kept as a RAM snapshot that later
starts restore in seconds. Each start gives it a fresh clock, boot id, random state, host key and
login key before it lets anybody in. It outlives who started it and is found again by its folder.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.images import keys, machine
from nodes.images.build import Progress, locked, require_tools
from nodes.images.machine import BINARY, Machine, RamFiles, Shape
from nodes.images.ready import create_overlay, memory_backend
from nodes.lab.nested_image import NestedImage, image
from nodes.lab.personas import Persona, command
from nodes.login import log_in, wait_for_banner
from nodes.providers.qemu import personalise

HOST = "127.0.0.1"
LOGIN_S = 30.0
_PANIC = re.compile(
    r"Panic on CPU \d+|Kernel panic.*|Hardware Dom0 crashed.*|dom0 crashed.*", re.IGNORECASE
)
_LINKS = ("vmlinuz", "initrd", "xen")
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
        progress: Progress | None = None,
    ) -> None:
        """Nothing is started.

        Args:
            folder: Holds its disk, keys, sockets and logs.
            kind: What it is to be.
            cache: Where the image is; the user's own cache by default.
            shape: Size and network; the persona's own by default.
            snapshot: Restore it from RAM; off, it boots cold.
            progress: Told one short sentence before each stage.
        """
        self.folder = folder.absolute()
        self.kind = kind
        self._cache = cache
        self._shape = shape or Shape(memory_mib=kind.memory_mib)
        self._snapshot = snapshot
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
                self._boot(image(self._cache, progress=self._say), timeout_s)
            return self.endpoint()

    def stop(self) -> None:
        """End it and remove its disk and keys; repeatable."""
        if not self.folder.is_dir():
            return
        with locked(self.folder / ".lock"):
            self._end()

    def _boot(self, base: NestedImage, timeout_s: float) -> None:
        """Restore it, or boot it cold where that fails."""
        if self._snapshot:
            try:
                saved = ready(base, self.kind, self._shape, timeout_s=timeout_s, say=self._say)
                self._say(f"restoring the {self.kind.name} node")
                self._hand_out(base, saved, time.monotonic() + timeout_s)
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
            self._hand_out(base, None, time.monotonic() + timeout_s)
        except BaseException:
            self._end()
            raise

    def _hand_out(self, base: NestedImage, saved: "Saved | None", deadline: float) -> None:
        """Start QEMU, give the node its clock and its keys, and log in."""
        create_overlay(saved.disk if saved else base.disk, self.folder / "disk.qcow2")
        memory = saved.ram.memory if saved else self.folder / "memory"
        argv = _argv(base, self.kind, self._shape, self.folder, memory, shared=not saved)
        if saved:
            argv += ["-incoming", "defer"]
        guest = self._machine = Machine(self.folder, argv, deadline)
        fresh = keys.generate()
        with_panic(self.folder, lambda: _wake(guest, saved, fresh))
        found = NodeRecord(
            persona=self.kind.name,
            pid=guest.process.pid,
            born=proc.start_tick(guest.process.pid) or "",
            port=guest.ssh_port(),
            facts={
                **base.facts,
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

    def _end(self) -> None:
        """Kill whatever runs in the folder, ours or a dead owner's, and clear it."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        machine.end_all_in(self.folder)
        for name in ("node.json", "disk.qcow2", "memory", "client_key", "known_hosts", *_LINKS):
            (self.folder / name).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A node that has booted and waits to be handed out, in the image's folder."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk as it was; nodes put an overlay on it."""
        return self.folder / "disk.qcow2"

    @property
    def ram(self) -> RamFiles:
        """Memory and device state."""
        return RamFiles(memory=self.folder / "memory", state=self.folder / "state")


def saved_folder(base: NestedImage, kind: Persona, shape: Shape) -> Path:
    """Where the snapshot of this image, persona, shape and QEMU lies or would lie."""
    try:
        version = proc.run([BINARY, "--version"]).text
    except proc.CommandFailed as error:
        raise NodeUnavailable(error.message, hint=error.hint) from error
    words = "\0".join([version, *command(kind, shape, "")])
    return base.folder / f"ready-{kind.name}-{sha256(words.encode()).hexdigest()[:12]}"


def ready(
    base: NestedImage, kind: Persona, shape: Shape, *, timeout_s: float, say: Progress
) -> Saved:
    """Find the snapshot, or boot a node once and take it.

    Raises:
        NodeUnavailable: The node did not boot, or this QEMU cannot save it.
    """
    folder = saved_folder(base, kind, shape)
    if folder.is_dir():
        return Saved(folder=folder)
    with locked(base.folder / f".{kind.name}.lock", lambda: say("waiting for another boot of it")):
        for leftover in base.folder.glob(f".saving-{kind.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.is_dir():
            say(f"booting the {kind.name} node once, to keep what it then is")
            work = Path(tempfile.mkdtemp(prefix=f".saving-{kind.name}-", dir=base.folder))
            try:
                _take(base, kind, shape, work, time.monotonic() + timeout_s)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Saved(folder=folder)


def with_panic(folder: Path, act: Callable[[], None]) -> None:
    """Run `act`; where the node does not come up, say whether its kernel panicked.

    Raises:
        NodeUnavailable: It did not come up; the message holds the kernel's own words.
    """
    try:
        act()
    except NodeUnavailable as error:
        said = panic((folder / "console.log").read_text(errors="replace"))
        if not said:
            raise
        raise NodeUnavailable(
            f"the node's kernel panicked: {said}", hint=f"see {folder / 'console.log'}"
        ) from error


def panic(console: str) -> str:
    """The line in which a kernel or Xen gave up; empty where none did."""
    found = _PANIC.search(console)
    if found is None:
        return ""
    end = console.find("\n", found.end() + 400)
    rest = console[found.start() : end if end > 0 else None].splitlines()
    # Xen says why on the line after next: `Panic on CPU 0:`, then the reason.
    words = [line.strip("* \r").removeprefix("(XEN) ").strip("* ") for line in rest[:3]]
    return " ".join(word for word in words if word)[:300]


def _take(base: NestedImage, kind: Persona, shape: Shape, work: Path, deadline: float) -> None:
    """Boot in `work` until the node waits for its hand-out, then save it there."""
    create_overlay(base.disk, work / "disk.qcow2")
    argv = _argv(base, kind, shape, work, work / "memory", shared=True)
    guest = Machine(work, argv, deadline)
    try:
        with_panic(work, lambda: guest.wait_for("ready"))
        guest.save(work / "state")
    finally:
        guest.kill()
    for name in _LINKS:
        (work / name).unlink()


def _argv(
    base: NestedImage, kind: Persona, shape: Shape, folder: Path, memory: Path, *, shared: bool
) -> list[str]:
    """The command line, after putting links to the image's files into the working directory."""
    for name in _LINKS:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(base.folder / name)
    return command(kind, shape, memory_backend(shape, memory, shared=shared))


def _wake(guest: Machine, saved: Saved | None, fresh: keys.HandOutKeys) -> None:
    """Wait until the node asks for its keys, and tell it."""
    if saved:
        guest.restore(saved.ram)
    else:
        guest.wait_for("ready")
    line = personalise(fresh, time.time())
    guest.say(line)
    guest.wait_for("up", again="ready", line=line)


def _await_login(endpoint: Endpoint, deadline: float) -> None:
    """Prove that the node lets us in and is the one whose host key we chose."""
    for _ in proc.wait_until(deadline, every_s=0.05):
        if wait_for_banner(endpoint, LOGIN_S):
            log_in(endpoint, LOGIN_S).close()
            return
    raise NodeUnavailable("the node booted but its SSH server does not answer", retryable=True)
