# SPDX-License-Identifier: Apache-2.0
"""The pool behind its API: XML-RPC over TLS on loopback, sessions, tasks, uploads, faults.

`POST /faults` with `{"method": "VM.start_on", "error": ["SR_FULL", "..."], "times": 1}` lets
calls fail; `{"delay_s": 2}` instead of an error makes them slow. It takes the session's password.
"""

import argparse
import json
import os
import secrets
import ssl
import threading
import time
import xmlrpc.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nodes.stand_ins.xapi.pool import POWER, Pool
from nodes.stand_ins.xapi.records import Failure

_CHUNK = 1 << 16


class Api:
    """Sessions, tasks and the way from a method's name to the pool."""

    def __init__(self, pool: Pool, user: str, password: str) -> None:
        self.pool = pool
        self.sessions: set[str] = set()
        self.faults: list[dict[str, Any]] = []
        self._login = [user, password]
        self.password = password
        self._lock = threading.RLock()

    def call(self, method: str, params: list[Any]) -> Any:
        """Answer one call.

        Raises:
            Failure: As the API tells it.
        """
        self._misbehave(method.removeprefix("Async."))
        if method == "session.login_with_password":
            if params[:2] != self._login:
                raise Failure("SESSION_AUTHENTICATION_FAILED", params[0], "Authentication failure")
            session = f"OpaqueRef:{secrets.token_hex(16)}"
            self.sessions.add(session)
            return session
        if not params or params[0] not in self.sessions:
            raise Failure("SESSION_INVALID", params[0] if params else "")
        if method == "session.logout":
            self.sessions.discard(params[0])
            return ""
        if method.startswith("Async."):
            with self._lock:
                task = self.pool.new("task", name_label=method)
            work = threading.Thread(target=self._work, args=(task, method[6:], params[1:]))
            work.daemon = True
            work.start()
            return task
        with self._lock:
            return self._do(method, params[1:])

    def _do(self, method: str, args: list[Any]) -> Any:
        kind, _, name = method.partition(".")
        if kind == "VM" and name in POWER:
            return self.pool.power(name, *args)
        own: Any = getattr(self.pool, f"{kind}_{name}", None)
        if own is None:
            return self.pool.generic(kind, name, args)
        try:
            return own(*args)
        except TypeError as error:
            raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "?", len(args)) from error

    def _work(self, task: str, method: str, args: list[Any]) -> None:
        with self._lock:
            record = self.pool.get("task", task)
            try:
                value = self._do(method, args)
            except Failure as error:
                record.update(status="failure", error_info=error.details)
            else:
                record.update(status="success", result=f"<value>{value}</value>" if value else "")

    def _misbehave(self, method: str) -> None:
        for rule in list(self.faults):
            if rule.get("method", method) != method:
                continue
            rule["times"] = int(rule.get("times", 1)) - 1
            if rule["times"] <= 0:
                self.faults.remove(rule)
            time.sleep(float(rule.get("delay_s", 0)))
            if rule.get("error"):
                raise Failure(*rule["error"])


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    api: Api

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing is logged for each call."""

    def do_POST(self) -> None:
        """A call, or a rule for faults."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/faults":
            if self.headers.get("X-Password") != self.api.password:
                self._answer(403, b"")
                return
            rule = json.loads(body)
            self.api.faults = [*self.api.faults, rule] if rule else []
            self._answer(200, b"{}")
            return
        params, method = xmlrpc.client.loads(body)
        try:
            told: dict[str, Any] = {
                "Status": "Success",
                "Value": self.api.call(str(method), list(params)),
            }
        except Failure as error:
            told = {"Status": "Failure", "ErrorDescription": error.details}
        answer = xmlrpc.client.dumps((told,), methodresponse=True, allow_none=True)
        self._answer(200, answer.encode())

    def do_PUT(self) -> None:
        """An image for a disk: counted, and thrown away."""
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            left -= len(self.rfile.read(min(left, _CHUNK))) or left
        known = query.get("session_id") in self.api.sessions
        there = query.get("vdi") in self.api.pool.of["VDI"]
        self._answer(200 if known and there else 403 if not known else 404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nodes.stand_ins.xapi", description=__doc__)
    parser.add_argument("--user", default="root")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--machines", type=int, default=0)
    given = parser.parse_args()
    pool = Pool(given.hosts, given.machines)
    api = Api(pool, given.user, os.environ["STAND_IN_PASSWORD"])
    server = ThreadingHTTPServer(
        ("127.0.0.1", given.port), type("Served", (Handler,), {"api": api})
    )
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.certificate, given.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    port = server.server_address[1]
    print(json.dumps({"url": f"https://127.0.0.1:{port}", "pid": os.getpid()}), flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    main()
