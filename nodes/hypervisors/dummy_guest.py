# SPDX-License-Identifier: Apache-2.0
"""The dummy's guest: a model of the tiny guest that answers as its serial agent does.

It keeps what the suite looks at: boot ids, a counter in memory, disks with their bytes, cards,
ticks while it runs. It has no shell: `exec` says so, and tests that need one are skipped.
"""

import copy
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from nodes.hypervisors.base import INTERFACES, GuestImage, GuestSpec, GuestState
from nodes.hypervisors.guest import Answer

ROOT_MIB = 8
_TICK_S = 0.05
_SECTORS = 2048  # of a MiB
_LOG_LIMIT = 1 << 20
_NOISE = b"noise " * 10_000 + b"\n"
_NO_SHELL = 127
_META = "openstack/latest/meta_data.json"
_Verb = Callable[[str], Answer]
_DARK = b"\r\nNo bootable device: this guest was asked for without a boot\r\n"


def _mark(image: GuestImage) -> str:
    """The word that `nodes.images.tiny.marked` gave it, as its files are named by it."""
    return image.initrd.stem if image.initrd is not None else ""


@dataclass
class Disk:
    """Bytes that outlive a guest's boot; only what was written is kept."""

    serial: str
    size_mib: int
    content: bytearray = field(default_factory=bytearray)

    def read(self, count: int) -> bytes:
        """The first bytes."""
        return bytes(self.content[:count]).ljust(count, b"\0")


@dataclass
class Memory:
    """What a guest loses when it boots anew."""

    boot_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    counter: int = 0
    ticks_left: int = 0
    tick: int = 0
    said: dict[str, str] = field(default_factory=dict)


