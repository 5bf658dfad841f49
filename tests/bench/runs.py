# SPDX-License-Identifier: Apache-2.0
"""The runs without faults: one at a time, bursts, idle, long logs. Each returns plain values."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.changes import Changes, Tally
from tests.bench.contender import Contender, account
from tests.bench.meter import Meter
from tests.bench.stream import Stream

WARM_UPS = 6
WARM_UP_S = 15.0
SEQUENCE_GAP_S = 0.3
VOTE_S = 60.0
LATE_S = 1.0
IDLE_SETTLE_S = 3.0


class NeverVoted(Exception):
    """A CI that was started gave no vote to any warm-up change."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Where a run takes place.

    Attributes:
        contender: The CI under test; it runs.
        changes: Makes changes.
        stream: Hears of votes.
    """

    contender: Contender
    changes: Changes
    stream: Stream

    @property
    def account(self) -> str:
        """The contender's account."""
        return account(self.contender.name)

    def project(self, suffix: str = "") -> str:
        """One of the contender's projects."""
        return f"bench-{self.contender.name}{suffix}"

    def await_votes(self, numbers: Sequence[int], seconds: float) -> bool:
        """Wait until all of these changes have a vote."""
        return self.stream.wait(
            lambda: self.stream.voted(self.account, numbers) == len(numbers), seconds
        )

    def await_any(self, numbers: Sequence[int], least: int, seconds: float) -> bool:
        """Wait until some of these changes have a vote."""
        return self.stream.wait(lambda: self.stream.voted(self.account, numbers) >= least, seconds)

    def tally(self, numbers: Sequence[int], suffix: str = "") -> Tally:
        """What became of changes."""
        return self.changes.tally(self.account, self.project(suffix), numbers)

    def meter(self, every_s: float = 0.5) -> Meter:
        """A running meter on the contender."""
        meter = Meter(self.contender.pids(), every_s=every_s)
        meter.start()
        return meter

    def warm_up(self, suffix: str = "") -> None:
        """Wait until the CI votes: it may say that it is ready before it hears events.

        Raises:
            NeverVoted: It does not vote.
        """
        numbers: list[int] = []
        for _ in range(WARM_UPS):
            numbers.append(self.changes.post(self.project(suffix)))
            if self.await_any(numbers, 1, WARM_UP_S):
                self.await_votes(numbers, VOTE_S)
                return
        raise NeverVoted(f"{self.contender.name}: no vote on {WARM_UPS} warm-up changes")


Values = dict[str, Any]
Run = Callable[[Field], Values]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and extremes, in seconds; nothing of nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    p95 = ordered[round(0.95 * (len(ordered) - 1))]
    return {
        "p50": round(statistics.median(ordered), 3),
        "p95": round(p95, 3),
        "max": round(ordered[-1], 3),
        "min": round(ordered[0], 3),
    }


def sequence(field: Field, *, count: int, suffix: str = "") -> Values:
    """Changes one after the other, pushed with git: latency at rest."""
    field.warm_up(suffix)
    meter = field.meter()
    numbers = []
    for _ in range(count):
        numbers.append(field.changes.push(field.project(suffix)))
        field.await_votes(numbers[-1:], VOTE_S)
        time.sleep(SEQUENCE_GAP_S)
    used = meter.finish()
    return {
        "count": count,
        "latency": spread(field.stream.latencies(field.account, numbers)),
        "tally": asdict(field.tally(numbers, suffix)),
        "used": used,
    }


def burst(field: Field, *, count: int, suffix: str = "", wait_s: float = 300.0) -> Values:
    """Changes as fast as Gerrit takes them: how long does the last author wait?"""
    field.warm_up(suffix)
    meter = field.meter()
    began = time.time()
    numbers = field.changes.burst(field.project(suffix), count)
    pushed = time.time()
    field.await_votes(numbers, wait_s)
    time.sleep(LATE_S)
    used = meter.finish()
    tally = field.tally(numbers, suffix)
    if tally.voted:
        used["cpu_ms_per_vote"] = round(1000 * used["cpu_s"] / tally.voted)
    votes = [field.stream.first_vote(field.account, number) for number in numbers]
    times = sorted(vote for vote in votes if vote is not None)
    return {
        "count": count,
        "latency": spread(field.stream.latencies(field.account, numbers)),
        "pushes_s": round(pushed - began, 2),
        "first_vote_s": round(times[0] - began, 2) if times else None,
        "after_last_push_s": round(times[-1] - pushed, 2) if times else None,
        "votes_per_s": round(len(times) / (times[-1] - began), 2) if times else None,
        "tally": asdict(tally),
        "used": used,
    }


def idle(field: Field, *, seconds: float) -> Values:
    """CPU and memory while nothing happens, after the CI has worked."""
    field.warm_up()
    time.sleep(IDLE_SETTLE_S)
    meter = field.meter(every_s=2.0)
    time.sleep(seconds)
    return {"count": 0, "used": meter.finish()}


RUNS: dict[str, Run] = {
    "seq": lambda field: sequence(field, count=20),
    "burst": lambda field: burst(field, count=50),
    "big": lambda field: burst(field, count=200),
    "idle": lambda field: idle(field, seconds=20),
    "log": lambda field: sequence(field, count=5, suffix="-log"),
    "sleep": lambda field: burst(field, count=20, suffix="-sleep"),
}
