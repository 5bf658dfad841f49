# SPDX-License-Identifier: Apache-2.0
"""A git server over HTTP on loopback: git's own backend behind Python's HTTP server."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PASSED_ON = {"Content-Type": "CONTENT_TYPE", "Git-Protocol": "HTTP_GIT_PROTOCOL"}


class GitHttp(ThreadingHTTPServer):
    """Serves bare repositories below `root`; remembers who asked, and may refuse everybody."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.authorizations: list[str] = []
        self.requests: list[str] = []
        self.refusal = 0

    @property
    def url(self) -> str:
        """Base address with a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


@contextmanager
def serving(root: Path) -> Iterator[GitHttp]:
    """A server that answers until the block ends."""
    server = GitHttp(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: GitHttp
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the tests' output quiet."""

    def _answer(self, body: bytes) -> None:
        self.server.requests.append(self.path)
        if sign_in := self.headers.get("Authorization"):
            self.server.authorizations.append(sign_in)
        if self.server.refusal:
            self._send(self.server.refusal, {}, b"no")
            return
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=self._cgi(), capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self._send(int(fields.pop("Status", "200")[:3]), fields, content)

    def _send(self, status: int, fields: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _cgi(self) -> dict[str, str]:
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path.removeprefix("/a") if path.startswith("/a/") else path,
            "QUERY_STRING": query,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        if self.headers.get("Content-Encoding") == "gzip":
            env["HTTP_CONTENT_ENCODING"] = "gzip"
        passed = {PASSED_ON[key]: self.headers[key] for key in PASSED_ON if key in self.headers}
        return env | passed
