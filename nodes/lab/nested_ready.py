# SPDX-License-Identifier: Apache-2.0
"""RAM snapshots of nested nodes: taken once, leased while a node starts from one, then removed.

Beside an image lies at most one snapshot of each kind of node. A newer one, because QEMU or its
command line changed, takes the place of the older one as soon as nobody starts from that.
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

import structlog

from ci import proc
from ci.errors import NodeUnavailable
from nodes.images.build import Progress, locked
from nodes.images.machine import BINARY, Machine, RamFiles, Shape
from nodes.images.ready import create_overlay, memory_backend
from nodes.lab.nested_image import NestedImage
from nodes.lab.personas import Persona, command

_PANIC = re.compile(
    r"Panic on CPU \d+|Kernel panic.*|Hardware Dom0 crashed.*|dom0 crashed.*", re.IGNORECASE
)
LINKS = ("vmlinuz", "initrd", "xen")
"""Files of the image that QEMU is told by their names in its own folder."""

_LEASE = "in-use"
_WIRES_SINCE = (7, 2)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a node is made of.

    Attributes:
        base: The image.
        kind: What it is to be.
        shape: Size and network.
        linked: Whether it has a neighbour.
    """

    base: NestedImage
    kind: Persona
    shape: Shape
    linked: bool = False

    @property
    def word(self) -> str:
        """Names its kind: `kvm`, or `kvm_linked`."""
        return f"{self.kind.name}_linked" if self.linked else self.kind.name

    def argv(self, folder: Path, memory: Path, *, shared: bool) -> list[str]:
        """The command line, after putting links to the image's files into the folder.

        Args:
            folder: QEMU's working directory.
            memory: The file that RAM lives in.
            shared: Whether what the node writes goes into that file.
        """
        for name in LINKS:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(self.base.folder / name)
        backend = memory_backend(self.shape, memory, shared=shared)
        return command(self.kind, self.shape, backend, linked=self.linked)

    def saved(self) -> "Saved":
        """Its snapshot, which need not be there yet.

        Raises:
            NodeUnavailable: QEMU is not here.
        """
        words = "\0".join([qemu_version(), *command(self.kind, self.shape, "", linked=self.linked)])
        mark = sha256(words.encode()).hexdigest()[:12]
        return Saved(folder=self.base.folder / f"ready-{self.word}-{mark}")


def qemu_version() -> str:
    """What this machine's QEMU says of itself.

    Raises:
        NodeUnavailable: QEMU is not here.
    """
    try:
        return proc.run([BINARY, "--version"]).text
    except proc.CommandFailed as error:
        raise NodeUnavailable(error.message, hint=error.hint) from error


def has_wires(version: str) -> bool:
    """Whether a QEMU can join two nodes by a wire: `-netdev dgram` came with 7.2."""
    found = re.search(r"version (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= _WIRES_SINCE


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


@contextmanager
def leased(build: Build, *, timeout_s: float, say: Progress) -> Iterator[Saved]:
    """Find the snapshot, or boot a node once and take it; nobody removes it meanwhile.

    A node that runs needs it no more: QEMU holds the files themselves.

    Raises:
        NodeUnavailable: The node did not boot, or this QEMU cannot save it.
    """
    saved = build.saved()
    lease = _lease(saved.folder)
    if lease is None:
        with locked(
            build.base.folder / f".{build.word}.lock", lambda: say("waiting for another boot of it")
        ):
            lease = _lease(saved.folder)
            if lease is None:
                _make(build, saved, timeout_s, say)
                lease = _lease(saved.folder)
            remove_older(saved.folder)
    if lease is None:
        raise NodeUnavailable(f"the snapshot {saved.folder} vanished", retryable=True)
    with lease:
        yield saved


def remove_older(current: Path) -> tuple[Path, ...]:
    """Remove the other snapshots of the same kind that no start holds; returns them.

    Those of an earlier version without a lease file count as held by nobody.
    """
    kind = current.name.rpartition("-")[0]
    removed = []
    for folder in sorted(current.parent.glob(f"{kind}-*")):
        if folder == current or folder.name.rpartition("-")[0] != kind:
            continue
        with suppress(OSError), (folder / _LEASE).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Out of sight first: whoever comes now makes a new one.
            gone = folder.rename(folder.with_name(f".saving-{folder.name.removeprefix('ready-')}"))
            shutil.rmtree(gone, ignore_errors=True)
            removed.append(folder)
            _log.info("an old RAM snapshot was removed", action="prepare", folder=str(folder))
    return tuple(removed)


def _lease(folder: Path) -> IO[str] | None:
    """Hold a snapshot until what is returned is closed; None where there is none."""
    try:
        handle = (folder / _LEASE).open("a")
    except FileNotFoundError:
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle.fileno()), (folder / _LEASE).stat()):
            return handle
    handle.close()  # it was removed while we waited
    return None


def _make(build: Build, saved: Saved, timeout_s: float, say: Progress) -> None:
    """Boot a node and keep what it then is; its lock is held."""
    prefix = f".saving-{build.word}-"
    for leftover in build.base.folder.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    say(f"booting the {build.kind.name} node once, to keep what it then is")
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=build.base.folder))
    try:
        _take(build, work, time.monotonic() + timeout_s)
        work.rename(saved.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _take(build: Build, work: Path, deadline: float) -> None:
    """Boot in `work` until the node waits for its hand-out, then save it there."""
    create_overlay(build.base.disk, work / "disk.qcow2")
    (work / "shared").mkdir()
    guest = Machine(work, build.argv(work, work / "memory", shared=True), deadline)
    try:
        with_panic(work, lambda: guest.wait_for("ready"))
        guest.save(work / "state")
    finally:
        guest.kill()
    for name in LINKS:
        (work / name).unlink()


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
