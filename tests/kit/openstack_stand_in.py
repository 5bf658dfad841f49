# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an OpenStack cloud: as much of Keystone, Glance, Neutron and Nova as we call.

It is no cloud: what it answers is what Nova's API reference says, not what a Nova did. Its servers
are OpenSSH daemons on loopback addresses of their own, with the keys that their user data brings,
so that what follows the boot is real. Whatever it was told outlives the client, as in a cloud.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import yaml

from tests.kit import sshd

USER, PASSWORD, PROJECT = "ci", "not-a-secret", "lab"
BOOT_S = 0.2
GONE_S = 0.3
"""A deleted server is still there for so long, as in Nova, which answers before it deletes."""


CONSOLE = "[    9.1] cloud-init[231]: no datasource\nci-node login: "
UNAUTHORIZED = {
    "error": {
        "code": 401,
        "message": "The request you have made requires authentication.",
        "title": "Unauthorized",
    }
}


class Cloud:
    """What exists, by id; and the HTTP server in front of it. Thread-safe enough for a test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.servers: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, dict[str, Any]] = {}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.broken = ""
        """When set, every server ends in ERROR with this as its fault."""
        self.quota = 100
        """Servers that the project may have."""
        self.unwell = 0
        """So many requests are answered with 503, as by a proxy whose server restarts."""
        self.images = ["debian"]
        self.logins = 0
        self.tokens: set[str] = set()
        self.made = 0
        self.ssh_port = _ssh_port()
        self.lock = threading.Lock()
        cloud = self

        class Bound(_Handler):
            at = cloud

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def options(self) -> dict[str, Any]:
        """What an `openstack` provider is told of it."""
        return {
            "installation": "test",
            "auth-url": f"{self.url}/identity/v3",
            "username": USER,
            "password": {"from-env": "OS_TEST_PASSWORD"},
            "project": PROJECT,
            "image": "debian",
            "flavor": "small",
            "network": "lab",
            "port": self.ssh_port,
            "user": getuser(),
            "workdir": str(self.home / "work"),
        }

    def boot(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a server; its SSH daemon answers a moment later."""
        with self.lock:
            self.made += 1
            number = self.made
        server = {
            "id": str(uuid4()),
            "name": asked["name"],
            "status": "BUILD",
            "metadata": asked.get("metadata", {}),
            "addresses": {},
            "boots_at": time.monotonic() + BOOT_S,
            "address": f"127.0.{1 + number // 250}.{1 + number % 250}",
        }
        if not self.broken:
            told = yaml.safe_load(b64decode(asked["user_data"]))
            self.daemons[server["id"]] = _daemon(
                self.home / server["id"], server["address"], self.ssh_port, told
            )
        self.servers[server["id"]] = server
        return server

    def look(self, server: dict[str, Any]) -> dict[str, Any]:
        """A server as Nova shows it."""
        if server["status"] == "BUILD" and time.monotonic() > server["boots_at"]:
            card = {"version": 4, "addr": server["address"], "OS-EXT-IPS:type": "fixed"}
            server["status"] = "ERROR" if self.broken else "ACTIVE"
            server["addresses"] = {"lab": [card]}
            server["fault"] = {"message": self.broken, "code": 500}
        shown = {k: v for k, v in server.items() if k not in {"boots_at", "address", "gone_at"}}
        return shown if self.broken else {k: v for k, v in shown.items() if k != "fault"}

    def there(self) -> list[dict[str, Any]]:
        """Servers that are not gone yet."""
        now = time.monotonic()
        for server in list(self.servers.values()):
            if server.get("gone_at", now) < now:
                self.servers.pop(server["id"], None)
        return list(self.servers.values())

    def delete(self, server_id: str) -> bool:
        """Accept that a server is to end; whether it was there."""
        server = self.servers.get(server_id)
        if server is None:
            return False
        server.setdefault("gone_at", time.monotonic() + GONE_S)
        self._end(server_id)
        return True

    def _end(self, server_id: str) -> None:
        daemon = self.daemons.pop(server_id, None)
        if daemon is not None:
            for pid in [*sshd._descendants(daemon.pid, named="sshd"), daemon.pid]:
                with _gone():
                    os.kill(pid, 9)
            daemon.wait()
        shutil.rmtree(self.home / server_id, ignore_errors=True)

    def close(self) -> None:
        """End every server and the stand-in."""
        for server_id in list(self.servers):
            self.delete(server_id)
        self._http.shutdown()
        self._http.server_close()


def _ssh_port() -> int:
    """22 as on a cloud's servers, where we may bind it; its known_hosts lines look different."""
    try:
        with socket.create_server(("127.0.1.1", 22)):
            return 22
    except OSError:
        return sshd._free_port()


@contextmanager
def running() -> Iterator[Cloud]:
    """A cloud that answers.

    Raises:
        SshdMissing: Its servers cannot run here.
    """
    sshd.binary()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="hv-cloud-"))
    cloud = Cloud(home)
    try:
        yield cloud
    finally:
        cloud.close()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


def _daemon(home: Path, address: str, port: int, told: Any) -> subprocess.Popen[bytes]:
    """The SSH server of a machine that cloud-init has set up."""
    home.mkdir(parents=True)
    (home / "host").touch(mode=0o600)
    (home / "host").write_text(told["ssh_keys"]["ed25519_private"])
    (home / "client.pub").write_text("\n".join(told["ssh_authorized_keys"]) + "\n")
    text = sshd.config(home, port).replace("ListenAddress 127.0.0.1", f"ListenAddress {address}")
    (home / "sshd_config").write_text(text)
    with (home / "sshd.log").open("wb") as log:
        return subprocess.Popen(
            [sshd.binary(), "-D", "-e", "-f", str(home / "sshd_config")], stderr=log
        )


