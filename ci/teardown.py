# SPDX-License-Identifier: Apache-2.0
"""The end of step 5: what an attempt holds on its nodes is undone, however it ended.

It has a deadline of its own, and nobody's cancel reaches it: the time that the attempt used up
is not missing here. The leases stay until it is over. See docs/adr/0020.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ci.cancel import Deadline
from ci.clock import Clock
from ci.collect import ConsoleLog
from ci.errors import HypervouchError, StorageError
from ci.model.node import Lease
from ci.runners.base import Session
from nodes.pool import NodePool


class Teardown:
    """Ends sessions and machines, then gives the nodes back. Used once.

    Args:
        pool: Whose nodes they are.
        clock: Where time comes from.
        console: The attempt's log.
        seconds: For all of it.

    Attributes:
        failed: Whether the build failed: sets off a hold that waits for that.
    """

    def __init__(
        self, pool: NodePool, clock: Clock, console: ConsoleLog, *, seconds: float
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._console = console
        self._seconds = seconds
        self.failed = False
        self._sessions: list[tuple[str, Session]] = []

    def add(self, node: str, session: Session) -> None:
        """A session on a node, to be ended before the node's machine."""
        self._sessions.append((node, session))

    def run(self, leases: Sequence[Lease]) -> None:
        """End what the sessions started, the machines, and then the leases."""
        began = self._clock.monotonic_s()
        deadline = Deadline("teardown", self._seconds, self._clock)
        unclean = dict(self._end_sessions(deadline))
        for lease in leases:
            with self._told(lease.node):
                self._pool.give_back(
                    lease,
                    deadline=deadline,
                    unclean=unclean.get(lease.node, ""),
                    failed=self.failed,
                )
        took_s = self._clock.monotonic_s() - began
        self._say(f"teardown ended after {took_s:.1f} s")

    def _end_sessions(self, deadline: Deadline) -> Iterator[tuple[str, str]]:
        """Nodes whose sessions could not be ended for certain, each with the reason.

        Half of the time at most: the machines' end needs the rest.
        """
        half = Deadline("the suite's end", self._seconds / 2, self._clock, parent=deadline)
        for node, session in self._sessions:
            try:
                if not session.kill(half):
                    yield node, "what ran there could not be ended for certain"
            except HypervouchError as error:
                yield node, error.message
            finally:
                session.close()

    @contextmanager
    def _told(self, node: str) -> Iterator[None]:
        """If the database is away, the lease ends by itself."""
        try:
            yield
        except StorageError as error:
            self._say(f"{node} could not be given back: {error.message}")

    def _say(self, text: str) -> None:
        with suppress(StorageError):  # a full disk keeps no node
            self._console.note(text)
