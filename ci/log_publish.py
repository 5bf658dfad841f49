# SPDX-License-Identifier: Apache-2.0
"""Attempts written here become readable elsewhere: while they run, and for good at their end.

An attempt always writes to the spool, the local directory of logs; no build waits for a store.
While it runs, its console is copied in segments (`live/OFFSET`, at most 1 MiB each). At its end
the whole console, the files and the manifest follow, then `published.json`, and only then do
the segments go. What was not finished is found again by the spool itself: a folder without the
mark `.mirror`, whose lock nobody holds, is owed. So a kill at any point costs nothing but a
repeat, and processes that share a spool leave each other's attempts alone.
"""

import fcntl
import hashlib
import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from ci.backoff import Backoff
from ci.clock import Clock
from ci.errors import StorageError
from ci.log import get
from ci.log_shelf import Shelf

CONSOLE = "console.log"
MANIFEST = "manifest.json"
FILES = "logs"
LIVE = "live"
PUBLISHED = "published.json"
# In a local folder: it is a copy of what the shelf has; the text is how much of the console.
MIRROR = ".mirror"
# In such a folder: the copy of the console is whole.
COMPLETE = ".complete"
# In every folder that is written here: locked by whoever writes to it or publishes it.
LOCK = ".spool"
SEGMENT_BYTES = 1024 * 1024
LIVE_EVERY_S = 3.0
PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0


@dataclass(kw_only=True)
class _Live:
    """How far a running attempt's console has been copied."""

    lock: int
    sent: int = 0
    at_s: float = 0.0


