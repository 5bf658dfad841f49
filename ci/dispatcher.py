# SPDX-License-Identifier: Apache-2.0
"""Between steps 3 and 4: queued builds start, first come first served, where there is room.

Room is what the node label has: a build never occupies the engine only to wait for a node
that others hold. Our rows are the queue; the engine makes what was started durable. A crash
between the two is mended by `reconcile`.

A build that waits for a review server which is away uses no node: it takes no room, and further
builds of that server's changes wait in the queue, so that other servers' go on.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta

from ci.bell import Bell
from ci.clock import Clock
from ci.engine import Engine
from ci.errors import StorageError
from ci.log import get
from ci.store import queue
from ci.store.database import Database
from ci.store.queue import LabelRoom, QueuedBuild

STUCK = timedelta(seconds=20)
"""A merge takes less than a second; one that takes longer waits for its server."""


class Dispatcher:
    """Starts builds; the body of one thread.

    Args:
        database: Where the queue is.
        clock: Where time comes from.
        engine: Runs them.
        slots: Builds that may run at once, over all labels.
        bell: Rung when a build was queued or ended.
    """

    def __init__(
        self, database: Database, clock: Clock, engine: Engine, *, slots: int, bell: Bell
    ) -> None:
        self._database = database
        self._clock = clock
        self._engine = engine
        self._slots = slots
        self._bell = bell
        self._starting = threading.Lock()
        self._stop = threading.Event()
        self._log = get("build")

    def run(self) -> None:
        """Start builds as there is room, until `stop`."""
        while not self._stop.is_set():
            try:
                self.dispatch()
            except StorageError as error:
                self._log.error("starting builds waits", action="wait", reason=str(error))
                self._stop.wait(2.0)
            if not self._bell.wait(1.0):
                self._explain()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()
        self._bell.ring()

    def dispatch(self) -> int:
        """Start what there is room for; returns how many builds were started."""
        with self._starting:
            waiting, rooms, away = self._look()
            chosen = _choose(waiting, rooms, self._slots, away)
            for build_id in chosen:
                with self._database.write() as tx:
                    claimed = queue.claim(tx, build_id, at=self._clock.now())
                if claimed:
                    self._engine.submit(build_id)
        return len(chosen)

    def reconcile(self) -> int:
        """Start again what should run and does not; returns how many builds."""
        with self._starting:
            with self._database.read() as tx:
                lost = self._engine.unknown(queue.running(tx))
            self._engine.forget(lost)
            for build_id in lost:
                self._log.warning("build taken up again", action="reconcile", build=build_id)
                self._engine.submit(build_id)
        return len(lost)

    def forget(self) -> int:
        """Drop the engine's records of what ended; returns how many.

        Not while `reconcile` submits one of them anew: its new record would be dropped.
        """
        with self._starting:
            ended = self._engine.finished()
            self._engine.forget(ended)
        return len(ended)

    def _look(self) -> tuple[list[QueuedBuild], dict[str, LabelRoom], frozenset[str]]:
        """The queue, the room there is, and the connections whose builds wait for their server."""
        with self._database.read() as tx:
            waiting = queue.queued(tx)
            if not waiting:
                return [], {}, frozenset()
            rooms = queue.rooms(tx)
            stuck = queue.stuck(tx, before=self._clock.now() - STUCK)
        for one in stuck[: self._slots]:  # the engine has threads for so many more
            room = rooms.get(one.label)
            if room:
                rooms[one.label] = replace(room, running=room.running - 1)
        return waiting, rooms, frozenset(one.connection for one in stuck)

    def _explain(self) -> None:
        """Write down why builds wait, where that has changed."""
        waiting, rooms, away = self._look()
        reasons = _reasons(waiting, rooms, self._slots, away)
        changed = {b.build_id: reasons[b.build_id] for b in waiting}
        changed = {i: r for i, r in changed.items() if r != _said(waiting, i)}
        if changed:
            with self._database.write() as tx:
                queue.explain_waiting(tx, changed)


def _said(waiting: Sequence[QueuedBuild], build_id: str) -> str:
    return next(b.waiting for b in waiting if b.build_id == build_id)


def _choose(
    waiting: Sequence[QueuedBuild],
    rooms: dict[str, LabelRoom],
    slots: int,
    away: Collection[str] = (),
) -> tuple[str, ...]:
    """Ids of the builds to start, oldest first; pure."""
    free = slots - sum(room.running for room in rooms.values())
    left = {label: room.usable - room.running for label, room in rooms.items()}
    chosen: list[str] = []
    for build in waiting:
        if len(chosen) >= free:
            break
        if left.get(build.label, 0) > 0 and build.connection not in away:
            left[build.label] -= 1
            chosen.append(build.build_id)
    return tuple(chosen)


def _reasons(
    waiting: Sequence[QueuedBuild],
    rooms: dict[str, LabelRoom],
    slots: int,
    away: Collection[str] = (),
) -> dict[str, str]:
    """Why each build waits, by build id; pure."""
    before: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for build in waiting:
        if build.connection in away:
            reasons[build.build_id] = f"the review server of {build.connection} is away"
            continue
        ahead = before.get(build.label, 0)
        before[build.label] = ahead + 1
        reasons[build.build_id] = _reason(build.label, rooms.get(build.label), ahead, slots)
    return reasons


def _reason(label: str, room: LabelRoom | None, ahead: int, slots: int) -> str:
    if room is None:
        return f"no provider offers a node with label {label}"
    queue_note = f", {ahead} before it" if ahead else ", next in line"
    trouble = f" ({room.trouble})" if room.trouble else ""
    if not room.usable:
        return f"no {label} node is usable{trouble}"
    if room.running >= room.usable:
        busy = f"all {room.usable} {label} nodes are" if room.usable > 1 else f"the {label} node is"
        return f"{busy} busy{queue_note}{trouble}"
    return f"all {slots} slots of this installation are busy{queue_note}"
