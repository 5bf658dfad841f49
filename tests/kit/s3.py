# SPDX-License-Identifier: Apache-2.0
"""An S3 server on the loopback address: moto, from an environment of its own.

moto cannot be installed beside DBOS: they pin different releases of one package. `scripts/setup
test` makes `.cache/moto` by `requirements-moto.lock`.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from ci.errors import ConfigError
from ci.sandbox.real.site import free_port

PROGRAM = Path(__file__).parents[2] / ".cache/moto/bin/moto_server"
READY_S = 30.0
HOST = "127.0.0.1"
KEY = {"Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request"}


class S3Server:
    """A running server. `make_bucket` gives a fresh bucket's name."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._buckets = 0

    def make_bucket(self) -> str:
        """A new, empty bucket."""
        self._buckets += 1
        name = f"logs-{self._buckets}"
        status = self.ask("PUT", f"/{name}")
        if status != 200:
            raise ConfigError(f"the S3 server answers {status}")
        return name

    def ask(self, method: str, path: str) -> int:
        """Ask without any library of S3; returns the status."""
        connection = HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path, headers=KEY)
            reply = connection.getresponse()
            reply.read()
            return reply.status
        finally:
            connection.close()


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Run a server while the block runs; its output goes to a file."""
    server = S3Server(free_port())
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PROGRAM), "-H", HOST, "-p", str(server.port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
        try:
            _wait(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            server.ask("GET", "/")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"moto did not start: {log.read_text()[-2000:]}")