class Publisher:
    """Copies attempts of this process to the shelf; the bodies of two threads. Thread-safe.

    Args:
        spool: The local directory of logs.
        shelf: Where to.
        clock: Where time comes from.
    """

    def __init__(self, spool: Path, shelf: Shelf, clock: Clock) -> None:
        self._spool = spool
        self._shelf = shelf
        self._clock = clock
        self._lock = threading.Lock()
        self._live: dict[tuple[str, str], _Live] = {}
        self._owed = threading.Event()
        self._stop = threading.Event()
        self._trouble = ""
        self._count = 0
        self._log = get("logs")

    def began(self, build_id: str, attempt_id: str) -> None:
        """An attempt is about to write to its folder, which is there.

        Raises:
            StorageError: The disk refused.
        """
        folder = self._spool / build_id / attempt_id
        try:
            lock = _locked(folder, wait=True)
            (folder / MIRROR).unlink(missing_ok=True)
            (folder / COMPLETE).unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error
        with self._lock:
            self._live[build_id, attempt_id] = _Live(lock=lock, at_s=self._clock.monotonic_s())

    def ended(self, build_id: str, attempt_id: str) -> None:
        """An attempt has written its last: it is owed from now on."""
        with self._lock:
            state = self._live.pop((build_id, attempt_id), None)
            if state is not None:
                os.close(state.lock)
        self._owed.set()

    @property
    def trouble(self) -> str:
        """Why attempts are not published, and how many; empty while all is well."""
        return f"{self._count} attempts wait: {self._trouble}" if self._trouble else ""

    def run_live(self) -> None:
        """Copy consoles while they grow, until `stop`."""
        backoff = Backoff(first_s=PAUSE_S, most_s=LONGEST_PAUSE_S)
        while not self._stop.wait(PAUSE_S):
            try:
                self.follow()
            except StorageError as error:
                pause_s = backoff.next_s()
                self._log.warning("live logs wait", action="publish", reason=str(error))
                self._stop.wait(pause_s)
            else:
                backoff = Backoff(first_s=PAUSE_S, most_s=LONGEST_PAUSE_S)

    def run(self) -> None:
        """Publish what has ended, with what an earlier process left, until `stop`."""
        backoff = Backoff(first_s=PAUSE_S, most_s=LONGEST_PAUSE_S)
        while not self._stop.is_set():
            self._owed.clear()
            if self.publish_owed():
                backoff = Backoff(first_s=PAUSE_S, most_s=LONGEST_PAUSE_S)
                self._owed.wait(LONGEST_PAUSE_S)
            else:
                self._stop.wait(backoff.next_s())

    def stop(self) -> None:
        """End both threads; what is owed stays so for the next start."""
        self._stop.set()
        self._owed.set()

    def follow(self) -> None:
        """Copy what consoles gained, where that is much or some seconds old.

        Raises:
            StorageError: The store is away.
        """
        with self._lock:
            running = list(self._live.items())
        for (build_id, attempt_id), state in running:
            console = self._spool / build_id / attempt_id / CONSOLE
            self._follow_one(console, f"{build_id}/{attempt_id}/{LIVE}", state)

    def _follow_one(self, console: Path, below: str, state: _Live) -> None:
        now_s = self._clock.monotonic_s()
        try:
            new = console.stat().st_size - state.sent
        except FileNotFoundError:
            return
        if new < SEGMENT_BYTES and now_s - state.at_s < LIVE_EVERY_S:
            return
        state.at_s = now_s
        while new > 0:
            with console.open("rb") as file:
                file.seek(state.sent)
                data = file.read(min(new, SEGMENT_BYTES))
            if not data:
                return
            self._shelf.write(f"{below}/{state.sent:012d}", data)
            state.sent += len(data)
            new -= len(data)

    def owed(self) -> tuple[tuple[str, str], ...]:
        """(build, attempt) of every ended attempt that is not published."""
        found = [
            (folder.parent.name, folder.name)
            for folder in sorted(self._spool.glob("*/*"))
            if (folder / CONSOLE).exists() and not (folder / MIRROR).exists()
        ]
        with self._lock:
            return tuple(one for one in found if one not in self._live)

    def publish_owed(self) -> bool:
        """Publish everything that is owed; False when something has to be tried again."""
        owed = self.owed()
        trouble = ""
        for number, (build_id, attempt_id) in enumerate(owed):
            if self._stop.is_set():
                return False
            try:
                self.publish(build_id, attempt_id)
            except StorageError as error:
                if not trouble:
                    self._log.error("logs wait for the store", action="publish", reason=str(error))
                trouble = str(error)
                if error.retryable:  # it is away: the others would wait for the same
                    self._count = len(owed) - number
                    break
        self._trouble = trouble
        self._count = len(self.owed()) if trouble else 0
        return not trouble

    def publish(self, build_id: str, attempt_id: str) -> None:
        """Copy a whole attempt; its folder is a mirror from then on. Repeatable.

        Raises:
            StorageError: Not all of it is there: try again.
        """
        folder, key = self._spool / build_id / attempt_id, f"{build_id}/{attempt_id}"
        try:
            lock = _locked(folder, wait=False)
        except BlockingIOError:
            return  # another process writes to it, or publishes it
        except FileNotFoundError:
            return  # retention came first
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            if not (folder / MIRROR).exists():
                self._copy(folder, key)
        except OSError as error:
            if folder.is_dir():
                raise _unusable(folder, error) from error
        finally:
            os.close(lock)

    def _copy(self, folder: Path, key: str) -> None:
        console = folder / CONSOLE
        facts: dict[str, object] = {"console_bytes": 0, "console_sha256": ""}
        if console.is_file():
            with console.open("rb") as file:
                facts["console_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                facts["console_bytes"] = file.tell()
            self._shelf.put(f"{key}/{CONSOLE}", console)
        for file_ in sorted((folder / FILES).rglob("*")):
            if file_.is_file() and not file_.is_symlink():
                self._shelf.put(f"{key}/{file_.relative_to(folder)}", file_)
        if (folder / MANIFEST).is_file():
            self._shelf.put(f"{key}/{MANIFEST}", folder / MANIFEST)
        self._shelf.write(f"{key}/{PUBLISHED}", json.dumps(facts).encode())
        self._shelf.remove(*key.split("/"), LIVE)
        (folder / COMPLETE).touch()
        (folder / MIRROR).write_text(str(facts["console_bytes"]))


def _locked(folder: Path, *, wait: bool) -> int:
    """Lock a folder of the spool; closing what comes back lets go of it."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(lock)
        raise
    return lock


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder} cannot be used: {error.strerror or error}",
        hint="look at the disk that holds the state directory",
        retryable=True,
    )


def forget_local(spool: Path, build_id: str) -> None:
    """Remove the local folder of a build, whatever is in it.

    Raises:
        StorageError: The disk refused.
    """
    folder = spool / build_id
    if folder.parent != spool or build_id in {"", ".", ".."}:
        raise StorageError(f"{build_id!r} cannot name a folder")
    try:
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
    except FileNotFoundError:
        return  # another process that shares the spool was quicker
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be removed: {error.strerror or error}",
            hint="look at the owner of the state directory",
            retryable=True,
        ) from error
