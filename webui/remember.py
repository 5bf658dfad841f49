# SPDX-License-Identifier: Apache-2.0
"""A value that may be a little old: asked for at most once in a while."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ci.clock import Clock

T = TypeVar("T")


class Remembered(Generic[T]):
    """Keeps what `read` gave for `term_s` seconds. Thread-safe.

    Args:
        read: Gets a fresh value; may run in two threads at once after a term ended.
        clock: Whose seconds count.
        term_s: How old a value may be.
    """

    def __init__(self, read: Callable[[], T], clock: Clock, *, term_s: float) -> None:
        self._read = read
        self._clock = clock
        self._term_s = term_s
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """The value, fresh or young enough."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._kept is not None and now_s - self._kept[0] < self._term_s:
                return self._kept[1]
        value = self._read()
        with self._lock:
            self._kept = (now_s, value)
        return value
