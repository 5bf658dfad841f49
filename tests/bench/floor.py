# SPDX-License-Identifier: Apache-2.0
"""Runs `null_ci.py` as a contender."""

import sys
import time
from pathlib import Path

from ci.sandbox.account import ReviewServer
from tests.bench import null_ci
from tests.bench.contender import account, end, kill_tree, launch, projects

SETTLE_S = 1.0


class Floor:
    """The null CI as a subprocess.

    Args:
        server: Gerrit, seen by its account.
        directory: For its repositories and its output; made.
        jobs: Jobs that may run at once.
    """

    name = "null"
    durable = False

    def __init__(self, server: ReviewServer, directory: Path, *, jobs: int = 4) -> None:
        self._server = server
        self._directory = directory
        self._jobs = jobs
        self._pid: int | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it; it does not say when it listens, so it is given a second."""
        server = self._server
        argv = [
            *(sys.executable, str(Path(null_ci.__file__)), "--jobs", str(self._jobs)),
            *("--host", server.host, "--port", str(server.ssh_port), "--user", account(self.name)),
            *("--key", str(server.key_file), "--known-hosts", str(server.known_hosts)),
            *("--http", server.url, "--dir", str(self._directory / f"{time.time_ns()}")),
        ]
        for name, command in projects(self.name).items():
            argv += ["--project", f"{name}={command}"]
        self._pid = launch(argv, self._directory / "null.log", {}).pid
        time.sleep(SETTLE_S)

    def stop(self) -> None:
        """End it."""
        if self._pid is not None:
            end(self._pid)
            self._pid = None

    def kill(self) -> None:
        """Kill it."""
        if self._pid is not None:
            kill_tree(self._pid)
            end(self._pid)
            self._pid = None

    def pids(self) -> list[int]:
        """Its one process."""
        return [] if self._pid is None else [self._pid]
