# SPDX-License-Identifier: Apache-2.0
"""Step 6 of 9, collect. Before it: run; after it: judge.

In: a Session whose commands have ended, however they ended, and the Plan. Out: Outcomes, the
files that were brought home, redacted, with a manifest, and what could not be had. Nothing
that comes from a node is trusted: names, sizes, links and XML are checked on the way in.
The live log that the run step writes is `ConsoleLog`, from `ci/console.py`.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ci.cancel import Deadline
from ci.clock import Clock, SystemClock
from ci.console import NAME, ConsoleLog
from ci.errors import CollectError, StorageError
from ci.jobs.base import Plan
from ci.log_publish import Publisher
from ci.model.evidence import System
from ci.model.result import Outcome
from ci.results import junit
from ci.results.redact import Redactor
from ci.runners.archive import Intake, clear
from ci.runners.base import Session

__all__ = ["Collected", "ConsoleLog", "LogStore", "StoredFile", "collect"]

FILES = "logs"
MANIFEST = "manifest.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_CHUNK = 1024 * 1024
_PROBE = 8192


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of an attempt: path relative to its directory, size, SHA-256 in hexadecimal."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What came home.

    Attributes:
        outcomes: Tests in run order, file after file; ids are unique.
        files: What the manifest lists, sorted by path.
        problems: What is missing without harm to the verdict, one sentence each.
        system: The column of the matrix that the suite tested, if it is one of ours.
    """

    outcomes: tuple[Outcome, ...] = ()
    files: tuple[StoredFile, ...] = ()
    problems: tuple[str, ...] = ()
    system: System | None = None


