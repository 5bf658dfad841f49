# SPDX-License-Identifier: Apache-2.0
"""The event stream and catch-up against a real Gerrit and the sandbox."""

import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from ci.errors import HypervouchError, ReviewServerError
from ci.gerrit import catchup
from ci.gerrit.parse import Ignored, parse_line
from ci.gerrit.rest import GerritRest
from ci.gerrit.ssh import AccessError, PinnedConnection
from ci.gerrit.stream import EventStream
from ci.model.event import Event
from ci.model.event_key import same_fact
from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit.hearing import listening, rest_of, settings, until
from tests.kit.sandbox_host import SandboxHost

pytestmark = pytest.mark.timeout(600)

Host = RealGerrit | SandboxHost


@pytest.fixture(params=["sandbox_host", pytest.param("real_gerrit", marks=pytest.mark.integration)])
def host(request: pytest.FixtureRequest) -> Host:
    """Both servers: what holds on one must hold on the other."""
    server: Host = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def project(host: Host, request: pytest.FixtureRequest) -> str:
    name = f"hv/{request.node.originalname}"
    host.create_project(name)
    return name


@pytest.fixture
def pusher(host: Host, project: str, tmp_path: Path) -> Pusher:
    return Pusher(host.admin, project, tmp_path / "clone")


def new_change(pusher: Pusher, name: str = "a") -> PushedChange:
    return pusher.push_change(f"Change {name}", {f"{name}.txt": name})


def test_a_burst_reaches_a_slow_handler_whole_and_in_order(
    host: Host, project: str, pusher: Pusher
) -> None:
    change = new_change(pusher)
    with listening(settings(host.ci), work=lambda _: time.sleep(0.2)) as heard:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: pusher.comment(change, f"number {n}"), range(30)))
        until(lambda: len(heard.events(project)) == 30)
    texts = {event.texts[0] for event in heard.events(project)}
    assert texts == {f"number {n}" for n in range(30)}
    assert heard.error is None


def test_what_happens_during_catch_up_waits_for_its_end(
    host: Host, project: str, pusher: Pusher
) -> None:
    change = new_change(pusher)
    with listening(
        settings(host.ci), on_connected=lambda: pusher.comment(change, "meanwhile")
    ) as heard:
        until(lambda: heard.events(project))
    assert heard.connected == [0]
    assert heard.events(project)[0].texts == ("meanwhile",)


def test_only_wanted_types_are_sent(host: Host, project: str, pusher: Pusher) -> None:
    with listening(settings(host.ci)) as heard:
        change = new_change(pusher)
        pusher.push_branch({"other.txt": "told as ref-updated, to those who ask"})
        pusher.comment(change, "last")
        until(lambda: len(heard.events(project)) == 2)
    read = [parse_line(one, "review") for one in heard.lines]
    assert not [one for one in read if isinstance(one, Ignored) and not one.expected]


def test_stop_is_prompt_and_repeatable(host: Host) -> None:
    with listening(settings(host.ci)) as heard:
        assert heard.thread is not None
        began = time.monotonic()
        heard.stream.stop()
        heard.thread.join(5)
        assert time.monotonic() - began < 1
        heard.stream.stop()
    assert heard.error is None


def test_what_the_handler_raises_ends_the_stream(host: Host, project: str, pusher: Pusher) -> None:
    def full(_: bytes) -> None:
        raise HypervouchError("disk full")

    with listening(settings(host.ci), work=full) as heard:
        new_change(pusher)
        until(lambda: heard.error)
    assert str(heard.error) == "disk full"


