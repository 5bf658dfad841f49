# SPDX-License-Identifier: Apache-2.0
"""The harness' own event stream: when did a patch set appear, when did its vote?

Both clocks are read where events are received, so Gerrit's own time to take a vote is inside
every latency, for every CI alike.
"""

import json
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from ci.sandbox.account import ReviewServer

RECONNECT_S = 0.3


class Stream(threading.Thread):
    """Follows Gerrit's events as the administrator; connects again when the server dies.

    Args:
        server: Gerrit, seen by the administrator.

    Attributes:
        created: Change number to the wall clock at `patchset-created`.
        votes: (account, change number) to the wall clocks of its votes.
    """

    def __init__(self, server: ReviewServer) -> None:
        super().__init__(name="stream", daemon=True)
        self._server = server
        self.created: dict[int, float] = {}
        self.votes: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Read events until `stop`."""
        while not self._ended.is_set():
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            with self._process as process:
                for line in process.stdout or ():
                    self._take(time.time(), json.loads(line))
            self._ended.wait(RECONNECT_S)

    def stop(self) -> None:
        """End `run`."""
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
        self.join(10)

    def _command(self) -> list[str]:
        server = self._server
        return [
            *("ssh", "-F", "/dev/null", "-p", str(server.ssh_port), "-i", str(server.key_file)),
            *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "ServerAliveInterval=15"),
            *(f"{server.user}@{server.host}", "gerrit", "stream-events"),
            *("-s", "patchset-created", "-s", "comment-added"),
        ]

    def _take(self, now: float, event: dict[str, Any]) -> None:
        number = event["change"]["number"]
        with self._changed:
            if event["type"] == "patchset-created":
                self.created[number] = now
            elif _is_vote(event):
                self.votes[event["author"]["username"], number].append(now)
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for something that events bring about; False when it did not come."""
        with self._changed:
            return self._changed.wait_for(until, seconds)

    def voted(self, account: str, numbers: Iterable[int]) -> int:
        """How many of these changes have a vote of the account."""
        return sum(1 for number in numbers if self.votes.get((account, number)))

    def first_vote(self, account: str, number: int) -> float | None:
        """Wall clock of the account's first vote on a change."""
        return next(iter(self.votes.get((account, number), ())), None)

    def latencies(self, account: str, numbers: Iterable[int]) -> list[float]:
        """Seconds from patch set to vote, of those changes that have both."""
        pairs = ((self.created.get(one), self.first_vote(account, one)) for one in numbers)
        return [vote - created for created, vote in pairs if created and vote]


def _is_vote(event: dict[str, Any]) -> bool:
    given = event.get("approvals", ())
    return any(one["type"] == "Verified" and int(one["value"]) for one in given)
