# SPDX-License-Identifier: Apache-2.0
"""One QEMU process that is a node: its command line, its serial line and its monitor.

QEMU runs in the node's own folder and names every file relative to it. That keeps the sockets'
names short whatever the folder's path is, and lets `running_in` find the process by its working
directory, which no other process shares.
"""

import contextlib
import json
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import proc
from ci.errors import NodeUnavailable
from nodes.images.build import Image

BINARY = "qemu-system-x86_64"
_CONSOLE, _LOG = "console.log", "qemu.log"
_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet net.ifnames=0 panic=-1 tsc=reliable no_timer_check mitigations=off"
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the virtual machine is like.

    Attributes:
        memory_mib: RAM.
        cpus: Virtual processors.
        internet: Whether the node may open connections; else only our port 22 gets through.
    """

    memory_mib: int = 512
    cpus: int = 1
    internet: bool = False


@dataclass(frozen=True, kw_only=True)
class RamFiles:
    """A machine's memory and device state on disk."""

    memory: Path
    state: Path


def command(image: Image, shape: Shape, memory: str = "") -> list[str]:
    """The whole QEMU command line, but for what starts a restore.

    Args:
        image: Base image; the disk is `disk.qcow2` in the working directory.
        shape: Size and network.
        memory: A memory backend's options, where RAM lives in a file.
    """
    network = f"user,id=net0,restrict={'off' if shape.internet else 'on'}"
    backend = ["-object", memory] if memory else []
    argv = [BINARY, "-name", "hypervouch-node", "-no-user-config", "-nodefaults", "-no-reboot"]
    argv += ["-display", "none", "-accel", "tcg,thread=multi", "-cpu", "max"]
    argv += [*backend, "-machine", "pc,memory-backend=ram" if memory else "pc"]
    argv += ["-m", str(shape.memory_mib), "-smp", str(shape.cpus)]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", _KERNEL_ARGUMENTS]
    argv += ["-drive", "if=virtio,format=qcow2,cache=unsafe,file=disk.qcow2"]
    argv += ["-netdev", f"{network},hostfwd=tcp:127.0.0.1:0-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net0,romfile="]
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
    argv += ["-device", "virtio-rng-pci,rng=rng0", "-serial", f"file:{_CONSOLE}"]
    argv += ["-chardev", "socket,id=line,path=line.sock,server=on,wait=off"]
    argv += ["-serial", "chardev:line", "-qmp", "unix:qmp.sock,server=on,wait=off"]
    return argv


