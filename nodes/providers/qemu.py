# SPDX-License-Identifier: Apache-2.0
"""Disposable Linux nodes on this machine: QEMU guests booted for one build and thrown away.

A node restores a RAM snapshot in about a second and boots cold where that fails. Who has time
restores some ahead (`keep_spares`): such a spare stands still until it is handed out, and only
then gets keys, clock and random state, like any other. Nodes are emulated (TCG), so they need no
/dev/kvm and no privilege. Hypervisors run inside them, hence the grade `nested`.

QEMU outlives an owner that was killed: it sits in a session of its own. `leaked` finds it by its
working directory, and the next `start` or `stop` of the slot ends it.
"""

import os
import shutil
import time
from base64 import b64encode
from pathlib import Path
from typing import ClassVar

import structlog
from pydantic import BaseModel, ConfigDict, Field

from ci import proc
from ci.errors import HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.images import keys, machine
from nodes.images.build import Image, Progress, image, require_tools
from nodes.images.machine import Machine, Shape
from nodes.images.ready import Ready, create_overlay, memory_backend, ready
from nodes.login import await_login
from nodes.providers.slots import Slots
from nodes.providers.spares import Spares

HOST = "127.0.0.1"
_log = structlog.get_logger(__name__)


class QemuOptions(BaseModel):
    """What the configuration may say of a `qemu` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Nodes that may run at once.
        memory_mib: RAM of a node.
        cpus: Virtual processors of a node.
        boot_timeout_s: Seconds until a node must answer.
        internet: Whether suites may open connections. Off, a node reaches nothing, this
            machine's loopback services included.
        snapshot: Whether nodes are restored from RAM; off, each boots cold.
        warm: Spares that are kept while nothing waits; more are made for builds in line, as far
            as slots and memory go. With 0 none is ever made.
        cache_dir: Where the base image is kept; the user's cache folder by default.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = Field(default="qemu", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "qemu"
    slots: int = Field(default=2, ge=1, le=64)
    memory_mib: int = Field(default=512, ge=256, le=65536)
    cpus: int = Field(default=1, ge=1, le=64)
    boot_timeout_s: float = Field(default=120.0, gt=0)
    internet: bool = False
    snapshot: bool = True
    warm: int = Field(default=1, ge=0, le=64)
    cache_dir: Path | None = None


class QemuProvider(Slots[QemuOptions]):
    """Boots and throws away QEMU guests; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = QemuOptions

    def __init__(
        self, options: QemuOptions, state_dir: Path, progress: Progress | None = None
    ) -> None:
        """Nothing is started.

        Args:
            options: From the configuration.
            state_dir: Holds one folder a slot.
            progress: Told what `prepare` is doing when it has to build the image.
        """
        self._options = options
        self._state = state_dir.absolute()
        self._progress = progress
        self._shape = Shape(
            memory_mib=options.memory_mib, cpus=options.cpus, internet=options.internet
        )
        self._image: Image | None = None
        self._ready: Ready | None = None
        self._machines: dict[str, Machine] = {}
        self._spares = Spares(
            self.node_names(), at_rest=options.warm, memory_mib=options.memory_mib
        )

    @property
    def machine_bound(self) -> bool:
        """Only this machine reaches its guests."""
        return True

    @property
    def disposable(self) -> bool:
        """A guest is thrown away with its disk."""
        return True

    def prepare(self) -> None:
        """Build or find the base image and the RAM snapshot; repeatable.

        Raises:
            ConfigError: A tool is missing or packages cannot be fetched.
        """
        require_tools()  # a cached image does not mean that QEMU is still here
        self._image = image(self._options.cache_dir, progress=self._progress)
        if self._options.snapshot and self._ready is None:
            try:
                self._ready = ready(
                    self._image, self._shape, timeout_s=self._options.boot_timeout_s
                )
            except NodeUnavailable as error:
                _log.warning(
                    "no RAM snapshot, nodes boot cold",
                    action="prepare",
                    provider=self.name,
                    why=str(error),
                )

    def start(self, node: str, holder: str) -> Endpoint:
        """Boot a fresh machine for a slot, after ending whatever still runs in it.

        Raises:
            NodeUnavailable: It did not come up in time.
            ConfigError: The image is not there and cannot be built.
        """
        if self._image is None:
            self.prepare()
        with self._spares.starting(node):
            if node not in self._spares.slots:
                self._clear(node)
            spare = self._spares.take(node, self._folder)
            folder = self._folder(node)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "holder").write_text(holder)
            if spare is not None:
                self._machines[node] = spare
            return self._first_that_comes_up(node, spare)

    def stop(self, node: str) -> None:
        """End the slot's machine and remove its files; repeatable. A spare in it ends too."""
        with self._spares.alone(node):
            self._clear(node)
        self._spares.freed(node)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` in which a QEMU runs or a disk was left, from /proc and disk."""
        spares = self._spares.known
        return tuple(
            node
            for node in self.node_names()
            if node not in held
            and node not in spares
            and (
                (self._folder(node) / "disk.qcow2").exists()
                or any(machine.running_in(self._folder(node)))
            )
        )

    def keep_spares(self, waiting: int) -> None:
        """Restore one more machine ahead where one is due, or end one too many.

        A machine that does not come up is told in the log; the next call tries again.
        """
        if self._image is None:
            return  # nothing is prepared yet
        surplus = self._spares.one_too_many(waiting)
        if surplus is not None:
            self._end_spare(surplus)
            return
        try:
            self._spares.fill_one(waiting, self._make_spare, empty=self._empty)
        except NodeUnavailable as error:
            if not self._spares.ended:
                _log.warning("a spare did not come up", action="spare", why=str(error))

    def end_spares(self) -> None:
        """End all spares, for good; repeatable."""
        slots = self._spares.end()
        for node in self._spares.known - self._spares.slots:
            making = self._machines.get(node)
            if making is not None:  # who makes it gives up, and cleans after itself
                proc.kill_group(making.process.pid)
        for node in slots:
            self._end_spare(node)

    def _empty(self, node: str) -> bool:
        return not any(machine.running_in(self._folder(node)))

    def _end_spare(self, node: str) -> None:
        with self._spares.alone(node):
            spare = self._spares.drop(node)
            if spare is not None:
                spare.kill()
                self._clear(node)

    def _make_spare(self, node: str) -> Machine:
        """A machine that waits for its hand-out, in a slot's folder, and uses no processor."""
        deadline = time.monotonic() + self._options.boot_timeout_s
        self._clear(node)
        self._folder(node).mkdir(parents=True, exist_ok=True)
        try:
            guest = self._boot(node, self._ready, deadline)
            # QEMU translates what the guest runs: what a hand-out runs is then translated.
            guest.say(b"warm")
            guest.wait_for("ready")
            guest.hold_still()
        except BaseException:
            self._clear(node)
            raise
        self._machines.pop(node, None)
        return guest

    def _first_that_comes_up(self, node: str, spare: Machine | None) -> Endpoint:
        """Hand out a spare, else a machine restored from RAM, else one that boots cold."""
        ways: list[tuple[str, Ready | None]] = [("warm", None)] if spare is not None else []
        ways += [("restored", self._ready)] if self._ready is not None else []
        ways += [("cold", None)]
        for boot, snapshot in ways:
            deadline = time.monotonic() + self._options.boot_timeout_s
            try:
                if boot == "warm" and spare is not None:
                    spare.wake(self._folder(node), deadline)
                    return self._hand_out(node, spare, boot, deadline)
                guest = self._boot(node, snapshot, deadline)
                return self._hand_out(node, guest, boot, deadline)
            except NodeUnavailable as error:
                self._end(node)
                if boot == "cold":
                    raise
                _log.warning(
                    "a node failed, another one is booted",
                    action="prepare",
                    node=node,
                    boot=boot,
                    why=str(error),
                )
        raise HypervouchBug("a cold boot neither worked nor failed")

    def _boot(self, node: str, snapshot: Ready | None, deadline: float) -> Machine:
        """Boot or restore a machine until it waits for its hand-out."""
        base, folder = self._need_image(), self._folder(node)
        create_overlay(snapshot.disk if snapshot else base.disk, folder / "disk.qcow2")
        backend = memory_backend(self._shape, snapshot.ram.memory, shared=False) if snapshot else ""
        argv = machine.command(base, self._shape, backend)
        guest = Machine(folder, [*argv, "-incoming", "defer"] if snapshot else argv, deadline)
        self._machines[node] = guest
        if snapshot:
            guest.restore(snapshot.ram)
        else:
            guest.wait_for("ready")
        return guest

    def _hand_out(self, node: str, guest: Machine, boot: str, deadline: float) -> Endpoint:
        """Give a guest that waits its clock, random state and keys, and log in."""
        fresh = keys.generate()
        line = personalise(fresh, time.time())
        guest.say(line)
        guest.wait_for("up", again="ready", line=line)
        port = guest.ssh_port()
        guest.close()
        key_file, known_hosts = fresh.write(self._folder(node), HOST, port)
        endpoint = Endpoint(
            transport=Transport.SSH,
            host=HOST,
            port=port,
            user="root",
            key_file=key_file,
            known_hosts=known_hosts,
            hypervisor="qemu:///tcg",
            grade=Grade.NESTED,
            facts={**self._need_image().facts, "boot": boot},
        )
        await_login(endpoint, deadline)
        return endpoint

    def _end(self, node: str) -> None:
        """Kill whatever runs in the slot, ours or a dead owner's."""
        guests = (self._spares.drop(node), self._machines.pop(node, None))
        for guest in guests:
            if guest is not None:
                guest.kill()
        machine.end_all_in(self._folder(node))

    def _clear(self, node: str) -> None:
        """End what runs in the slot and remove its files."""
        self._end(node)
        shutil.rmtree(self._folder(node), ignore_errors=True)

    def _folder(self, node: str) -> Path:
        return self._state / node

    def _need_image(self) -> Image:
        if self._image is None:
            raise NodeUnavailable(f"provider {self.name} has no base image", retryable=True)
        return self._image


def personalise(fresh: keys.HandOutKeys, now: float) -> bytes:
    """The line that a waiting node reads: clock, random bytes, host key, our key.

    Args:
        fresh: Keys of this hand-out.
        now: Seconds since the epoch.
    """
    parts = (os.urandom(64), fresh.host_private, f"{fresh.client_public}\n".encode())
    return b" ".join([b"go", b"%d" % round(now), *map(b64encode, parts), b"end"])
