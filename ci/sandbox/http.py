# SPDX-License-Identifier: Apache-2.0
"""The sandbox's HTTP daemon: REST, and git's fetch and push by its smart protocol."""

import base64
import binascii
import contextlib
import gzip
import json
import logging
import os
import re
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ci import proc
from ci.errors import HypervouchError
from ci.sandbox.bridge import Bridge
from ci.sandbox.calls import BAD_REQUEST, NO_CONTENT, Request, spell
from ci.sandbox.changes import FORBIDDEN, NOT_FOUND, Refused
from ci.sandbox.records import AccountRecord
from ci.sandbox.repositories import NoSuchProject, Repositories
from ci.sandbox.rest import Rest
from ci.sandbox.store import Store, password_fits

HOST = "127.0.0.1"
MAX_BODY_BYTES = 16 << 20
UPLOAD_PACK, RECEIVE_PACK = "git-upload-pack", "git-receive-pack"
_log = logging.getLogger(__name__)
UNAUTHORIZED, TOO_LARGE, SERVER_ERROR = 401, 413, 500


class HttpServer:
    """Listens on the loopback address.

    Args:
        store: Knows the accounts.
        repositories: For git.
        port: The port wanted; 0 for any free one.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, store: Store, repositories: Repositories, port: int) -> None:
        self._server = _Server(port, store, repositories)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="sandbox-http",
            daemon=True,
        )

    def start(self, rest: Rest, bridge: Bridge) -> None:
        """Begin to answer."""
        self._server.rest = rest
        self._server.bridge = bridge
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and give the port back."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.drop_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    rest: Rest
    bridge: Bridge

    def __init__(self, port: int, store: Store, repositories: Repositories) -> None:
        super().__init__((HOST, port), _Handler)
        self.store = store
        self.repositories = repositories
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def server_bind(self) -> None:
        """Bind without asking the resolver for our own name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """End the connections that clients keep alive."""
        with self._lock:
            left = list(self._open)
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that hangs up is no news; what else goes wrong is logged."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("a request from %s failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "HypervouchSandbox"
    disable_nagle_algorithm = True
    timeout = 300
    server: _Server

    def do_GET(self) -> None:
        """Reads."""
        self._guarded()

    def do_POST(self) -> None:
        """Reviews, actions, and git's requests."""
        self._guarded()

    def do_PUT(self) -> None:
        """Makes projects, sets topics."""
        self._guarded()

    def do_DELETE(self) -> None:
        """Deletes changes and votes."""
        self._guarded()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the demo's terminal is for people."""

    def _guarded(self) -> None:
        try:
            body = self._body()
            self._dispatch(body)
        except Refused as refusal:
            self._plain(refusal.status, refusal.message)
        except NoSuchProject as missing:
            self._plain(NOT_FOUND, missing.message)
        except HypervouchError as error:
            self._plain(SERVER_ERROR, error.message)

    def _body(self) -> bytes:
        size = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._unzipped(self._chunks())
        if not size.isdecimal() or int(size) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refused(TOO_LARGE, "Request body too large")
        return self._unzipped(self.rfile.read(int(size)))

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        room = MAX_BODY_BYTES
        while size := self._chunk_size():
            room -= size
            if room < 0:
                self.close_connection = True
                raise Refused(TOO_LARGE, "Request body too large")
            parts.append(self.rfile.read(size))
            self.rfile.readline(32)
        self.rfile.readline(32)
        return b"".join(parts)

    def _chunk_size(self) -> int:
        digits = self.rfile.readline(32).split(b";")[0].strip()
        if re.fullmatch(rb"[0-9A-Fa-f]{1,8}", digits) is None:
            self.close_connection = True
            raise Refused(BAD_REQUEST, "Invalid chunk in request")
        return int(digits, 16)

    def _unzipped(self, body: bytes) -> bytes:
        if self.headers.get("Content-Encoding") != "gzip":
            return body
        try:
            return gzip.decompress(body)
        except (OSError, EOFError) as error:
            raise Refused(BAD_REQUEST, "Invalid gzip in request") from error

    def _dispatch(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        segments = tuple(unquote(one) for one in parts.path.split("/") if one)
        account = None
        if segments[:1] == ("a",):
            segments = segments[1:]
            account = self._login()
            if account is None:
                self._demand_login()
                return
        query = parse_qs(parts.query, keep_blank_values=True)
        advertise = segments[-2:] == ("info", "refs")
        program = query.get("service", [""])[-1] if advertise else segments[-1:]
        if program in {RECEIVE_PACK, (RECEIVE_PACK,)} and account is None:
            self._demand_login()
        elif advertise:
            self._advertise(segments[:-2], str(program), account)
        elif program in {(UPLOAD_PACK,), (RECEIVE_PACK,)}:
            self._git_reply(segments[:-1], segments[-1], account, body)
        else:
            self._rest(segments, query, account, body)

    def _demand_login(self) -> None:
        realm = 'Basic realm="Gerrit Code Review"'
        self._plain(UNAUTHORIZED, "Unauthorized", ("WWW-Authenticate", realm))

    def _login(self) -> AccountRecord | None:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        account = self.server.store.account(user)
        return account if account is not None and password_fits(account, password) else None

    def _rest(
        self,
        segments: tuple[str, ...],
        query: dict[str, list[str]],
        account: AccountRecord | None,
        body: bytes,
    ) -> None:
        parsed = None
        if body:
            if not self.headers.get("Content-Type", "").startswith("application/json"):
                raise Refused(BAD_REQUEST, "Expected Content-Type: application/json")
            try:
                parsed = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise Refused(BAD_REQUEST, "Invalid application/json in request") from error
        reply = self.server.rest.answer(
            Request(method=self.command, path=segments, query=query, account=account, body=parsed)
        )
        if reply.text is not None:
            self._send(reply.status, "text/plain;charset=utf-8", reply.text.encode())
        else:
            self._send(reply.status, "application/json;charset=utf-8", spell(reply.value))

    def _advertise(
        self, segments: tuple[str, ...], program: str, account: AccountRecord | None
    ) -> None:
        if program not in {UPLOAD_PACK, RECEIVE_PACK}:
            raise Refused(FORBIDDEN, "Forbidden")
        shown = self._git(segments, program, account, b"", "--advertise-refs")
        service = f"# service={program}\n".encode()
        head = f"{len(service) + 4:04x}".encode() + service + b"0000"
        self._send(200, f"application/x-{program}-advertisement", head + shown)

    def _git_reply(
        self,
        segments: tuple[str, ...],
        program: str,
        account: AccountRecord | None,
        body: bytes,
    ) -> None:
        answer = self._git(segments, program, account, body)
        self._send(200, f"application/x-{program}-result", answer)

    def _git(
        self,
        segments: tuple[str, ...],
        program: str,
        account: AccountRecord | None,
        body: bytes,
        *options: str,
    ) -> bytes:
        project = "/".join(segments)
        path = self.server.repositories.path(project)
        environment = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        if account is not None:
            environment |= self.server.bridge.environment(project, account.username)
        if protocol := self.headers.get("Git-Protocol"):
            environment["GIT_PROTOCOL"] = protocol[:100]
        done = proc.run(
            ["git", program.removeprefix("git-"), "--stateless-rpc", *options, str(path)],
            stdin=body,
            env=environment,
            timeout_s=300,
            ok=(0, 128),  # a fetch that the client breaks off ends so
        )
        return done.stdout

    def _plain(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        self._send(status, "text/plain;charset=utf-8", text.encode() + b"\n", *headers)

    def _send(self, status: int, content_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        if status == NO_CONTENT:
            self.end_headers()
            return
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache, no-store")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