class Machine:
    """A started QEMU with its serial line and its monitor connected.

    Not thread-safe. `kill` may be repeated.
    """

    def __init__(self, folder: Path, argv: list[str], deadline: float) -> None:
        """Start QEMU in `folder`, which holds disk.qcow2.

        Args:
            folder: Working directory; sockets and logs appear there.
            argv: From `command`.
            deadline: On the monotonic clock, for everything this object waits for.

        Raises:
            NodeUnavailable: QEMU did not start.
        """
        self._folder = folder
        self._deadline = deadline
        with (folder / _LOG).open("wb") as log:
            try:
                self.process = proc.spawn(argv, cwd=folder, stdout=log)
            except proc.CommandFailed as error:
                raise NodeUnavailable(error.message, hint=error.hint, retryable=True) from error
        try:
            self._line = self._connect("line.sock")
            self._monitor = self._connect("qmp.sock")
            self._replies = self._monitor.makefile("rb")
            self._replies.readline()
            self.qmp("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def wait_for(self, word: str, *, again: str = "", line: bytes = b"") -> None:
        """Read the serial line until the guest says `word`.

        Args:
            word: A whole line.
            again: A line after which `line` is said once more: the guest did not understand it.
            line: See `again`.

        Raises:
            NodeUnavailable: The guest ended or the deadline passed.
        """
        rest = b""
        while True:
            *heard, rest = (rest + self._read()).split(b"\n")
            if word.encode() in heard:
                return
            if again and again.encode() in heard:
                self.say(line)

    def say(self, line: bytes) -> None:
        """Write one line to the guest's serial line."""
        try:
            self._line.sendall(line + b"\n")
        except OSError as error:
            raise self._gone() from error

    def qmp(self, execute: str, **arguments: Any) -> Any:
        """Run one monitor command and give what it returns.

        Raises:
            NodeUnavailable: QEMU refused it or is gone.
        """
        request = json.dumps({"execute": execute, "arguments": arguments}).encode()
        try:
            self._monitor.settimeout(self._left_s())
            self._monitor.sendall(request + b"\n")
            for line in iter(self._replies.readline, b""):
                reply = json.loads(line)
                if "return" in reply:
                    return reply["return"]
                if "error" in reply:
                    text = f"QEMU refused {execute}: {reply['error']['desc']}"
                    raise NodeUnavailable(text, retryable=True)
        except (OSError, ValueError) as error:
            raise self._gone() from error
        raise self._gone()

    def restore(self, files: RamFiles) -> None:
        """Load the device state into a machine started with `-incoming defer`."""
        self._share_memory()
        self.qmp("migrate-incoming", uri=f"exec:cat {shlex.quote(str(files.state))}")
        for _ in proc.wait_until(self._deadline, every_s=0.01):
            # What is said before the serial port's own state is loaded would be lost.
            if self.qmp("query-status")["running"]:
                return
        raise self._gone()

    def save(self, state: Path) -> None:
        """Write the device state to a file; the machine is over afterwards."""
        self._share_memory()
        self.qmp("migrate", uri=f"exec:cat >{shlex.quote(str(state))}")
        for _ in proc.wait_until(self._deadline, every_s=0.02):
            status = self.qmp("query-migrate").get("status")
            if status == "completed":
                return
            if status in {"failed", "cancelled"}:
                break
        raise NodeUnavailable("QEMU could not save the node's state", retryable=True)

    def hold_still(self) -> None:
        """Stop the virtual processors: a machine that waits for its holder uses no time."""
        self.qmp("stop")

    def wake(self, folder: Path, deadline: float) -> None:
        """Let a machine that was held still go on, in a folder that was moved to `folder`.

        Args:
            folder: Where its files are by now.
            deadline: On the monotonic clock, for everything it waits for from now on.

        Raises:
            NodeUnavailable: It is gone.
        """
        self._folder, self._deadline = folder, deadline
        self.qmp("cont")

    def ssh_port(self) -> int:
        """The loopback port that leads to the guest's port 22."""
        table = self.qmp("human-monitor-command", **{"command-line": "info usernet"})
        port = forwarded_port(table)
        if port is None:
            raise NodeUnavailable("QEMU forwards no port to the node", retryable=True)
        return port

    def kill(self) -> None:
        """End QEMU and close what leads to it; repeatable."""
        proc.kill_group(self.process.pid)
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Let go of the machine, which goes on."""
        for name in ("_replies", "_line", "_monitor"):
            handle = getattr(self, name, None)
            if handle is not None:
                handle.close()

    def _share_memory(self) -> None:
        """Leave RAM out of the state: it is a file of its own, mapped and not copied."""
        wanted = [{"capability": "x-ignore-shared", "state": True}]
        self.qmp("migrate-set-capabilities", capabilities=wanted)

    def _connect(self, name: str) -> socket.socket:
        # By way of /proc the name fits into a socket address whatever the folder's path.
        address = f"/proc/{self.process.pid}/cwd/{name}"
        for _ in proc.wait_until(self._deadline, every_s=0.01):
            if self.process.poll() is not None:
                break
            client = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                client.connect(address)
                client.settimeout(self._left_s())
                return client
            client.close()
        raise self._gone()

    def _read(self) -> bytes:
        try:
            self._line.settimeout(self._left_s())
            chunk = self._line.recv(4096)
        except OSError as error:
            raise self._gone() from error
        if not chunk:
            raise self._gone()
        return chunk

    def _left_s(self) -> float:
        """Seconds until the deadline; at least a few, so that a late answer is still heard."""
        return max(self._deadline - time.monotonic(), 0.05)

    def _gone(self) -> NodeUnavailable:
        # A socket that closes is noticed a moment before the process is gone.
        with contextlib.suppress(proc.TimeoutExpired):
            self.process.wait(timeout=0.5)
        status = self.process.returncode
        what = "did not come up in time" if status is None else f"ended with status {status}"
        last = _last_line(self._folder / _LOG) or _last_line(self._folder / _CONSOLE)
        return NodeUnavailable(
            f"the node's QEMU {what}: {last or 'it said nothing'}",
            hint=f"see {self._folder / _CONSOLE}",
            retryable=True,
        )


def forwarded_port(table: str) -> int | None:
    """The loopback port in what QEMU's `info usernet` prints; None where it has none."""
    for line in table.splitlines():
        words = line.split()
        if words[:1] == ["TCP[HOST_FORWARD]"] and len(words) > 3:  # noqa: PLR2004 - port is 4th
            return int(words[3])
    return None


def running_in(folder: Path) -> Iterator[tuple[int, str]]:
    """Pid and start tick of each QEMU whose working directory is `folder`, from /proc."""
    wanted = {str(folder.resolve()), f"{folder.resolve()} (deleted)"}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            if argv[0].decode().rpartition("/")[2] != BINARY:
                continue
            if str((entry / "cwd").readlink()) in wanted:
                born = proc.start_tick(int(entry.name))
                if born is not None:
                    yield int(entry.name), born


def end_all_in(folder: Path, *, grace_s: float = 5.0) -> None:
    """Kill each QEMU whose working directory is `folder` and wait until it is gone."""
    ended = list(running_in(folder))
    for pid, born in ended:
        if proc.is_running(pid, born):
            proc.kill_group(pid)
    for pid, born in ended:
        for _ in proc.wait_until(time.monotonic() + grace_s, every_s=0.01):
            if not proc.is_running(pid, born):
                break


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-2000:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
