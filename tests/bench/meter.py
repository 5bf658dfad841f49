# SPDX-License-Identifier: Apache-2.0
"""CPU seconds and memory of whole process trees, from /proc; and how fast the machine is now."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
# Fields of /proc/PID/stat, counted from behind the process's name.
_PARENT, _CPU, _RSS = 1, slice(11, 15), 21
_PSS_EVERY = 4


def tree(roots: Sequence[int]) -> dict[int, list[str]]:
    """The living processes below and including `roots`: pid to the fields of its stat file."""
    children: dict[int, list[int]] = defaultdict(list)
    stats: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names only, and quickly
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        stats[int(entry)] = fields
        children[int(fields[_PARENT])].append(int(entry))
    found: dict[int, list[str]] = {}
    pending = [pid for pid in roots if pid in stats]
    while pending:
        pid = pending.pop()
        if pid not in found:
            found[pid] = stats[pid]
            pending += children[pid]
    return found


def pss_bytes(pid: int) -> int:
    """Memory of a process with shared pages counted once over all who share them; 0: gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def calibrate() -> int:
    """Milliseconds that a fixed piece of work takes now: other tenants slow a machine down."""
    began, total = time.perf_counter(), 0
    for number in range(2_000_000):
        total += number & 7
    return round((time.perf_counter() - began) * 1000)


class Meter(threading.Thread):
    """Samples the trees of some processes from `start` to `finish`.

    Args:
        roots: Their pids.
        every_s: Seconds between samples; every fourth one reads memory page by page.
    """

    def __init__(self, roots: Sequence[int], *, every_s: float = 0.5) -> None:
        super().__init__(name="meter", daemon=True)
        self._roots = list(roots)
        self._every_s = every_s
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._first_cpu_s: float | None = None
        self._last_cpu_s = 0.0
        self._peak_rss = self._peak_pss = self._peak_processes = 0

    def run(self) -> None:
        """Sample until `finish`."""
        turn = 0
        while True:
            self._sample(pages=turn % _PSS_EVERY == 0)
            turn += 1
            if self._ended.wait(self._every_s):
                self._sample(pages=True)
                return

    def finish(self) -> dict[str, Any]:
        """End, and tell what was used."""
        self._ended.set()
        self.join()
        wall_s = time.monotonic() - self._began
        cpu_s = self._last_cpu_s - (self._first_cpu_s or 0.0)
        return {
            "cpu_s": round(cpu_s, 2),
            "wall_s": round(wall_s, 1),
            "cpu_percent": round(100 * cpu_s / wall_s, 2),
            "peak_rss_mib": self._peak_rss // MIB,
            "peak_pss_mib": self._peak_pss // MIB,
            "processes": self._peak_processes,
        }

    def _sample(self, *, pages: bool) -> None:
        living = tree(self._roots)
        # Own time and that of children already reaped, over the living: each second once.
        ticks = sum(sum(map(int, fields[_CPU])) for fields in living.values())
        cpu_s = ticks / TICKS_A_SECOND
        if self._first_cpu_s is None:
            self._first_cpu_s = cpu_s
        self._last_cpu_s = max(cpu_s, self._last_cpu_s)
        self._peak_processes = max(self._peak_processes, len(living))
        rss = sum(int(fields[_RSS]) for fields in living.values()) * PAGE_BYTES
        self._peak_rss = max(self._peak_rss, rss)
        if pages:
            self._peak_pss = max(self._peak_pss, sum(map(pss_bytes, living)))
