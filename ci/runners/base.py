# SPDX-License-Identifier: Apache-2.0
"""The seam to nodes: how commands, trees and results travel.

Lifecycle of one Session, driven by the worker inside one lease:

1. `connect(endpoint)` gives a Session; NodeUnavailable when the node refuses us.
2. `put_tree` for each directory, then `run` for each step, one at a time. A holder before us
   may have died without a word: whatever a session with the same working directory left
   running there is ended before a tree is put.
3. `kill` ends everything that `run` ever started there, process groups and all. It may be
   called from another thread while `run` blocks, must succeed when repeated and when
   nothing runs; `run` then returns or raises promptly. It tells whether that is certain.
4. `fetch` may be called after a failure or a `kill`.
5. `close` gives the connection back; repeatable, never raises.

However it is ended, by a deadline, a cancel or a `kill`, a command is interrupted first, then
terminated, then killed, with the times of the session's `Grace`: what it says meanwhile goes
to `sink`, and what each signal did, to `tell`. A node that does not answer meanwhile costs a
bounded time more and is disconnected.

Errors: a connection that breaks in the middle raises NodeUnavailable (the node's fault); a
command's exit status is data and is returned. Output reaches `sink` as it comes, in order,
never split inside `run`'s own lock; sinks must be quick.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from ci.cancel import CancelToken, Deadline
from ci.model.node import Endpoint
from ci.runners.stop import Grace, Tell, quiet

Sink = Callable[[bytes], None]


class Session(Protocol):
    """A build's hold on one node."""

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """Unpack an uncompressed tar stream into a new, empty `directory` on the node.

        Raises:
            NodeUnavailable: The node refused it or went away, or what an earlier holder left
                running there could not be ended.
            RunTimeout: The deadline passed.
            HypervouchError: The cause of the cancel that the deadline looks at.
        """
        ...

    def run(
        self,
        command: str,
        *,
        directory: str,
        env: Mapping[str, str],
        sink: Sink,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> int:
        """Run a shell command in a process group of its own; stdout and stderr go to `sink`.

        Returns:
            The exit status; 128 + N where signal N ended it.

        Raises:
            RunTimeout: The deadline passed; the process group was interrupted, terminated,
                then killed.
            HypervouchError: The token's cause, after the process group was ended likewise.
            NodeUnavailable: The connection broke.
        """
        ...

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Bring home the regular files below `directory` that match one of the globs.

        They keep their relative paths below `target`. Links, paths that lead outside, and
        whatever would pass `limit_bytes` in all are left there and named in a CollectError
        after everything else was fetched.

        Returns:
            Paths relative to `target`, sorted.

        Raises:
            CollectError: Something was left behind; or, then `retryable`, the node went away
                or the deadline passed.
        """
        ...

    def kill(self, deadline: Deadline | None = None) -> bool:
        """End everything this session started on the node; repeatable, from any thread.

        Args:
            deadline: Cuts the session's `Grace` where less time is left.

        Returns:
            Whether it is certain that nothing of it runs any more.
        """
        ...

    def close(self) -> None:
        """Give the connection back; repeatable."""
        ...


class Runner(Protocol):
    """Makes Sessions for one transport. Thread-safe."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = quiet,
    ) -> Session:
        """Open a session.

        Args:
            endpoint: The node.
            deadline: When to give up.
            grace: How long each signal has when something has to be ended.
            tell: Takes what each signal did, one sentence each, for the log.

        Raises:
            NodeUnavailable: Refused, unreachable, or an unknown host key.
        """
        ...
