# SPDX-License-Identifier: Apache-2.0
"""Between steps 3 and 4: writes down why builds wait, where in line, and when they may start.

A chore of one process; the pages of all of them show it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from ci.clock import Clock
from ci.layout import Layout
from ci.maintenance import closed_now
from ci.reasons import Busy, Scene, Waiting, obstacle, reason, starts_at, without_dead
from ci.scheduling import Chooser, Needs
from ci.store import lines, pauses
from ci.store.database import Database
from ci.store.lines import Place, Queued, RunningBuild
from ci.store.moment import moment
from ci.store.site import Look, look

HISTORY_S = 60.0
"""How long what such builds took before is believed."""
SMALL_SHIFT = timedelta(seconds=30)


class Explainer:
    """Tells of the first builds of each line why they wait.

    Args:
        database: Where the queue is.
        clock: Where time comes from.
        layout: Gives the current layout: limits of labels, maintenance.
        workers: Gives the live processes that run builds, and the slots of each.
        full: Gives those that take no new ones for want of room on their disks.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        layout: Callable[[], Layout] | None,
        workers: Callable[[sa.Connection], Mapping[str, int]],
        full: Callable[[sa.Connection], Sequence[str]] = lambda _: (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._layout = layout
        self._workers = workers
        self._full = full
        self._took: dict[tuple[str, str], tuple[float, timedelta | None]] = {}

    def explain(self) -> int:
        """Write down what has changed; returns of how many builds."""
        with self._database.read() as tx:
            at = moment(tx, self._clock)
            workers, full = self._workers(tx), self._full(tx)
            waiting = lines.first(tx)
            if not waiting:
                return 0
            busy = lines.running(tx)
            closed = pauses.closed(tx, at=at)
            limits: Mapping[str, int] = {}
            if self._layout is not None:
                layout = self._layout()
                closed |= closed_now(layout.maintenance, at)
                limits = layout.label_slots
            seen = look(tx, at=at, limits=limits, closed=closed)
            jobs = {(w.job, w.label) for w in waiting} | {(b.job, b.label) for b in busy}
            took = {key: self._takes(tx, key, at) for key in jobs}
        found = places(waiting, busy, seen, workers, took=took, at=at)
        if full and not workers:
            words = f"no disk has room: {', '.join(full)} starts no new builds"
            found = {one: replace(place, waiting=words) for one, place in found.items()}
        changed = {
            one.build_id: found[one.build_id]
            for one in waiting
            if _differs(one.place, found[one.build_id])
        }
        with self._database.read() as tx:
            behind = lines.no_longer_first(tx, [one.build_id for one in waiting])
        if changed or behind:
            with self._database.write() as tx:
                lines.write(tx, changed)
                lines.write(tx, dict.fromkeys(behind, Place(waiting=lines.FAR)))
        return len(changed) + len(behind)

    def _takes(self, tx: sa.Connection, key: tuple[str, str], at: datetime) -> timedelta | None:
        """How long builds of a job on a label took of late; read anew every minute."""
        now_s = self._clock.monotonic_s()
        read_s, known = self._took.get(key, (-HISTORY_S, None))
        if now_s - read_s >= HISTORY_S:
            known = lines.usual_time(tx, job=key[0], label=key[1], at=at)
            self._took[key] = (now_s, known)
        return known


def places(
    waiting: list[Queued],
    busy: list[RunningBuild],
    seen: Look,
    workers: Mapping[str, int],
    *,
    took: Mapping[tuple[str, str], timedelta | None],
    at: datetime,
) -> dict[str, Place]:
    """Reason, position and start of each waiting build, by build id; pure.

    Args:
        waiting: The first builds of each line, in order.
        busy: What runs.
        seen: Nodes, limits, what is closed.
        workers: Slots of each live worker.
        took: By job and label, how long such builds took.
        at: The time.
    """
    scene = Scene(
        site=without_dead(seen.site, workers),
        closed=seen.closed,
        away=seen.away,
        workers=workers,
    )
    found: dict[str, Place] = {}
    movable: dict[str, list[Queued]] = {}
    chooser = Chooser(scene.site, None)
    ahead: dict[str, int] = {}
    for one in waiting:
        position = ahead[one.label] = ahead.get(one.label, 0) + 1
        asked = Waiting(
            build_id=one.build_id,
            needs=one.needs,
            pipeline=one.pipeline,
            connection=one.connection,
            job=one.job,
        )
        words = obstacle(asked, scene)
        if not words:
            before = len(movable.setdefault(one.label, []))
            words = reason(asked, scene, chooser, before)
            movable[one.label].append(one)
        found[one.build_id] = Place(waiting=words, position=position)
    for label, line in movable.items():
        starts = _starts(label, line, busy, scene=scene, took=took, at=at)
        for one, start in zip(line, starts, strict=True):
            was = found[one.build_id]
            found[one.build_id] = Place(waiting=was.waiting, position=was.position, eta_at=start)
    return found


def _starts(
    label: str,
    line: list[Queued],
    busy: list[RunningBuild],
    *,
    scene: Scene,
    took: Mapping[tuple[str, str], timedelta | None],
    at: datetime,
) -> list[datetime | None]:
    nodes = min(
        len(scene.usable(label)),
        scene.site.limits.get(label, 1 << 30),
        sum(scene.workers.values()),
    )
    stuck = {one.build_id for one in scene.site.running if one.stuck}
    running = [
        Busy(count=_count(one.needs, label), ends_at=_end(one, took))
        for one in busy
        if _count(one.needs, label) and one.build_id not in stuck
    ]
    wanted = [(_count(one.needs, label), took.get((one.job, one.label))) for one in line]
    return starts_at(wanted, running, nodes=nodes, now=at)


def _count(needs: Needs, label: str) -> int:
    return needs.labels.count(label)


def _end(one: RunningBuild, took: Mapping[tuple[str, str], timedelta | None]) -> datetime | None:
    takes = took.get((one.job, one.label))
    return None if takes is None or one.started_at is None else one.started_at + takes


def _differs(old: Place, new: Place) -> bool:
    if (old.waiting, old.position) != (new.waiting, new.position):
        return True
    if old.eta_at is None or new.eta_at is None:
        return old.eta_at != new.eta_at
    return abs(old.eta_at - new.eta_at) > SMALL_SHIFT
