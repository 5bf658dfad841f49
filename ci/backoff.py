# SPDX-License-Identifier: Apache-2.0
"""Pauses between tries: growing, with jitter, bounded, reset by success."""

import random
from dataclasses import dataclass


@dataclass(kw_only=True)
class Backoff:
    """The pause before each next try.

    Attributes:
        first_s: The first pause.
        factor: What each next one is multiplied by.
        most_s: The longest.
    """

    first_s: float = 0.5
    factor: float = 1.7
    most_s: float = 30.0
    _tries: int = 0

    def next_s(self) -> float:
        """The next pause in seconds, up to a quarter shorter by chance."""
        pause = min(self.most_s, self.first_s * self.factor ** min(self._tries, 60))
        self._tries += 1
        return pause * random.uniform(0.75, 1.0)  # noqa: S311

    def reset(self) -> None:
        """It worked: begin anew."""
        self._tries = 0
