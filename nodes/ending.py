# SPDX-License-Identifier: Apache-2.0
"""A provider's `stop` with an end: nobody can interrupt it, but nobody has to wait for ever."""

import threading
from collections.abc import Callable

from ci.errors import HypervouchError
from ci.log import get
from nodes.providers.base import Provider


class Ending:
    """One `stop` of one node, in a thread of its own.

    Args:
        provider: Whose node it is.
        node: Which.
        late: Called when a stop that was not waited for has ended after all.
        first: What is done before, under the same end; its trouble keeps nothing from ending.
    """

    def __init__(
        self,
        provider: Provider,
        node: str,
        late: Callable[[], None],
        first: Callable[[], None] | None = None,
    ) -> None:
        self._provider = provider
        self._node = node
        self._late = late
        self._first = first
        self._trouble = ""
        self._done = threading.Event()
        self._given_up = False
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> str:
        """Stop the node; returns what went wrong, or nothing."""
        name = f"stop {self._node}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._done.wait(seconds)
        with self._lock:
            if self._done.is_set():
                return self._trouble
            self._given_up = True
        return f"it did not end within {seconds:.0f} s"

    @property
    def goes_on(self) -> bool:
        """Whether the stop still ran when the waiting was over; then `late` is called."""
        return self._given_up

    def _work(self) -> None:
        troubles = [self._try(self._first)] if self._first else []
        troubles.append(self._try(lambda: self._provider.stop(self._node)))
        self._trouble = "; ".join(filter(None, troubles))
        with self._lock:
            self._done.set()
            late = self._given_up
        if late:
            self._late()

    def _try(self, work: Callable[[], None]) -> str:
        try:
            work()
        except HypervouchError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - a plug-in's bug costs its node, not the build
            get("lease").exception("a provider's bug", action="bug", node=self._node)
            return f"{type(error).__name__}: {error}"
        return ""
