# SPDX-License-Identifier: Apache-2.0
"""How fast the page of builds is, with many builds in the database.

The server is a process of its own (`python -m tests.bench.pages DIR`), so that the client
does not share an interpreter with it.
"""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ci.store.database import Database
from tests.bench.contender import end, launch
from tests.bench.runs import spread
from tests.kit.rows import many_builds
from webui.app import create_app
from webui.server import WebServer

BUILDS = 10_000
REQUESTS = 40
PATHS = {"html": "/builds", "json": "/builds.json"}
READY_S = 60.0


def newest_builds(directory: Path) -> dict[str, Any]:
    """Time the newest builds of many, as a page and as JSON; milliseconds."""
    database = Database.in_directory(directory)
    database.create()
    many_builds(database, BUILDS)
    database.close()
    with _served(directory) as address:
        return {
            "count": BUILDS,
            **{kind: _timed(address, path) for kind, path in PATHS.items()},
        }


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    said = directory / "address"
    process = launch(
        [sys.executable, "-m", "tests.bench.pages", str(directory)],
        said,
        {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        yield _address(process, said)
    finally:
        end(process.pid)


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    deadline = time.monotonic() + READY_S
    while not said.read_text().endswith("\n"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the pages are not served: {said.read_text()}")
        time.sleep(0.05)
    return urlsplit(said.read_text().strip()).netloc


def _timed(address: str, path: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(address, timeout=60)
    took, size = [], 0
    for _ in range(REQUESTS):
        began = time.perf_counter()
        connection.request("GET", path)
        reply = connection.getresponse()
        size = len(reply.read())
        took.append(1000 * (time.perf_counter() - began))
        if reply.status != http.client.OK:
            raise RuntimeError(f"{path}: {reply.status}")
    connection.close()
    return {**spread(took), "bytes": size}


def main() -> None:
    """Serve a state directory until ended."""
    directory = Path(sys.argv[1])
    database = Database.in_directory(directory)
    server = WebServer(create_app(database, directory / "logs", "http://127.0.0.1/"))
    server.start()
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
