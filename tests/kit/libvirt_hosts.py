# SPDX-License-Identifier: Apache-2.0
"""Private libvirt hosts for tests: started once a session, stopped whatever happens.

A test asks for the fixture `libvirt`; who needs two hosts asks for `libvirt_pair`.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.lab.libvirt_host import LibvirtHost, missing_tools
from tests.kit.require import require


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts a host the time that the first look at all QEMUs takes."""
    for item in items:
        if {"libvirt", "libvirt_pair"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(300), append=False)


@pytest.fixture(scope="session")
def libvirt() -> Iterator[LibvirtHost]:
    """A libvirt host with the drivers qemu and lxc."""
    with running_host("node-a") as host:
        yield host


@pytest.fixture(scope="session")
def libvirt_pair(libvirt: LibvirtHost) -> Iterator[tuple[LibvirtHost, LibvirtHost]]:
    """Two hosts that guests can migrate between."""
    with running_host("node-b") as other:
        yield libvirt, other


@contextmanager
def running_host(name: str) -> Iterator[LibvirtHost]:
    """A host of one's own, for what must not meet other tests' guests or their cleaning."""
    missing = missing_tools()
    require("libvirt", present=not missing, why=f"apt-get install {' '.join(missing)}")
    found = importlib.util.find_spec("libvirt") is not None
    require("libvirt", present=found, why="libvirt-python: run scripts/setup test")
    require("libvirt", present=os.geteuid() == 0, why="needs root")
    # Not under pytest's own folder: the names of its sockets would be too long.
    folder = Path(tempfile.mkdtemp(prefix="hv-libvirt-"))
    host = LibvirtHost(folder, name)
    try:
        host.start()
        yield host
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)
