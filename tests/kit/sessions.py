# SPDX-License-Identifier: Apache-2.0
"""A runner's session with what tests need around it, and a holder that can be killed.

Run as a program it is that holder: it connects, puts a tree, runs one command and waits.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ci.cancel import CancelToken, Deadline
from ci.clock import SystemClock
from ci.model.node import Endpoint, Transport, WinrmLogin
from ci.model.result import Grade
from ci.runners.base import Session
from ci.runners.stop import Grace
from ci.runners.table import runner_for

CLOCK = SystemClock()
GRACE = Grace(interrupt_s=1, terminate_s=1, kill_s=3)
START_S = 30.0


def within(seconds: float = 30.0) -> Deadline:
    """A deadline some seconds away."""
    return Deadline("test", seconds, CLOCK)


def tar_of(files: Mapping[str, bytes]) -> io.BytesIO:
    """An uncompressed tar stream of files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data.seek(0)
    return data


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended does not, though it may be there for a while yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    memory = int(fields[20])  # none is left once it is on its way out
    return fields[0] not in "ZX" and memory > 0


class Node:
    """A session and what the tests need around it."""

    def __init__(self, session: Session, workdir: str) -> None:
        self.session = session
        self.directory = f"{workdir}/checkout"
        self.output = bytearray()

    def put(self, files: Mapping[str, bytes] | None = None) -> None:
        """Put a tree, by default of one file."""
        self.session.put_tree(tar_of(files or {"a.txt": b"a\n"}), self.directory, within())

    def run(self, command: str, **options: Any) -> int:
        """Run a command in the checkout; its output is added to `output`."""
        options = {"env": {}, "deadline": within(), "cancel": CancelToken(), **options}
        sink = options.pop("sink", self.output.extend)
        return self.session.run(command, directory=self.directory, sink=sink, **options)

    def fetch(self, *patterns: str, to: Path, limit_bytes: int = 1_000_000) -> list[str]:
        """Bring files home; returns their names."""
        found = self.session.fetch(
            patterns, directory=self.directory, target=to, limit_bytes=limit_bytes
        )
        return [str(path) for path in found]

    def end(self) -> None:
        """Kill, then close."""
        self.session.kill()
        self.session.close()


def connect(endpoint: Endpoint) -> Node:
    """A session on an endpoint."""
    session = runner_for(endpoint.transport).connect(endpoint, within(), grace=GRACE)
    return Node(session, endpoint.workdir)


class Holder:
    """A process that holds a node and runs one command there, until it is killed.

    Args:
        endpoint: The node.
        files: The tree.
        command: What it runs.
    """

    def __init__(self, endpoint: Endpoint, files: Mapping[str, str], command: str) -> None:
        order = {
            "transport": endpoint.transport.value,
            "port": endpoint.port,
            "user": endpoint.user,
            "key_file": str(endpoint.key_file or ""),
            "known_hosts": str(endpoint.known_hosts or ""),
            "workdir": endpoint.workdir,
            "winrm": _written(endpoint.winrm),
            "grade": endpoint.grade.value,
            "files": dict(files),
            "command": command,
        }
        self._process = subprocess.Popen([sys.executable, "-m", __name__, json.dumps(order)])

    def await_pids(self, folder: Path, names: set[str]) -> dict[str, int]:
        """Wait until the command's processes have each written their pid into a file."""
        ends = time.monotonic() + START_S
        while time.monotonic() < ends and self._process.poll() is None:
            found = {path.name: path.read_text().strip() for path in folder.iterdir()}
            if set(found) >= names and all(found.values()):
                return {name: int(pid) for name, pid in found.items()}
            time.sleep(0.02)
        self.die()
        raise AssertionError(f"of {names} only {sorted(folder.iterdir())} began")

    def die(self) -> None:
        """End it as a power cut would: nothing of its own is tidied."""
        self._process.kill()
        self._process.wait()


def _written(login: WinrmLogin | None) -> dict[str, str] | None:
    if login is None:
        return None
    files = {"password_file": login.password_file, "ca_file": login.ca_file}
    return {"auth": login.auth} | {name: str(path) for name, path in files.items() if path}


def _read(order: dict[str, str] | None) -> WinrmLogin | None:
    if order is None:
        return None
    files = {name: Path(path) for name, path in order.items() if name != "auth"}
    return WinrmLogin(auth=order["auth"], **files)  # type: ignore[arg-type]


def _hold(order: dict[str, Any]) -> None:
    endpoint = Endpoint(
        transport=Transport(order["transport"]),
        port=order["port"],
        user=order["user"],
        key_file=Path(order["key_file"]) if order["key_file"] else None,
        known_hosts=Path(order["known_hosts"]) if order["known_hosts"] else None,
        workdir=order["workdir"],
        winrm=_read(order["winrm"]),
        grade=Grade(order["grade"]),
    )
    node = connect(endpoint)
    node.put({name: text.encode() for name, text in order["files"].items()})
    node.run(order["command"], deadline=within(300), sink=lambda chunk: None)
    os._exit(0)


if __name__ == "__main__":
    _hold(json.loads(sys.argv[1]))
