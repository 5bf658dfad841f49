# SPDX-License-Identifier: Apache-2.0
"""Local copies of what other processes published: readers keep reading plain local files.

A folder of the spool with the mark `.mirror` is a copy and may be thrown away and fetched
again; one without it belongs to an attempt of this process and is left alone. The mark's text is
how much of the console is good, so that a copy which was cut short goes on there. Threads and
processes that share the spool take turns by a lock on it. A store that is away never fails a
reader: what is there is shown, and the store is left in peace for a while.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci.clock import Clock, SystemClock
from ci.errors import StorageError
from ci.log import get
from ci.log_publish import COMPLETE, CONSOLE, FILES, LIVE, MANIFEST, MIRROR, PUBLISHED
from ci.log_shelf import Shelf

LOOK_EVERY_S = 1.0
"""How often the store is asked for more of one attempt."""
REST_S = 10.0
"""How long a store is left in peace that was away."""
RANGE_BYTES = 8 * 1024 * 1024
SEGMENTS_AT_ONCE = 64
IN_USE_S = 60.0
REMEMBERED = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Mirror:
    """Brings files of attempts into the spool when they are asked for. Thread-safe.

    Args:
        spool: The local directory of logs.
        shelf: What to copy from; None where everything is local already.
        limit_bytes: What copies may fill, about; the ones unused for longest go first.
        clock: Where time comes from.
    """

    def __init__(
        self, spool: Path, shelf: Shelf | None, limit_bytes: int, clock: Clock | None = None
    ) -> None:
        self.spool = spool
        self._shelf = shelf
        self._limit = limit_bytes
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._looked: OrderedDict[str, float] = OrderedDict()
        self._there: OrderedDict[str, None] = OrderedDict()
        self._rest_until_s = float("-inf")
        self._fetched = 0
        self.trouble = ""
        """Why the store could not be read the last time; empty while it can."""
        self._log = get("logs")

    @property
    def local(self) -> bool:
        """Whether there is no store: what is not in the spool is nowhere."""
        return self._shelf is None

    def console(self, build_id: str, attempt_id: str) -> None:
        """Bring what there is of a console by now; nothing where it is here."""
        found = self._wanted(build_id, attempt_id)
        if found is None or (found[1] / COMPLETE).exists():
            return
        shelf, folder, key = found
        with self._turn(f"{key}/{CONSOLE}") as mine:
            if mine:
                self._follow(shelf, folder, key)

    def has_console(self, build_id: str, attempt_id: str) -> bool:
        """Whether the store has a console of an attempt that is not here, as far as it says."""
        found = self._wanted(build_id, attempt_id)
        if found is None:
            return False
        shelf, _, key = found
        with self._turn(f"{key}/{PUBLISHED}") as mine:
            if mine and key not in self._there and self._published(shelf, key) is not None:
                self._there[key] = None
                while len(self._there) > REMEMBERED:
                    self._there.popitem(last=False)
        return key in self._there

    def manifest(self, build_id: str, attempt_id: str) -> None:
        """Bring the list of an attempt's files."""
        found = self._wanted(build_id, attempt_id)
        if found is None or (found[1] / MANIFEST).exists():
            return
        shelf, folder, key = found
        with self._turn(f"{key}/{MANIFEST}") as mine:
            if mine and self._published(shelf, key) is not None:
                self._fetch(shelf, f"{key}/{MANIFEST}", folder, MANIFEST)

    def artifact(self, build_id: str, attempt_id: str, path: str) -> None:
        """Bring one file; `path` is below `logs/` and stands in the manifest."""
        found = self._wanted(build_id, attempt_id)
        parts = Path(path).parts
        if found is None or not parts or path.startswith("/") or ".." in parts or "\0" in path:
            return
        shelf, folder, key = found
        name = f"{FILES}/{Path(path)}"
        if (folder / name).exists():
            return
        with self._turn(f"{key}/{name}") as mine:
            if mine:
                self._fetch(shelf, f"{key}/{name}", folder, name)

    def published(self, build_id: str, attempt_id: str) -> bool:
        """Whether what an ended attempt left can be read here, by what `has_console` found."""
        folder, key = self.spool / build_id / attempt_id, f"{build_id}/{attempt_id}"
        return self._shelf is None or folder.is_dir() or key in self._there

    def tidy(self) -> int:
        """Throw away the copies unused for longest while all of them fill too much.

        Returns:
            How many attempts went.
        """
        if self._shelf is None:
            return 0
        kept = []
        for mark in self.spool.glob(f"*/*/{MIRROR}"):
            try:
                kept.append((mark.stat().st_mtime, folder_bytes(mark.parent), mark.parent))
            except FileNotFoundError:
                continue
        total, gone = sum(size for _, size, _ in kept), 0
        for used_at, size, folder in sorted(kept):
            if total <= self._limit or used_at > self._clock.now().timestamp() - IN_USE_S:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total, gone = total - size, gone + 1
        return gone

    def _wanted(self, build_id: str, attempt_id: str) -> tuple[Shelf, Path, str] | None:
        """Shelf, folder and key of an attempt that may have to be copied; marks it as used."""
        if self._shelf is None or not (_ID.fullmatch(build_id) and _ID.fullmatch(attempt_id)):
            return None
        folder = self.spool / build_id / attempt_id
        mark = folder / MIRROR
        if folder.exists() and not mark.exists():
            return None
        if mark.exists():
            os.utime(mark)
        return self._shelf, folder, f"{build_id}/{attempt_id}"

    @contextmanager
    def _turn(self, what: str) -> Iterator[bool]:
        """Whether it is time to ask the store; its trouble ends here."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            mine = (
                now_s >= self._rest_until_s
                and now_s - self._looked.get(what, float("-inf")) >= LOOK_EVERY_S
            )
            if mine:
                self._looked[what] = now_s
                self._looked.move_to_end(what)
                while len(self._looked) > REMEMBERED:
                    self._looked.popitem(last=False)
        try:
            yield mine
        except StorageError as error:
            self._trouble(str(error))
        except OSError as error:
            self._trouble(f"{self.spool} cannot be written: {error.strerror or error}")
        else:
            if mine:
                self.trouble = ""
        if self._fetched > self._limit // 8:
            self._fetched = 0
            self.tidy()

    def _trouble(self, reason: str) -> None:
        self._rest_until_s = self._clock.monotonic_s() + REST_S
        if not self.trouble:
            self._log.warning("logs cannot be fetched", action="mirror", reason=reason)
        self.trouble = reason

    def _published(self, shelf: Shelf, key: str) -> tuple[int, str] | None:
        """Size and digest of the whole console; None while the attempt is not published."""
        raw = shelf.read(f"{key}/{PUBLISHED}")
        if raw is None:
            return None
        try:
            facts = json.loads(raw)
            return int(facts["console_bytes"]), str(facts["console_sha256"])
        except (ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{key}/{PUBLISHED} cannot be understood") from error

    def _follow(self, shelf: Shelf, folder: Path, key: str) -> None:
        published = self._published(shelf, key)
        if published is None:
            place = _good(folder)
            first = shelf.read(f"{key}/{LIVE}/{place:012d}")
            if first is not None:
                with _copy(folder) as copy:
                    self._segments(shelf, key, copy)
            return
        size, digest = published
        with _copy(folder) as copy:
            self._rest(shelf, f"{key}/{CONSOLE}", copy, size)
            if copy.digest() != digest and size:
                copy.cut(0)
                self._rest(shelf, f"{key}/{CONSOLE}", copy, size)
                if copy.digest() != digest:
                    copy.cut(0)
                    raise StorageError(f"{key}/{CONSOLE} is not what was published")
            (folder / COMPLETE).touch()

    def _segments(self, shelf: Shelf, key: str, copy: "_Copy") -> None:
        for _ in range(SEGMENTS_AT_ONCE):
            data = shelf.read(f"{key}/{LIVE}/{copy.size:012d}")
            if not data:
                return
            copy.append(data)
            self._fetched += len(data)

    def _rest(self, shelf: Shelf, key: str, copy: "_Copy", size: int) -> None:
        while copy.size < size:
            data = shelf.read(key, copy.size, min(size, copy.size + RANGE_BYTES))
            if not data:
                raise StorageError(f"{key} is shorter than what was published")
            copy.append(data)
            self._fetched += len(data)

    def _fetch(self, shelf: Shelf, key: str, folder: Path, name: str) -> None:
        """Copy one file whole, in pieces, so that it appears at once."""
        first = shelf.read(key, 0, RANGE_BYTES) if name != MANIFEST else shelf.read(key)
        if first is None:
            return
        with _copy(folder):
            home = folder.resolve()
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(home):
                return
            draft = target.parent / f".{target.name[:200]}.new"
            with draft.open("wb") as file:
                data: bytes | None = first
                while data:
                    file.write(data)
                    self._fetched += len(data)
                    if len(data) < RANGE_BYTES or name == MANIFEST:
                        break
                    data = shelf.read(key, file.tell(), file.tell() + RANGE_BYTES)
            draft.replace(target)


class _Copy:
    """The local console of an attempt that was written elsewhere; its mark says what is good."""

    def __init__(self, folder: Path, mark: int) -> None:
        self._console = folder / CONSOLE
        self._mark = mark
        self.size = _number(os.pread(mark, 32, 0))
        if self._console.exists() and self._console.stat().st_size > self.size:
            os.truncate(self._console, self.size)  # the last piece was cut short
        elif self.size and not self._console.exists():
            self.cut(0)

    def append(self, data: bytes) -> None:
        with self._console.open("ab") as file:
            file.write(data)
        self.size += len(data)
        self._note()

    def cut(self, size: int) -> None:
        if self._console.exists():
            os.truncate(self._console, size)
        self.size = size
        self._note()

    def digest(self) -> str:
        try:
            with self._console.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return ""

    def _note(self) -> None:
        os.pwrite(self._mark, b"%-32d" % self.size, 0)


@contextmanager
def _copy(folder: Path) -> Iterator[_Copy]:
    """The copy in a folder, made when missing, for one thread of one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = os.open(folder / MIRROR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(mark, fcntl.LOCK_EX)
        yield _Copy(folder, mark)
    finally:
        os.close(mark)


def _good(folder: Path) -> int:
    try:
        return _number((folder / MIRROR).read_bytes())
    except FileNotFoundError:
        return 0


def _number(text: bytes) -> int:
    word = text.strip()
    return int(word) if word.isdigit() else 0


def folder_bytes(folder: Path) -> int:
    """What the files below a folder fill on the disk; links are not followed."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total
