# SPDX-License-Identifier: Apache-2.0
"""Container engines of a test's own, as the lab starts them, in folders that are removed.

A test asks for the fixtures `docker_socket` and `podman_socket`, whose engines have a network of
their own. Whose containers must be reached asks for `engine(KIND, machine_network=True)`.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from ci.errors import HypervouchError
from ci.model.result import Grade
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.table import connect
from nodes.lab import engines
from tests.kit.require import require

REMOVE_S = 60.0
ULIMITS = {"nofile": "1024:2048", "nproc": "1024:1024"}
"""What Podman's containers need where it may not raise limits; see the guide on containers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts an engine the time that it takes on a busy machine."""
    for item in items:
        if {"docker_socket", "podman_socket"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(300), append=False)


@pytest.fixture(scope="session")
def docker_socket() -> Iterator[Path]:
    """The socket of a Docker daemon."""
    with engine("docker") as path:
        yield path


@pytest.fixture(scope="session")
def podman_socket() -> Iterator[Path]:
    """The socket of Podman's API service."""
    with engine("podman") as path:
        yield path


@contextmanager
def docker(work: Path) -> Iterator[Hypervisor]:
    """For the contract: an adapter on a Docker daemon."""
    with _connected("docker", work) as made:
        yield made


@contextmanager
def podman(work: Path) -> Iterator[Hypervisor]:
    """For the contract: an adapter on Podman's API service."""
    with _connected("podman", work) as made:
        yield made


@contextmanager
def _connected(kind: str, work: Path) -> Iterator[Hypervisor]:
    with engine(kind) as path:
        access = Access(work=work, grade=Grade.BARE, timeout_s=120.0)
        with closing(connect(f"{kind}://{path}", access)) as made:
            yield made


@contextmanager
def engine(kind: str, *, machine_network: bool = False) -> Iterator[Path]:
    """An engine that answers, by its socket; everything of it is gone afterwards."""
    with home_of(kind) as home, started(kind, home, machine_network=machine_network) as path:
        yield path


@contextmanager
def home_of(kind: str) -> Iterator[Path]:
    """A folder for an engine that can run here."""
    lacks = engines.missing(kind)
    require(kind, present=not lacks, why=f"apt-get install {' '.join(lacks)}")
    require(kind, present=os.geteuid() == 0, why="needs root: it runs in namespaces")
    home = Path(tempfile.mkdtemp(prefix=f"hv-{kind}-"))
    try:
        yield home
    finally:
        ends = time.monotonic() + REMOVE_S
        while home.exists() and time.monotonic() < ends:  # what was killed may still be ending
            shutil.rmtree(home, ignore_errors=True)
            time.sleep(0.05)


@contextmanager
def started(kind: str, home: Path, *, machine_network: bool = False) -> Iterator[Path]:
    """The engine of a folder, by its socket."""
    with ExitStack() as stack:
        try:
            made = engines.running(kind, home, machine_network=machine_network)
            path = stack.enter_context(made)
        except HypervouchError as error:
            require(kind, present=False, why=str(error))
            raise
        yield path
