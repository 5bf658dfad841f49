# SPDX-License-Identifier: Apache-2.0
"""Faults on the way to a review server: an HTTP proxy and a TCP front, steered by the test.

Both listen on 127.0.0.1 at a port of their own. `fronted` puts both before a server at once::

    with fronted(real_gerrit.ci, tmp_path) as faulty:
        faulty.http.add(Rule(method="POST", path="/review$", status=503, count=2))
        faulty.ssh.freeze()
        use(faulty.server)
"""

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any, Self
from urllib.parse import urlsplit

from ci.sandbox.account import ReviewServer
from tests.kit.faulty_tcp import HOST, Sockets, TcpFront

UPSTREAM_TIMEOUT_S = 120.0
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade"})
LOGIN_PAGE = "<!DOCTYPE html><html><body><form action='/login'>Sign in</form></body></html>"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What happens to requests that fit; the parts may be combined.

    Attributes:
        method: HTTP method; empty fits all.
        path: Regular expression searched in the path with its query; empty fits all.
        count: So many requests, then the rule is used up; 0 for no end.
        status: Answer with this status in the server's place; 0 asks the server.
        retry_after_s: `Retry-After` of such an answer; 0 leaves it out.
        html: Answer with this page and status 200 (or `status`) in the server's place.
        drop_reply: The server does what is asked; its reply is thrown away and the connection
            closed. Together with `status` the server does not see the request.
        stall_s: Wait so long before anything else.
        skew_s: Move the reply's `Date` by so much.
    """

    method: str = ""
    path: str = ""
    count: int = 1
    status: int = 0
    retry_after_s: int = 0
    html: str = ""
    drop_reply: bool = False
    stall_s: float = 0.0
    skew_s: float = 0.0

    def fits(self, method: str, path: str) -> bool:
        """Whether the rule is meant for this request."""
        return self.method in {"", method} and re.search(self.path, path) is not None


@dataclass(frozen=True, kw_only=True)
class Passed:
    """One request and what became of it.

    Attributes:
        method: HTTP method.
        path: Path with its query.
        body: What was sent.
        status: What the client was told; 0 where it got no reply.
        forwarded: The server has seen it.
        rule: The rule that was used, if any.
    """

    method: str
    path: str
    body: bytes = field(repr=False)
    status: int
    forwarded: bool
    rule: Rule | None


class FaultyHttp:
    """An HTTP proxy in front of one server. Thread-safe; `start` and `stop` once each.

    Args:
        target: Base address of the server, `http://127.0.0.1:PORT`.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._rules: deque[tuple[Rule, list[int]]] = deque()
        self._passed: list[Passed] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._sockets = Sockets()
        self._port = 0
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.up()
        return self

    def __exit__(self, *_raised: object) -> None:
        """Stop."""
        self._stopping.set()
        self.down()

    @property
    def url(self) -> str:
        """Base address, the same one after `down` and `up`."""
        return f"http://{HOST}:{self._port}"

    @property
    def passed(self) -> list[Passed]:
        """What was asked, in order of answering."""
        with self._lock:
            return list(self._passed)

    def asked(self, method: str = "", path: str = "") -> list[Passed]:
        """What was asked, of one method and with a path that this expression is found in."""
        wanted = Rule(method=method, path=path)
        return [one for one in self.passed if wanted.fits(one.method, one.path)]

    def add(self, *rules: Rule) -> None:
        """Append rules; the first that fits and is not used up is the one that counts."""
        with self._lock:
            self._rules.extend((rule, [rule.count]) for rule in rules)

    def clear(self) -> None:
        """Forget all rules: every request goes through."""
        with self._lock:
            self._rules.clear()

    def down(self) -> None:
        """Refuse connections, and break those that are open; repeatable."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        self._sockets.cut()

    def up(self) -> None:
        """Accept connections, again at the same port; repeatable."""
        if self._server is not None:
            return
        self._server = _Server((HOST, self._port), _Handler)
        self._server.proxy = self
        self._server.sockets = self._sockets
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="faulty-http", daemon=True
        ).start()

    def take(self, method: str, path: str) -> Rule | None:
        """The rule for a request, one use of it gone."""
        with self._lock:
            for entry in self._rules:
                rule, left = entry
                if not rule.fits(method, path):
                    continue
                left[0] -= 1
                if left[0] == 0:
                    self._rules.remove(entry)
                return rule
        return None

    def note(self, passed: Passed) -> None:
        """Keep what became of a request."""
        with self._lock:
            self._passed.append(passed)

    def stall(self, seconds: float) -> None:
        """Wait, but not beyond the proxy's end."""
        self._stopping.wait(seconds)

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> "_Reply":
        """Let the server answer.

        Raises:
            OSError: It cannot be reached.
            HTTPException: It broke off.
        """
        host, port = self._target.hostname or HOST, self._target.port
        connection = HTTPConnection(host, port, timeout=UPSTREAM_TIMEOUT_S)
        try:
            connection.request(method, path, body or None, headers)
            got = connection.getresponse()
            return _Reply(got.status, list(got.getheaders()), got.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: list[tuple[str, str]]
    content: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: FaultyHttp
    sockets: Sockets

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that it can be cut."""
        self.sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self.sockets.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: socket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rule = proxy.take(self.command, self.path)
        use = rule or Rule()
        if use.stall_s:
            proxy.stall(use.stall_s)
        forwarded = not (use.status or use.html)
        reply = self._forward(body) if forwarded else _made_up(use)
        status = 0 if use.drop_reply else reply.status
        proxy.note(
            Passed(
                method=self.command,
                path=self.path,
                body=body,
                status=status,
                forwarded=forwarded,
                rule=rule,
            )
        )
        if use.drop_reply:
            self.close_connection = True
            return
        self._send(reply, use.skew_s)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 (the base class's names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the tests' output quiet."""

    def _forward(self, body: bytes) -> _Reply:
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        try:
            return self.server.proxy.ask(self.command, self.path, body, headers)
        except (OSError, HTTPException) as error:
            return _Reply(HTTPStatus.BAD_GATEWAY, [], str(error).encode())

    def _send(self, reply: _Reply, skew_s: float) -> None:
        self.send_response_only(reply.status)
        for name, value in reply.headers:
            if name.lower() == "date" and skew_s:
                moved = parsedate_to_datetime(value) + timedelta(seconds=skew_s)
                self.send_header(name, format_datetime(moved, usegmt=True))
            elif name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        if reply.status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.content)


