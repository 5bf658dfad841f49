# SPDX-License-Identifier: Apache-2.0
"""A won lease as its holder sees it: a token that only grows, and until when it holds."""

import math

from ci.clock import Clock


class Leadership:
    """One win. Thread-safe; it ends by itself when nobody prolongs it.

    Args:
        name: What is led: `relay:gerrit`.
        token: Of this win; 0 where there is nobody to share with.
        clock: Its `monotonic_s` decides.
        until_s: Monotonic second at which it ends.
    """

    def __init__(
        self, name: str, token: int, clock: Clock | None = None, *, until_s: float = math.inf
    ) -> None:
        self.name = name
        self.token = token
        self._clock = clock
        self._until_s = until_s

    @classmethod
    def sole(cls, name: str) -> "Leadership":
        """That of the only process there can be; it never ends."""
        return cls(name, 0)

    @property
    def left_s(self) -> float:
        """Seconds for which it holds if nobody prolongs it; 0 when it has ended."""
        now_s = self._clock.monotonic_s() if self._clock else 0.0
        return max(0.0, self._until_s - now_s)

    @property
    def holds(self) -> bool:
        """Whether nobody else can have it yet: computed from the clock at each call."""
        return self.left_s > 0

    def prolong(self, until_s: float) -> None:
        """It was renewed."""
        self._until_s = max(self._until_s, until_s)

    def end(self) -> None:
        """It was lost or given up: for good."""
        self._until_s = -math.inf
