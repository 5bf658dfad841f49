# SPDX-License-Identifier: Apache-2.0
"""From bytes to lines, and from the thread that reads them to the one that acts; both bounded."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from ci.board import turn

TURN_S = 5.0
"""Whoever waits for an item shows so often that it is alive."""
_Item = TypeVar("_Item")


class LineBuffer:
    """Bytes in, whole lines out; never holds more than `limit` bytes and one chunk.

    Of a longer line the first `limit` + 1 bytes come out, so that the parser sees that it is
    too long; the rest is dropped while it comes.

    Args:
        limit: Bytes of a line.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Lines that these bytes complete, without their line ends."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._hold(piece)
            line = bytes(self._held)
            self._held.clear()
            yield line
        self._hold(rest)

    def _hold(self, piece: bytes) -> None:
        room = self._limit + 1 - len(self._held)
        self._held += piece[:room]


class Handover(Generic[_Item]):
    """A queue of bounded weight that can be closed. Thread-safe.

    Args:
        limit: Weight at which `put` waits.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._items: deque[tuple[_Item, int]] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: _Item, weight: int) -> None:
        """Add an item, waiting for room; after `close` it is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._weight < self._limit)
            if self._closed:
                return
            self._items.append((item, weight))
            self._weight += weight
            self._changed.notify_all()

    def take(self, most: int) -> list[_Item]:
        """The oldest items, at most so many, waiting for one; none when closed and empty."""
        with self._changed:
            while not self._changed.wait_for(self._is_ready, timeout=TURN_S):
                turn()
            taken: list[_Item] = []
            while self._items and len(taken) < most:
                item, weight = self._items.popleft()
                self._weight -= weight
                taken.append(item)
            self._changed.notify_all()
            return taken

    def _is_ready(self) -> bool:
        return self._closed or bool(self._items)

    def close(self) -> None:
        """Take no more items; those inside can still be taken. Repeatable."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
