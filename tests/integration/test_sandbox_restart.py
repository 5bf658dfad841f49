# SPDX-License-Identifier: Apache-2.0
"""The sandbox keeps what it was told over a stop and over a crash, and stops cleanly."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import paramiko
import pytest

from ci.errors import ReviewServerError
from ci.sandbox.account import ReviewServer
from ci.sandbox.author import Pusher
from tests.kit.many_changes import seed_changes
from tests.kit.sandbox_host import ADMIN_USER, PASSWORD, SandboxHost
from tests.kit.ssh_client import EventTap, query

PROJECT = "acme/virt"
REFUSALS = {b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 413"}
SERVE = """
import sys, threading
from pathlib import Path
from tests.kit.many_changes import seed_changes
from tests.kit.sandbox_host import SandboxHost
host = SandboxHost(Path(sys.argv[1]))
host.create_project(sys.argv[2])
host.start()
where = f"{host.sandbox.url} {host.sandbox.ssh_port}"
Path(sys.argv[1], "where").write_text(where)
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def host(tmp_path: Path) -> SandboxHost:
    return SandboxHost(tmp_path / "host")


def test_a_stop_and_a_start_keep_ports_changes_and_votes(host: SandboxHost, tmp_path: Path):
    host.create_project(PROJECT)
    host.start()
    ports = (host.sandbox.ssh_port, host.sandbox.http_port)
    author = Pusher(host.admin, PROJECT, tmp_path / "author")
    change = author.push_change("Fix", {"a": "1\n"})
    Pusher(host.ci, PROJECT, tmp_path / "ci").review(change, "ok", labels={"Verified": 1})
    host.stop()
    host.stop()
    host.start()
    try:
        assert (host.sandbox.ssh_port, host.sandbox.http_port) == ports
        assert author.votes(change) == {host.ci.user: 1}
        assert query(host.ci, "status:open")[0]["number"] == change.number
        assert author.push_change("Next", {"b": "1\n"}).number == change.number + 1
    finally:
        host.stop()


def test_a_crash_loses_nothing(tmp_path: Path):
    directory = tmp_path / "host"
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(directory), PROJECT],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        server = _as_admin(directory)
        author = Pusher(server, PROJECT, tmp_path / "author")
        change = author.push_change("Fix", {"a": "1\n"})
        author.review(change, "ok", labels={"Verified": -1})
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    host = SandboxHost(directory)
    host.start()
    try:
        assert Pusher(host.admin, PROJECT, tmp_path / "again").votes(change) == {"admin": -1}
    finally:
        host.stop()


def _as_admin(directory: Path) -> ReviewServer:
    """The server of another process, as that process printed it."""
    known_hosts = directory / "state" / "known_hosts"
    url, ssh_port = (directory / "where").read_text().split()
    return ReviewServer(
        host="127.0.0.1",
        ssh_port=int(ssh_port),
        url=url,
        user=ADMIN_USER,
        key_file=directory / "keys" / ADMIN_USER,
        password=PASSWORD,
        known_hosts=known_hosts,
    )


def test_a_port_that_was_taken_meanwhile_is_replaced(host: SandboxHost):
    host.start()
    taken = host.sandbox.http_port
    host.stop()
    with socket.create_server(("127.0.0.1", taken)):
        host.start()
        try:
            assert host.sandbox.http_port != taken
            assert httpx.get(f"{host.sandbox.url}/config/server/version").status_code == 200
        finally:
            host.stop()


def test_stopping_leaves_no_thread_and_ends_open_streams(host: SandboxHost):
    before = set(threading.enumerate())
    host.create_project(PROJECT)
    host.start()
    with (
        EventTap(host.ci, nudge=lambda: host.create_project(f"n/{os.urandom(4).hex()}")),
        httpx.Client() as kept_alive,
    ):
        kept_alive.get(f"{host.sandbox.url}/config/server/version")
        host.stop()
        left = [one for one in threading.enumerate() if one not in before]
        for one in left:
            one.join(timeout=10)
        assert [one for one in left if one.is_alive() and one.name.startswith("sandbox")] == []


