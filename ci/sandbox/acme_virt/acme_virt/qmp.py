# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor: one JSON object a line over a unix socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class MonitorError(Exception):
    """The hypervisor refused a command, or is gone."""


class Monitor:
    """A connected monitor; commands are answered in order."""

    def __init__(
        self, path: Path, *, timeout_s: float = 20.0, alive: Callable[[], bool] = lambda: True
    ) -> None:
        self._socket = connect(path, timeout_s=timeout_s, alive=alive)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result; events that come between are skipped."""
        request = {"execute": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            for line in iter(self._lines.readline, b""):
                reply = json.loads(line)
                if "error" in reply:
                    raise MonitorError(f"{command}: {reply['error']['desc']}")
                if "return" in reply:
                    return reply["return"]
        except OSError as error:
            raise MonitorError(f"{command}: {error}") from error
        raise MonitorError(f"{command}: the hypervisor closed its monitor")

    def run_job(self, command: str, *, timeout_s: float = 20.0, **arguments: Any) -> None:
        """Run a command that QEMU carries out as a job, and wait for its end."""
        job = f"acme-{time.monotonic_ns()}"
        self.execute(command, **{"job-id": job, **arguments})
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [entry for entry in self.execute("query-jobs") if entry["id"] == job]
            if not found or found[0]["status"] == "concluded":
                self.execute("job-dismiss", id=job)
                if found and "error" in found[0]:
                    raise MonitorError(f"{command}: {found[0]['error']}")
                return
            time.sleep(0.02)
        raise MonitorError(f"{command}: not done after {timeout_s:g} s")

    def close(self) -> None:
        """Close the connection; the hypervisor goes on."""
        self._lines.close()
        self._socket.close()


def connect(
    path: Path, *, timeout_s: float, alive: Callable[[], bool] = lambda: True
) -> socket.socket:
    """Connect to a unix socket that a starting process is about to open, while it is alive."""
    deadline = time.monotonic() + timeout_s
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
        except OSError as error:
            client.close()
            if time.monotonic() > deadline or not alive():
                raise MonitorError(f"{path.name} did not open in {timeout_s:g} s") from error
            time.sleep(0.01)
        else:
            client.settimeout(timeout_s)
            return client
