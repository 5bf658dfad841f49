# SPDX-License-Identifier: Apache-2.0
"""The driver: launch, pause, resume, reboot, snapshot and destroy guests by QEMU's monitor.

    driver = VirtDriver(folder)
    driver.launch("web")
    driver.console("web")        # everything the guest has said
    driver.destroy("web")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from acme_virt import guest
from acme_virt.qmp import Monitor, MonitorError, connect

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 2


class DriverError(Exception):
    """The hypervisor did not do what was asked."""


class GuestExists(DriverError):
    """A guest of that name is there already."""


class GuestMissing(DriverError):
    """There is no guest of that name."""


class WrongState(DriverError):
    """The guest is not in the state that the call needs."""


@dataclass
class _Guest:
    """A launched guest."""

    folder: Path
    process: subprocess.Popen[bytes]
    monitor: Monitor


class VirtDriver:
    """Runs guests below a folder of its own; one driver owns one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guests: dict[str, _Guest] = {}
        self.emulator = uses_emulator()

    def names(self) -> list[str]:
        """Names of the guests that exist."""
        return sorted(self._guests)

    def launch(self, name: str) -> None:
        """Create a guest and let it boot."""
        if name in self._guests:
            raise GuestExists(f"guest {name!r} exists")
        folder = self._folder / name
        folder.mkdir(parents=True)
        guest.write_rom(folder / "rom.bin")
        process = self._start(folder)
        try:
            monitor = Monitor(folder / "qmp.sock", alive=lambda: process.poll() is None)
        except MonitorError as error:
            process.kill()
            process.wait()
            said = (folder / "hypervisor.log").read_text(errors="replace").strip()
            shutil.rmtree(folder)
            raise DriverError(f"guest {name!r} did not start: {said or error}") from error
        self._guests[name] = _Guest(folder, process, monitor)

    def state(self, name: str) -> str:
        """What the hypervisor says of the guest: `running`, `paused`, ..."""
        return str(self._execute(name, "query-status")["status"])

    def pid(self, name: str) -> int:
        """Process id of the guest's hypervisor."""
        return self._guest(name).process.pid

    def console(self, name: str) -> str:
        """Everything the guest has written to its console since its launch."""
        return (self._guest(name).folder / "console.log").read_text("ascii", errors="replace")

    def send(self, name: str, text: str) -> None:
        """Type text on the guest's console."""
        with connect(self._guest(name).folder / "console.sock", timeout_s=5) as console:
            console.sendall(text.encode("ascii"))

    def pause(self, name: str) -> None:
        """Stop the guest's processors; its memory stays."""
        self._require(name, "running")
        self._execute(name, "stop")

    def resume(self, name: str) -> None:
        """Let a paused guest go on where it stopped."""
        self._require(name, "paused")
        self._execute(name, "cont")

    def reboot(self, name: str) -> None:
        """Reset the guest as its reset button would."""
        self._require(name, "running")
        self._execute(name, "system_reset")

    def snapshot(self, name: str, tag: str) -> None:
        """Keep memory, devices and disk under a tag, in the guest's own disk file."""
        self._run_job(name, "snapshot-save", tag)

    def restore(self, name: str, tag: str) -> None:
        """Go back to a snapshot; a running guest goes on from there."""
        self._run_job(name, "snapshot-load", tag)

    def destroy(self, name: str) -> None:
        """End the guest and remove all that belongs to it."""
        found = self._guest(name)
        try:
            found.monitor.execute("quit")
            found.process.wait(timeout=5)
        except (MonitorError, subprocess.TimeoutExpired):
            found.process.kill()
            found.process.wait()
        found.monitor.close()
        shutil.rmtree(found.folder)
        del self._guests[name]

    def destroy_all(self) -> None:
        """End every guest."""
        for name in self.names():
            self.destroy(name)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the hypervisor in the guest's folder; what it complains of goes to a file."""
        package = str(Path(__file__).resolve().parents[1])
        with (folder / "hypervisor.log").open("wb") as log:
            if not self.emulator:
                disk = ["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "disk.qcow2")]
                subprocess.run([*disk, "16M"], check=True, stdout=log, stderr=log)
            return subprocess.Popen(
                self._command(),
                cwd=folder,
                env={**os.environ, "PYTHONPATH": package},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _guest(self, name: str) -> _Guest:
        try:
            return self._guests[name]
        except KeyError:
            raise GuestMissing(f"there is no guest {name!r}") from None

    def _execute(self, name: str, command: str) -> dict[str, object]:
        try:
            return dict(self._guest(name).monitor.execute(command))
        except MonitorError as error:
            raise DriverError(f"guest {name!r}: {error}") from error

    def _run_job(self, name: str, command: str, tag: str) -> None:
        monitor = self._guest(name).monitor
        try:
            monitor.run_job(command, tag=tag, vmstate="disk", devices=["disk"])
        except MonitorError as error:
            raise DriverError(f"guest {name!r}: {error}") from error

    def _require(self, name: str, wanted: str) -> None:
        state = self.state(name)
        if state != wanted:
            raise WrongState(f"guest {name!r} is {state}, not {wanted}")

    def _command(self) -> list[str]:
        """The hypervisor's command line; file names are relative to the guest's folder."""
        if self.emulator:
            return [sys.executable, "-m", "acme_virt.emulator"]
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
        # A 486 has no local APIC, so timer interrupts arrive without a BIOS setting it up.
        argv += ["-machine", "pc", "-cpu", "486", "-m", str(MEMORY_MIB), "-bios", "rom.bin"]
        argv += ["-blockdev", "driver=file,filename=disk.qcow2,node-name=file"]
        argv += ["-blockdev", "driver=qcow2,file=file,node-name=disk"]
        console = "socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log"
        argv += ["-chardev", console, "-serial", "chardev:console"]
        return [*argv, "-qmp", "unix:qmp.sock,server=on,wait=off"]


def uses_emulator() -> bool:
    """Whether guests run on the stand-in: it was asked for, or QEMU is not installed."""
    asked = os.environ.get("ACME_VIRT_EMULATOR", "") not in {"", "0"}
    return asked or not (shutil.which(QEMU) and shutil.which("qemu-img"))
