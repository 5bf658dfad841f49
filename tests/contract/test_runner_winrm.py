# SPDX-License-Identifier: Apache-2.0
"""What the contract of runners leaves to WinRM: logins, certificates, faults, dead holders.

The counterpart is our own emulator: these tests show the protocol, and nothing of Windows.
"""

import hashlib
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ci.cancel import CancelToken
from ci.errors import BuildCanceled, CollectError, ConfigError, NodeUnavailable
from ci.model.node import Endpoint
from ci.model.result import Grade
from ci.runners.stop import Grace
from ci.runners.table import runner_for
from tests.kit import winrs
from tests.kit.sessions import GRACE, Node, connect, is_alive, within


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winrs.Winrs]:
    with winrs.running(tmp_path_factory.mktemp("winrs")) as stand_in:
        yield stand_in


@pytest.fixture
def endpoint(windows: winrs.Winrs, tmp_path: Path) -> Iterator[Endpoint]:
    yield windows.endpoint(tmp_path / "node")
    windows.misbehave()


@pytest.fixture
def node(endpoint: Endpoint) -> Iterator[Node]:
    made = connect(endpoint)
    yield made
    made.end()


def digest(windows: winrs.Winrs) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(windows.host.ca_file.read_text())).hexdigest()


def test_a_pinned_certificate_is_taken_whoever_signed_it(
    windows: winrs.Winrs, tmp_path: Path
) -> None:
    pinned = windows.endpoint(tmp_path / "node", ca_file=None, certificate=digest(windows))
    node = connect(pinned)
    node.put()
    assert node.run("echo hello") == 0
    node.end()


@pytest.mark.parametrize(
    ("login", "text"),
    [
        ({"ca_file": None}, "certificate that is not trusted"),
        ({"ca_file": None, "certificate": "ab" * 32}, "certificate that is not trusted"),
    ],
)
def test_another_certificate_is_refused(
    windows: winrs.Winrs, tmp_path: Path, login: dict[str, object], text: str
) -> None:
    with pytest.raises(NodeUnavailable, match=text) as error:
        connect(windows.endpoint(tmp_path / "node", **login))
    assert error.value.hint


