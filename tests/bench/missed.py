# SPDX-License-Identifier: Apache-2.0
"""How long it takes to find a thousand patch sets that came while the CI was down.

The floor is the server's own share: the same search, page by page, whose answers are only
read as JSON.
"""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ci.gerrit.catchup import PAGE, after, project_terms
from ci.gerrit.rest import HISTORY
from ci.sandbox.account import ReviewServer
from tests.bench import stored
from tests.bench.changes import Changes
from tests.bench.ours import Ours

COUNT = 1_000
PROJECT = "bench-missed"
"""Of its own: other runs must not find a thousand changes to build."""
OVERLAP = timedelta(seconds=120)
HEARD_S, WAIT_S = 60.0, 600.0
POLL_S = 0.05
KIB = 1024
Values = dict[str, Any]


class NotHeard(Exception):
    """No event was stored, or not all that were missed, or they could not be made."""


def catch_up(
    server: ReviewServer, changes: Changes, directory: Path, *, count: int = COUNT
) -> Values:
    """Kill the CI, make changes, start it.

    Nothing is built: the pipeline starts on a recheck alone.

    Raises:
        NotHeard: It did not find them.
    """
    watched = {"project": {"name": PROJECT, "check": {"jobs": [f"bench-{Ours.name}"]}}}
    contender = Ours(server, directory, triggers=("recheck",), further=(watched,))
    began_at = datetime.now(UTC)
    contender.start()
    try:
        _await_heard(contender, changes)
    finally:
        contender.kill()
    began = time.monotonic()
    numbers = changes.push_chains(PROJECT, count)
    if len(numbers) != count:
        raise NotHeard(f"{len(numbers)} of {count} changes were made")
    made_s = round(time.monotonic() - began, 1)
    query = f"{next(project_terms([PROJECT]))} {after(began_at - OVERLAP)}"
    floors = [_floor_s(changes, query)]
    values = _started(contender, frozenset(numbers))
    floors.append(_floor_s(changes, query))
    return {"count": count, "made_s": made_s, "search_s": min(floors), **values}


def _floor_s(changes: Changes, query: str) -> float:
    began = time.monotonic()
    changes.search(query, options=HISTORY, page=PAGE)
    return round(time.monotonic() - began, 2)


def _await_heard(contender: Ours, changes: Changes) -> None:
    """Return once an event is stored: from there on it knows what it has read."""
    deadline = time.monotonic() + HEARD_S
    numbers: list[int] = []
    while time.monotonic() < deadline:
        numbers.append(changes.post(PROJECT))
        time.sleep(1.0)
        if stored.uploads(contender.state_dir, numbers)[0]:
            return
    raise NotHeard(f"no event of {len(numbers)} changes was stored")


def _started(contender: Ours, numbers: frozenset[int]) -> Values:
    began = time.monotonic()
    contender.start()
    try:
        ready_s = time.monotonic() - began
        stored_s = _await_all(contender.state_dir, numbers, began, which=0)
        peak_bytes = sum(map(peak_rss_bytes, contender.pids()))
        planned_s = _await_all(contender.state_dir, numbers, began, which=1)
    finally:
        contender.stop()
    return {
        "ready_s": round(ready_s, 2),
        "stored_s": round(stored_s, 2),
        "planned_s": round(planned_s, 2),
        "peak_rss_mib": peak_bytes // (KIB * KIB),
    }


def _await_all(state_dir: Path, numbers: frozenset[int], began: float, *, which: int) -> float:
    """Seconds since `began` until all are stored (0) or planned (1)."""
    found = 0
    while time.monotonic() - began < WAIT_S:
        found = stored.uploads(state_dir, numbers)[which]
        if found == len(numbers):
            return time.monotonic() - began
        time.sleep(POLL_S)
    raise NotHeard(f"{found} of {len(numbers)} missed patch sets after {WAIT_S:g} s")


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a living process ever had; 0: gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM:"))
