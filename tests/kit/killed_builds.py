# SPDX-License-Identifier: Apache-2.0
"""Kill processes that hold nodes, and count what they leave: before the next clean, and after."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.images import machine
from nodes.providers.base import Provider
from nodes.providers.table import driver

ROOT = Path(__file__).parents[2]
READY_S = 240.0
SIGHT_S = 120.0
SETTLE_S = 1.5
LATER_S = (0.0, 0.3, 0.6, 1.0, 1.5)
"""How long after its first object was seen a process is killed, in turn: in `start` or `stop`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A provider whose objects can be counted behind its back.

    Attributes:
        driver: Its name in the table.
        options: As the configuration would say them.
        state: Its state directory.
        count: Objects of its nodes that exist, asked of whoever really has them.
    """

    driver: str
    options: Mapping[str, Any]
    state: Path
    count: Callable[[], int]

    def make(self) -> Provider:
        """A provider as the next process would have it."""
        chosen = driver(self.driver)
        return chosen(chosen.Options.model_validate(dict(self.options)), self.state)


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a kill left: at once, after the clean of the next start, and after the one after that.

    A daemon goes on with what a client asked for before it died, so that a machine may appear
    after the first clean; the pool cleans again each minute.
    """

    by_kill: int
    after_first: int
    after_second: int


def kill_and_clean(source: Source, number: int) -> Left:
    """Kill one process in the middle of its work, and clean twice as the pool does.

    Args:
        source: Whose nodes.
        number: Of this kill; chooses the moment.

    Returns:
        Objects that existed.
    """
    options = json.dumps(dict(source.options), default=str)
    argv = [sys.executable, "-m", "tests.kit.provider_child", source.driver, options]
    child = subprocess.Popen([*argv, str(source.state)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        ends = time.monotonic() + SIGHT_S
        while not source.count() and time.monotonic() < ends and child.poll() is None:
            time.sleep(0.02)
        time.sleep(LATER_S[number % len(LATER_S)])
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    left = source.count()
    _clean(source)
    first = source.count()
    time.sleep(SETTLE_S)
    _clean(source)
    return Left(by_kill=left, after_first=first, after_second=source.count())


def _clean(source: Source) -> None:
    heir = source.make()
    for node in heir.leaked(frozenset()):
        heir.stop(node)


def qemu_objects(state: Path) -> Callable[[], int]:
    """Counts QEMUs and disks in the folders of a `qemu` provider."""

    def count() -> int:
        folders = [path for path in state.glob("*") if path.is_dir()]
        disks = sum((folder / "disk.qcow2").exists() for folder in folders)
        return disks + sum(len(list(machine.running_in(folder))) for folder in folders)

    return count


def running_domains(url: str) -> Callable[[], int]:
    """Counts domains that run on a libvirt host."""
    import libvirt  # noqa: PLC0415 - only who has asked for it

    def count() -> int:
        host = libvirt.openReadOnly(url)
        try:
            return int(host.numOfDomains())
        finally:
            host.close()

    return count


def containers_of(url: str) -> Callable[[], int]:
    """Counts containers of a Docker daemon, whatever their state."""
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - only who has asked for it

    def count() -> int:
        client = docker.DockerClient(base_url=url)
        try:
            return len(client.api.containers(all=True, quiet=True))
        finally:
            client.close()

    return count
