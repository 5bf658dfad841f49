# SPDX-License-Identifier: Apache-2.0
"""Time as it passed in a recording: nobody waits, and whoever polled until a limit does so again.

To whoever speaks to the API, `time.monotonic` says when the last answer came and what was slept
since; `time.sleep` returns at once. Deadlines are then met or missed exactly as they were, whatever
machine replays. Everybody else, who starts processes for one, has this machine's time.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

SPEAKERS = ("nodes.hypervisors.", "ci.jobs.compute.bench", "ci.jobs.compute.patient", "sushy.")
"""Modules, by how their names begin, that wait for the API."""


class TapeClock:
    """Stands for the module `time`; begins at 0 s."""

    def __init__(self) -> None:
        self._now = 0.0

    def __getattr__(self, name: str) -> Any:
        """Whatever else `time` has."""
        return getattr(time, name)

    def monotonic(self) -> float:
        """Instead of `time.monotonic`."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Instead of `time.sleep`."""
        self._now += max(0.0, seconds)

    def reached(self, at: float) -> None:
        """An answer came then; time never goes back."""
        self._now = max(self._now, at)

    @contextmanager
    def ruling(self) -> Iterator[None]:
        """The time of all speakers that are imported by now, until the block ends."""
        with ExitStack() as rules:
            for name, module in tuple(sys.modules.items()):
                if name.startswith(SPEAKERS) and vars(module).get("time") is time:
                    rules.enter_context(mock.patch.object(module, "time", self))
            yield
