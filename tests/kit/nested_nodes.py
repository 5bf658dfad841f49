# SPDX-License-Identifier: Apache-2.0
"""Nested nodes for tests: one of each persona a session, restored from this user's cache."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from ci.model.node import Endpoint
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.table import connect
from nodes.images.build import missing_tools
from nodes.lab.nested import NestedNode
from nodes.lab.personas import persona
from tests.kit.require import PARTS, require

BOOT_S = 600.0
CALL_S = 300.0
NESTED = "HYPERVOUCH_NESTED"
"""Set, whole suites run on nested nodes; they take minutes each."""

_OPT_IN = {"libvirt-kvm", "xen-xl", "libvirt-xen"}
_shared: dict[str, Endpoint] = {}
_ends = ExitStack()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts a node the time that building and booting it takes."""
    for item in items:
        chosen_one = getattr(item, "callspec", None)
        params = set(map(str, chosen_one.params.values())) if chosen_one else set()
        if {"xen_node", "kvm_node"} & set(getattr(item, "fixturenames", ())) or _OPT_IN & params:
            item.add_marker(pytest.mark.timeout(1500), append=False)


def pytest_unconfigure() -> None:
    """End the nodes of this session."""
    _shared.clear()
    _ends.close()


@pytest.fixture(scope="session")
def xen_node() -> Endpoint:
    """A Xen host."""
    return shared("xen")


@pytest.fixture(scope="session")
def kvm_node() -> Endpoint:
    """A KVM host."""
    return shared("kvm")


def shared(name: str) -> Endpoint:
    """The session's node of a persona; started when it is first wanted."""
    if name not in _shared:
        _shared[name] = _ends.enter_context(running(name))
    return _shared[name]


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


def chosen(name: str) -> None:
    """Go on where whole suites on nested nodes are asked for; else skip."""
    if not os.environ.get(NESTED):
        pytest.skip(f"set {NESTED}: a whole contract on a nested {name} node takes minutes")


@contextmanager
def kvm(work: Path) -> Iterator[Hypervisor]:
    """The session's KVM host for the contract; only where it is asked for."""
    chosen("kvm")
    with connected("kvm", work) as made:
        yield made


@contextmanager
def xen_xl(work: Path) -> Iterator[Hypervisor]:
    """The same for the session's Xen host, by xl."""
    chosen("xen")
    with connected("xen", work) as made:
        yield made


@contextmanager
def libvirt_xen(work: Path) -> Iterator[Hypervisor]:
    """The same Xen host, by libvirt."""
    chosen("xen")
    with connected("xen", work, place=1) as made:
        yield made


@contextmanager
def connected(name: str, work: Path, options: str = "", *, place: int = 0) -> Iterator[Hypervisor]:
    """A hypervisor of the session's node of a persona.

    Args:
        name: The persona's.
        work: For sockets and logs.
        options: Added to its URL.
        place: Which of the persona's hypervisors; the best by default.
    """
    node = shared(name)
    url = persona(name).hypervisors(node.host, node.port)[place]
    access = Access(
        work=work / "work",
        grade=node.grade,
        key_file=node.key_file,
        known_hosts=node.known_hosts,
        timeout_s=CALL_S,
    )
    with closing(connect(f"{url}{options}", access)) as made:
        yield made
