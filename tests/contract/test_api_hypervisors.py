# SPDX-License-Identifier: Apache-2.0
"""What every hypervisor with an API of its own does alike with names, sizes and a wrong password.

Against the stand-ins: what they model is tested beside each adapter, what the adapters send is
tested here, and how often. Ironic is a few canned answers here, since the real one takes its time.
"""

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ci import proc
from ci.errors import HypervouchError
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import (
    PREFIX,
    Access,
    DiskFormat,
    GuestImage,
    GuestSpec,
    GuestState,
)
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    TransientFault,
    Unsupported,
)
from nodes.hypervisors.ironic import IronicHypervisor
from nodes.hypervisors.ironic_link import IronicLink, address
from nodes.hypervisors.table import connect
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NEEDS = {
    "vcenter": ("pyVmomi",),
    "xenserver": ("XenAPI",),
    "hyperv": ("pypsrp", "psrpcore"),
    "ironic": ("httpx",),
    "zvm": ("zvmconnector",),
}
GUEST = f"{PREFIX}api"
MIB, TIB = 1 << 20, 1 << 40
NAMES = (
    "api",
    PREFIX,
    f"{PREFIX}'; $(reboot) \"",
    f"{PREFIX}`id` %0a ..\\..\\*?[a]",
    f"{PREFIX}a\nb",
    f"{PREFIX}\x1b[2J\r\x00",
    f"{PREFIX}{'x' * 300}",
    f"\u202e{PREFIX}txt",
    f"{PREFIX}\u05e9\u05dc\u05d5\u05dd",
)
EDGES = ((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 2 * TIB + 1)
"""Bytes of an image: where numbers of 32 bits end, and where VHD and VMFS-3 did."""
TOO_MUCH_MIB = 1 << 31
EDGES_MIB = ((1 << 11) - 1, 1 << 11, 1 << 12, TOO_MUCH_MIB)
MEMORY = dict.fromkeys(("xenserver", "hyperv", "ironic", "zvm"), (TOO_MUCH_MIB,))
"""Ironic's machines have what is in them; the others' usual sizes have tests of their own."""
LOGINS = {"vcenter": 3, "xenserver": 1, "hyperv": 3, "ironic": 1, "zvm": 1}
"""Requests until a password is refused: vCenter tells its versions and what it is before; NTLM
takes two messages after a first refusal."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A stand-in that serves."""

    system: str
    url: str
    access: Access
    connect: Callable[[str, Access], Any] = connect

    def opened(self, **changes: Any) -> AbstractContextManager[Any]:
        """A connection that is closed afterwards; `changes` are of its access."""
        return closing(self.connect(self.url, replace(self.access, **changes)))


@contextmanager
def _vcenter(kit: Any, folder: Path) -> Iterator[Served]:
    with kit.simulator(folder) as made:
        yield Served(system="vcenter", url=made.url, access=made.access)


@contextmanager
def _xenserver(kit: Any, folder: Path) -> Iterator[Served]:
    with kit.pool(folder) as made:
        yield Served(system="xenserver", url=made.url(), access=made.access())


@contextmanager
def _hyperv(kit: Any, folder: Path) -> Iterator[Served]:
    with kit.hosts(folder) as made:
        yield Served(system="hyperv", url=made.url("auth=ntlm"), access=made.access())


@contextmanager
def _ironic(_kit: Any, folder: Path) -> Iterator[Served]:
    one = _OneNode()

    def opened(url: str, access: Access) -> Any:
        link = IronicLink(address(url), access, httpx.MockTransport(one.answer))
        return IronicHypervisor(link, access)

    access = Access(work=folder, grade=Grade.SIMULATOR, password="right", timeout_s=5.0)
    yield Served(
        system="ironic", url="ironic://ci@bmc.example?node=*", access=access, connect=opened
    )


class _OneNode:
    """Ironic with one machine of 4 GiB, for who knows the password; an instance takes it once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._node: dict[str, Any] = {
            "uuid": "1",
            "name": "a",
            "provision_state": "available",
            "power_state": "power off",
            "properties": {"memory_mb": 4096, "cpus": 1, "local_gb": 8},
            "instance_uuid": None,
            "extra": {},
        }

    def answer(self, request: httpx.Request) -> httpx.Response:
        given = base64.b64decode(request.headers["authorization"].partition(" ")[2])
        if given != b"ci:right":
            return httpx.Response(http.HTTPStatus.UNAUTHORIZED)
        body = json.loads(request.content or b"{}")
        with self._lock:
            if request.method == "PATCH":
                return self._patched(body)
            if request.method == "PUT":
                self._changed(request.url.path.rpartition("/")[2], body["target"])
                return httpx.Response(http.HTTPStatus.ACCEPTED)
            return httpx.Response(http.HTTPStatus.OK, json=self._told(request))

    def _told(self, request: httpx.Request) -> dict[str, Any]:
        if not request.url.path.endswith("/detail"):
            return self._node
        wanted = request.url.params.get("instance_uuid", self._node["instance_uuid"])
        return {"nodes": [self._node] if wanted == self._node["instance_uuid"] else []}

    def _patched(self, changes: list[dict[str, Any]]) -> httpx.Response:
        for one in changes:
            if one["path"] == "/instance_uuid" and one["op"] == "add" and self._node["extra"]:
                return httpx.Response(http.HTTPStatus.CONFLICT)
            field, _, key = one["path"].strip("/").partition("/")
            if key:
                self._node.setdefault(field, {}).pop(key, None)
                if one["op"] == "add":
                    self._node[field][key] = one["value"]
            else:
                self._node[field] = one.get("value")
        return httpx.Response(http.HTTPStatus.OK, json=self._node)

    def _changed(self, what: str, target: str) -> None:
        if what == "provision":
            self._node["provision_state"] = "active" if target == "active" else "available"
        self._node["power_state"] = {"active": "power on", "deleted": "power off"}.get(
            target, target
        )


@contextmanager
def _zvm(kit: Any, folder: Path) -> Iterator[Served]:
    with kit.connector(folder) as made:
        yield Served(system="zvm", url=made.url, access=made.access(folder / "work"))


STAND_INS: dict[str, tuple[str, Callable[..., Any]]] = {
    "vcenter": ("tests.kit.vcenter", _vcenter),
    "xenserver": ("tests.kit.xapi", _xenserver),
    "hyperv": ("tests.kit.hyperv", _hyperv),
    "ironic": ("nodes.hypervisors.ironic", _ironic),
    "zvm": ("tests.kit.zvm", _zvm),
}


@pytest.fixture(scope="module", params=list(STAND_INS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    system = request.param
    there = all(map(find_spec, NEEDS[system]))
    require(system, present=there, why=f"pip install 'hypervouch[{system}]'")
    module, start = STAND_INS[system]
    with start(import_module(module), tmp_path_factory.mktemp(system)) as made:
        yield made


@pytest.fixture(scope="module")
def linked(served: Served) -> Iterator[Any]:
    with served.opened() as made:
        yield made


@pytest.fixture
def one(linked: Any) -> Iterator[Any]:
    yield linked
    linked.cleanup()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that this process sends from here on, by any of the libraries."""
    told: list[str] = []
    plain, other = http.client.HTTPConnection.putrequest, httpx.MockTransport.handle_request

    def put(self: Any, method: str, url: str, *given: Any, **more: Any) -> None:
        told.append(f"{method} {url}")
        plain(self, method, url, *given, **more)

    def handle(self: Any, request: httpx.Request) -> httpx.Response:
        told.append(f"{request.method} {request.url}")
        return other(self, request)

    monkeypatch.setattr(http.client.HTTPConnection, "putrequest", put)
    monkeypatch.setattr(httpx.MockTransport, "handle_request", handle)
    return told


def _image(folder: Path, size: int = 64 << 10) -> GuestImage:
    """A raw disk that takes no room."""
    disk = folder / f"disk-{size}.raw"
    with disk.open("wb") as file:
        file.truncate(size)
    return GuestImage(disk=disk, disk_format=DiskFormat.RAW)


def _fault(ask: Callable[[], object]) -> HypervouchError | Unsupported | None:
    """What a call ends with."""
    try:
        ask()
    except (HypervouchError, Unsupported) as error:
        return error
    return None


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:24]))
def test_a_name_that_cannot_be_ours_is_refused_before_a_request(
    one: Any, sent: list[str], tmp_path: Path, name: str
) -> None:
    image = _image(tmp_path)
    calls: dict[str, Callable[[], object]] = {
        "launch": lambda: one.launch(GuestSpec(name=name, image=image)),
        "delete": lambda: one.delete(name),
        "info": lambda: one.info(name),
        "start": lambda: one.start(name),
        "power_off": lambda: one.power_off(name),
        "rebuild": lambda: one.rebuild(name, image),
        "snapshot": lambda: one.snapshot(name, "tag"),
        "create_volume": lambda: one.create_volume(name, 8),
    }
    for call, ask in calls.items():
        told = _fault(ask)
        if not isinstance(told, Unsupported):
            assert isinstance(told, CallerFault), call
            assert "no name of ours" in told.message, call
            assert told.message.isprintable(), call
    assert not sent


