# SPDX-License-Identifier: Apache-2.0
"""What the contract of runners leaves to WinRM: logins, certificates, faults, dead holders.

The counterpart is our own emulator: these tests show the protocol, and nothing of Windows.
"""

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ci.errors import CollectError, ConfigError, NodeUnavailable
from ci.model.node import Endpoint
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


def test_what_a_dead_holder_left_ends_before_the_next_tree(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    command = (
        f"setsid sh -c 'echo $$ >{tmp_path}/pid-1; exec sleep 300' &"
        f" echo $$ >{tmp_path}/pid-2; trap '' INT TERM; sleep 300; sleep 300"
    )
    first, ended = connect(endpoint), []
    first.put()

    def hold() -> None:
        try:
            ended.append(first.run(command, deadline=within(120)))
        except NodeUnavailable as error:
            ended.append(error)

    holder = threading.Thread(target=hold)
    holder.start()
    ends = time.monotonic() + 30
    while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < ends:
        time.sleep(0.05)
    neighbour = connect(replace(endpoint, workdir=f"{endpoint.workdir}2"))
    neighbour.put()
    assert neighbour.run(f"sleep 300 & echo $! >{tmp_path}/other") == 0
    second = connect(endpoint)
    second.put({"new.txt": b"new"})
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)
    assert is_alive(int((tmp_path / "other").read_text()))
    holder.join(60)
    assert len(ended) == 1
    assert second.run("ls") == 0
    assert bytes(second.output) == b"new.txt\n"
    for session in (first, second, neighbour):
        session.end()
    assert not is_alive(int((tmp_path / "other").read_text()))


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
