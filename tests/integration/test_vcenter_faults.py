# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between the vCenter adapter and a vCenter: each is a named fault of infra."""

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nodes.hypervisors.base import GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.lab.apis import ApiHost
from tests.kit.faulty_tcp import TcpFront
from tests.kit.vcenter import Simulator, guest_spec, simulator

GUEST, THEIRS = "hv-faults", "DC0_C0_RP0_VM0"
_FAULT = b"<faultcode>x</faultcode><faultstring>a word of the vendor</faultstring>"
SOAP_FAULT = (
    b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
    b"<e:Fault>" + _FAULT + b"</e:Fault></e:Body></e:Envelope>"
)


# The first test of a machine builds the simulator.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("vcenter")) as made:
        yield made


@pytest.fixture
def hypervisor(vcenter: Simulator) -> Iterator[Any]:
    with vcenter.connected() as made:
        try:
            yield made
        finally:
            vcenter.mend()
            made.cleanup()


def digest(host: ApiHost) -> str:
    return sha256(ssl.PEM_cert_to_DER_cert(host.ca_file.read_text())).hexdigest()


def at_port(made: Simulator, port: int) -> Simulator:
    return replace(made, url=f"vcenter://hypervouch@127.0.0.1:{port}/DC0/DC0_C0")


# The way there -----------------------------------------------------------------------------


def test_a_wrong_password_is_tried_once(vcenter: Simulator) -> None:
    before = vcenter.calls().get("Login", 0)
    with pytest.raises(NodeFault, match="InvalidLogin"), vcenter.connected(password="wrong"):
        pass

    assert vcenter.calls()["Login"] == before + 1


def test_no_password_is_our_own_fault(vcenter: Simulator) -> None:
    with pytest.raises(CallerFault, match="no password"), vcenter.connected(password=""):
        pass


def test_a_pinned_certificate_is_enough(vcenter: Simulator) -> None:
    pinned = digest(vcenter.host)
    with vcenter.connected(ca_file=None, certificate=pinned.upper()) as hypervisor:
        assert hypervisor.system().key == "vmware"


def test_another_certificate_is_refused(vcenter: Simulator, tmp_path: Path) -> None:
    other = ApiHost(tmp_path / "other")
    other.password()
    other._certify()
    before = vcenter.calls().get("Login", 0)
    for changes in (
        {"ca_file": other.ca_file},
        {"ca_file": None},
        {"ca_file": None, "certificate": digest(other)},
    ):
        with pytest.raises(NodeFault, match="certificate"), vcenter.connected(**changes):
            pass

    assert vcenter.calls().get("Login", 0) == before


@pytest.mark.parametrize("by", ["ca-file", "pin"])
def test_another_certificate_is_refused_on_later_connections(
    vcenter: Simulator, tmp_path: Path, by: str
) -> None:
    """Somebody takes the server's place after the login: the pool's next connection is refused."""
    pinned = {"ca_file": None, "certificate": digest(vcenter.host)} if by == "pin" else {}
    port = int(vcenter.url.partition("@127.0.0.1:")[2].partition("/")[0])
    with (
        TcpFront("127.0.0.1", port) as front,
        _answering(tmp_path, 200) as other,
        at_port(vcenter, front.port).connected(**pinned) as hypervisor,
    ):
        front._target = ("127.0.0.1", other.server_address[1])
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(lambda _: _fault(hypervisor.status), range(8)))
        front.cut()
        told += [_fault(hypervisor.status), _fault(hypervisor.status)]

    refused = [one for one in told if isinstance(one, NodeFault)]
    assert refused
    assert all("certificate" in str(one) for one in refused)
    assert other.asked == 0


