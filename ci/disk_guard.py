# SPDX-License-Identifier: Apache-2.0
"""Whether this process has room for new builds: above high water it claims none.

What runs goes on, and ends as our own fault where the disk fills all the same. Below low water,
five points less, new builds start again; so one that ends does not let in the next at once.
"""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ci.clock import Clock
from ci.log_mirror import folder_bytes

MIB = 1 << 20
BACK_POINTS = 5
"""So many points below high water new builds start again."""
LOOK_EVERY_S = 2.0
MEASURE_EVERY_S = 60.0
Told = Callable[[str], None]


class Usage(Protocol):
    """What `shutil.disk_usage` tells, in bytes."""

    @property
    def used(self) -> int:
        """What is taken."""
        ...

    @property
    def free(self) -> int:
        """What we may still take."""
        ...


class DiskGuard:
    """Says why nothing new may start here; one answer for all who ask. Thread-safe.

    Args:
        state_dir: On the file system that is watched.
        clock: Where time comes from.
        high_percent: Use at which no new build is started.
        free_bytes: Free disk below which none is started either.
        budget_bytes: What `folders` may fill together; None for no bound.
        folders: Logs and caches of this process.
        on_episode: Called once when it becomes too full, with the reason.
        usage: How full the file system is.
    """

    def __init__(
        self,
        state_dir: Path,
        clock: Clock,
        *,
        high_percent: int,
        free_bytes: int = 0,
        budget_bytes: int | None = None,
        folders: Sequence[Path] = (),
        on_episode: Told | None = None,
        usage: Callable[[Path], Usage] = shutil.disk_usage,
    ) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._high = high_percent
        self._free = free_bytes
        self._budget = budget_bytes
        self._folders = tuple(folders)
        self._on_episode = on_episode
        self._usage = usage
        self._lock = threading.Lock()
        self._looked_s = float("-inf")
        self._measured_s = float("-inf")
        self._filled = 0
        self._reason = ""

    def reason(self) -> str:
        """Why no new build may start here, one sentence; empty while there is room."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s - self._looked_s < LOOK_EVERY_S:
                return self._reason
            self._looked_s = now_s
            before, self._reason = self._reason, self._look(now_s)
            new = self._reason if not before else ""
            reason = self._reason
        if new and self._on_episode:
            self._on_episode(new)
        return reason

    def again(self) -> str:
        """`reason`, measured anew: for who has just made room."""
        with self._lock:
            self._looked_s = self._measured_s = float("-inf")
        return self.reason()

    def _look(self, now_s: float) -> str:
        points = BACK_POINTS if self._reason else 0
        try:
            disk = self._usage(self._state_dir)
        except OSError as error:
            return f"the disk of {self._state_dir} cannot be looked at: {error.strerror or error}"
        # As `df` counts: what only root may take is neither used nor free.
        percent = 100 * disk.used / max(1, disk.used + disk.free)
        if percent >= self._high - points:
            return (
                f"the disk is {percent:.0f} % full; new builds start below "
                f"{self._high - BACK_POINTS} %"
            )
        if disk.free < self._free * (100 + points) / 100:
            return f"the disk has {disk.free // MIB} MiB free and needs {self._free // MIB}"
        return self._over_budget(now_s, points)

    def _over_budget(self, now_s: float, points: int) -> str:
        if self._budget is None:
            return ""
        if now_s - self._measured_s >= MEASURE_EVERY_S:
            self._measured_s = now_s
            self._filled = sum(folder_bytes(folder) for folder in self._folders)
        if self._filled < self._budget * (100 - points) / 100:
            return ""
        return (
            f"logs and caches fill {self._filled // MIB} MiB of the {self._budget // MIB} "
            "they may (disk-budget-mib)"
        )
