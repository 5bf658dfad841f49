# SPDX-License-Identifier: Apache-2.0
"""Ironic and a Redfish machine for one module: the lab's own, in folders of the test."""

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ci import proc
from nodes.hypervisors.base import Access, DiskFormat, GuestImage
from nodes.hypervisors.ironic import connect as connect_ironic
from nodes.hypervisors.ironic_link import IronicLink, address
from nodes.lab import ironic as ironic_lab
from nodes.lab import redfish as redfish_lab
from nodes.lab import venvs
from nodes.lab.apis import ApiHost
from tests.kit.require import require, required

# Prints a line on the first serial port and halts: what a CD boots without an operating system.
SAYS = b"CI-GUEST-OK\r\n"
_BOOT = bytes.fromhex("31C08ED8BE157CAC84C07406BAF803EEEBF5F4EBFD") + SAYS + b"\0"
_BOOT_BYTES = 2048


@dataclass(frozen=True, kw_only=True)
class Served:
    """A control plane that serves.

    Attributes:
        url: In our words.
        access: With the right password and certificate.
        host: Its folder, certificate and key.
    """

    url: str
    access: Access
    host: ApiHost

    def connected(self, **changes: Any) -> closing[Any]:
        """Ironic as a hypervisor that is closed afterwards; `changes` are of its access."""
        return closing(connect_ironic(self.url, replace(self.access, **changes)))

    def link(self) -> closing[IronicLink]:
        """A session with Ironic of its own, for what no adapter does."""
        return closing(IronicLink(address(self.url), self.access))

    def write(self, statement: str, *values: object) -> None:
        """Change Ironic's database behind its back."""
        with closing(sqlite3.connect(self.host.folder / "ironic.sqlite", timeout=30)) as database:
            database.execute(statement, values)
            database.commit()

    def write_many(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        """The same, for each row."""
        with closing(sqlite3.connect(self.host.folder / "ironic.sqlite", timeout=30)) as database:
            database.executemany(statement, rows)
            database.commit()


@contextmanager
def ironic(folder: Path) -> Iterator[Served]:
    """A real Ironic with two machines that are fake; skips where it is neither built nor required.

    Where it is required it is built: a minute or two of network, once.
    """
    why = "hypervouch lab up ironic builds it: a minute or two of network"
    present = ironic_lab.is_built() or "ironic" in required()
    require("ironic", present=present, why=why)
    programs = venvs.environment("ironic", lambda _sentence: None)
    host = ApiHost(folder / "host")
    with host.running(ironic_lab.program(host, programs)) as said:
        url, access = ironic_lab.url(said), ironic_lab.access(host, folder / "work")
        ironic_lab.enrol(url, access, ironic_lab.MACHINES)
        yield Served(url=url, access=access, host=host)


@contextmanager
def redfish() -> Iterator[Served]:
    """A machine of QEMU with a controller; skips where it cannot be had.

    Where it is required, what is in front of it is built: a minute of network and a C compiler.
    """
    require("redfish", present=find_spec("sushy") is not None, why="pip install sushy")
    lacks = redfish_lab.missing_tools()
    require("redfish", present=not lacks, why=f"apt-get install {' '.join(lacks)}")
    why = "hypervouch lab up redfish builds it: a minute of network"
    present = redfish_lab.is_built() or "redfish" in required()
    require("redfish", present=present, why=why)
    programs = venvs.environment("redfish", lambda _sentence: None)
    # Not under pytest's own folder: the names of libvirt's sockets would be too long.
    folder = Path(tempfile.mkdtemp(prefix="hv-redfish-"))
    host = ApiHost(folder / "host")
    below = redfish_lab.libvirt(host)
    try:
        below.start()
        known_as = redfish_lab.install(host, below)
        with host.running(redfish_lab.program(host, programs, below, known_as)) as said:
            access = redfish_lab.access(host, folder / "work")
            yield Served(url=redfish_lab.url(said, known_as), access=access, host=host)
    finally:
        below.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def media(folder: Path) -> Iterator[str]:
    """A web server for a folder, as a management controller fetches its media from."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_words: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def disk_image(folder: Path) -> GuestImage:
    """A disk that nothing boots: fake hardware does not look."""
    disk = folder / "disk.raw"
    disk.write_bytes(b"hypervouch".ljust(4096, b"\0"))
    return GuestImage(disk=disk, disk_format=DiskFormat.RAW)


def boot_image(folder: Path) -> GuestImage:
    """A CD that says one line and stops."""
    inside = folder / "inside"
    inside.mkdir()
    (inside / "boot.bin").write_bytes(_BOOT.ljust(_BOOT_BYTES, b"\0"))
    made = folder / "boot.iso"
    options = ["-no-emul-boot", "-boot-load-size", "4", "-c", "boot.cat"]
    proc.run(
        ["genisoimage", "-quiet", "-o", str(made), "-b", "boot.bin", *options, str(inside)],
        timeout_s=60,
    )
    return GuestImage(disk=made, disk_format=DiskFormat.RAW)
