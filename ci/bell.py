# SPDX-License-Identifier: Apache-2.0
"""A bell between the threads of one process: saves a poll, and is never relied on."""

import threading


class Bell:
    """Rings whoever waits. Thread-safe; a ring before the wait is not lost."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake the waiter, or let its next wait return at once."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, for at most `seconds`; True when it rang."""
        rang = self._event.wait(seconds)
        self._event.clear()
        return rang