def _made_up(rule: Rule) -> _Reply:
    kind = "text/html" if rule.html else "text/plain"
    headers = [("Content-Type", f"{kind}; charset=utf-8")]
    if rule.retry_after_s:
        headers.append(("Retry-After", str(rule.retry_after_s)))
    status = rule.status or HTTPStatus.OK
    words = rule.html or HTTPStatus(status).phrase
    return _Reply(status, headers, words.encode())


@dataclass(frozen=True)
class Fronted:
    """A server behind faults.

    Attributes:
        http: The way to its REST interface.
        ssh: The way to its SSH daemon.
        server: The same account, by these ways.
    """

    http: FaultyHttp
    ssh: TcpFront
    server: ReviewServer


@contextmanager
def fronted(server: ReviewServer, directory: Path) -> Iterator[Fronted]:
    """Put both fronts before a server while the block runs.

    Args:
        server: The server, seen by any account.
        directory: Gets a file of known hosts for the front's port.
    """
    with FaultyHttp(server.url) as http, TcpFront(server.host, server.ssh_port) as ssh:
        known = directory / f"known_hosts.{ssh.port}"
        text = server.known_hosts.read_text(encoding="utf-8")
        known.write_text(
            text.replace(f"[{server.host}]:{server.ssh_port} ", f"[{HOST}]:{ssh.port} "),
            encoding="utf-8",
        )
        behind = replace(server, host=HOST, ssh_port=ssh.port, url=http.url, known_hosts=known)
        yield Fronted(http, ssh, behind)
