# SPDX-License-Identifier: Apache-2.0
"""The vCenter simulator for one test or one module, with its side door."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from ci.errors import NodeUnavailable
from ci.model.result import Grade
from nodes.hypervisors.base import Access, DiskFormat, GuestImage, GuestSpec
from nodes.lab import vcenter as lab
from nodes.lab.apis import ApiHost
from tests.kit.require import require

DOOR_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Simulator:
    """One that serves.

    Attributes:
        url: In our words.
        door: Base address of the side door.
        access: With the right password and certificate.
        pid: Of its process.
        host: Its folder, certificate and key.
    """

    url: str
    door: str
    access: Access
    pid: int
    host: ApiHost

    def connected(self, **changes: Any) -> closing[Any]:
        """A hypervisor that is closed afterwards; `changes` are of its access."""
        from nodes.hypervisors.vcenter import connect  # noqa: PLC0415 - pyvmomi may be missing

        return closing(connect(self.url, replace(self.access, **changes)))

    def link(self) -> closing[Any]:
        """A session of its own, for what no adapter does."""
        from nodes.hypervisors.vcenter_link import VcenterLink, address  # noqa: PLC0415 - as above

        return closing(VcenterLink(address(self.url), self.access))

    def calls(self) -> dict[str, int]:
        """How often each method was called."""
        return dict(self._ask("GET", "/calls"))

    def fail(self, method: str, fault: str, *, times: int = 1, delay_ms: int = 0) -> None:
        """Let a method fail."""
        rule = {"Method": method, "Fault": fault, "Max": times, "DelayMS": delay_ms}
        self._ask("POST", "/rules", json.dumps(rule).encode())

    def mend(self) -> None:
        """Take all faults back."""
        self._ask("DELETE", "/rules")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = Request(f"{self.door}{path}", data=body, method=method)  # noqa: S310 - loopback
        with urlopen(request, timeout=DOOR_TIMEOUT_S) as answer:  # noqa: S310
            return json.loads(answer.read())


@contextmanager
def simulator(folder: Path, more: Sequence[str] = ()) -> Iterator[Simulator]:
    """One that ends with the block; skips the test where it cannot be had."""
    require("vcenter", present=find_spec("pyVmomi") is not None, why="pip install pyvmomi")
    try:
        made = lab.binary(lambda _sentence: None)
    except NodeUnavailable as error:
        require("vcenter", present=False, why=f"{error.message}; {error.hint}")
        raise
    host = ApiHost(folder / "host")
    with host.running(lab.program(made, host, more)) as said:
        access = Access(
            work=folder / "work",
            grade=Grade.SIMULATOR,
            password=host.password(),
            ca_file=host.ca_file,
            timeout_s=60.0,
        )
        yield Simulator(
            url=lab.url(said["url"]),
            door=str(said["faults"]),
            access=access,
            pid=int(said["pid"]),
            host=host,
        )


def disk_image(folder: Path, size_kib: int = 64, **properties: str) -> GuestImage:
    """A disk that nothing boots: the simulator does not look."""
    disk = folder / f"disk-{size_kib}.raw"
    disk.write_bytes(b"hypervouch"[:10].ljust(size_kib << 10, b"\0"))
    return GuestImage(disk=disk, disk_format=DiskFormat.RAW, properties=properties)


def guest_spec(name: str, folder: Path, **more: Any) -> GuestSpec:
    """A guest of that disk."""
    return GuestSpec(name=name, image=disk_image(folder), **more)
