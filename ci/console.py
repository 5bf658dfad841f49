# SPDX-License-Identifier: Apache-2.0
"""The live log of one attempt: stamped, redacted and bounded while it is written."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ci.clock import Clock
from ci.errors import StorageError
from ci.results.redact import Redactor

NAME = "console.log"
# Given back to a full disk so that the log can still say why it ends.
RESERVE_BYTES = 64 * 1024
# How much is written between two looks at the free disk.
LOOK_EVERY_BYTES = 4 * 1024 * 1024


class ConsoleLog:
    """Appends to a log file; each line is `2026-11-22T17:41:00.123Z | text`, in UTC.

    What is written can be read at once, half lines included; only bytes that may be the
    start of a secret wait for their sequel. Lines of our own begin with `# `. Thread-safe.

    Args:
        path: The file; appended to when it exists.
        clock: Where the stamps come from.
        limit_bytes: Size at which one last line says that the log is cut. The run goes on.
        free_bytes: Free disk below which writing is given up.
        secrets: What must not appear.
        on_close: Called once when nothing more will be written.

    Raises:
        StorageError: The file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        limit_bytes: int,
        free_bytes: int,
        secrets: Sequence[str] = (),
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._on_close = on_close
        self._clock = clock
        self._limit = limit_bytes
        self._free = free_bytes
        self._secrets = tuple(secrets)
        self._redactor = Redactor(secrets)
        self._lock = threading.Lock()
        self._reserve = path.with_name(f".{path.name}.reserve")
        self._cut = False
        self._unlooked = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._open = True
            self._size = os.fstat(self._file).st_size
            self._at_start = self._size == 0 or os.pread(self._file, 1, self._size - 1) == b"\n"
            self._reserve.write_bytes(b"\0" * RESERVE_BYTES)
        except OSError as error:
            raise _full(path, error) from error
        if not self._at_start:
            self._append(b"\n")

    def write(self, chunk: bytes) -> None:
        """Add output as it came, in pieces of any size.

        Raises:
            StorageError: The disk is full, or nearly so.
        """
        with self._lock:
            text = self._redactor.feed(chunk)
            if text and not self._cut:
                self._put(text)

    def note(self, text: str) -> None:
        """Add lines of our own, marked `# `, on lines of their own.

        Raises:
            StorageError: The disk is full.
        """
        with self._lock:
            self._note(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what was held back and let go of the file; repeatable."""
        with self._lock:
            if not self._open:
                return
            try:
                rest = self._redactor.flush()
                if rest and not self._cut:
                    self._put(rest)
                if not self._at_start:
                    self._append(b"\n")
            finally:
                self._open = False
                os.close(self._file)
                self._reserve.unlink(missing_ok=True)
                if self._on_close:
                    self._on_close()

    def _note(self, text: str) -> None:
        clean = Redactor(self._secrets)
        body = clean.feed(text.encode("utf-8", "replace")) + clean.flush()
        stamp = self._stamp()
        lines = b"".join(stamp + b"# " + line + b"\n" for line in body.splitlines())
        self._append(lines if self._at_start else b"\n" + lines)

    def _stamp(self) -> bytes:
        # The clock is in UTC: what follows the milliseconds is `+00:00`.
        return self._clock.now().isoformat(timespec="milliseconds")[:23].encode() + b"Z | "

    def _put(self, text: bytes) -> None:
        stamp = self._stamp()
        ends = text.endswith(b"\n")
        body = (text[:-1] if ends else text).replace(b"\n", b"\n" + stamp)
        lines = (stamp if self._at_start else b"") + body + (b"\n" if ends else b"")
        room = self._limit - self._size
        if len(lines) <= room:
            self._append(lines)
            return
        self._cut = True
        # Up to the last whole line that fits; a half line that was begun stays.
        self._append(lines[: lines.rfind(b"\n", 0, max(0, room)) + 1])
        self._note(f"log cut here: it reached its limit of {self._limit} bytes; the run goes on")

    def _append(self, lines: bytes) -> None:
        if not self._open:
            raise StorageError(f"{self.path} is closed", hint="this is a bug: please report it")
        self._unlooked += len(lines)
        if self._unlooked >= LOOK_EVERY_BYTES:
            self._look()
        try:
            self._append_all(lines)
        except OSError as error:
            self._last_words(error)
            raise _full(self.path, error) from error

    def _append_all(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            written = os.write(self._file, left)
            self._size += written
            self._at_start = left[written - 1] == ord("\n")
            left = left[written:]

    def _look(self) -> None:
        self._unlooked = 0
        status = os.fstatvfs(self._file)
        if status.f_bavail * status.f_frsize < self._free:
            error = OSError(errno.ENOSPC, f"less than {self._free} bytes are free")
            self._last_words(error)
            raise _full(self.path, error)

    def _last_words(self, error: OSError) -> None:
        """Give the reserve back and say why the log ends, if the disk now takes that much."""
        self._cut = True
        self._reserve.unlink(missing_ok=True)
        text = f"\n{self._stamp().decode()}# log ends here: {error.strerror}\n"
        try:
            self._append_all(text.removeprefix("\n" if self._at_start else "").encode())
        except OSError:
            return


def _full(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="free the disk that holds the state directory",
        retryable=True,
    )