class _Handler(BaseHTTPRequestHandler):
    """Paths and their answers; whatever is not known is a 404."""

    at: ClassVar[Cloud]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path.rstrip("/"), parse_qs(urlsplit(self.path).query)
        if path.count("/") > 2 and not path.startswith("/identity") and not self._known():
            return
        self._answer(*self._found(path, query))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = urlsplit(self.path).path
        if path == "/identity/v3/auth/tokens":
            self._token(asked)
        elif not self._known():
            return
        elif path == "/compute/v2.1/servers":
            self._create(asked["server"])
        elif path.endswith("/action") and "os-getConsoleOutput" in asked:
            self._answer(200, {"output": CONSOLE})
        elif path == "/network/v2.0/floatingips":
            made = {**asked["floatingip"], "id": str(uuid4())}
            port_id = made["port_id"]
            made["floating_ip_address"] = self.at.servers[port_id]["address"]
            self.at.addresses[made["id"]] = made
            self._answer(201, {"floatingip": made})
        else:
            self._answer(404, {})

    def _known(self) -> bool:
        """Whether we are well and the token is one of ours; else says what a cloud does."""
        if self.at.unwell > 0:
            self.at.unwell -= 1
            self._answer(503, {})
            return False
        if self.headers.get("X-Auth-Token") in self.at.tokens:
            return True
        self._answer(401, UNAUTHORIZED)
        return False

    def _create(self, asked: dict[str, Any]) -> None:
        used = len(self.at.there())
        if used >= self.at.quota:
            why = (
                "Quota exceeded for instances: Requested 1, "
                f"but already used {used} of {self.at.quota} instances"
            )
            self._answer(403, {"forbidden": {"code": 403, "message": why}})
            return
        self._answer(202, {"server": {"id": self.at.boot(asked)["id"]}})

    def do_DELETE(self) -> None:
        if not self._known():
            return
        path = urlsplit(self.path).path
        there = self.at.delete(path.rpartition("/")[2]) if "/servers/" in path else False
        there = there or self.at.addresses.pop(path.rpartition("/")[2], None) is not None
        self._answer(204 if there else 404, None if there else {})

    def _found(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        url = self.at.url
        one = {"id": "1", "name": path.rpartition("/")[2]}
        listed: dict[str, Any] = {
            "/identity/v3": {"version": _version("v3.14", f"{url}/identity/v3/")},
            "/identity": {"versions": {"values": [_version("v3.14", f"{url}/identity/v3/")]}},
            "/compute": {"versions": [_version("v2.1", f"{url}/compute/v2.1/", "2.96")]},
            "/compute/v2.1": {"version": _version("v2.1", f"{url}/compute/v2.1/", "2.96")},
            "/image": {"versions": [_version("v2.9", f"{url}/image/v2/")]},
            "/network": {"versions": [_version("v2.0", f"{url}/network/v2.0/")]},
            "/image/v2/images": {
                "images": [
                    {**one, "id": str(number), "name": name}
                    for number, name in enumerate(self.at.images)
                ]
            },
            "/compute/v2.1/flavors": {"flavors": [{**one, "name": "small"}]},
            "/compute/v2.1/flavors/detail": {"flavors": [{**one, "name": "small"}]},
            "/network/v2.0/networks": {
                "networks": [{"id": "1", "name": "lab"}, {"id": "2", "name": "outside"}]
            },
        }
        if path in listed and "name" not in query:
            return 200, listed[path]
        if path in {"/image/v2/images", "/network/v2.0/networks"} and "name" in query:
            kind = path.rpartition("/")[2]
            kept = [item for item in listed[path][kind] if item["name"] == query["name"][0]]
            return 200, {kind: kept}
        return self._of_servers(path, query)

    def _of_servers(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if path == "/compute/v2.1/servers/detail":
            wanted = re.compile(query.get("name", [""])[0])
            shown = [self.at.look(s) for s in self.at.there()]
            return 200, {"servers": [s for s in shown if wanted.search(s["name"])]}
        if path.startswith("/compute/v2.1/servers/"):
            self.at.there()
            server = self.at.servers.get(path.rpartition("/")[2])
            return (200, {"server": self.at.look(server)}) if server else (404, {})
        if path == "/network/v2.0/ports":
            return 200, {"ports": [{"id": query["device_id"][0]}]}
        if path == "/network/v2.0/floatingips":
            said = query.get("description", [""])[0]
            every = self.at.addresses.values()
            return 200, {"floatingips": [a for a in every if a["description"] == said]}
        return 404, {}

    def _token(self, asked: Any) -> None:
        user = asked["auth"]["identity"]["password"]["user"]
        if (user["name"], user["password"]) != (USER, PASSWORD):
            self._answer(401, UNAUTHORIZED)
            return
        self.at.logins += 1
        own = f"token-{self.at.logins}"
        self.at.tokens.add(own)
        places = {"compute": "compute/v2.1", "image": "image", "network": "network"}
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [
                    {
                        "id": kind,
                        "interface": "public",
                        "region": "here",
                        "region_id": "here",
                        "url": f"{self.at.url}/{place}",
                    }
                ],
            }
            for kind, place in places.items()
        ]
        token = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "project": {"id": "p", "name": PROJECT, "domain": {"id": "d", "name": "Default"}},
            "user": {"id": "u", "name": USER, "domain": {"id": "d", "name": "Default"}},
            "roles": [{"id": "r", "name": "member"}],
            "catalog": catalog,
        }
        self._answer(201, {"token": token}, {"X-Subject-Token": own})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _version(name: str, url: str, newest: str = "") -> dict[str, Any]:
    return {
        "id": name,
        "status": "CURRENT",
        "version": newest,
        "min_version": "2.1" if newest else "",
        "links": [{"rel": "self", "href": url}],
    }