class Frozen:
    """A way to a server which at some point carries nothing more, and says nothing either."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.frozen = threading.Event()
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            here, _ = self._listener.accept()
            there = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [here, there]
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                if not self.frozen.is_set():
                    other.sendall(data)

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_a_half_open_connection_is_noticed(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.gerrit.stream.ANSWER_TIMEOUT_S", 1.0)
    way = Frozen(host.ci.ssh_port)
    pins = tmp_path / "known_hosts"
    text = host.ci.known_hosts.read_text()
    pins.write_text(text.replace(f":{host.ci.ssh_port}", f":{way.port}"))
    try:
        connection = settings(host.ci, port=way.port, known_hosts=pins, keepalive_s=1)
        with listening(connection) as heard:
            time.sleep(3)
            assert [heard.error] == [None]
            way.frozen.set()
            until(lambda: heard.error, patience_s=10)
    finally:
        way.close()
    assert isinstance(heard.error, ReviewServerError)
    assert heard.error.retryable


class TestAccess:
    """Each way of not getting in names its fix."""

    def test_unknown_host_key(self, host: Host, tmp_path: Path) -> None:
        pins = tmp_path / "known hosts"
        connection = settings(host.ci, known_hosts=pins)
        with pytest.raises(AccessError) as caught:
            PinnedConnection(connection).connect()
        command = f"ssh-keyscan -p {host.ci.ssh_port} 127.0.0.1 >> '{pins}'"
        assert command in caught.value.hint
        assert "SHA256:" in caught.value.message
        done = subprocess.run(command, shell=True, capture_output=True, check=True)  # noqa: S602
        assert done.returncode == 0
        PinnedConnection(connection).connect().close()

    def test_a_peer_that_acknowledges_nothing_is_given_up_by_the_kernel(self, host: Host) -> None:
        client = PinnedConnection(settings(host.ci, keepalive_s=7)).connect()
        transport = client.get_transport()
        assert transport is not None
        assert isinstance(transport.sock, socket.socket)
        kept_ms = transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        client.close()
        assert kept_ms == 21_000

    def test_changed_host_key(self, host: Host, tmp_path: Path) -> None:
        pins = tmp_path / "known_hosts"
        name = f"[127.0.0.1]:{host.ci.ssh_port}"
        other = Path(f"{host.ci.key_file}.pub").read_text().split()[:2]
        pins.write_text(f"{name} {' '.join(other)}\n")
        with pytest.raises(AccessError, match="has changed") as caught:
            PinnedConnection(settings(host.ci, known_hosts=pins)).connect()
        assert f"ssh-keygen -R '{name}'" in caught.value.hint

    def test_unreadable_known_hosts(self, host: Host, tmp_path: Path) -> None:
        with pytest.raises(AccessError, match="known_hosts file"):
            PinnedConnection(settings(host.ci, known_hosts=tmp_path)).connect()

    def test_key_of_another_account(self, host: Host) -> None:
        connection = settings(host.ci, key_file=host.admin.key_file)
        with pytest.raises(AccessError) as caught:
            PinnedConnection(connection).connect()
        assert host.ci.user in caught.value.message
        assert f"{host.admin.key_file}.pub" in caught.value.hint

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["-t", "rsa", "-m", "PKCS8", "-N", ""], "PKCS#8"),
            (["-t", "ed25519", "-N", "secret"], "passphrase"),
            (["-t", "rsa", "-m", "PEM", "-N", "secret"], "passphrase"),
        ],
        ids=["pkcs8", "openssh-passphrase", "pem-passphrase"],
    )
    def test_unusable_key_file(
        self, host: Host, tmp_path: Path, options: list[str], complaint: str
    ) -> None:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", *options, "-f", key], check=True)
        with pytest.raises(AccessError, match=complaint):
            PinnedConnection(settings(host.ci, key_file=key)).connect()

    def test_a_key_file_cut_short(self, host: Host, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("\n".join(host.ci.key_file.read_text().splitlines()[:3]))
        with pytest.raises(AccessError, match="not a private key"):
            PinnedConnection(settings(host.ci, key_file=key)).connect()

    def test_no_stream_events_capability(self, host: Host) -> None:
        account = host.create_account("deaf-ci", "Deaf CI", stream_events=False, vote=True)
        stream = EventStream(settings(account), lambda _: None, lambda: None)
        with pytest.raises(AccessError, match="deaf-ci may not read") as caught:
            stream.run_once()
        assert "Stream Events" in caught.value.hint
        assert not caught.value.retryable

    def test_nobody_listens(self, host: Host) -> None:
        stream = EventStream(settings(host.ci, port=1), lambda _: None, lambda: None)
        with pytest.raises(ReviewServerError, match="cannot be reached") as caught:
            stream.run_once()
        assert caught.value.retryable

    def test_not_an_ssh_server(self, host: Host) -> None:
        connection = settings(host.ci, port=httpx.URL(host.ci.url).port)
        with pytest.raises(ReviewServerError) as caught:
            PinnedConnection(connection).connect()
        assert caught.value.retryable

    def test_no_such_host(self, host: Host) -> None:
        connection = settings(host.ci, server="no-such-host.invalid")
        with pytest.raises(ReviewServerError, match="cannot be resolved") as caught:
            PinnedConnection(connection).connect()
        assert caught.value.retryable

    def test_wrong_http_password(self, host: Host) -> None:
        with (
            GerritRest(settings(host.ci), "wrong") as rest,
            pytest.raises(ReviewServerError, match="401") as caught,
        ):
            rest.account_self()
        assert "new HTTP password" in caught.value.hint


def stir(pusher: Pusher, *, whole_patchset: bool) -> int:
    """Everything that both the stream and a query can tell; returns how many events that is.

    Args:
        pusher: Does it, on two changes.
        whole_patchset: With a text on a patch set as a whole, which the sandbox has not.
    """
    first, second = new_change(pusher, "one"), new_change(pusher, "two")
    pusher.comment(first, "recheck xen\n\nbecause of  blanks\r\nand lines")
    if whole_patchset:
        whole = {"comments": {"/PATCHSET_LEVEL": [{"message": "recheck"}]}}
        pusher.review(first, "", extra=whole)
    inline = {"comments": {"one.txt": [{"line": 1, "message": "why?"}]}}
    pusher.review(first, "", extra=inline)
    pusher.review(first, "fine", labels={"Code-Review": 1})
    first = pusher.amend(first, {"one.txt": "better"})
    pusher.comment(first, 'odd <b>&amp; "text" \u00e9 \U0001f600 \u2028 \x07')
    pusher.abandon(second, "not now")
    pusher.restore(second)
    pusher.review(second, "", labels={"Code-Review": -1})
    return 11 if whole_patchset else 10


def newest_uploads(events: list[Event]) -> list[Event]:
    newest = {
        event.change.number: event.key for event in events if event.key.startswith("patchset")
    }
    return [
        event
        for event in events
        if not event.key.startswith("patchset") or newest[event.change.number] == event.key
    ]


def test_catch_up_tells_the_same_facts_as_the_stream(
    host: Host, project: str, pusher: Pusher
) -> None:
    with listening(settings(host.ci)) as heard, rest_of(host.ci) as rest:
        since = rest.server_time()
        count = stir(pusher, whole_patchset=isinstance(host, RealGerrit))
        until(lambda: len(heard.events(project)) == count)
        found = list(catchup.read(rest, "review", since, [project], overlap_s=0).events)
    told = newest_uploads(heard.events(project))
    left = list(found)
    for event in told:
        twin = next((one for one in left if same_fact(one.key, event.key)), None)
        assert twin is not None, event.key
        left.remove(twin)
        assert twin.change.project == event.change.project
        assert (twin.author, twin.patchset) == (event.author, event.patchset)
        assert "\n".join(twin.texts) == "\n".join(event.texts)
    assert left == []
    assert [one.occurred_at for one in found] == sorted(one.occurred_at for one in found)


def test_catch_up_finds_what_was_pushed_while_nobody_listened(
    host: Host, project: str, pusher: Pusher
) -> None:
    with rest_of(host.ci) as rest:
        since = rest.server_time()
        changes = [new_change(pusher, f"c{n}") for n in range(5)]
        merged = new_change(pusher, "merged")
        pusher.submit(merged)
        found = list(catchup.read(rest, "review", since, [project, "hv/other"]).events)
        keys = [event.key for event in found]
        for change in changes:
            assert f"patchset-created:{change.number}:1" in keys
        assert any(key.startswith(f"change-merged:{merged.number}:") for key in keys)
        assert f"patchset-created:{merged.number}:1" not in keys
        assert list(catchup.read(rest, "review", since, ["hv/other"]).events) == []
        later = datetime.fromtimestamp(since.timestamp() + 3600, since.tzinfo)
        assert list(catchup.read(rest, "review", later, [project]).events) == []


def test_many_pages_are_read(
    host: Host,
    project: str,
    pusher: Pusher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ci.gerrit.catchup.PAGE", 2)
    with rest_of(host.ci) as rest:
        since = rest.server_time()
        numbers = [new_change(pusher, f"p{n}").number for n in range(5)]
        found = list(catchup.read(rest, "review", since, [project]).events)
    assert [event.change.number for event in found] == numbers


@pytest.mark.integration
def test_gerrit_killed_in_mid_stream_is_noticed_and_caught_up(
    real_gerrit: RealGerrit, tmp_path: Path
) -> None:
    project = "hv/killed"
    real_gerrit.create_project(project)
    pusher = Pusher(real_gerrit.admin, project, tmp_path / "clone")
    new_change(pusher, "before")
    with listening(settings(real_gerrit.ci)) as heard, rest_of(real_gerrit.ci) as rest:
        since = rest.server_time()
        during = new_change(pusher, "during")
        real_gerrit.kill()
        began = time.monotonic()
        until(lambda: heard.error)
        noticed_s = time.monotonic() - began
        assert isinstance(heard.error, ReviewServerError)
        assert heard.error.retryable
        assert noticed_s < 5
        with pytest.raises(ReviewServerError) as caught:
            rest.version()
        assert caught.value.retryable
        real_gerrit.start()
        with listening(settings(real_gerrit.ci)) as again:
            after = new_change(pusher, "after")
            until(lambda: again.events(project))
            keys = [event.key for event in catchup.read(rest, "review", since, [project]).events]
    assert f"patchset-created:{during.number}:1" in keys
    assert f"patchset-created:{after.number}:1" in keys
