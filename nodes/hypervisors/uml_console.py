# SPDX-License-Identifier: Apache-2.0
"""Console 0 of a User Mode Linux guest: a fifo to it, and a log of bounded size from it.

Run as a script, this file is the log's keeper: it takes what the guest says on its standard
input and writes it into console.log, which it renames to console.log.1 whenever it has grown to
the limit, so that a guest that floods costs two limits of disk and no memory. It ends with the
guest, not with us, and therefore needs nothing but the standard library.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

INPUT, LOG, OLD_LOG = "console.in", "console.log", "console.log.1"
LIMIT_BYTES = 1 << 20
_LOOK_S = 0.02
_AT_ONCE = 1 << 16


class UmlConsole:
    """Both ways of a guest's line; see `nodes.hypervisors.base.Console`."""

    def __init__(self, folder: Path, alive: Callable[[], bool]) -> None:
        """Listen from now on.

        Args:
            folder: The guest's.
            alive: Whether the guest runs.
        """
        self._folder = folder
        self._alive = alive
        self._log: IO[bytes] | None = _opened(folder / LOG)
        if self._log is not None:
            self._log.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """Send bytes; what a guest that is gone or deaf does not take is lost, as on a wire."""
        try:
            line = os.open(self._folder / INPUT, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody has the other end
            return
        try:
            while data:
                data = data[os.write(line, data) :]
        except BlockingIOError:
            return
        finally:
            os.close(line)

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`; raises EOFError once the guest has ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            was_alive = self._alive()
            if data := self._more():
                return data
            if not was_alive:
                raise EOFError("the guest has ended")
            if time.monotonic() >= deadline:
                return b""
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Let go of the log."""
        if self._log is not None:
            self._log.close()

    def _more(self) -> bytes:
        """What is new in the log, or in the one that took its place."""
        if self._log is None:
            self._log = _opened(self._folder / LOG)
        if self._log is None:
            return b""
        # Asked before the reading: what comes between is still found in the old file.
        moved = not _same(self._log, self._folder / LOG)
        data = self._log.read(_AT_ONCE)
        if not data and moved:
            self._log.close()
            self._log = _opened(self._folder / LOG)
            data = self._log.read(_AT_ONCE) if self._log else b""
        return data


def tail(folder: Path, limit_bytes: int) -> bytes:
    """The last bytes that a guest said."""
    said = b"".join(path.read_bytes() for path in (folder / OLD_LOG, folder / LOG) if path.exists())
    return said[-limit_bytes:] if limit_bytes > 0 else b""


def keep(source: int, folder: Path, limit_bytes: int) -> None:
    """Write all that comes from a file descriptor into the log, until its end."""
    log = (folder / LOG).open("wb", buffering=0)
    size = 0
    while data := os.read(source, _AT_ONCE):
        log.write(data)
        size += len(data)
        if size >= limit_bytes:
            log.close()
            (folder / LOG).replace(folder / OLD_LOG)
            log, size = (folder / LOG).open("wb", buffering=0), 0
    log.close()


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def _same(log: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(log.fileno()), path.stat())
    except FileNotFoundError:
        return True


if __name__ == "__main__":
    keep(sys.stdin.fileno(), Path(), int(sys.argv[1]))