def test_a_server_that_says_nothing_is_not_waited_for_without_end(vcenter: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = at_port(vcenter, silent.getsockname()[1])
        with pytest.raises(TransientFault, match="timed out"):
            there.connected(timeout_s=1.0)


def test_a_port_without_tls_is_told(vcenter: Simulator) -> None:
    port = int(vcenter.door.rpartition(":")[2])
    with pytest.raises(NodeFault, match="speaks no TLS"):
        at_port(vcenter, port).connected()


def test_a_closed_port_may_open_again(vcenter: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with pytest.raises(TransientFault, match=r"connect to 127\.0\.0\.1"):
        at_port(vcenter, port).connected()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (503, TransientFault),
        (502, TransientFault),
        (403, NodeFault),
        (401, NodeFault),
        (200, NodeFault),
    ],
)
def test_what_is_no_soap_is_told(
    vcenter: Simulator, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    with _answering(tmp_path, status) as server:
        there = at_port(vcenter, server.server_address[1])
        with pytest.raises(kind):
            there.connected(ca_file=server.host.ca_file)

    assert server.asked <= 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((503, "text/html", b"<p>busy</p>"), (TransientFault, "503")),
        ((500, "text/html", b"<p>broken</p>"), (TransientFault, "500")),
        ((401, "text/html", b""), (NodeFault, "401")),
        ((403, "text/html", b""), (NodeFault, "403")),
        ((200, "text/html", b"<p>a proxy</p>"), (NodeFault, "no SOAP: it is text/html")),
        ((200, "text/xml", b"<p>no</p>"), (NodeFault, "no SOAP: it tells no result")),
        ((200, "text/xml", b"hello"), (NodeFault, "no SOAP")),
        ((200, "text/xml", b""), (NodeFault, "no SOAP")),
        ((500, "text/xml", b"<p>no</p>"), (NodeFault, "no SOAP")),
        ((500, "text/xml", SOAP_FAULT), (NodeFault, "a word of the vendor")),
    ],
    ids=str,
)
def test_a_strange_answer_in_mid_session_is_told(
    vcenter: Simulator, tmp_path: Path, answer: Any, told: tuple[type[Exception], str]
) -> None:
    port = int(vcenter.url.partition("@127.0.0.1:")[2].partition("/")[0])
    with (
        TcpFront("127.0.0.1", port) as front,
        _answering(tmp_path, answer[0], vcenter.host) as other,
        at_port(vcenter, front.port).connected() as hypervisor,
    ):
        _, other.kind, other.body = answer
        front._target = ("127.0.0.1", other.server_address[1])
        hypervisor._link._stub.DropConnections()
        with pytest.raises(told[0], match=told[1]):
            hypervisor.inventory()
        place = hypervisor._place
        file = (place.datacenter_name, place.datastore_name, "x")
        if answer[0] != 200:
            with pytest.raises((NodeFault, TransientFault), match=f"HTTP {answer[0]}"):
                hypervisor._link.put(*file, b"x")


# The session -------------------------------------------------------------------------------


def test_a_session_that_was_ended_is_opened_once_more(
    vcenter: Simulator, hypervisor: Any, tmp_path: Path
) -> None:
    hypervisor.launch(guest_spec(GUEST, tmp_path))
    with vcenter.link() as link:
        manager = link.content.sessionManager
        own = link.props(manager, "currentSession")["currentSession"].key
        found = link.props(manager, "sessionList")["sessionList"]
        before = vcenter.calls()["Login"]
        manager.TerminateSession([one.key for one in found if one.key != own])
    with ThreadPoolExecutor(4) as pool:
        states = set(pool.map(lambda _: hypervisor.info(GUEST).state, range(8)))

    assert states == {GuestState.RUNNING}
    assert vcenter.calls()["Login"] == before + 1


def test_a_session_that_cannot_be_opened_anew_is_not_tried_for_ever(
    vcenter: Simulator, hypervisor: Any
) -> None:
    before = vcenter.calls()["Login"]
    vcenter.fail("RetrievePropertiesEx", "not-authenticated", times=100)

    with pytest.raises(TransientFault, match="NotAuthenticated"):
        hypervisor.inventory()
    assert vcenter.calls()["Login"] == before + 1


def test_a_password_that_was_changed_meanwhile_is_tried_once(
    vcenter: Simulator, hypervisor: Any
) -> None:
    with vcenter.connected() as other:
        other._link._password = "of yesterday"
        vcenter.fail("FindChild", "not-authenticated", times=100)
        before = vcenter.calls()["Login"]
        for _ in range(3):
            with pytest.raises(NodeFault, match="InvalidLogin"):
                other.info(GUEST)
        assert vcenter.calls()["Login"] == before + 1
        vcenter.mend()


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        ("not-authenticated", None, ""),
        ("no-permission", NodeFault, "NoPermission"),
        ("invalid-state", TransientFault, "InvalidState"),
        ("in-use", TransientFault, "ResourceInUse"),
        ("no-memory", NodeFault, "InsufficientResourcesFault"),
        ("host", TransientFault, "HostNotConnected"),
        ("file-locked", TransientFault, "FileLocked"),
        ("timeout", TransientFault, "Timedout"),
    ],
)
def test_a_fault_keeps_its_name(
    vcenter: Simulator,
    hypervisor: Any,
    tmp_path: Path,
    row: tuple[str, type[Exception] | None, str],
) -> None:
    fault, kind, word = row
    vcenter.fail("PowerOnVM_Task", fault)
    if kind is None:  # once is healed by another login
        hypervisor.launch(guest_spec(GUEST, tmp_path))
        assert hypervisor.info(GUEST).state is GuestState.RUNNING
        return
    with pytest.raises(kind, match=word):
        hypervisor.launch(guest_spec(GUEST, tmp_path))

    assert GUEST not in hypervisor.inventory().guests
    assert hypervisor._store.read(f"{hypervisor._store.home}/{GUEST}/root.vmdk") == b""


