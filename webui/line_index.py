# SPDX-License-Identifier: Apache-2.0
"""Where lines begin in a log that may be huge and still grows.

A sparse index: one mark each 64 KiB says how many lines lie before it. Finding line 200,000
then reads one block, and a growing log costs only its new bytes.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 64 * 1024


class LineIndex:
    """Marks of one file. Thread-safe."""

    def __init__(self) -> None:
        self._offsets = [0]
        self._lines_before = [0]
        self._scanned = 0
        self._newlines = 0
        self._ends_open = False
        self._lock = threading.Lock()

    def refresh(self, log: BinaryIO) -> None:
        """Read what was added since the last time."""
        with self._lock:
            log.seek(self._scanned)
            while block := log.read(BLOCK_BYTES):
                self._scanned += len(block)
                self._newlines += block.count(b"\n")
                self._ends_open = not block.endswith(b"\n")
                if self._scanned - self._offsets[-1] >= BLOCK_BYTES:
                    self._offsets.append(self._scanned)
                    self._lines_before.append(self._newlines)

    @property
    def size_bytes(self) -> int:
        """Bytes seen so far."""
        return self._scanned

    @property
    def complete_lines(self) -> int:
        """Lines that have ended."""
        return self._newlines

    @property
    def lines(self) -> int:
        """All lines, the one that has not ended yet included."""
        return self._newlines + int(self._ends_open)

    def mark_before(self, line: int) -> tuple[int, int]:
        """The nearest mark at or before a line, counted from 1: (byte offset, lines before it).

        A mark may lie in the middle of the line after those before it, so it counts only
        when a newline lies between it and the wanted line.
        """
        with self._lock:
            place = bisect_right(self._lines_before, line - 2) - 1
            if place < 0:
                return 0, 0
            return self._offsets[place], self._lines_before[place]


class IndexCache:
    """The indexes of the logs read most recently. Thread-safe."""

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], LineIndex] = OrderedDict()

    def of(self, path: Path, log: BinaryIO) -> LineIndex:
        """The refreshed index of an open file; a replaced or shortened file starts anew."""
        status = os.fstat(log.fileno())
        key = (str(path), status.st_ino)
        with self._lock:
            index = self._kept.get(key)
            if index is None or index.size_bytes > status.st_size:
                index = self._kept[key] = LineIndex()
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        index.refresh(log)
        return index
