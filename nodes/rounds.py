# SPDX-License-Identifier: Apache-2.0
"""Looks after the nodes that this process reaches: health jobs, and the ends of holds.

A health job comes before any build: while a node owes one it is handed out to nobody else. It
takes a lease like a build, so it waits for the build that is there, and one process alone does it.
"""

import threading
from collections.abc import Callable

from ci.board import turn
from ci.errors import HypervouchError, StorageError
from ci.log import get
from ci.model.node import Endpoint
from nodes.health import one_login
from nodes.pool import NodePool

TURN_S = 2.0
AT_ONCE = 4

Examine = Callable[[Endpoint, str], dict[str, str]]
"""The full look at a node; gets its provider's name too. Returns facts, raises
NodeUnavailable."""


class Rounds:
    """Does health jobs and ends holds.

    Args:
        pool: Whose nodes.
        examine: The full look at a node whose preflight passed.
    """

    def __init__(self, pool: NodePool, examine: Examine) -> None:
        self._pool = pool
        self._examine = examine
        self._stop = threading.Event()
        self._at_work: set[str] = set()
        self._lock = threading.Lock()
        self._log = get("lease")

    def run(self) -> None:
        """Do what is owed until `stop`; the body of one thread."""
        while not self._stop.is_set():
            turn()
            try:
                self._pool.end_holds()
                for name in self._pool.owed_health():
                    self._begin(name)
            except StorageError as error:
                self._log.warning("no health jobs", action="health", reason=str(error))
            self._stop.wait(TURN_S)

    def _begin(self, name: str) -> None:
        """Do a health job beside the others; nobody waits at the end for one that hangs."""
        with self._lock:
            if name in self._at_work or len(self._at_work) >= AT_ONCE:
                return
            self._at_work.add(name)
        threading.Thread(
            target=self._guarded, args=(name,), name=f"health {name}", daemon=True
        ).start()

    def _guarded(self, name: str) -> None:
        try:
            self.job(name)
        except StorageError as error:
            self._log.warning("health job not noted", action="health", reason=str(error))
        finally:
            with self._lock:
                self._at_work.discard(name)

    def stop(self) -> None:
        """End `run`; a job in hand goes on by itself."""
        self._stop.set()

    def job(self, name: str) -> str | None:
        """One health job.

        Returns:
            What is wrong with the node, or nothing; None while somebody has it.
        """
        with self._pool.borrow(name, "health") as lease:
            if lease is None:
                return None
            slot = self._pool.slot(name)
            trouble = ""
            try:
                endpoint = slot.provider.start(slot.local, "health")
                with one_login():
                    self._pool.look(slot, endpoint)
                    self._examine(endpoint, slot.provider.name)
            except HypervouchError as error:
                trouble = error.message
            except Exception as error:  # noqa: BLE001 - a plug-in's bug costs its node only
                self._log.exception("a bug in a health job", action="bug", node=name)
                trouble = f"{type(error).__name__}: {error}"
            try:
                slot.provider.stop(slot.local)
            except HypervouchError as error:
                trouble = trouble or f"its machine could not be ended: {error.message}"
            self._pool.book.job_ended(name, trouble)
            return trouble

    def probe(self, name: str) -> str | None:
        """The short look, now and whatever the node's state.

        Returns:
            What is wrong with it, or nothing; None while somebody has it.
        """
        with self._pool.borrow(name, "probe") as lease:
            return None if lease is None else self._pool.probe_one(name)
