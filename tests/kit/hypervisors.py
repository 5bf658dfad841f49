# SPDX-License-Identifier: Apache-2.0
"""The hypervisors that keep one contract: the dummy, and the real ones that this machine runs.

A new one joins by an entry in TABLE: the part that HYPERVOUCH_REQUIRE names, and a context manager
that is given a directory and yields a connected hypervisor.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ci.model.result import Grade
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.table import connect
from tests.kit.require import require

HERE = "tests.kit.hypervisors"
TABLE = {
    "dummy": f"{HERE}:dummy",
    "libvirt-qemu": f"{HERE}:libvirt_qemu",
    "libvirt-lxc": f"{HERE}:libvirt_lxc",
    "libvirt-kvm": "tests.kit.nested_nodes:kvm",
    "xen-xl": "tests.kit.nested_nodes:xen_xl",
    "libvirt-xen": "tests.kit.nested_nodes:libvirt_xen",
    "uml": f"{HERE}:uml",
    "docker": "tests.kit.containers:docker",
    "podman": "tests.kit.containers:podman",
}
"""By name: `module:function`."""


@contextmanager
def running(name: str) -> Iterator[Hypervisor]:
    """One of TABLE, cleaned afterwards; skips the test where it cannot run here."""
    module, _, function = TABLE[name].partition(":")
    make: Callable[[Path], AbstractContextManager[Hypervisor]]
    make = getattr(import_module(module), function)
    # Not under pytest's own folder: the names of sockets would be too long.
    work = Path(tempfile.mkdtemp(prefix="hv-contract-"))
    try:
        with make(work) as made:
            try:
                yield made
            finally:
                made.cleanup()
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def opened(url: str, work: Path) -> Iterator[Hypervisor]:
    """A connection that is closed afterwards."""
    access = Access(work=work / "work", grade=Grade.BARE, timeout_s=120.0)
    with closing(connect(url, access)) as made:
        yield made


@contextmanager
def dummy(work: Path) -> Iterator[Hypervisor]:
    with opened("dummy:///", work) as made:
        yield made


@contextmanager
def libvirt_qemu(work: Path) -> Iterator[Hypervisor]:
    with _libvirt(work, "libvirt", "qemu", "&type=qemu") as made:
        yield made


@contextmanager
def libvirt_lxc(work: Path) -> Iterator[Hypervisor]:
    with _libvirt(work, "lxc", "lxc", "") as made:
        yield made


@contextmanager
def uml(work: Path) -> Iterator[Hypervisor]:
    found = shutil.which("linux.uml")
    require("uml", present=found is not None, why="apt-get install user-mode-linux uml-utilities")
    require("uml", present=os.geteuid() == 0, why="needs root for network cards")
    with opened("uml:///", work) as made:
        yield made


@contextmanager
def _libvirt(work: Path, part: str, driver: str, options: str) -> Iterator[Hypervisor]:
    require(part, present=find_spec("libvirt") is not None, why="pip install hypervouch[libvirt]")
    require(part, present=os.geteuid() == 0, why="needs root")
    lab = import_module("nodes.lab.libvirt_host")
    missing = lab.missing_tools()
    require(part, present=not missing, why=f"apt-get install {' '.join(missing)}")
    host = lab.LibvirtHost(work / "host", "node-c")
    try:
        host.start()
        with opened(f"{host.uri(driver)}{options}", work) as made:
            yield made
    finally:
        host.stop()
