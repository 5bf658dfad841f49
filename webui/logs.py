# SPDX-License-Identifier: Apache-2.0
"""The files that builds left: windows of console logs, artifacts and their manifest.

Layout: `<logs>/<build>/<attempt>/console.log` with lines `2026-11-22T17:41:00.123Z | text`,
`manifest.json` (`files`: list of path, size_bytes, sha256) and `logs/`. All of it came from a
node, so nothing in it is trusted: ids and paths are confined, sizes are bounded.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ci.log_mirror import Mirror
from webui.line_index import IndexCache

LINE_BYTES = 4096
ARTIFACTS = "logs"
WINDOW_BYTES = 2 * 1024 * 1024
MANIFEST_BYTES = 4 * 1024 * 1024
ARTIFACTS_SHOWN = 2000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) \| ?(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a console log.

    Attributes:
        number: From 1.
        at: Its time as written, ISO 8601 in UTC; empty where the line has none.
        text: The rest; hostile, control characters included.
        cut: Whether the line is longer than what is shown.
    """

    number: int
    at: str
    text: str
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class LogWindow:
    """Some lines of a log.

    Attributes:
        first: Number of the first line.
        total: Lines in the whole log now.
        size_bytes: Size of the whole log now.
    """

    lines: tuple[LogLine, ...]
    first: int
    total: int
    size_bytes: int

    @property
    def last(self) -> int:
        """Number of the last line shown; one less than `first` when there is none."""
        return self.first + len(self.lines) - 1


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that an attempt brought home; `path` is below its `logs/`."""

    path: str
    size_bytes: int
    sha256: str


class LogFiles:
    """Reads below one directory and nowhere else. Thread-safe.

    Args:
        logs_dir: The directory.
        mirror: Brings what was written elsewhere into it; None where all is there.
    """

    def __init__(self, logs_dir: Path, mirror: Mirror | None = None) -> None:
        self._root = logs_dir
        self._mirror = mirror or Mirror(logs_dir, None, 0)
        self._indexes = IndexCache()

    def published(self, build_id: str, attempt_id: str) -> bool:
        """Whether what an ended attempt left can be read here by now."""
        return self._mirror.published(build_id, attempt_id)

    def console(self, build_id: str, attempt_id: str) -> Path | None:
        """The console log of an attempt, or None where there is none (yet, or any more)."""
        self._mirror.console(build_id, attempt_id)
        return self._file(build_id, attempt_id, "console.log")

    def has_console(self, build_id: str, attempt_id: str) -> bool:
        """Whether an attempt has a console log, here or elsewhere; without fetching it."""
        if self._file(build_id, attempt_id, "console.log") is not None:
            return True
        return self._mirror.has_console(build_id, attempt_id)

    def artifact(self, build_id: str, attempt_id: str, path: str) -> Path | None:
        """An artifact's file, or None: also for a path that would leave the artifacts."""
        if not self._mirror.local and any(
            path == one.path for one in self.artifacts(build_id, attempt_id)
        ):
            self._mirror.artifact(build_id, attempt_id, path)
        return self._file(build_id, attempt_id, path, below=ARTIFACTS)

    def artifacts(self, build_id: str, attempt_id: str) -> tuple[Artifact, ...]:
        """What the manifest of an attempt names; a broken manifest names nothing."""
        self._mirror.manifest(build_id, attempt_id)
        manifest = self._file(build_id, attempt_id, "manifest.json")
        if manifest is None:
            return ()
        try:
            with manifest.open("rb") as file:
                listed = json.loads(file.read(MANIFEST_BYTES))
        except (OSError, ValueError, RecursionError):
            return ()
        files = listed.get("files") if isinstance(listed, dict) else None
        if not isinstance(files, list):
            return ()
        found = (_artifact(item) for item in files[:ARTIFACTS_SHOWN])
        return tuple(item for item in found if item is not None)

    def _file(self, build_id: str, attempt_id: str, path: str, *, below: str = "") -> Path | None:
        if not (_ID.fullmatch(build_id) and _ID.fullmatch(attempt_id)) or "\0" in path:
            return None
        folder = self._root / build_id / attempt_id / below
        try:
            home, file = folder.resolve(), (folder / path).resolve()
            inside = home.is_relative_to(self._root.resolve()) and file.is_relative_to(home)
            return file if inside and file.is_file() else None
        except (OSError, RuntimeError, ValueError):
            return None

    def window(self, path: Path, first: int, count: int, *, complete: bool = False) -> LogWindow:
        """Up to `count` lines from line `first` on; fewer when they are very long.

        Args:
            path: From `console`.
            first: From 1.
            count: Lines wanted.
            complete: Leave out a last line that has not ended yet.
        """
        try:
            log = path.open("rb")
        except FileNotFoundError:  # retention, or a tidied mirror, came between
            return LogWindow(lines=(), first=first, total=0, size_bytes=0)
        with log:
            index = self._indexes.of(path, log)
            total = index.complete_lines if complete else index.lines
            offset, before = index.mark_before(first)
            log.seek(offset)
            end = min(first + count - 1, total)
            lines = tuple(_lines(log, before + 1, first, end))
        return LogWindow(lines=lines, first=first, total=total, size_bytes=index.size_bytes)

    def tail(self, path: Path, count: int, *, complete: bool = False) -> LogWindow:
        """The last `count` lines."""
        try:
            with path.open("rb") as log:
                index = self._indexes.of(path, log)
        except FileNotFoundError:
            return LogWindow(lines=(), first=1, total=0, size_bytes=0)
        total = index.complete_lines if complete else index.lines
        return self.window(path, max(1, total - count + 1), count, complete=complete)


def _artifact(item: object) -> Artifact | None:
    if not isinstance(item, dict):
        return None
    path, size, digest = (item.get(name) for name in ("path", "size_bytes", "sha256"))
    if not (isinstance(path, str) and isinstance(size, int) and isinstance(digest, str)):
        return None
    return Artifact(path=path.removeprefix(f"{ARTIFACTS}/"), size_bytes=size, sha256=digest)


def _lines(log: BinaryIO, number: int, first: int, end: int) -> Iterator[LogLine]:
    """Lines `first` to `end`, where the file stands at (or within) line `number`."""
    budget = WINDOW_BYTES
    while number <= end and budget > 0:
        raw, cut = _read_line(log)
        if number >= first:
            budget -= len(raw)
            yield _parse(number, raw, cut=cut)
        number += 1


def _read_line(log: BinaryIO) -> tuple[bytes, bool]:
    """The next line without its end, at most LINE_BYTES of it, and whether more was there."""
    raw = log.readline(LINE_BYTES)
    cut = False
    part = raw
    while len(part) == LINE_BYTES and not part.endswith(b"\n"):
        part = log.readline(LINE_BYTES)
        cut = cut or bool(part.rstrip(b"\r\n"))
    return raw.rstrip(b"\r\n"), cut


def _parse(number: int, raw: bytes, *, cut: bool) -> LogLine:
    text = raw.decode("utf-8", errors="replace")
    stamped = _STAMPED.fullmatch(text)
    if stamped is None:
        return LogLine(number=number, at="", text=text, cut=cut)
    return LogLine(number=number, at=stamped[1], text=stamped[2], cut=cut)