def test_the_password_comes_from_a_variable_too(
    windows: winrs.Winrs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINDOWS_PASSWORD", windows.host.password())
    by_variable = {"password_file": None, "password_env": "WINDOWS_PASSWORD"}
    connect(windows.endpoint(tmp_path / "node", **by_variable)).end()
    monkeypatch.setenv("WINDOWS_PASSWORD", "wrong")
    with pytest.raises(NodeUnavailable, match="refuses our password") as error:
        connect(windows.endpoint(tmp_path / "node", **by_variable))
    assert not error.value.retryable
    assert "wrong" not in error.value.message
    monkeypatch.delenv("WINDOWS_PASSWORD")
    with pytest.raises(ConfigError, match="WINDOWS_PASSWORD"):
        connect(windows.endpoint(tmp_path / "node", **by_variable))


@pytest.mark.parametrize("grade", [Grade.NONE, Grade.BARE])
def test_our_emulator_is_never_taken_for_a_windows(endpoint: Endpoint, grade: Grade) -> None:
    with pytest.raises(ConfigError, match="our emulator of WinRM"):
        connect(replace(endpoint, grade=grade))


def test_the_proxies_of_the_environment_count_for_nothing(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    connect(endpoint).end()


def test_nobody_there(endpoint: Endpoint) -> None:
    with pytest.raises(NodeUnavailable, match="does not answer") as error:
        connect(replace(endpoint, port=1))
    assert error.value.retryable
    with pytest.raises(ConfigError, match="no password"):
        connect(replace(endpoint, winrm=None))


@pytest.mark.parametrize("rule", [{"drop": True}, {"status": 503}])
def test_a_connection_that_breaks_while_a_command_runs(
    windows: winrs.Winrs, node: Node, tmp_path: Path, rule: dict[str, object]
) -> None:
    node.put()
    timer = threading.Timer(0.5, lambda: windows.misbehave(action="Receive", times=1, **rule))
    timer.start()
    try:
        with pytest.raises(NodeUnavailable, match="broke while a command ran"):
            node.run(f"echo $$ >{tmp_path}/pid; exec sleep 300")
    finally:
        timer.join()
    # The service itself lives: it was told, over a new connection, to end what ran.
    assert not is_alive(int((tmp_path / "pid").read_text()))
    with pytest.raises(NodeUnavailable):
        node.run("true")
    with pytest.raises(CollectError) as error:
        node.fetch("*", to=tmp_path / "got")
    assert error.value.retryable


def test_a_node_that_hangs_is_bounded(
    windows: winrs.Winrs, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.runners.winrm.READ_S", 2.0)
    node = connect(endpoint)
    node.put()
    windows.misbehave(delay_s=6, times=50)
    start = time.monotonic()
    try:
        with pytest.raises(NodeUnavailable):
            node.run("sleep 60", deadline=within(1))
    finally:
        windows.misbehave()
    assert time.monotonic() - start < 30
    node.session.close()


def test_a_cancel_while_the_node_stands_still_is_bounded(
    windows: winrs.Winrs, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.runners.winrm.READ_S", 2.0)
    told: list[str] = []
    grace = Grace(interrupt_s=0.5, terminate_s=0.3, kill_s=1.0)
    session = runner_for(endpoint.transport).connect(
        endpoint, within(), grace=grace, tell=told.append
    )
    node, cancel = Node(session, endpoint.workdir), CancelToken()
    node.put()

    def stop() -> None:
        os.kill(windows.pid, signal.SIGSTOP)
        cancel.cancel(BuildCanceled("superseded"))

    timer = threading.Timer(0.5, stop)
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises((BuildCanceled, NodeUnavailable)):
            node.run("trap '' INT TERM; while :; do sleep 0.1; done", cancel=cancel)
        took_s = time.monotonic() - start
    finally:
        timer.join()
        os.kill(windows.pid, signal.SIGCONT)
    assert took_s < 30
    assert told[0].startswith("nobody knows whether it ended")
    with pytest.raises(NodeUnavailable):
        node.run("true")
    assert node.session.kill()
    session.close()


def test_what_cannot_be_ended_is_told_and_the_tree_stays(
    windows: winrs.Winrs, endpoint: Endpoint, node: Node
) -> None:
    node.put({"kept.txt": b"kept"})
    assert node.run("sleep 300 & true") == 0
    other = connect(endpoint)
    windows.misbehave(action="Delete", status=503, times=10)
    with pytest.raises(NodeUnavailable, match="earlier build left and cannot end") as error:
        other.put({"new.txt": b"new"})
    assert error.value.hint
    assert (Path(node.directory) / "kept.txt").exists()
    windows.misbehave()
    other.put({"new.txt": b"new"})
    assert not (Path(node.directory) / "kept.txt").exists()
    other.end()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "ParseError"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        (
            b"HTTP/1.1 302 No\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "sends us elsewhere",
        ),
    ],
)
def test_something_that_is_no_winrm(
    windows: winrs.Winrs, endpoint: Endpoint, answer: bytes, text: str
) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(windows.host.ca_file, windows.host.key_file)
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(NodeUnavailable, match=text) as error:
            connect(replace(endpoint, port=server.server_address[1]))
    assert not error.value.retryable


def test_a_holder_that_was_taken_over_hears_of_it(endpoint: Endpoint, tmp_path: Path) -> None:
    first, ended = connect(endpoint), []
    first.put()

    def hold() -> None:
        try:
            ended.append(first.run(f"echo $$ >{tmp_path}/pid; exec sleep 300"))
        except NodeUnavailable as error:
            ended.append(error)

    holder = threading.Thread(target=hold)
    holder.start()
    ends = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < ends:
        time.sleep(0.05)
    second = connect(endpoint)
    second.put()
    holder.join(60)
    assert len(ended) == 1
    assert ended[0] != 0
    first.end()
    second.end()


def test_the_password_is_nowhere_to_be_seen(
    windows: winrs.Winrs, node: Node, endpoint: Endpoint
) -> None:
    secret = windows.host.password()
    node.put()
    assert node.run("env; cat /proc/[0-9]*/cmdline", env={"PIN": "4711"}) == 0
    assert secret.encode() not in node.output
    assert secret not in repr(endpoint)
    assert urlsplit(windows.url).password is None


def test_a_command_of_two_lines_is_a_mistake_of_the_job(node: Node) -> None:
    node.put()
    with pytest.raises(ConfigError, match="one line"):
        node.run("echo a\necho b")


def test_a_shell_in_a_folder_that_is_not_there(endpoint: Endpoint) -> None:
    session = runner_for(endpoint.transport).connect(endpoint, within(), grace=GRACE)
    with pytest.raises(NodeUnavailable, match="directory name is invalid"):
        Node(session, endpoint.workdir).run("true")
    session.close()
