# SPDX-License-Identifier: Apache-2.0
"""Whether this process is alive and can do its work: what `/healthz` and `/readyz` say.

Every long-running loop has a pulse that it touches at each turn, by `turn()`, wherever in the
loop it is called from: the pulse belongs to the thread. A loop that is dead or stuck lets its
pulse grow old. What the process needs to do its work are checks, asked when somebody wants to
know; one that does not answer is not waited for.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta

from ci.clock import Clock
from ci.errors import HypervouchError

PULSE_S = 120.0
"""A loop that has not turned for so long is stuck, unless it said otherwise."""
ANSWER_S = 1.0
"""How long a check may take."""
FRESH_S = 1.0
"""For so long the last answer of a check stands: who asks often costs no more."""
CHECKERS = 8

Look = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """One thing that was looked at.

    Attributes:
        name: The loop or the check.
        good: Whether it is well.
        message: What was found, one sentence.
        since: Last turn of a loop; since when a check says so.
    """

    name: str
    good: bool
    message: str
    since: datetime


class Pulse:
    """A loop's sign of life. Thread-safe.

    Args:
        name: The loop.
        clock: Where time comes from.
        limit_s: Seconds that a turn may take.
    """

    def __init__(self, name: str, clock: Clock, limit_s: float) -> None:
        self.name = name
        self._clock = clock
        self._limit_s = limit_s
        self._turned_s = clock.monotonic_s()

    def turn(self) -> None:
        """The loop goes round."""
        self._turned_s = self._clock.monotonic_s()

    @property
    def age_s(self) -> float:
        """Seconds since the last turn."""
        return max(0.0, self._clock.monotonic_s() - self._turned_s)

    def look(self) -> Found:
        """Whether the loop still goes round."""
        age_s = self.age_s
        good = age_s <= self._limit_s
        message = f"turned {age_s:.0f} s ago"
        if not good:
            message = f"stands still for {age_s:.0f} s; a turn takes at most {self._limit_s:.0f} s"
        since = self._clock.now() - timedelta(seconds=age_s)
        return Found(name=self.name, good=good, message=message, since=since)


_MINE: ContextVar[Pulse | None] = ContextVar("pulse", default=None)


def turn() -> None:
    """Touch the pulse of the loop that this thread runs; nothing where it has none."""
    pulse = _MINE.get()
    if pulse is not None:
        pulse.turn()


class HealthBoard:
    """The pulses and checks of one process. Thread-safe.

    Args:
        clock: Where time comes from.
        name: The process.
        roles: What it does.
    """

    def __init__(self, clock: Clock, *, name: str = "", roles: Sequence[str] = ()) -> None:
        self.name = name
        self.roles = tuple(roles)
        self._clock = clock
        self._lock = threading.Lock()
        self._pulses: dict[str, Pulse] = {}
        self._checks: dict[str, _Check] = {}
        self._threads = ThreadPoolExecutor(CHECKERS, "health")

    def pulse(self, name: str, *, limit_s: float = PULSE_S) -> Pulse:
        """A new pulse, or a fresh one in place of an old one of that name.

        Args:
            name: The loop, as operators know it: `relay gerrit`.
            limit_s: Seconds that a turn may take.
        """
        made = Pulse(name, self._clock, limit_s)
        with self._lock:
            self._pulses[name] = made
        return made

    def drop(self, name: str) -> None:
        """Forget a pulse: its loop ended because it should."""
        with self._lock:
            self._pulses.pop(name, None)

    @contextmanager
    def beating(self, name: str, *, limit_s: float = PULSE_S) -> Iterator[Pulse]:
        """Give the loop of this thread a pulse, which `turn()` touches from then on.

        A loop that ends is forgotten; one that dies of an error is not, and grows old.
        """
        pulse = self.pulse(name, limit_s=limit_s)
        token = _MINE.set(pulse)
        try:
            yield pulse
        finally:
            _MINE.reset(token)
        self.drop(name)

    def check(self, name: str, look: Look) -> None:
        """Add a check, or replace it.

        Args:
            name: What is looked at: `database`, `stream gerrit`.
            look: Says in a sentence that all is well, or raises HypervouchError. It writes
                nothing and is cheap.
        """
        with self._lock:
            self._checks[name] = _Check(name, look, self._clock)

    def uncheck(self, name: str) -> None:
        """Take a check away."""
        with self._lock:
            self._checks.pop(name, None)

    def pulses(self) -> tuple[Pulse, ...]:
        """Every pulse, by name."""
        with self._lock:
            return tuple(sorted(self._pulses.values(), key=lambda one: one.name))

    def health(self) -> tuple[Found, ...]:
        """Every loop; asks nobody."""
        return tuple(pulse.look() for pulse in self.pulses())

    def readiness(self) -> tuple[Found, ...]:
        """Every check; takes `ANSWER_S` at most."""
        with self._lock:
            checks = sorted(self._checks.values(), key=lambda one: one.name)
            asked = [one.ask(self._threads) for one in checks]
        wait([one for one in asked if one is not None], timeout=ANSWER_S)
        return tuple(check.found() for check in checks)

    def close(self) -> None:
        """Ask nothing any more; whoever does not answer is left behind."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextmanager
def beating(board: HealthBoard | None, name: str) -> Iterator[None]:
    """As `HealthBoard.beating`, for threads that may have no board."""
    if board is None:
        yield
        return
    with board.beating(name):
        yield


class _Check:
    """One check with its last answer; asked by one thread at a time."""

    def __init__(self, name: str, look: Look, clock: Clock) -> None:
        self.name = name
        self._look = look
        self._clock = clock
        self._asked_s = 0.0
        self._asked_at = clock.now()
        self._future: Future[None] | None = None
        self._last: Found | None = None

    def ask(self, threads: ThreadPoolExecutor) -> Future[None] | None:
        """Have it looked at anew, unless that was just done or is still being done."""
        now_s = self._clock.monotonic_s()
        if self._future is not None and not self._future.done():
            return self._future
        if self._last is not None and now_s - self._asked_s < FRESH_S:
            return None
        self._asked_s, self._asked_at = now_s, self._clock.now()
        self._future = threads.submit(self._try)
        return self._future

    def _try(self) -> None:
        try:
            good, message = True, self._look()
        except HypervouchError as error:
            good, message = False, error.message
        except Exception as error:  # noqa: BLE001 - a bug in a check is no good news
            good, message = False, f"a bug: {type(error).__name__}"
        same = self._last is not None and self._last.good == good
        since = self._last.since if self._last is not None and same else self._clock.now()
        self._last = Found(name=self.name, good=good, message=message, since=since)

    def found(self) -> Found:
        """The last answer, or that there is none."""
        if self._last is None or (self._future is not None and not self._future.done()):
            silent_s = self._clock.monotonic_s() - self._asked_s
            message = f"no answer for {silent_s:.1f} s"
            return Found(name=self.name, good=False, message=message, since=self._asked_at)
        return self._last
