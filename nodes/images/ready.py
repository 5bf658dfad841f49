# SPDX-License-Identifier: Apache-2.0
"""The RAM snapshot: a node that has booted and waits to be handed out.

It is taken of a node that has never been personalised: no sshd runs, no key exists. Memory is
a sparse file that every node maps privately, so a restore copies nothing and nodes share what
they have not written.
"""

import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import NodeUnavailable
from nodes.images.build import Image, locked
from nodes.images.machine import BINARY, Machine, RamFiles, Shape, command


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A snapshot in the image's folder."""

    folder: Path

    @property
    def disk(self) -> Path:
        """The disk as it was; nodes put an overlay on it."""
        return self.folder / "disk.qcow2"

    @property
    def ram(self) -> RamFiles:
        """Memory and device state."""
        return RamFiles(memory=self.folder / "memory", state=self.folder / "state")


def ready(image: Image, shape: Shape, *, timeout_s: float) -> Ready:
    """Find the snapshot of this image and shape, or boot a node once and take it.

    The QEMU version belongs to its name: device state of one is not read by another.

    Raises:
        NodeUnavailable: The node did not boot, or this QEMU cannot save it.
    """
    folder = image.folder / f"ready-{_key(image, shape)}"
    if folder.is_dir():
        return Ready(folder=folder)
    with locked(image.folder / ".ready.lock"):
        for leftover in image.folder.glob(".saving-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.is_dir():
            work = Path(tempfile.mkdtemp(prefix=".saving-", dir=image.folder))
            try:
                _take(image, shape, work, time.monotonic() + timeout_s)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return Ready(folder=folder)


def memory_backend(shape: Shape, path: Path, *, shared: bool) -> str:
    """QEMU's options for RAM in a file; a private mapping leaves the file as it is."""
    place = str(path).replace(",", ",,")
    share = "on" if shared else "off"
    return f"memory-backend-file,id=ram,size={shape.memory_mib}M,mem-path={place},share={share}"


def create_overlay(base: Path, overlay: Path) -> None:
    """Write an empty qcow2 on top of another.

    Raises:
        NodeUnavailable: It cannot be written; mostly the disk is full.
    """
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base)]
    try:
        proc.run([*argv, str(overlay)], timeout_s=30)
    except proc.CommandFailed as error:
        raise NodeUnavailable(
            f"cannot write the node's disk: {error.message}",
            hint=error.hint or f"check the space in {overlay.parent}",
            retryable=True,
        ) from error


def _take(image: Image, shape: Shape, work: Path, deadline: float) -> None:
    """Boot in `work` until the guest waits for its hand-out, then save it there."""
    create_overlay(image.disk, work / "disk.qcow2")
    backend = memory_backend(shape, work / "memory", shared=True)
    machine = Machine(work, command(image, shape, backend), deadline)
    try:
        machine.wait_for("ready")
        # What every suite reads first is then in the memory that all nodes share.
        machine.say(b"warm")
        machine.wait_for("ready")
        machine.save(work / "state")
    finally:
        machine.kill()


def _key(image: Image, shape: Shape) -> str:
    try:
        version = proc.run([BINARY, "--version"]).text
    except proc.CommandFailed as error:
        raise NodeUnavailable(error.message, hint=error.hint) from error
    words = "\0".join([version, *command(image, shape, memory_backend(shape, Path(), shared=True))])
    return hashlib.sha256(words.encode()).hexdigest()[:12]