def test_the_events_log_stands_in_for_the_plugin(tmp_path: Path):
    host = SandboxHost(tmp_path / "host", events_log=True)
    host.create_project(PROJECT)
    host.start()
    try:
        author = Pusher(host.admin, PROJECT, tmp_path / "author")
        change = author.push_change("Fix", {"a": "1\n"})
        author.push_change("Secret", {"b": "1\n"}, options=["private"])
        author.comment(change, "recheck")
        stranger = host.create_account("eve", "Eve", stream_events=False, vote=False)
        address = f"{host.ci.url}/a/plugins/events-log/events/"
        told = httpx.get(address, auth=host.ci.auth, params={"t1": "2026-01-01 00:00:00"})
        late = httpx.get(address, auth=host.ci.auth, params={"t1": "2099-01-01"})
        bad = httpx.get(address, auth=host.ci.auth, params={"t1": "yesterday"})
        assert httpx.get(address, auth=stranger.auth).status_code == 403
    finally:
        host.stop()
    events = [json.loads(line) for line in told.text.splitlines()]
    kinds = [one["type"] for one in events if one["type"] != "ref-updated"]
    assert kinds == ["patchset-created", "comment-added"]
    assert (late.status_code, late.text) == (200, "")
    assert bad.status_code == 400


def test_many_changes_are_found_page_by_page(tmp_path: Path):
    host = SandboxHost(tmp_path / "host")
    host.create_project(PROJECT)
    seed_changes(host.sandbox, PROJECT, 1_200, owner=ADMIN_USER, at=time.time(), commits=True)
    host.start()
    try:
        author = Pusher(host.admin, PROJECT, tmp_path / "author")
        newest = author.push_change("Fix", {"a": "1\n"})
        assert newest.number == 1_201
        seen: list[int] = []
        for start in range(0, 1_500, 500):
            path = f"/changes/?q=status:open&S={start}&n=500&o=CURRENT_REVISION&o=MESSAGES"
            page = host.ci.rest("GET", path)
            seen += [one["_number"] for one in page]
        assert seen == list(range(1_201, 0, -1))
        author.git("fetch", "-q", "origin", "refs/changes/77/1177/1")
        assert author.git("show", "FETCH_HEAD:seed-1177.txt") == "1177\n"
        row = query(host.ci, "--current-patch-set", "--files", "change:1177")[0]
        assert row["currentPatchSet"]["files"][1]["file"] == "seed-1177.txt"
    finally:
        host.stop()


def test_addresses_need_a_running_sandbox(host: SandboxHost):
    with pytest.raises(ReviewServerError, match="not running"):
        _ = host.sandbox.url


def test_a_name_that_is_no_project_is_refused(host: SandboxHost):
    for name in ("../up", "a..b", "-x", "", "a/.git/b", "x\ny", "a.git"):
        with pytest.raises(ReviewServerError, match="not a project name"):
            host.create_project(name)


def test_a_body_in_chunks_is_put_together(host: SandboxHost, tmp_path: Path):
    host.create_project(PROJECT)
    host.start()
    try:
        author = Pusher(host.admin, PROJECT, tmp_path / "author")
        change = author.push_change("Fix", {"a": "1\n"})
        reply = httpx.post(
            f"{host.admin.url}/a/changes/{change.id}/revisions/1/review",
            content=iter([b'{"message": "in', b" two ", b'parts"}']),
            headers={"Content-Type": "application/json"},
            auth=host.admin.auth,
        )
        assert reply.status_code == 200
        assert author.messages(change)[-1]["message"] == "Patch Set 1:\n\nin two parts"
    finally:
        host.stop()


def test_an_unbalanced_quote_in_a_query_is_forgiven(host: SandboxHost):
    host.start()
    try:
        with _connected(host) as client:
            _, out, _ = client.exec_command('gerrit query --format json status:open"')
            assert b'"rowCount":0' in out.read()
    finally:
        host.stop()


def test_a_silent_client_and_a_rude_one_do_no_harm(host: SandboxHost):
    host.start()
    try:
        with socket.create_connection(("127.0.0.1", host.sandbox.ssh_port)) as rude:
            rude.sendall(b"\0" * 4096)
        address = ("127.0.0.1", host.sandbox.http_port)
        for request in (
            b"POST /changes/ HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            b"POST /changes/ HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /changes/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /changes/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n",
            b"GET /a/changes/ HTTP/1.1\r\nAuthorization: Basic ####\r\nConnection: close\r\n\r\n",
        ):
            with socket.create_connection(address, timeout=10) as rude:
                rude.sendall(request)
                assert rude.recv(12) in REFUSALS
        with _connected(host) as client:
            _, out, _ = client.exec_command("gerrit version")
            assert out.read().startswith(b"gerrit version 3.")
    finally:
        host.stop()


def test_a_password_is_kept_as_a_digest(host: SandboxHost, tmp_path: Path):
    host.stop()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "host" / "state").glob("sandbox*"))
    assert PASSWORD.encode() not in stored.replace(b"secrets", b"")


def _connected(host: SandboxHost) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.load_host_keys(str(host.sandbox.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        "127.0.0.1",
        port=host.sandbox.ssh_port,
        username=host.ci.user,
        key_filename=str(host.ci.key_file),
        look_for_keys=False,
        allow_agent=False,
    )
    return client