class LogStore:
    """Directories of attempts below one root: `<build>/<attempt>/`. Thread-safe.

    Args:
        root: Directory that pages serve logs from.
        limit_bytes: Limit of one console log.
        free_bytes: Free disk below which nothing new is started.
        clock: Where the log's stamps come from.
        publisher: Makes attempts readable elsewhere; None where everybody reads this root.
    """

    def __init__(
        self,
        root: Path,
        limit_bytes: int,
        free_bytes: int,
        clock: Clock | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self.root = root
        self._limit = limit_bytes
        self._free = free_bytes
        self._clock = clock or SystemClock()
        self._publisher = publisher

    def attempt_dir(self, build_id: str, attempt_id: str) -> Path:
        """The directory of an attempt, made when missing.

        Raises:
            StorageError: It cannot be made.
        """
        for part in (build_id, attempt_id):
            if not _ID.fullmatch(part):
                raise StorageError(f"{part!r} cannot name a directory")
        path = self.root / build_id / attempt_id
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(path, error) from error
        return path

    def require_room(self) -> None:
        """Make sure that the disk has `free_bytes` left.

        Raises:
            StorageError: It has not.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise _refused(self.root, error) from error
        if free < self._free:
            raise StorageError(
                f"{self.root} has {free} bytes free and needs {self._free}",
                hint="free the disk, or lower free-disk-mib",
                retryable=True,
            )

    def open_console(
        self, build_id: str, attempt_id: str, secrets: Sequence[str] = ()
    ) -> ConsoleLog:
        """The log of an attempt, appended to when it exists; published once it is closed.

        Raises:
            StorageError: The disk is nearly full, or refuses.
        """
        self.require_room()
        folder, publisher = self.attempt_dir(build_id, attempt_id), self._publisher
        if publisher:
            publisher.began(build_id, attempt_id)
        try:
            return ConsoleLog(
                folder / NAME,
                clock=self._clock,
                limit_bytes=self._limit,
                free_bytes=self._free,
                secrets=secrets,
                on_close=partial(publisher.ended, build_id, attempt_id) if publisher else None,
            )
        except StorageError:
            if publisher:
                publisher.ended(build_id, attempt_id)
            raise


def collect(
    session: Session,
    plan: Plan,
    attempt_dir: Path,
    limit_bytes: int,
    *,
    secrets: Sequence[str] = (),
    deadline: Deadline | None = None,
) -> Collected:
    """Bring results and artifacts home, read the results, write the manifest. Repeatable.

    Args:
        session: Its commands have ended.
        plan: Which files.
        attempt_dir: Where; files go to `logs/` in it, replacing those of an earlier call.
        limit_bytes: For results and artifacts, each.
        secrets: Taken out of text files.
        deadline: When to give up waiting for the node.

    Returns:
        What came home; without outcomes where no result file was written.

    Raises:
        CollectError: Results did not come home whole or cannot be read; artifacts and the
            manifest are there nevertheless.
        StorageError: The disk refused.
    """
    target = attempt_dir / FILES
    clear(target)
    fetch = _Fetch(session, plan.checkout, limit_bytes, deadline)
    trouble = _attempt(lambda: _bring_results(fetch, plan, target))
    results = _files_below(target)
    missing = _attempt(lambda: _bring_artifacts(fetch, plan, target))
    try:
        for path in _files_below(target) if any(secrets) else ():
            _redact(path, secrets)
        files = _write_manifest(attempt_dir, target)
        # Read after the redaction: what a test says reaches comments and pages.
        outcomes = _read(results, target) if plan.has_results and trouble is None else ()
        system = _system(plan, target) if outcomes else None
    except OSError as error:
        raise _refused(attempt_dir, error) from error
    if trouble:
        raise trouble
    return Collected(
        outcomes=outcomes,
        files=files,
        problems=() if missing is None else (str(missing),),
        system=system,
    )


@dataclass(frozen=True)
class _Fetch:
    """Where files come from, and the bounds for getting them."""

    session: Session
    directory: str
    limit_bytes: int
    deadline: Deadline | None

    def __call__(self, patterns: Sequence[str], target: Path) -> None:
        if patterns:
            self.session.fetch(
                patterns,
                directory=self.directory,
                target=target,
                limit_bytes=self.limit_bytes,
                deadline=self.deadline,
            )


def _attempt(work: Callable[[], None]) -> CollectError | None:
    """Do it, and hand back its error: the other half must be brought home first."""
    try:
        work()
    except CollectError as error:
        return error
    return None


def _bring_results(fetch: _Fetch, plan: Plan, target: Path) -> None:
    fetch(plan.results, target)
    intake = Intake(target, [path.name for path in plan.local_results], fetch.limit_bytes)
    for path in plan.local_results:
        if path.is_file():
            with path.open("rb") as file:
                intake.take(path.name, path.stat().st_size, file)
    intake.finish()


def _bring_artifacts(fetch: _Fetch, plan: Plan, target: Path) -> None:
    """Fetch artifacts beside the results, which stay as they are where both globs match."""
    arrived = target.with_name(f".{target.name}.new")
    clear(arrived)
    try:
        fetch(plan.artifacts, arrived)
    finally:
        for path in _files_below(arrived):
            goal = target / path.relative_to(arrived)
            if not goal.exists():
                goal.parent.mkdir(parents=True, exist_ok=True)
                path.rename(goal)
        clear(arrived)


def _files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _read(results: Sequence[Path], target: Path) -> tuple[Outcome, ...]:
    outcomes: list[Outcome] = []
    seen: dict[str, int] = {}
    for path in results:
        name = str(path.relative_to(target))
        if path.stat().st_size > junit.MAX_FILE_BYTES:
            raise CollectError(f"{name} is larger than {junit.MAX_FILE_BYTES} bytes")
        outcomes += junit.parse(path.read_bytes(), name, seen)
    return tuple(outcomes)


def _system(plan: Plan, target: Path) -> System | None:
    """What a suite on the controller says it tested; a file of the node's cannot say that."""
    for path in plan.local_results:
        ours = target / path.name
        if ours.is_file() and (found := junit.system(ours.read_bytes(), path.name)):
            return found
    return None


def _redact(path: Path, secrets: Sequence[str]) -> None:
    """Rewrite a text file without the secrets; binary ones are left as they are."""
    redactor = Redactor(secrets)
    clean = path.with_name(f".{path.name[:200]}.redacted")
    with path.open("rb") as source, clean.open("wb") as to:
        chunk = source.read(_CHUNK)
        if b"\0" not in chunk[:_PROBE]:
            while chunk:
                to.write(redactor.feed(chunk))
                chunk = source.read(_CHUNK)
            to.write(redactor.flush())
            clean.replace(path)
    clean.unlink(missing_ok=True)


def _write_manifest(attempt_dir: Path, target: Path) -> tuple[StoredFile, ...]:
    files = tuple(_stored(path, attempt_dir) for path in _files_below(target))
    draft = attempt_dir / f".{MANIFEST}.new"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"files": [asdict(entry) for entry in files]}, file, indent=1)
    draft.replace(attempt_dir / MANIFEST)
    return files


def _stored(path: Path, attempt_dir: Path) -> StoredFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(
        path=str(path.relative_to(attempt_dir)), size_bytes=path.stat().st_size, sha256=digest
    )


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="free the disk that holds the state directory",
        retryable=True,
    )
