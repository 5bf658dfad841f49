# SPDX-License-Identifier: Apache-2.0
"""Modelled Hyper-V hosts for tests: the stand-in's process, its faults, connections to it."""

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
from nodes.hypervisors.hyperv import HyperVHypervisor
from nodes.hypervisors.table import connect
from nodes.lab.apis import HOST, USER, ApiHost, Program

CALL_S = 60.0


@dataclass(frozen=True)
class Hosts:
    """Those that run: one port each, `HV01` and `HV02`."""

    api: ApiHost
    ports: tuple[int, ...]
    pid: int
    is_tls: bool

    def access(self, **more: Any) -> Access:
        """What a URL does not hold."""
        given: dict[str, Any] = {"password": self.api.password(), "ca_file": self.api.ca_file}
        given |= more
        given.setdefault("timeout_s", CALL_S)
        return Access(work=self.api.folder / "work", grade=Grade.EMULATOR, **given)

    def url(self, options: str = "", at: int = 0) -> str:
        scheme = "hyperv" if self.is_tls else "hyperv+http"
        return f"{scheme}://{USER}@{HOST}:{self.ports[at]}{options and '?'}{options}"

    @contextmanager
    def opened(
        self, options: str = "auth=ntlm", at: int = 0, **more: Any
    ) -> Iterator[HyperVHypervisor]:
        made = connect(self.url(options, at), self.access(**more))
        with closing(made):
            yield cast("HyperVHypervisor", made)

    def digest(self) -> str:
        """SHA-256 of the certificate."""
        pem = self.api.ca_file.read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def fail(self, cmdlet: str = "", **rule: Any) -> None:
        """Let a cmdlet fail; nothing at all ends it."""
        self._aside("/faults", ({"cmdlet": cmdlet} if cmdlet else {}) | rule)

    def told(self) -> dict[str, Any]:
        """What the first host was asked so far."""
        return self._aside("/told", {})

    def _aside(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=self.api.ca_file)
        connection = (
            http.client.HTTPSConnection(HOST, self.ports[0], context=context, timeout=CALL_S)
            if self.is_tls
            else http.client.HTTPConnection(HOST, self.ports[0], timeout=CALL_S)
        )
        with closing(connection):
            headers = {"X-Password": self.api.password()}
            connection.request("POST", path, body=json.dumps(body), headers=headers)
            answer = connection.getresponse()
            assert answer.status == http.HTTPStatus.OK
            return dict(json.loads(answer.read()))


@contextmanager
def hosts(folder: Path, *more: str, is_tls: bool = True) -> Iterator[Hosts]:
    """Two hosts that end with the block."""
    api = ApiHost(folder)
    tls = ["--certificate", str(api.ca_file), "--key", str(api.key_file)] if is_tls else []
    argv = [sys.executable, "-m", "nodes.stand_ins.hyperv", "--user", USER, *tls, *more]
    with api.running(Program(argv=argv)) as said:
        ports = tuple(int(urlsplit(url).port or 0) for url in said["urls"])
        yield Hosts(api, ports, int(said["pid"]), is_tls)


def image(folder: Path, content: bytes = b"first", **more: Any) -> GuestImage:
    """A raw disk of 1 MiB that begins with `content`."""
    disk = folder / f"{hashlib.sha256(content).hexdigest()[:8]}.raw"
    disk.write_bytes(content.ljust(1 << 20, b"\0"))
    return GuestImage(disk=disk, disk_format=DiskFormat.RAW, **more)