def test_an_upload_that_breaks_off_is_told(vcenter: Simulator, tmp_path: Path) -> None:
    large = tmp_path / "large.raw"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    port = int(vcenter.url.partition("@127.0.0.1:")[2].partition("/")[0])
    with (
        TcpFront("127.0.0.1", port) as front,
        at_port(vcenter, front.port).connected() as hypervisor,
    ):
        store = hypervisor._store
        store.mkdir(f"{store.home}/hv-upload")
        front.freeze()
        broken = threading.Timer(0.3, lambda: (front.thaw(), front.cut()))
        broken.start()
        with pytest.raises(TransientFault, match="write"):
            store.put(f"{store.home}/hv-upload/large", large)
        broken.join()
        assert hypervisor.cleanup() == ()
        assert not store.guest_folders()


def test_a_server_that_is_killed_meanwhile_is_told(tmp_path: Path) -> None:
    with simulator(tmp_path, ["-task-delay=60000"]) as made, made.connected() as hypervisor:
        ended = threading.Timer(1.0, os.kill, (made.pid, signal.SIGKILL))
        ended.start()
        with pytest.raises(TransientFault, match="power off") as first:
            hypervisor._halt(THEIRS, hypervisor._find(THEIRS))
        with pytest.raises(TransientFault):
            hypervisor.inventory()
        ended.join()
        assert list(made.host.scratch.iterdir()), "its temporary files lie elsewhere"

    assert first.value.retryable
    assert not made.host.scratch.exists()


def test_a_task_that_never_ends_is_cancelled(tmp_path: Path) -> None:
    with simulator(tmp_path, ["-task-delay=60000"]) as made:
        raised = pytest.raises(TransientFault, match="not ended in 1 s")
        with made.connected(timeout_s=1.0) as hypervisor, raised:
            hypervisor._halt(THEIRS, hypervisor._find(THEIRS))
        assert made.calls()["CancelTask"] == 1


def test_a_call_that_is_not_answered_ends(vcenter: Simulator) -> None:
    vcenter.fail("PowerOffVM_Task", "timeout", delay_ms=5000)
    began = time.monotonic()
    with vcenter.connected(timeout_s=1.0) as hypervisor, pytest.raises(TransientFault):
        hypervisor._halt(THEIRS, hypervisor._find(THEIRS))
    vcenter.mend()

    assert time.monotonic() - began < 60


def test_a_slow_vcenter_is_waited_for(tmp_path: Path) -> None:
    with simulator(tmp_path, ["-delay=50"]) as made, made.connected() as hypervisor:
        assert hypervisor._state(hypervisor._find(THEIRS)) is GuestState.RUNNING
        assert hypervisor.inventory().guests


# Helpers -----------------------------------------------------------------------------------


def _fault(what: Any) -> Exception | None:
    try:
        what()
    except (NodeFault, TransientFault) as error:
        return error
    return None


class _Server(ThreadingHTTPServer):
    """HTTPS with a certificate of its own that gives one answer to whatever it is asked."""

    daemon_threads = True
    block_on_close = False
    host: ApiHost
    status: int
    kind: str = "text/html"
    body: bytes = b"<p>no</p>"
    asked: int = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that refuses the certificate is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_PUT = do_POST  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the tests' output quiet."""


@contextmanager
def _answering(folder: Path, status: int, like: ApiHost | None = None) -> Iterator[_Server]:
    host = like or ApiHost(folder / "answering")
    host.password()
    host._certify()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host.ca_file, host.key_file)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.host, server.status = host, status
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            server.shutdown()
            server.server_close()
        thread.join()
