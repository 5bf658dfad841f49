# SPDX-License-Identifier: Apache-2.0
"""A modelled XenServer pool for tests: the stand-in's process, its faults, connections to it."""

import hashlib
import http.client
import json
import ssl
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from ci.model.result import Grade
from nodes.hypervisors.base import Access, DiskFormat, GuestImage
from nodes.hypervisors.table import connect
from nodes.hypervisors.xenserver import XenServerHypervisor
from nodes.lab.apis import HOST, USER, ApiHost, Program

CALL_S = 60.0


@dataclass(frozen=True)
class XapiPool:
    """One that runs."""

    host: ApiHost
    port: int
    pid: int

    def access(self, **more: Any) -> Access:
        """What its URL does not hold."""
        given: dict[str, Any] = {"password": self.host.password(), "ca_file": self.host.ca_file}
        given |= more
        given.setdefault("timeout_s", CALL_S)
        return Access(work=self.host.folder / "work", grade=Grade.EMULATOR, **given)

    def url(self, options: str = "", user: str = USER) -> str:
        return f"xenserver://{user}@{HOST}:{self.port}{options and '?'}{options}"

    @contextmanager
    def opened(self, options: str = "", **more: Any) -> Iterator[XenServerHypervisor]:
        made = connect(self.url(options), self.access(**more))
        with closing(made):
            yield cast("XenServerHypervisor", made)

    def digest(self) -> str:
        """SHA-256 of its certificate."""
        pem = self.host.ca_file.read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def fail(self, method: str = "", **rule: Any) -> None:
        """Let calls fail; nothing at all ends it."""
        told = ({"method": method} if method else {}) | rule
        context = ssl.create_default_context(cafile=self.host.ca_file)
        connection = http.client.HTTPSConnection(HOST, self.port, context=context, timeout=CALL_S)
        headers = {"X-Password": self.host.password()}
        with closing(connection):
            connection.request("POST", "/faults", body=json.dumps(told), headers=headers)
            assert connection.getresponse().status == http.HTTPStatus.OK


@contextmanager
def pool(folder: Path, *more: str) -> Iterator[XapiPool]:
    """A pool of two hosts, `xs1` and `xs2`, that ends with the block."""
    host = ApiHost(folder)
    own = ["--user", USER, "--certificate", str(host.ca_file), "--key", str(host.key_file)]
    argv = [sys.executable, "-m", "nodes.stand_ins.xapi", *own, *more]
    with host.running(Program(argv=argv)) as said:
        yield XapiPool(host, int(urlsplit(said["url"]).port or 0), int(said["pid"]))


def image(folder: Path, content: bytes = b"first", **properties: str) -> GuestImage:
    """A raw disk of 1 MiB and a bit that begins with `content`."""
    disk = folder / f"{hashlib.sha256(content).hexdigest()[:8]}.raw"
    disk.write_bytes(content.ljust((1 << 20) + 512, b"\0"))
    return GuestImage(disk=disk, disk_format=DiskFormat.RAW, properties=properties)


def root_bytes(hypervisor: XenServerHypervisor, name: str, count: int) -> bytes:
    """What a guest's first disk begins with."""
    _, disk = hypervisor._disks.root(name, hypervisor._guest(name))
    return hypervisor._link.first_bytes(disk, count)
