# SPDX-License-Identifier: Apache-2.0
"""What the harness asks of a CI: to be started, stopped and killed from outside.

Only Gerrit's side and /proc are looked at, so any CI can be compared.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tests.bench.meter import tree

PYTHON_SAFE = {"PYTHONSAFEPATH": "1"}
LONG_LINE = "x" * 99
SUITES = {
    "": "true",
    "-sleep": "sleep 1",
    "-log": f"yes {LONG_LINE} | head -c 20000000",
}
STOP_S = 30.0


class Contender(Protocol):
    """A CI under test. `start` after `kill` takes up what the killed one left."""

    @property
    def name(self) -> str:
        """Short name; its account is NAME-ci, its projects bench-NAME and so on."""
        ...

    @property
    def durable(self) -> bool:
        """Whether it promises to lose nothing over a crash."""
        ...

    def start(self) -> None:
        """Start it; returns once it says that it is ready."""
        ...

    def stop(self) -> None:
        """Stop it cleanly; one that does not run is no error."""
        ...

    def kill(self) -> None:
        """Kill its whole process tree at once."""
        ...

    def pids(self) -> list[int]:
        """Roots of its process trees."""
        ...


def account(name: str) -> str:
    """The Gerrit account of a contender."""
    return f"{name}-ci"


def projects(name: str) -> dict[str, str]:
    """Projects of a contender, and the command that each runs."""
    return {f"bench-{name}{suffix}": command for suffix, command in SUITES.items()}


def launch(argv: Sequence[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a contender's process in a session of its own, its output into `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **PYTHON_SAFE, **env},
            start_new_session=True,
        )


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all below it."""
    for victim in tree([pid]):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def end(pid: int) -> None:
    """SIGTERM, and SIGKILL to the tree of one that does not end in time."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not gone(pid, STOP_S):
        kill_tree(pid)
        gone(pid, STOP_S)


def gone(pid: int, seconds: float) -> bool:
    """Wait until a process has ended, reaping it where it is our child."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False