def _vcenter_disk(one: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    asked: list[int] = []
    create = type(one._store).create_disk

    def creating(self: Any, path: str, size_kib: int, kind: str) -> None:
        asked.append(size_kib << 10)
        create(self, path, size_kib, kind)

    monkeypatch.setattr(type(one._store), "put", lambda *_given: None)
    monkeypatch.setattr(type(one._store), "create_disk", creating)
    return asked.pop


def _xenserver_disk(one: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    monkeypatch.setattr(type(one._link), "upload", lambda *_given: None)

    def told() -> int:
        _, disk = one._disks.root(GUEST, one._guest(GUEST))
        return int(one._link.record("VDI", disk)["virtual_size"])

    return told


def _hyperv_disk(one: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    from nodes.hypervisors.hyperv_link import step  # noqa: PLC0415 - pypsrp may be missing

    paths: list[str] = []

    def put_file(self: Any, source: Path, path: str) -> None:
        shown = proc.run(["qemu-img", "info", "--output=json", str(source)], timeout_s=60)
        self.empty_disk(path, int(json.loads(shown.text)["virtual-size"]))
        paths.append(path)

    def told() -> int:
        shown = step("Select-Object", Property=["Size"])
        return int(one._link.run("look", step("Get-VHD", Path=paths[-1]), shown)[0]["Size"])

    monkeypatch.setattr(type(one._files), "put_file", put_file)
    return told


DISKS = {"vcenter": _vcenter_disk, "xenserver": _xenserver_disk, "hyperv": _hyperv_disk}


@pytest.mark.parametrize("served", list(DISKS), indirect=True)
def test_an_image_at_the_edges_gets_a_disk_that_holds_it(
    served: Served, one: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its bytes are not sent: what is looked at is the size of the disk that was made for it."""
    told = DISKS[served.system](one, monkeypatch)
    for size in EDGES:
        one.launch(GuestSpec(name=GUEST, image=_image(tmp_path, size)))
        assert size <= told() < size + MIB, size
        one.delete(GUEST)


def test_memory_at_the_edges_is_right_or_refused(
    served: Served, one: Any, sent: list[str], tmp_path: Path
) -> None:
    """What no number of 32 bits holds is refused by us, and nobody is asked."""
    for memory_mib in MEMORY.get(served.system, EDGES_MIB):
        spec = GuestSpec(name=GUEST, image=_image(tmp_path), memory_mib=memory_mib)
        sent.clear()
        told = _fault(partial(one.launch, spec))
        if told is None:
            assert one.info(GUEST).memory_mib == memory_mib
            one.delete(GUEST)
            continue
        assert memory_mib == TOO_MUCH_MIB
        assert isinstance(told, CallerFault)
        assert told.message.isprintable()
        assert told.hint
        assert not sent
        assert GUEST not in one.inventory().guests


@pytest.mark.parametrize(("memory_mib", "cpus"), [(0, 1), (-1, 1), (64, 0), (64, 1 << 31)])
def test_a_size_that_is_none_is_refused_before_a_request(
    one: Any, sent: list[str], tmp_path: Path, memory_mib: int, cpus: int
) -> None:
    spec = GuestSpec(name=GUEST, image=_image(tmp_path), memory_mib=memory_mib, cpus=cpus)
    calls: dict[str, Callable[[], object]] = {
        "launch": lambda: one.launch(spec),
        "resize": lambda: one.resize(GUEST, memory_mib=memory_mib, cpus=cpus),
    }
    for call, ask in calls.items():
        told = _fault(ask)
        assert isinstance(told, (CallerFault, Unsupported)), call
    assert isinstance(_fault(calls["launch"]), CallerFault)
    assert not sent


def test_a_wrong_password_is_tried_once(served: Served, sent: list[str]) -> None:
    with pytest.raises(HypervouchError) as told, served.opened(password="not-this-one"):
        pass
    assert isinstance(told.value, LoginRefused)
    assert "not-this-one" not in f"{told.value.message} {told.value.hint}"
    assert len(sent) == LOGINS[served.system], sent


@pytest.mark.parametrize("served", sorted({*STAND_INS} - {"ironic"}), indirect=True)
def test_another_certificate_is_no_refused_login(served: Served) -> None:
    """Ironic's, whose way here is a mock, is in `test_api_faults`."""
    with (
        pytest.raises(CertificateRefused, match="certificate"),
        served.opened(ca_file=None, certificate="00" * 32),
    ):
        pass


@pytest.mark.parametrize("served", sorted({*STAND_INS} - {"ironic"}), indirect=True)
def test_a_port_where_nobody_listens_is_no_refused_login(served: Served) -> None:
    parts = urlsplit(served.url)
    closed = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:1").geturl()
    with pytest.raises(TransientFault), replace(served, url=closed).opened():
        pass


MEETINGS = {
    "vcenter": ("_store", "claim"),
    "xenserver": ("", "_check"),
    "hyperv": ("_files", "claim"),
    "ironic": ("", "_claim"),
    "zvm": ("", "_mark"),
}
"""The part of an adapter, and what `launch` calls of it once it has seen that a name is free."""


MEET_S = 20.0


def test_of_two_launches_of_a_name_one_wins(
    served: Served, one: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both have seen that the name is free; what the loser made goes, the winner's stays."""
    part, called = MEETINGS[served.system]
    both, kind = threading.Barrier(2), type(getattr(one, part) if part else one)
    step = getattr(kind, called)

    def met(self: Any, *given: Any, **more: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(MEET_S)
        return step(self, *given, **more)

    monkeypatch.setattr(kind, called, met)
    spec = GuestSpec(name=GUEST, image=_image(tmp_path), config_drive={"a": b"b"})
    if Feature.GUEST_SETUP_CONFIGDRIVE in one.missing:
        spec = replace(spec, config_drive=None)
    empty = one.inventory()
    with served.opened() as other, ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda session: _fault(partial(session.launch, spec)), (one, other)))
    monkeypatch.undo()
    lost = [error for error in told if error is not None]
    assert len(lost) == 1, told
    assert isinstance(lost[0], CallerFault)
    assert "already" in lost[0].message
    assert one.info(GUEST).state is GuestState.RUNNING
    assert list(one.inventory().guests).count(GUEST) == 1
    one.power_off(GUEST)
    one.start(GUEST)
    one.delete(GUEST)
    assert one.inventory() == empty
    assert one.cleanup() == ()
