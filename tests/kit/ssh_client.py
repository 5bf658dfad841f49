# SPDX-License-Identifier: Apache-2.0
"""Commands over SSH as OpenSSH's own client sends them, and a tap on the event stream."""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ci.sandbox.account import ReviewServer

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command left."""

    status: int
    stdout: str
    stderr: str


def ssh_command(server: ReviewServer, *command: str) -> list[str]:
    """The client's command line for a command as this account."""
    return [
        *("ssh", "-F", "/dev/null", "-i", str(server.key_file), "-p", str(server.ssh_port)),
        *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={server.known_hosts}"),
        *("-o", "GlobalKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
        f"{server.user}@{server.host}",
        *command,
    ]


def run_ssh(server: ReviewServer, *command: str, stdin: str = "", timeout_s: float = 60.0) -> Said:
    """Run a command to its end."""
    done = subprocess.run(
        ssh_command(server, *command),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Said(status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def query(server: ReviewServer, *words: str) -> list[dict[str, Any]]:
    """`gerrit query --format=JSON` as rows; the last one holds the statistics."""
    said = run_ssh(server, "gerrit", "query", "--format=JSON", *words)
    if said.status != 0:
        raise AssertionError(f"query failed: {said.stderr}")
    return [json.loads(line) for line in said.stdout.splitlines()]


class EventTap:
    """Follows the event stream while its block runs.

    Args:
        server: An account that may follow it.
        options: Of `stream-events`, for instance `-s`, `comment-added`.
        nudge: Makes any event; called until the first one arrives, so that nothing of what
            the block does is missed.
    """

    def __init__(
        self, server: ReviewServer, *options: str, nudge: Callable[[], object] | None = None
    ) -> None:
        self._command = ssh_command(server, "gerrit", "stream-events", *options)
        self._nudge = nudge
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Connect, and wait until events flow."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._nudge is not None:
            self._await_flow(self._nudge)
        return self

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)

    def _await_flow(self, nudge: Callable[[], object]) -> None:
        for _ in range(60):
            nudge()
            try:
                self._lines.get(timeout=1.0)
            except queue.Empty:
                continue
            return
        raise AssertionError("no event came in a minute")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        self._process.kill()
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def ended(self, *, timeout_s: float = 30.0) -> bool:
        """Whether the client ends by itself in time, as it does when its line is cut."""
        try:
            self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def until(
        self, wanted: Callable[[Event], bool], *, count: int = 1, timeout_s: float = 30.0
    ) -> list[Event]:
        """Events in order of arrival, up to the `count`-th wanted one; only wanted ones.

        Raises:
            AssertionError: They did not come in time.
        """
        found: list[Event] = []
        deadline = time.monotonic() + timeout_s
        while len(found) < count:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{len(found)} of {count} events in {timeout_s} s") from None
            event = json.loads(line)
            if wanted(event):
                found.append(event)
        return found

    def next(self, kind: str, *, project: str, timeout_s: float = 30.0) -> Event:
        """The next event of a type in a project."""
        return self.until(
            lambda one: one["type"] == kind and one.get("project") == project,
            timeout_s=timeout_s,
        )[0]
