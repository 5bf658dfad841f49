# SPDX-License-Identifier: Apache-2.0
"""The pool behind its API: XML-RPC over TLS on loopback, sessions, tasks, uploads, faults.

`POST /faults` with `{"method": "VM.start_on", "error": ["SR_FULL", "..."], "times": 1}` lets
calls fail, an asynchronous one by its task. Instead of `error`: `delay_s` makes them slow, `hang`
gives a task that never ends, `http` a status, `raw` a body, and `drop` closes the connection.
Uploads are the method `import_raw_vdi`. It takes the header `X-Password`; `{}` ends all of them.
"""

import argparse
import json
import os
import secrets
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nodes.stand_ins.xapi.pool import POWER, Pool
from nodes.stand_ins.xapi.records import Failure

_CHUNK = 1 << 16
_KEPT = 1 << 20
_STRANGE = frozenset({"http", "raw", "drop"})
_AT_ONCE = frozenset({"SESSION_INVALID", "HOST_IS_SLAVE"})  # never a task's


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
        rule = self.misbehave(method.removeprefix("Async."))
        error = rule.get("error")
        if error and (error[0] in _AT_ONCE or not method.startswith("Async.")):
            raise Failure(*error)
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
            if error:
                self.end(task, error=error)
            elif not rule.get("hang"):
                threading.Thread(
                    target=self._work, args=(task, method[6:], params[1:]), daemon=True
                ).start()
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
            try:
                value = self._do(method, args)
            except Failure as error:
                self.end(task, error=error.details)
            else:
                self.end(task, value)

    def end(self, task: str, value: Any = "", error: Sequence[str] = ()) -> None:
        """Let a task say how it ended, unless somebody forgot it."""
        record = self.pool.of["task"].get(task, {})
        if error:
            record.update(status="failure", error_info=[str(one) for one in error])
        else:
            record.update(status="success", result=f"<value>{value}</value>" if value else "")

    def misbehave(self, method: str) -> dict[str, Any]:
        """The rule for a call, if there is one; it waits here where that is slow.

        Raises:
            Strange: The answer is no answer of the API's.
        """
        for rule in list(self.faults):
            if rule.get("method", method) != method:
                continue
            rule["times"] = int(rule.get("times", 1)) - 1
            if rule["times"] <= 0 and rule in self.faults:
                self.faults.remove(rule)
            time.sleep(float(rule.get("delay_s", 0)))
            if _STRANGE & rule.keys():
                raise Strange(rule)
            return rule
        return {}


class Strange(Exception):
    """An answer that is none of the API's."""

    def __init__(self, rule: dict[str, Any]) -> None:
        super().__init__(rule)
        self.rule = rule


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
        except Strange as strange:
            self._strange(strange.rule)
            return
        answer = xmlrpc.client.dumps((told,), methodresponse=True, allow_none=True)
        self._answer(200, answer.encode())

    def do_PUT(self) -> None:
        """An image for a disk: its beginning is kept."""
        query, status = self._disk()
        try:
            rule = self.api.misbehave("import_raw_vdi")
        except Strange as strange:
            if not strange.rule.get("drop"):
                self._body()
            self._strange(strange.rule)
            return
        kept = self._body()
        if status == HTTPStatus.OK:
            self.api.pool.content[query["vdi"]] = kept
            self.api.end(query.get("task_id", ""), query["vdi"], rule.get("error", ()))
        self._answer(status, b"")

    def _body(self) -> bytes:
        left, kept = int(self.headers.get("Content-Length") or 0), bytearray()
        while left > 0 and (got := self.rfile.read(min(left, _CHUNK))):
            left -= len(got)
            kept += got[: _KEPT - len(kept)]
        return bytes(kept)

    def do_GET(self) -> None:
        """The beginning of a disk."""
        query, status = self._disk()
        found = status == HTTPStatus.OK
        content = self.api.pool.content.get(query["vdi"], b"") if found else b""
        self._answer(status, content.ljust(_KEPT, b"\0") if found else b"")

    def _disk(self) -> tuple[dict[str, str], int]:
        """What a disk is asked for with, and whether it may be."""
        query = {key: one[0] for key, one in parse_qs(urlsplit(self.path).query).items()}
        if query.get("session_id") not in self.api.sessions:
            return query, HTTPStatus.FORBIDDEN
        there = query.get("vdi") in self.api.pool.of["VDI"]
        return query, HTTPStatus.OK if there else HTTPStatus.NOT_FOUND

    def _strange(self, rule: dict[str, Any]) -> None:
        self.close_connection = True
        if not rule.get("drop"):
            self._answer(int(rule.get("http", 200)), str(rule.get("raw", "")).encode())

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
