# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: real hypervisors of this machine under the compute suite.

Each is brought up in a folder of its own, put to the proof by a child process that runs
`hypervouch suite compute`, and ended again; what the suite showed goes into the demo's matrix.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console

from ci import proc
from ci.clock import SystemClock
from ci.errors import ConfigError, HypervouchError
from ci.matrix import report
from ci.model.result import Grade
from ci.store import evidence
from ci.store.database import Database
from nodes.images.build import missing_tools as lacks_for_images
from nodes.lab import engines, libvirt_host
from nodes.lab.libvirt_host import LibvirtHost
from nodes.lab.nested import NestedNode
from nodes.lab.personas import PERSONAS

SUITE_LIMIT_S = 2400.0
GRACE_S = 60.0
READER = "demo"
_TOLD = (0, 1)
"""Exit statuses of a suite that came to its end: all works, or something fails."""
_UML = {"linux.uml": "user-mode-linux", "uml_mconsole": "uml-utilities"}


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How the suite reaches a hypervisor; see `nodes.hypervisors.base.Access`."""

    url: str
    grade: Grade
    key_file: Path | None = None
    known_hosts: Path | None = None

    def words(self) -> list[str]:
        """Arguments of `hypervouch suite compute`."""
        keys = (("--key-file", self.key_file), ("--known-hosts", self.known_hosts))
        pairs = [(name, str(path)) for name, path in keys if path is not None]
        return [
            "--hypervisor",
            self.url,
            "--grade",
            self.grade.value,
            *(w for pair in pairs for w in pair),
        ]


def _lacks(programs: Mapping[str, str]) -> tuple[str, ...]:
    """Packages of those programs that are not here."""
    return tuple(package for name, package in programs.items() if shutil.which(name) is None)


Up = Callable[[Path, Callable[[str], None]], AbstractContextManager[Reach]]


@dataclass(frozen=True, kw_only=True)
class LabNode:
    """A hypervisor that can be brought up here.

    Attributes:
        lacks: Gives the Debian packages it needs and this machine has not.
        up: Brings it up in a folder, telling how far it is, and ends it afterwards.
    """

    lacks: Callable[[], Sequence[str]]
    up: Up


def chosen(names: str) -> tuple[str, ...]:
    """The names of `--lab`, checked before anything is started.

    Raises:
        ConfigError: One is unknown, or a package of one is missing.
    """
    wanted = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in LAB:
            raise ConfigError(f"there is no lab node {name}", hint=f"use {', '.join(LAB)}")
    missing = sorted({package for name in wanted for package in LAB[name].lacks()})
    if missing:
        raise ConfigError(
            f"the lab needs packages that are not installed: {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )
    return wanted


def show(
    names: Sequence[str], database: Database, console: Console, asked: threading.Event
) -> bool:
    """Run the compute suite on each lab node in turn and file what it showed.

    Args:
        names: As `chosen` gave them.
        database: The demo's.
        console: For live lines.
        asked: Set when the user wants an end.

    Returns:
        Whether every suite came to its end.
    """
    good = True
    for name in names:
        if asked.is_set():
            return False
        say = partial(_say, console, name)
        # Not below the demo's own folder: names of libvirt's sockets must be short.
        folder = Path(tempfile.mkdtemp(prefix="hv-lab-"))
        try:
            good = _prove(name, folder, database, say, asked) and good
        except HypervouchError as error:
            say(f"not tested: {error}")
            good = False
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return good


def _say(console: Console, name: str, text: str) -> None:
    console.print(f"lab {name}: {text}", highlight=False, markup=False, soft_wrap=True)


def _prove(
    name: str,
    folder: Path,
    database: Database,
    say: Callable[[str], None],
    asked: threading.Event,
) -> bool:
    began = time.monotonic()
    say("bringing it up ...")
    with LAB[name].up(folder, say) as reach:
        say(f"{reach.url}, evidence {reach.grade.value}")
        told = folder / "report.json"
        argv = [sys.executable, "-m", "ci.cli", "suite", "compute", *reach.words()]
        argv += ["--work", str(folder / "work"), "--report", str(told)]
        status = _suite(argv, say, asked)
    # One that broke off half-way may have met a hypervisor that was dying: no evidence.
    if status not in _TOLD or asked.is_set() or not told.exists():
        say(f"no evidence: the suite ended with status {status}")
        return False
    title, found = report.read(told, now=SystemClock().now())
    evidence.read_in(database, title, found, by=READER, at=SystemClock().now())
    counts = {one.shown: 0 for one in found}
    for one in found:
        counts[one.shown] += 1
    words = ", ".join(f"{count} {shown}" for shown, count in sorted(counts.items()))
    say(f"{words} in {time.monotonic() - began:.0f} s")
    return True


def _suite(argv: Sequence[str], say: Callable[[str], None], asked: threading.Event) -> int:
    """Run the suite as a child; whatever happens, nothing of it is left."""
    child = proc.spawn(argv, stdout=proc.PIPE, env={**os.environ, "PYTHONSAFEPATH": "1"})
    assert child.stdout is not None  # noqa: S101 it was asked for
    reader = threading.Thread(target=_tell, args=(child.stdout, say), daemon=True)
    reader.start()
    try:
        for _ in proc.wait_until(time.monotonic() + SUITE_LIMIT_S, every_s=0.2):
            if child.poll() is not None or asked.is_set():
                break
    finally:
        _end(child)
        reader.join(timeout=5)
        child.stdout.close()
    return child.returncode


def _end(child: proc.Process) -> None:
    """Interrupt it, so that it cleans up; then no more questions."""
    if child.poll() is None:
        proc.kill_group(child.pid, signal.SIGINT)
        with suppress(proc.TimeoutExpired):
            child.wait(GRACE_S)
    proc.kill_group(child.pid)
    child.wait()


def _tell(stream: IO[bytes], say: Callable[[str], None]) -> None:
    for line in stream:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            say(text[:200])


@contextmanager
def _libvirt(driver: str, folder: Path, say: Callable[[str], None]) -> Iterator[Reach]:
    del say
    host = LibvirtHost(folder / "host", f"hv-lab-{driver}")
    try:
        host.start()
        more = "&type=qemu" if driver == "qemu" else ""
        yield Reach(url=host.uri(driver) + more, grade=Grade.BARE)
    finally:
        host.stop()


@contextmanager
def _uml(folder: Path, say: Callable[[str], None]) -> Iterator[Reach]:
    del folder, say
    yield Reach(url="uml:///", grade=Grade.BARE)


@contextmanager
def _engine(name: str, folder: Path, say: Callable[[str], None]) -> Iterator[Reach]:
    del say
    with engines.running(name, folder / "engine") as socket:
        yield Reach(url=f"{name}://{socket}", grade=Grade.BARE)


@contextmanager
def _nested(name: str, folder: Path, say: Callable[[str], None]) -> Iterator[Reach]:
    node = NestedNode(folder / "node", PERSONAS[name], progress=say)
    try:
        endpoint = node.start()
        yield Reach(
            url=endpoint.hypervisor,
            grade=endpoint.grade,
            key_file=endpoint.key_file,
            known_hosts=endpoint.known_hosts,
        )
    finally:
        node.stop()


LAB: Mapping[str, LabNode] = {
    "libvirt": LabNode(lacks=libvirt_host.missing_tools, up=partial(_libvirt, "qemu")),
    "lxc": LabNode(lacks=libvirt_host.missing_tools, up=partial(_libvirt, "lxc")),
    "uml": LabNode(lacks=partial(_lacks, _UML), up=_uml),
    "docker": LabNode(lacks=partial(engines.missing, "docker"), up=partial(_engine, "docker")),
    "podman": LabNode(lacks=partial(engines.missing, "podman"), up=partial(_engine, "podman")),
    "kvm": LabNode(lacks=lacks_for_images, up=partial(_nested, "kvm")),
    "xen": LabNode(lacks=lacks_for_images, up=partial(_nested, "xen")),
}
