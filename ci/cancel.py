# SPDX-License-Identifier: Apache-2.0
"""One source of cancellation for an attempt, with its cause; every wait looks at it."""

import threading
from collections.abc import Callable

from ci.clock import Clock
from ci.errors import HypervouchError, RunTimeout


class CancelToken:
    """Set once, by whoever comes first; whoever works for the attempt looks at it.

    Thread-safe. The cause is the error that the attempt then ends with: BuildCanceled for
    a superseded patch set, LeaseLost when the node may belong to somebody else.
    """

    def __init__(self) -> None:
        self._set = threading.Event()
        self._lock = threading.Lock()
        self._cause: HypervouchError | None = None

    def cancel(self, cause: HypervouchError) -> None:
        """Ask for the end. The first cause wins; repeats change nothing."""
        with self._lock:
            if self._cause is None:
                self._cause = cause
        self._set.set()

    @property
    def cause(self) -> HypervouchError | None:
        """Why, or None while nobody asked."""
        return self._cause

    def look(self) -> HypervouchError | None:
        """Why, or None while nobody asked, wherever that may be known."""
        return self._cause

    def check(self) -> None:
        """Raise the cause if there is one.

        Raises:
            HypervouchError: The cause given to `cancel`.
        """
        if self._cause is not None:
            raise self._cause

    def wait(self, seconds: float) -> bool:
        """Pause for at most `seconds`; True as soon as somebody cancels."""
        return self._set.wait(seconds)


class WatchedToken(CancelToken):
    """A token that also looks elsewhere, now and then, whether somebody asked for the end.

    Another process can only write its wish down. A build that waits, for the review server or
    for a node, sees it here.

    Args:
        look: Gives the cause, or None; called by whoever looks at the token.
        clock: Where time comes from.
        every_s: Least seconds between two looks.
    """

    def __init__(
        self, look: Callable[[], HypervouchError | None], clock: Clock, *, every_s: float = 1.0
    ) -> None:
        super().__init__()
        self._look = look
        self._clock = clock
        self._every_s = every_s
        self._due_s = clock.monotonic_s()

    def look(self) -> HypervouchError | None:
        """Why, or None while nobody asked, here or elsewhere."""
        self._look_around()
        return self.cause

    def check(self) -> None:
        """Raise the cause if there is one.

        Raises:
            HypervouchError: The cause given to `cancel`, or found elsewhere.
        """
        self._look_around()
        super().check()

    def wait(self, seconds: float) -> bool:
        """Pause for at most `seconds`; True as soon as somebody cancels, here or elsewhere."""
        left_s = seconds
        while left_s > 0 and not super().wait(min(left_s, self._every_s)):
            left_s -= self._every_s
            self._look_around()
        return self.cause is not None

    def _look_around(self) -> None:
        now = self._clock.monotonic_s()
        if self.cause is not None or now < self._due_s:
            return
        self._due_s = now + self._every_s
        cause = self._look()
        if cause is not None:
            self.cancel(cause)


class Deadline:
    """A point in time that a phase may not pass; a child's never lies behind its parent's.

    Args:
        phase: What the time is for, for the error's text.
        seconds: From now.
        clock: Where time comes from.
        parent: The deadline this one may not exceed.
        cancel: Whoever cancels brings the point forward to that moment.
    """

    def __init__(
        self,
        phase: str,
        seconds: float,
        clock: Clock,
        parent: "Deadline | None" = None,
        cancel: CancelToken | None = None,
    ) -> None:
        self.phase = phase
        self.seconds = seconds
        self._clock = clock
        self._cancel = cancel
        ends = clock.monotonic_s() + seconds
        self._ends: float = ends if parent is None else min(ends, parent._ends)  # noqa: SLF001

    @property
    def left_s(self) -> float:
        """Seconds left, never below zero."""
        if self._cancel is not None and self._cancel.look() is not None:
            return 0.0
        return max(0.0, self._ends - self._clock.monotonic_s())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_s <= 0

    def error(self) -> HypervouchError:
        """The error of a phase that passed it: a time-out, or the cause of the cancel."""
        if self._cancel is not None and self._cancel.cause is not None:
            return self._cancel.cause
        return RunTimeout(
            f"{self.phase} did not end within {self.seconds:g} s",
            hint="raise the job's time-out if that is how long it takes",
        )
