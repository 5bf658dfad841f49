# SPDX-License-Identifier: Apache-2.0
"""Machines made ahead: how many a provider should have, and whose turn each one is.

A spare lives in the folder of a slot that nobody holds. So there are never more machines than
slots, and whoever comes after a killed process finds them where it looks for leaked ones. The
slot that is started next may be another: then the folder is moved, with the machine in it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nodes.images.machine import Machine

SHRINK_AFTER_S = 120.0
"""Seconds without a need before a spare beyond those kept at rest is ended."""
SPARE_MEMORY = 0.1
"""Share of this machine's memory that spares leave free."""


class Spares:
    """Which slots hold a spare, and which slots are being worked with. Thread-safe.

    Args:
        slots: Names of all slots.
        at_rest: Spares that are kept while nobody waits; 0 for none at any time.
        memory_mib: What one machine may come to need.
        free_mib: Gives the memory that is free here.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        slots: Sequence[str],
        *,
        at_rest: int,
        memory_mib: int,
        free_mib: Callable[[], int] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._locks = {slot: threading.RLock() for slot in slots}
        self._at_rest = at_rest
        self._memory_mib = memory_mib
        self._free_mib = free_mib or free_for_spares_mib
        self._now = now
        self._guard = threading.Lock()
        self._ready: dict[str, Machine] = {}
        self._starting = 0
        self._held: set[str] = set()
        self._making: set[str] = set()
        self._wanted = at_rest
        self._wanted_at = 0.0
        self._ended = False

    @property
    def slots(self) -> frozenset[str]:
        """Slots that hold a spare of this process."""
        with self._guard:
            return frozenset(self._ready)

    @property
    def known(self) -> frozenset[str]:
        """Slots that hold a spare of this process, or one that is just being made."""
        with self._guard:
            return frozenset(self._ready) | frozenset(self._making)

    @property
    def ended(self) -> bool:
        """Whether no spare is kept any more."""
        with self._guard:
            return self._ended

    @contextmanager
    def alone(self, slot: str) -> Iterator[None]:
        """Work with a slot's folder; waits for a spare that is just being made in it."""
        with self._locks[slot]:
            yield

    @contextmanager
    def starting(self, slot: str) -> Iterator[None]:
        """A hand-out: no spare is begun meanwhile, and the slot is held afterwards."""
        with self._guard:
            self._starting += 1
            self._held.add(slot)
        try:
            with self.alone(slot):
                yield
        finally:
            with self._guard:
                self._starting -= 1

    def freed(self, slot: str) -> None:
        """Nobody holds a slot any more."""
        with self._guard:
            self._held.discard(slot)

    def take(self, slot: str, folder_of: Callable[[str], Path]) -> Machine | None:
        """A spare for a slot, in the slot's own folder; the caller works with the slot alone.

        Its own, or else one from another slot, whose folder is moved. The slot's own folder is
        not there when it has no spare of its own.
        """
        with self._guard:
            found = slot if slot in self._ready else next(iter(self._ready), None)
            if found is None:
                return None
            if found != slot:
                try:
                    folder_of(found).rename(folder_of(slot))
                except OSError:
                    return None  # it stays where it is, and counts as a spare
            return self._ready.pop(found)

    def drop(self, slot: str) -> Machine | None:
        """The spare of a slot, which is no spare from now on; the caller ends it."""
        with self._guard:
            return self._ready.pop(slot, None)

    def target(self, waiting: int) -> int:
        """How many spares there should be, when so many builds wait.

        Grows at once; shrinks after SHRINK_AFTER_S, to those at rest.
        """
        with self._guard:
            if not self._at_rest or self._ended:
                return 0
            wanted = max(self._at_rest, waiting)
            now = self._now()
            if wanted >= self._wanted or now - self._wanted_at > SHRINK_AFTER_S:
                self._wanted, self._wanted_at = wanted, now
            return min(self._wanted, len(self._locks) - len(self._held))

    def fill_one(
        self,
        waiting: int,
        make: Callable[[str], Machine],
        empty: Callable[[str], bool] = lambda _slot: True,
    ) -> bool:
        """Make a spare where one is due; whether one was made.

        Args:
            waiting: Builds that want a node.
            make: Boots a machine in a slot and holds it still; whatever it raises comes out.
            empty: Whether no machine runs in a slot: a held one may, from before a restart.
        """
        target = self.target(waiting)
        with self._guard:
            due = not self._starting and len(self._ready) < target
            free = [s for s in self._locks if s not in self._held and s not in self._ready]
        if not due or self._free_mib() < self._memory_mib:
            return False
        for slot in reversed(free):  # the pool hands out the first ones first
            lock = self._locks[slot]
            if not lock.acquire(blocking=False):
                continue
            try:
                if empty(slot) and self._begin(slot):
                    self._keep(slot, make(slot))
                    return True
            finally:
                with self._guard:
                    self._making.discard(slot)
                lock.release()
        return False

    def one_too_many(self, waiting: int) -> str | None:
        """A slot whose spare should be ended, if any."""
        target = self.target(waiting)
        with self._guard:
            return next(iter(self._ready)) if len(self._ready) > target else None

    def end(self) -> tuple[str, ...]:
        """From now on no spare is begun; the slots whose spares the caller has to end."""
        with self._guard:
            self._ended = True
            return tuple(slot for slot in self._locks if slot not in self._held)

    def _begin(self, slot: str) -> bool:
        with self._guard:
            if self._ended or slot in self._held or slot in self._ready:
                return False
            self._making.add(slot)
            return True

    def _keep(self, slot: str, machine: Machine) -> None:
        with self._guard:
            self._ready[slot] = machine


def free_for_spares_mib(path: Path = Path("/proc/meminfo")) -> int:
    """Memory that spares may take, in MiB: what is available without the share that stays free."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        total, free = (int(lines[key].split()[0]) // 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0
    return max(0, free - int(total * SPARE_MEMORY))
