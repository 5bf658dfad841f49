# SPDX-License-Identifier: Apache-2.0
"""`kill -9` between any two writes of `hypervouch serve`, on a real Gerrit: one vote a run.

A flow is one patch that breaks a test (check, baseline, repeat) and a good one with a recheck.
A first run counts its writes; then the process dies right before or right after one of them,
is started again, and the votes have to be the same. HYPERVOUCH_CRASH_POINTS says at how many
points (`all` for every one), HYPERVOUCH_CRASH_SEED which: the seed of a run is printed.
"""

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.sandbox.author import PushedChange
from ci.sandbox.real.server import RealGerrit
from tests.kit.die_at import AFTER, BEFORE, Point, recorded
from tests.kit.installation import GOOD, Installation
from tests.kit.stage import BROKEN, Stage

POINTS = os.environ.get("HYPERVOUCH_CRASH_POINTS", "8")
SEED = int(os.environ.get("HYPERVOUCH_CRASH_SEED") or random.randrange(1_000_000))  # noqa: S311
AT_ONCE = 3
WAIT_S = 240.0
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(6 * 3600 if POINTS == "all" else 900),
]
UNDONE = {
    "events to plan": "SELECT count(*) FROM ci_event WHERE processed_at IS NULL",
    "buildsets": "SELECT count(*) FROM ci_buildset WHERE state NOT IN ('done', 'canceled')",
    "builds": "SELECT count(*) FROM ci_build WHERE state NOT IN ('done', 'canceled')",
    "attempts": "SELECT count(*) FROM ci_attempt WHERE state <> 'done'",
    "leases": "SELECT count(*) FROM ci_node WHERE holder IS NOT NULL",
    "reviews": "SELECT count(*) FROM ci_outbox WHERE state <> 'delivered'",
}


class Mortal(Installation):
    """An installation whose process may end at a point of its own choice."""

    @property
    def record(self) -> Path:
        """Who made each write of the process that was to die."""
        return self.directory / "writes.txt"

    @property
    def dead(self) -> bool:
        """Whether its process has killed itself."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    def start_until(self, point: Point) -> None:
        """Start it; it may be dead before it is connected."""
        program = ["tests.kit.die_at", str(point.number), point.mode, str(self.record)]
        mine, self._program = self._program, program
        try:
            self.start()
        except AssertionError:
            if not self.dead:
                raise
        finally:
            self._program = mine

    def revive(self) -> bool:
        """Start it again if it is dead; what its children do now is their affair."""
        if not self.dead:
            return False
        self.start()
        return True

    def undone(self) -> dict[str, int]:
        """What is left to do, by kind; kinds of which nothing is left are left out."""
        path = self.directory / "state" / "hypervouch.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            found = {name: database.execute(sql).fetchone()[0] for name, sql in UNDONE.items()}
        return {name: count for name, count in found.items() if count}


class MortalStage(Stage):
    """A stage with such an installation."""

    def __init__(self, gerrit: RealGerrit, directory: Path) -> None:
        super().__init__(gerrit, directory)
        self.ci: Mortal = Mortal(gerrit.ci, directory / "ci", self.project, slots=2)

    def comments(self, change: PushedChange) -> int:
        """How often we have spoken on a change."""
        return len(self.ci.said(self.author, change).comments)


@dataclass(frozen=True, kw_only=True)
class Played:
    """What became of one flow.

    Attributes:
        died: The process ended at its point.
        writes: Who made each write of the first process.
        wrong: What is not as it should be; empty when all is well.
    """

    died: bool
    writes: list[str]
    wrong: str


def play(gerrit: RealGerrit, directory: Path, point: Point) -> Played:
    """Let a flow run to its end with a process that dies at a point and is started again."""
    stage, died = MortalStage(gerrit, directory), False
    ci = stage.ci

    def patiently(until: Callable[[], bool], what: str) -> None:
        nonlocal died
        deadline = time.monotonic() + WAIT_S
        while not until():
            died = ci.revive() or died
            assert time.monotonic() < deadline, f"{what}: {ci.undone()}\n{_log_end(ci)}"
            time.sleep(0.2)
        died = ci.revive() or died

    try:
        ci.start_until(point)
        broken, good = stage.push(BROKEN, "Bad"), stage.push(GOOD, "Good")
        patiently(lambda: stage.comments(good) > 0, "the good one's vote")
        stage.author.comment(good, "recheck")
        patiently(lambda: stage.comments(good) > 1, "the recheck's vote")
        patiently(lambda: stage.comments(broken) > 0, "the bad one's vote")
        for _ in range(2):  # what dies at its last write has to settle down again
            patiently(lambda: not ci.undone(), "the end")
        time.sleep(0.5)
        wrong = _wrong(stage, {broken: (-1, 1), good: (1, 2)})
    finally:
        ci.kill()
    return Played(died=died, writes=recorded(ci.record), wrong=wrong)


def _log_end(ci: Installation) -> str:
    return ci.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _wrong(stage: MortalStage, wanted: dict[PushedChange, tuple[int, int]]) -> str:
    """What differs from (vote, comments) by change, and what is left to do."""
    said = {change: stage.ci.said(stage.author, change) for change in wanted}
    found = [
        f"change {change.number}: vote {one.vote} and {len(one.comments)} comments, not {right}"
        for change, right in wanted.items()
        if (one := said[change]) and (one.vote, len(one.comments)) != right
    ]
    undone = stage.ci.undone()
    return "; ".join([*found, *([f"left to do: {undone}"] if undone else [])])


def _chosen(count: int) -> list[Point]:
    """Points spread over a flow of so many writes, or all of them."""
    every = [Point(number=n, mode=m) for n in range(1, count + 1) for m in (BEFORE, AFTER)]
    wanted = len(every) if POINTS == "all" else min(int(POINTS), len(every))
    dice = random.Random(SEED)  # noqa: S311 - to be repeated, not to be secret
    bounds = [len(every) * part // wanted for part in range(wanted + 1)]
    return [
        every[dice.randrange(first, last)] for first, last in zip(bounds, bounds[1:], strict=False)
    ]


@contextmanager
def _on_trouble(seed: int) -> Iterator[None]:
    """Say with what to repeat it."""
    print(f"HYPERVOUCH_CRASH_SEED={seed}")
    yield


def test_killed_at_any_write_every_run_ends_with_its_one_vote(
    real_gerrit: RealGerrit, tmp_path: Path
):
    counted = play(real_gerrit, tmp_path / "count", Point())
    assert not counted.wrong
    writes = len(counted.writes)
    assert writes > 40, "fewer writes than the flow has steps: are they counted?"
    chosen = _chosen(writes)
    print(f"HYPERVOUCH_CRASH_SEED={SEED}: {len(chosen)} of {2 * writes} points")

    def at(point: Point) -> Played:
        return play(real_gerrit, tmp_path / f"{point.mode}-{point.number}", point)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        played = dict(zip(chosen, threads.map(at, chosen), strict=True))
    died = [point for point, one in played.items() if one.died]
    print(f"died at {len(died)}, in {sorted({_place(p, played[p]) for p in died})}")
    assert {str(p): one.wrong for p, one in played.items() if one.wrong} == {}
    # How often a process says why it waits varies: the last points may lie beyond its end.
    assert len(died) >= len(chosen) * 3 // 4


def _place(point: Point, played: Played) -> str:
    return f"{point.mode} {played.writes[point.number - 1]}"
