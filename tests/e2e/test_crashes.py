# SPDX-License-Identifier: Apache-2.0
"""`kill -9` between any two writes of `hypervouch serve`, on a real Gerrit: one vote a run.

A flow is one patch that breaks a test (check, baseline, repeat) and a good one with a recheck.
A first run counts its writes; then the process dies right before or right after one of them,
is started again, and the votes have to be the same. HYPERVOUCH_CRASH_POINTS says at how many
points (`all` for every one), HYPERVOUCH_CRASH_SEED which: the seed of a run is printed. In the
burst Gerrit dies once, and with `all` in every round.
"""

import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from ci.sandbox.author import PushedChange
from ci.sandbox.real.server import RealGerrit
from tests.kit.die_at import AFTER, BEFORE, Point, recorded
from tests.kit.installation import GOOD, TAG, Installation
from tests.kit.stage import BROKEN, Stage

POINTS = os.environ.get("HYPERVOUCH_CRASH_POINTS", "8")
SEED = int(os.environ.get("HYPERVOUCH_CRASH_SEED") or random.randrange(1_000_000))
AT_ONCE = 3
WAIT_S = 240.0
ROUNDS, CHANGES, RECHECKS = 5, 15, 3
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(6 * 3600 if POINTS == "all" else 900),
]
UNDONE = {
    "events": "SELECT count(*) FROM ci_event WHERE processed_at IS NULL AND project = :project",
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

    @property
    def has_begun(self) -> bool:
        """Whether it has come so far once that it misses nothing any more."""
        return bool(self._ask("SELECT count(*) FROM ci_watermark"))

    def undone(self) -> dict[str, int]:
        """What is left to do, by kind; kinds of which nothing is left are left out."""
        found = {name: self._ask(sql) for name, sql in UNDONE.items()}
        return {name: count for name, count in found.items() if count}

    def _ask(self, sql: str) -> int:
        path = self.directory / "state" / "hypervouch.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            found: int = database.execute(sql, {"project": self.project}).fetchone()[0]
            return found


class MortalStage(Stage):
    """A stage with such an installation."""

    def __init__(self, gerrit: RealGerrit, directory: Path) -> None:
        super().__init__(gerrit, directory)
        self.ci: Mortal = Mortal(gerrit.ci, directory / "ci", self.project, slots=2)

    def comments(self, change: PushedChange) -> int:
        """How often we have spoken on a change."""
        return len(self.author.messages(change, tag=TAG))


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
        if not ci.has_begun:  # what happened before an installation first listened is not tested
            died = ci.revive()
            patiently(lambda: ci.has_begun, "the first catch-up")
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
    dice = random.Random(SEED)
    bounds = [len(every) * part // wanted for part in range(wanted + 1)]
    return [every[dice.randrange(first, last)] for first, last in pairwise(bounds)]


def test_killed_at_any_write_every_run_ends_with_its_one_vote(
    real_gerrit: RealGerrit, tmp_path: Path
):
    _tell()
    counted = play(real_gerrit, tmp_path / "count", Point())
    assert not counted.wrong
    writes = len(counted.writes)
    assert writes > 40, "fewer writes than the flow has steps: are they counted?"
    chosen = _chosen(writes)

    def at(point: Point) -> Played:
        return play(real_gerrit, tmp_path / f"{point.mode}-{point.number}", point)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        played = dict(zip(chosen, threads.map(at, chosen), strict=True))
    died = [point for point, one in played.items() if one.died]
    places = {_place(point, played[point]) for point in died}
    _tell(f"{len(chosen)} of {2 * writes} points, died at {len(died)}: {sorted(places)}")
    assert {str(p): one.wrong for p, one in played.items() if one.wrong} == {}
    # How often a process says why it waits varies: the last points may lie beyond its end.
    assert len(died) >= len(chosen) * 3 // 4


def _tell(what: str = "") -> None:
    """Say with what to repeat it; pytest shows it with a failure, and with -s or -rP."""
    sys.stdout.write(f"HYPERVOUCH_CRASH_SEED={SEED} {what}\n")


def _place(point: Point, played: Played) -> str:
    return f"{point.mode} {played.writes[point.number - 1]}"


class Burst:
    """Changes and rechecks that come while both sides die.

    Args:
        stage: Where.
        dice: Decides when, and who comes back first.
    """

    def __init__(self, stage: MortalStage, dice: random.Random) -> None:
        self._stage = stage
        self._dice = dice
        self.runs: dict[PushedChange, int] = {}

    def push(self, count: int) -> None:
        """Push some changes."""
        for _ in range(count):
            self.runs[self._stage.push(GOOD, f"Burst {len(self.runs)}")] = 1

    def recheck(self) -> bool:
        """Ask for another run of a change that has its vote; False while there is none."""
        for change, runs in self.runs.items():
            if runs == 1 and self._stage.comments(change) == 1:
                self._stage.author.comment(change, "recheck")
                self.runs[change] = 2
                return True
        return False

    def kill_us(self) -> None:
        """We die alone."""
        time.sleep(self._dice.uniform(0.0, 3.0))
        self._stage.ci.kill()
        self._stage.ci.start()

    def kill_both(self) -> None:
        """One dies after the other, and they come back in any order."""
        stage = self._stage
        victims = [stage.ci.kill, stage.gerrit.kill]
        self._dice.shuffle(victims)
        for kill in victims:
            time.sleep(self._dice.uniform(0.0, 1.5))
            kill()
        with ThreadPoolExecutor(1) as threads:
            back = threads.submit(stage.gerrit.start)
            time.sleep(self._dice.uniform(0.0, 4.0))
            stage.ci.start()
            back.result()

    def right(self) -> dict[PushedChange, tuple[int, int]]:
        """The vote and the comments that each change has to end with."""
        return {change: (1, runs) for change, runs in self.runs.items()}


def test_both_killed_again_and_again_in_a_burst(real_gerrit: RealGerrit, tmp_path: Path):
    _tell()
    stage = MortalStage(real_gerrit, tmp_path)
    dice = random.Random(SEED)
    burst = Burst(stage, dice)
    # A Gerrit that comes back needs half a minute until it is itself again.
    hard = range(ROUNDS) if POINTS == "all" else [dice.randrange(ROUNDS)]
    stage.ci.start()
    try:
        for turn in range(ROUNDS):
            burst.push(CHANGES // ROUNDS)
            if turn >= ROUNDS - RECHECKS:
                stage.ci.wait(burst.recheck, WAIT_S, "a vote to recheck")
            (burst.kill_both if turn in hard else burst.kill_us)()
        right = burst.right()
        for change, (_, runs) in right.items():
            stage.ci.wait_for_comments(stage.author, change, runs, seconds=WAIT_S)
        stage.ci.wait(lambda: not stage.ci.undone(), WAIT_S, "the end")
        assert (len(right), sum(runs for _, runs in right.values())) == (15, 18)
        assert not _wrong(stage, right)
    finally:
        stage.ci.kill()
