# SPDX-License-Identifier: Apache-2.0
"""Nested nodes for tests: one of each persona a session, restored from this user's cache."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.model.node import Endpoint
from nodes.images.build import missing_tools
from nodes.lab.nested import NestedNode
from nodes.lab.personas import persona
from tests.kit.require import PARTS, require

BOOT_S = 600.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts a node the time that building and booting it takes."""
    for item in items:
        if {"xen_node", "kvm_node"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(1500), append=False)


@pytest.fixture(scope="session")
def xen_node() -> Iterator[Endpoint]:
    """A Xen host."""
    with running("xen") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def kvm_node() -> Iterator[Endpoint]:
    """A KVM host."""
    with running("kvm") as endpoint:
        yield endpoint


@contextmanager
def running(name: str) -> Iterator[Endpoint]:
    """A nested node that lets us in, ended whatever happens."""
    missing = missing_tools()
    part = name if name in PARTS else "qemu"
    require(part, present=not missing, why=f"apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix=f"hv-{name}-") as folder:
        node = NestedNode(Path(folder), persona(name))
        try:
            yield node.start(BOOT_S)
        finally:
            node.stop()
