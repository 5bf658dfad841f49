# SPDX-License-Identifier: Apache-2.0
"""Bare caches of a server's projects: fetched into, shared, and made anew when broken.

The cache of a project is shared by threads and processes. Fetches run side by side, each with
refs of its own; one that a killed git left broken is replaced by a new one.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TypeVar

from ci import proc
from ci.errors import ChangeError, ReviewServerError, StorageError
from ci.git_remote import ATTRIBUTES, Remote, environment
from ci.model.change import REVISION

FETCH_S = 900.0
TIDY_S = 3600.0
TIDY_EVERY_S = 24 * 3600.0
TIDY_WAIT_S = 1.0
LOCK_S = 1800.0
# Fetches of one project that may run at once; each has refs of its own.
SLOTS = 8
# Objects that nothing refers to are kept for as long as a build may need its merged tree.
KEEP = "2.weeks.ago"
_READY = "hypervouch-ready"
_TIDIED = "hypervouch-tidied"
_REFS = "refs/hypervouch"
_FETCH = (
    *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"),
    *("--no-recurse-submodules", "--no-show-forced-updates", "--end-of-options"),
)
# What git says when the other side is to blame; all else makes the cache suspect.
_REMOTE_FAULT = re.compile(
    r"could not (?:resolve|connect|read)|unable to access|couldn't find remote ref|"
    r"Connection (?:refused|reset|closed|timed out)|Operation timed out|timed out|"
    r"Authentication failed|Permission denied|Host key verification|remote:|"
    r"remote error|hung up|early EOF|RPC failed|not our ref|unadvertised object|HTTP \d|"
    r"does not appear to be a git repository|did not end within|is not installed|"
    r"transport '\w+' not allowed|fsck error",
    re.IGNORECASE,
)
_NOT_THERE = re.compile(
    r"couldn't find remote ref (?P<ref>\S+)|"
    r"(?:not our ref|unadvertised object|want) (?P<commit>[0-9a-f]{40,64})"
)
_DISK_FULL = re.compile(r"No space left|Disk quota exceeded|unable to write", re.IGNORECASE)
T = TypeVar("T")


class CacheBroken(Exception):
    """The cache, not the server, seems to be at fault; the text is what git said."""


class RefMissing(ReviewServerError):
    """The server answers, but does not have what it said it has.

    It may lag behind its own events, so it is worth asking again, but not for ever.

    Attributes:
        project: Where.
        ref: Name of the ref, or a commit id.
    """

    def __init__(self, message: str, *, project: str, ref: str) -> None:
        hint = "the server may lag behind its own event; it is asked again"
        super().__init__(message, hint=hint, retryable=True)
        self.project = project
        self.ref = ref


class GitCache:
    """The caches of one server's projects. Safe for threads and processes.

    Args:
        cache_dir: Directory for the bare caches, one per project.
        remote: The server.
    """

    def __init__(self, cache_dir: Path, remote: Remote) -> None:
        self._cache_dir = cache_dir
        self._remote = remote

    def git_dir(self, project: str) -> Path:
        """Where the cache of a project is once `use` returned."""
        return self._cache_dir / f"{project}.git"

    def use(self, project: str, work: Callable[[Path, int], T]) -> T:
        """Do `work` in a cache that is sound, making or replacing it where needed.

        Args:
            project: Gerrit's name of it, already checked.
            work: Called with the cache's directory and the slot whose refs it may move; again
                with a new cache after it raised CacheBroken.

        Raises:
            StorageError: The disk is full, or the cache cannot be used.
            ReviewServerError: A new cache is broken as well.
        """
        git_dir = self.git_dir(project)
        locks = _locks(git_dir)
        try:
            locks.mkdir(parents=True, exist_ok=True)
            if (git_dir / _READY).exists():
                try:
                    with ExitStack() as held:
                        held.enter_context(_locked(locks / "cache", exclusive=False))
                        slot = held.enter_context(_free_slot(locks))
                        _drop_stale_locks(git_dir, slot)
                        return work(git_dir, slot)
                except CacheBroken:
                    self.distrust(git_dir)
            with _locked(locks / "cache", exclusive=True):
                return self._anew(git_dir, project, work)
        except OSError as error:
            raise StorageError(
                f"the cache of {project} cannot be used: {error}",
                hint="check the disk that holds the state directory",
                retryable=True,
            ) from error

    def distrust(self, git_dir: Path) -> None:
        """Let the next use of a cache make a new one."""
        (git_dir / _READY).unlink(missing_ok=True)

    def fetch(self, git_dir: Path, project: str, wanted: Mapping[str, str]) -> tuple[str, ...]:
        """Fetch refs to private ones; returns the commits they have now, in order.

        Raises:
            RefMissing: One of them is not there.
            ReviewServerError: The server is away or refuses us.
            StorageError: The disk is full.
            CacheBroken: Anything else.
        """
        url = self._remote.project_url(project)
        specs = [f"+{theirs}:{ours}" for theirs, ours in wanted.items()]
        try:
            self.git(git_dir, *_FETCH, url, *specs, timeout_s=FETCH_S)
        except proc.CommandFailed as error:
            raise self._fetch_error(project, error) from error
        try:
            commits = tuple((git_dir / ours).read_text().strip() for ours in wanted.values())
        except OSError as error:
            raise CacheBroken(f"a fetched ref is missing: {error}") from error
        if not all(REVISION.fullmatch(commit) for commit in commits):
            raise CacheBroken("a fetched ref is broken")
        return commits

    def _fetch_error(self, project: str, error: proc.CommandFailed) -> Exception:
        said = f"{error.message}\n{error.stderr}"
        if _DISK_FULL.search(said):
            return StorageError(
                f"{project} could not be fetched: {error.message}",
                hint="free the disk that holds the state directory",
                retryable=True,
            )
        if not _REMOTE_FAULT.search(said):
            return CacheBroken(error.message)
        text = f"{project} could not be fetched by {self._remote.transport}: {error.message}"
        missing = _NOT_THERE.search(said)
        if missing:
            return RefMissing(text, project=project, ref=missing["ref"] or missing["commit"])
        return ReviewServerError(
            text,
            hint="check that the server is up and that our account may read the project",
            # Objects that are malformed today are so tomorrow.
            retryable="fsck error" not in said,
        )

    def git(
        self,
        git_dir: Path,
        *arguments: str,
        stdout: IO[bytes] | None = None,
        timeout_s: float = 60.0,
        ok: Sequence[int] = (0,),
        env: Mapping[str, str] | None = None,
    ) -> proc.Completed:
        """Run git in a cache.

        Raises:
            CommandFailed: It ended with a status that is not `ok`.
        """
        variables = {**environment(self._remote, git_dir), **(env or {})}
        return proc.run(
            ["git", *arguments], env=variables, stdout=stdout, timeout_s=timeout_s, ok=ok
        )

    def tidy(self) -> None:
        """Pack what the caches gathered and drop what nobody needs, once a day each.

        A cache in use is left for the next call: nobody who fetches is made to wait for it.

        Raises:
            StorageError: git refused.
        """
        for ready in self._cache_dir.rglob(_READY):
            git_dir = ready.parent
            tidied = git_dir / _TIDIED
            if tidied.exists() and time.time() - tidied.stat().st_mtime < TIDY_EVERY_S:
                continue
            with ExitStack() as held:
                try:
                    held.enter_context(
                        _locked(_locks(git_dir) / "cache", exclusive=True, patience_s=TIDY_WAIT_S)
                    )
                except TimeoutError:
                    continue
                try:
                    self.git(git_dir, "gc", "--quiet", f"--prune={KEEP}", timeout_s=TIDY_S)
                    tidied.touch()
                except proc.CommandFailed as error:
                    self.distrust(git_dir)
                    raise StorageError(
                        f"the cache {git_dir} could not be packed: {error.message}",
                        hint="it is made anew when it is next needed",
                        retryable=True,
                    ) from error

    def _anew(self, git_dir: Path, project: str, work: Callable[[Path, int], T]) -> T:
        """Make the cache beside the old one; it takes its place once the work came to an end."""
        draft = git_dir.with_name(f"{git_dir.name}.new")
        try:
            if (git_dir / _READY).exists():
                return work(git_dir, 0)
            shutil.rmtree(draft, ignore_errors=True)
            self.git(draft, "init", "--bare", "--quiet", "--template=", str(draft))
            (draft / "info").mkdir(exist_ok=True)
            (draft / "info" / "attributes").write_text(ATTRIBUTES)
            try:
                done = work(draft, 0)
            except ChangeError:  # the change is at fault: the cache is sound
                _settle(draft, git_dir)
                raise
            _settle(draft, git_dir)
        except (CacheBroken, proc.CommandFailed) as error:
            raise ReviewServerError(
                f"{project} could not be fetched: {error}",
                hint="check that git is at least 2.38 and that the server's copy is sound",
                retryable=True,
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return done


def _settle(draft: Path, git_dir: Path) -> None:
    (draft / _READY).touch()
    shutil.rmtree(git_dir, ignore_errors=True)
    draft.replace(git_dir)


def slot_ref(slot: int, name: str) -> str:
    """A ref that only the holder of the slot moves."""
    return f"{_REFS}/{slot}/{name}"


def disk_is_full(error: proc.CommandFailed) -> bool:
    """Whether git failed for want of room."""
    return bool(_DISK_FULL.search(error.stderr))


def _locks(git_dir: Path) -> Path:
    return git_dir.with_suffix(".locks")


def _drop_stale_locks(git_dir: Path, slot: int) -> None:
    """A git that was killed leaves its ref locks; whoever holds the slot may drop them."""
    for stale in (git_dir / _REFS / str(slot)).glob("*.lock"):
        stale.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, exclusive: bool, patience_s: float = LOCK_S) -> Iterator[None]:
    """Hold a lock that threads and processes respect and that dies with its holder."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for _ in proc.wait_until(time.monotonic() + patience_s, every_s=0.005):
            if _try_lock(handle, exclusive=exclusive):
                break
        else:
            raise TimeoutError(f"{path} is held by another process for {patience_s:g} s")
        yield
    finally:
        os.close(handle)


@contextmanager
def _free_slot(locks: Path) -> Iterator[int]:
    """Hold the first free slot, waiting for one where all are taken."""
    for _ in proc.wait_until(time.monotonic() + LOCK_S, every_s=0.005):
        for slot in range(SLOTS):
            handle = os.open(locks / str(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if _try_lock(handle, exclusive=True):
                    yield slot
                    return
            finally:
                os.close(handle)
    raise TimeoutError(f"no free slot in {locks} for {LOCK_S:g} s")


def _try_lock(handle: int, *, exclusive: bool) -> bool:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
