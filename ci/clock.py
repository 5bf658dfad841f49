# SPDX-License-Identifier: Apache-2.0
"""Time, injected: code asks a Clock, tests move one by hand."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps: a lease that ran out meanwhile is seen to have."""


class Clock(Protocol):
    """Where time comes from. Thread-safe."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back, for deadlines; those of a suspended machine count."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds since some start, sleep of the machine included; no step of the wall clock."""
        return time.clock_gettime(BOOT_CLOCK)

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when told to, and by whoever sleeps on it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The time it was moved to."""
        return self._now

    def monotonic_s(self) -> float:
        """Seconds it was moved by in all."""
        return self._elapsed_s

    def sleep(self, seconds: float) -> None:
        """Move on by `seconds` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._elapsed_s += seconds


def from_epoch(seconds: float) -> datetime:
    """Gerrit's epoch seconds as an aware UTC datetime."""
    return datetime.fromtimestamp(seconds, UTC)
