# SPDX-License-Identifier: Apache-2.0
"""The runs with faults: the CI dies, or Gerrit does. Which changes get their one vote?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from ci.sandbox.real.server import RealGerrit
from tests.bench.changes import GerritAway
from tests.bench.runs import Field, Values

DOWN_S = 30.0
SHORT_DOWN_S = 3.0
WAIT_S = 120.0
PROBE_EVERY_S = 1.0
LATE_S = 3.0
Fault = Callable[[Field, RealGerrit], Values]


def missed(field: Field, gerrit: RealGerrit, *, count: int = 10) -> Values:
    """The CI is dead for half a minute while changes come; then it starts again."""
    del gerrit
    field.warm_up()
    field.contender.kill()
    began = time.monotonic()
    numbers = field.changes.burst(field.project(), count, 1)
    time.sleep(max(0.0, DOWN_S - (time.monotonic() - began)))
    return _comes_back(field, numbers, field.contender.start)


def killed(field: Field, gerrit: RealGerrit, *, count: int = 20) -> Values:
    """The CI dies with a fifth of a burst voted."""
    del gerrit
    numbers, before = _in_mid_burst(field, count)
    field.contender.kill()
    time.sleep(SHORT_DOWN_S)
    return {"voted_before": before, **_comes_back(field, numbers, field.contender.start)}


def gerrit_killed(field: Field, gerrit: RealGerrit, *, count: int = 20) -> Values:
    """Gerrit dies with a fifth of a burst voted."""
    numbers, before = _in_mid_burst(field, count)
    gerrit.kill()
    time.sleep(SHORT_DOWN_S)
    return {"voted_before": before, **_comes_back(field, numbers, gerrit.start)}


def _in_mid_burst(field: Field, count: int) -> tuple[list[int], int]:
    field.warm_up()
    numbers = field.changes.burst(field.project(), count)
    field.await_any(numbers, count // 5, WAIT_S)
    return numbers, field.stream.voted(field.account, numbers)


def _comes_back(field: Field, numbers: Sequence[int], start: Callable[[], None]) -> Values:
    """Start what was killed, push one change a second until one is voted, count everything."""
    began = time.monotonic()
    start()
    start_s = time.monotonic() - began
    probes, first_s = _probe(field)
    # The harness' own stream is cut too: Gerrit itself is asked who has a vote.
    everything = [*numbers, *probes]
    deadline = time.monotonic() + WAIT_S
    while field.tally(everything).lost and time.monotonic() < deadline:
        time.sleep(1.0)
    all_s = time.monotonic() - began
    time.sleep(LATE_S)
    return {
        "count": len(numbers),
        "start_s": round(start_s, 1),
        "first_new_vote_s": first_s,
        "all_voted_s": round(all_s, 1),
        "tally": asdict(field.tally(numbers)),
        "probes": asdict(field.tally(probes)),
    }


def _probe(field: Field) -> tuple[list[int], float | None]:
    began, probes = time.monotonic(), list[int]()
    while time.monotonic() - began < WAIT_S:
        try:
            probes.append(field.changes.post(field.project()))
        except GerritAway:
            time.sleep(PROBE_EVERY_S)
            continue
        if field.await_any(probes, 1, PROBE_EVERY_S):
            return probes, round(time.monotonic() - began, 1)
    return probes, None


FAULTS: dict[str, Fault] = {
    "missed": missed,
    "restart": killed,
    "gerrit-restart": gerrit_killed,
}