class Line:
    """One run's serial line: what the guest said and nobody read yet. Thread-safe."""

    def __init__(self, noise_bytes: int) -> None:
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._noise = noise_bytes
        self._ended = False

    def say(self, data: bytes) -> None:
        """Bytes from the guest; too many unread ones are lost, as on any serial line."""
        with self._changed:
            self._waiting += data
            del self._waiting[:-_LOG_LIMIT]
            self._changed.notify_all()

    def end(self) -> None:
        """The guest is gone."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> bytes:
        """Unread bytes, noise first.

        Raises:
            EOFError: All is read, and the guest is gone.
        """
        with self._changed:
            if self._noise > 0:
                self._noise -= len(_NOISE)
                return _NOISE
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout_s)
            if self._ended and not self._waiting:
                raise EOFError
            data = bytes(self._waiting)
            self._waiting.clear()
            return data


class ModelGuest:
    """One modelled guest; the hypervisor holds its lock for every call.

    Args:
        spec: What was launched.
        boots: Whether it ever answers.
        noise_bytes: What it writes at each boot before anything else.
    """

    def __init__(self, spec: GuestSpec, *, boots: bool, noise_bytes: int) -> None:
        self.spec = spec
        self.shown = GuestState.SHUTOFF
        self.running = False
        self.root = Disk("root", ROOT_MIB)
        self.attached: dict[str, Disk] = {}
        self.nics = list(spec.nics)
        self.tags: dict[str, str] = {}
        self.rescue_image: GuestImage | None = None
        self.snapshots: dict[str, bytearray] = {}
        self.log = bytearray()
        self.memory = Memory()
        self.line = Line(0)
        self._boots = boots
        self._noise = noise_bytes
        self._input = bytearray()
        self._ticked = time.monotonic()

    def boot(self) -> None:
        """Run with fresh memory, on a fresh line where the old one ended."""
        if self.shown in {GuestState.SHUTOFF, GuestState.CRASHED, GuestState.SUSPENDED}:
            self.line = Line(self._noise)
            self.log.clear()
        self.memory = Memory()
        self._input.clear()
        self.shown, self.running = GuestState.RUNNING, True
        if self._boots:
            self._tell({"event": "boot", "boot_id": self.memory.boot_id, "uptime": 0.1})
        else:
            self._write(_DARK)

    def wake(self) -> None:
        """Run with the memory that was kept on disk, on a fresh line."""
        self.line = Line(0)
        self.shown, self.running = GuestState.RUNNING, True
        self._ticked = time.monotonic()

    def stop(self, state: GuestState) -> None:
        """Run no more; the line ends."""
        self.shown, self.running = state, False
        self.line.end()

    def hold(self) -> None:
        """Stand still."""
        self.shown, self.running = GuestState.PAUSED, False

    def go_on(self) -> None:
        """Run on, and answer what came meanwhile."""
        self.shown, self.running = GuestState.RUNNING, True
        self._ticked = time.monotonic()
        self._answer_all()

    def keep(self, tag: str) -> None:
        """Keep the disk's bytes."""
        self.snapshots[tag] = copy.copy(self.root.content)

    def receive(self, data: bytes) -> None:
        """Bytes for the agent; kept until it runs."""
        self._input += data
        self._answer_all()

    def live(self) -> None:
        """Let time pass: the ticks that are due."""
        now = time.monotonic()
        if not self.running or not self._boots:
            self._ticked = now
            return
        while self.memory.ticks_left and now - self._ticked >= _TICK_S:
            self._ticked += _TICK_S
            self.memory.ticks_left -= 1
            self.memory.tick += 1
            self._tell({"tick": self.memory.tick})

    def disks(self) -> dict[str, Disk]:
        """Its disks by device name; a rescued guest has its own root as the second one."""
        found = [Disk("rescue", ROOT_MIB)] if self.rescue_image else []
        found += [self.root, *self.attached.values()]
        return {f"vd{letter}": disk for letter, disk in zip("abcdefghij", found, strict=False)}

    def _answer_all(self) -> None:
        while self.running and self._boots and b"\n" in self._input:
            line, _, rest = bytes(self._input).partition(b"\n")
            self._input[:] = rest
            ask_id, _, command = line.decode("utf-8", "replace").strip().partition(" ")
            if not ask_id.startswith("#"):
                continue
            if ask_id not in self.memory.said:
                verb, _, rest_of_it = command.partition(" ")
                answer = {"re": ask_id[1:], **self._do(verb, rest_of_it)}
                self.memory.said = {ask_id: json.dumps(answer)}
            self._write(f"\r\n@@ {self.memory.said[ask_id]}\r\n".encode())

    def _do(self, verb: str, rest: str) -> Answer:
        verbs: dict[str, _Verb] = {
            "ping": lambda _: {"ok": "pong"},
            "info": self._info,
            "counter": self._counter,
            "cpus": lambda _: {"online": self.spec.cpus},
            "mem": lambda _: {"mem_kb": self.spec.memory_mib * 1024 - 20_000, "limit_kb": 0},
            "disks": self._disks,
            "nics": lambda _: {"nics": self._nics()},
            "md5": self._md5,
            "write": self._write_disk,
            "read": self._read_disk,
            "hold": self._hold,
            "configdrive": self._config_drive,
            "exec": lambda _: {"rc": _NO_SHELL, "out": "the modelled guest has no shell"},
        }
        found = verbs.get(verb)
        return found(rest) if found else {"error": f"unknown command {verb}"}

    def _info(self, _: str) -> Answer:
        return {
            "modelled": True,
            "boot_id": self.memory.boot_id,
            "arch": self.spec.image.arch,
            "image": _mark(self.rescue_image or self.spec.image),
            "cpus": self.spec.cpus,
            "mem_kb": self.spec.memory_mib * 1024 - 20_000,
            "uefi": self.spec.firmware == "uefi",
            "tpm": self.spec.tpm,
            "cmdline": self.spec.kernel_arguments,
        }

    def _counter(self, _: str) -> Answer:
        self.memory.counter += 1
        return {"counter": self.memory.counter, "boot_id": self.memory.boot_id}

    def _disks(self, _: str) -> Answer:
        return {
            "disks": {
                name: {"sectors": disk.size_mib * _SECTORS, "serial": disk.serial}
                for name, disk in self.disks().items()
            }
        }

    def _nics(self) -> dict[str, dict[str, str]]:
        text = self.spec.files.get(INTERFACES, b"").decode("utf-8", "replace")
        found = re.search(r"\n\s*address (\S+)", text)
        first = found[1] if found else ""
        return {
            f"eth{n}": {"mac": nic.mac, "ip": "" if n else first} for n, nic in enumerate(self.nics)
        }

    def _md5(self, device: str) -> Answer:
        disk = self.disks().get(device)
        content = bytes(disk.content) if disk else b""
        return {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}

    def _write_disk(self, rest: str) -> Answer:
        device, _, text = rest.partition(" ")
        disk = self.disks().get(device)
        if disk is not None:
            disk.content[: len(text)] = text.encode()
        return {"ok": disk is not None}

    def _read_disk(self, rest: str) -> Answer:
        device, _, count = rest.partition(" ")
        disk = self.disks().get(device)
        data = disk.read(min(int(count), _LOG_LIMIT)) if disk and count.isdigit() else b""
        return {"data": data.replace(b"\0", b"").decode("utf-8", "replace")}

    def _hold(self, count: str) -> Answer:
        self.memory.ticks_left = int(count) if count.isdigit() else 0
        self._ticked = time.monotonic()
        return {"ok": True}

    def _config_drive(self, _: str) -> Answer:
        files = self.spec.config_drive or {}
        meta = files.get(_META, b"").decode("utf-8", "replace")
        if self.tags:
            meta = json.dumps(json.loads(meta) | {"devices": self._devices()})
        return {"files": " ".join(f"./{name}" for name in sorted(files)), "meta": meta}

    def _devices(self) -> list[dict[str, object]]:
        """What Nova tells of tagged devices, without addresses: a model has no bus."""
        serials = {key: key[:20] for key in self.attached}
        return [
            {"type": "disk", "serial": serials[key], "tags": [tag]}
            if key in serials
            else {"type": "nic", "mac": key, "tags": [tag]}
            for key, tag in self.tags.items()
        ]

    def _tell(self, answer: Answer) -> None:
        self._write(f"\r\n@@ {json.dumps(answer)}\r\n".encode())

    def _write(self, data: bytes) -> None:
        self.log += data
        del self.log[:-_LOG_LIMIT]
        self.line.say(data)
