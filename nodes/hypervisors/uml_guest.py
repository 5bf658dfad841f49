# SPDX-License-Identifier: Apache-2.0
"""One User Mode Linux guest as files and processes, found again by whoever comes after us.

A guest is a folder. Its kernel, an ordinary process, has it as working directory and names
everything relative to it: that keeps sockets' names short, and /proc tells whose process it is
even when the folder is gone.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ci import proc
from nodes.hypervisors.base import GuestState
from nodes.hypervisors.uml_console import LOG, OLD_LOG, tail

INITRD, RESCUE_INITRD, CONFIG_DRIVE = "initrd", "rescue-initrd", "config.iso"
_RECORD = "guest.json"
ROOT = "root.raw"
_LETTERS = "bcdefghijklmno"  # a is its own disk
_CONFIG_LETTER = "p"
_PANIC = b"Kernel panic"
_LAST_BYTES = 4000


class Disk(BaseModel):
    """An attached volume: its letter, its file and what the guest reads as serial number."""

    model_config = ConfigDict(frozen=True)

    letter: str
    path: Path
    serial: str
    shared: bool = False


class Card(BaseModel):
    """A network card and its number: eth0, eth1, ..."""

    model_config = ConfigDict(frozen=True)

    number: int
    mac: str

    @property
    def tap(self) -> str:
        """Its other end on this machine, there while the guest has the card up."""
        return f"hv{self.mac.replace(':', '').lower()}"


class Record(BaseModel):
    """What a guest is started with; `guest.json` in its folder."""

    model_config = ConfigDict(frozen=True)

    name: str
    memory_mib: int
    arguments: str = ""
    memory_file: bool = False
    config_drive: bool = False
    rescued: bool = False
    disks: tuple[Disk, ...] = ()
    cards: tuple[Card, ...] = ()

    def free_letter(self) -> str:
        """The first letter without a disk; empty when all have one."""
        taken = {disk.letter for disk in self.disks}
        return next((letter for letter in _LETTERS if letter not in taken), "")

    def free_number(self) -> int:
        """The first number without a card."""
        taken = {card.number for card in self.cards}
        return next(number for number in range(len(taken) + 1) if number not in taken)


def disk_argument(disk: Disk, folder: Path) -> str:
    """`ubdb=FILE,,SERIAL`, on the command line and to the management console alike."""
    flags = "c" if disk.shared else ""
    return f"ubd{disk.letter}{flags}={os.path.relpath(disk.path, folder)},,{disk.serial}"


def card_argument(card: Card) -> str:
    """`eth0=tuntap,TAP,MAC`."""
    return f"eth{card.number}=tuntap,{card.tap},{card.mac.lower()}"


def command(binary: Path, record: Record, folder: Path) -> list[str]:
    """The kernel's command line, the program first."""
    initrd = RESCUE_INITRD if record.rescued else INITRD
    argv = [str(binary), f"mem={record.memory_mib}M", f"initrd={initrd}", f"umid={record.name}"]
    argv += ["uml_dir=./", "con=null", "con0=fd:0,fd:1", "quiet", f"ubda={ROOT},,root"]
    if record.config_drive:
        argv.append(f"ubd{_CONFIG_LETTER}r={CONFIG_DRIVE}")
    argv += [disk_argument(disk, folder) for disk in record.disks]
    argv += [card_argument(card) for card in record.cards]
    return [*argv, *record.arguments.split()]


class Folder:
    """A guest's folder."""

    def __init__(self, path: Path, binary: Path) -> None:
        self.path = path
        self._binary = binary

    @property
    def monitor(self) -> Path:
        """The socket of its management console."""
        return self.path / self.path.name / "mconsole"

    def load(self) -> Record | None:
        """Its record; None where there is no such guest."""
        try:
            return Record.model_validate_json((self.path / _RECORD).read_bytes())
        except (OSError, ValueError):
            return None

    def save(self, record: Record) -> None:
        """Write its record, whole or not at all."""
        beside = self.path / f"{_RECORD}.new"
        beside.write_text(record.model_dump_json())
        beside.replace(self.path / _RECORD)

    def mark_paused(self, *, paused: bool) -> None:
        """Note that it was stopped: its management console cannot be asked for that."""
        mark = self.path / "paused"
        if paused:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def state(self) -> GuestState:
        """Its state, from its process and from the last that it said."""
        if self.alive():
            paused = (self.path / "paused").exists()
            return GuestState.PAUSED if paused else GuestState.RUNNING
        panicked = _PANIC in tail(self.path, _LAST_BYTES)
        return GuestState.CRASHED if panicked else GuestState.SHUTOFF

    def alive(self) -> bool:
        """Whether its kernel runs."""
        with suppress(OSError, ValueError):
            pid = int((self.path / self.path.name / "pid").read_text())
            if _folder_of(pid, self._binary.name) == self.path and proc.start_tick(pid):
                return True
        return self.path in running(self._binary.name)

    def clear_console(self) -> None:
        """Forget what it said before, and what its last process left."""
        for name in (LOG, OLD_LOG):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / self.path.name, ignore_errors=True)
        self.mark_paused(paused=False)

    def kill(self, grace_s: float = 10.0) -> bool:
        """End all its processes; says whether that was so within the time. Repeatable."""
        for _ in proc.wait_until(time.monotonic() + grace_s, every_s=0.02):
            left = running(self._binary.name).get(self.path, [])
            if not left:
                return True
            for pid, born in left:
                if proc.is_running(pid, born):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return False


def running(program: str) -> dict[Path, list[tuple[int, str]]]:
    """Processes of a program by their working directory: pid and start tick, from /proc.

    A folder that was removed under its process is named as it was.
    """
    found: dict[Path, list[tuple[int, str]]] = {}
    for pid in _pids():
        folder = _folder_of(pid, program)
        born = proc.start_tick(pid) if folder else None
        if folder is not None and born is not None:
            found.setdefault(folder, []).append((pid, born))
    return found


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _folder_of(pid: int, program: str) -> Path | None:
    """Where a process of that program works; None for any other process."""
    with suppress(OSError):
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if argv[0].decode("utf-8", "replace").rpartition("/")[2] == program:
            return Path(str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)"))
    return None
