# SPDX-License-Identifier: Apache-2.0
"""Part of step 5, run: the tree to test, merged onto the branch tip on the controller.

Nothing of the tree is executed or even written out here: git fetches objects into a bare
cache, merges them as objects, and streams the result as a tar. The cache of a project is
shared by threads and processes; one that a killed git left broken is replaced by a new one.
"""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ci import proc
from ci.errors import ConfigError, MergeConflict, ReviewServerError, StorageError
from ci.git_remote import ATTRIBUTES, Remote, environment
from ci.model.change import CHANGE_REF, REVISION, valid_branch, valid_project

__all__ = ["Checkout", "MergedTree", "Remote"]

FETCH_S = 900.0
MERGE_S = 120.0
ARCHIVE_S = 300.0
TIDY_S = 3600.0
LOCK_S = 1800.0
# Fetches of one project that may run at once; each has refs of its own.
SLOTS = 8
# Objects that nothing refers to are kept for as long as a build may need its merged tree.
KEEP = "2.weeks.ago"
MAX_NAMED = 5
_READY = "hypervouch-ready"
_REFS = "refs/hypervouch"
_FETCH = (
    *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"),
    *("--no-recurse-submodules", "--no-show-forced-updates", "--end-of-options"),
)
_MERGE = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", "--end-of-options")
# What git says when the other side is to blame; all else makes the cache suspect.
_REMOTE_FAULT = re.compile(
    r"could not (?:resolve|connect|read)|unable to access|couldn't find remote ref|"
    r"Connection (?:refused|reset|closed|timed out)|Operation timed out|timed out|"
    r"Authentication failed|Permission denied|Host key verification|remote:|"
    r"remote error|hung up|early EOF|RPC failed|not our ref|HTTP \d|"
    r"does not appear to be a git repository|did not end within|is not installed|"
    r"transport '\w+' not allowed|fsck error",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(r"No space left|Disk quota exceeded|unable to write", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class MergedTree:
    """A tree that can be archived.

    Attributes:
        tip: Commit of the branch that was merged onto.
        revision: Commit of the patch set; the tip itself for a baseline.
        tree: Id of the merged tree.
        git_dir: The cache that holds it.
    """

    tip: str
    revision: str
    tree: str
    git_dir: Path


class _CacheBroken(Exception):
    """The cache, not the server, seems to be at fault; the text is what git said."""


_Work = Callable[[Path, int], MergedTree]


class Checkout:
    """Merges patch sets of one server's projects. Safe for threads and processes.

    Args:
        cache_dir: Directory for the bare caches, one per project.
        remote: The server.
    """

    def __init__(self, cache_dir: Path, remote: Remote) -> None:
        self._cache_dir = cache_dir
        self._remote = remote

    def merge(
        self, project: str, branch: str, ref: str, revision: str, *, tip: str | None = None
    ) -> MergedTree:
        """Fetch a patch set and merge it onto its branch.

        Args:
            project: Gerrit's name of it.
            branch: Short name of the target branch.
            ref: `refs/changes/NN/CHANGE/PATCHSET`.
            revision: The commit that the ref must have.
            tip: Commit to merge onto instead of the branch's newest one: that of an earlier
                merge. What the cache has already is not fetched again.

        Raises:
            MergeConflict: It does not merge; the message names the files.
            ReviewServerError: The server is away, refuses us, or has another commit there.
            StorageError: The disk is full.
        """
        _require(project, branch, ref, revision, tip)

        def work(git_dir: Path, slot: int) -> MergedTree:
            if tip is not None:
                known = self._merge_tree(git_dir, branch, tip, revision, sure=False)
                if known is not None:
                    return known
            wanted = {f"refs/heads/{branch}": _tip_ref(slot, branch), ref: f"{_slot(slot)}/change"}
            newest, fetched = self._fetch(git_dir, project, wanted)
            if fetched != revision:
                raise ReviewServerError(
                    f"{project} has {fetched} at {ref}, not {revision}",
                    hint="the server may lag behind its own event; it is asked again",
                    retryable=True,
                )
            merged = self._merge_tree(git_dir, branch, tip or newest, revision, sure=True)
            if merged is None:
                raise _CacheBroken("merge-tree gave no tree")
            return merged

        return self._with_cache(project, work)

    def branch_tip(self, project: str, branch: str) -> MergedTree:
        """The newest tree of a branch, for a baseline.

        Raises:
            ReviewServerError: The server is away or has no such branch.
            StorageError: The disk is full.
        """
        _require(project, branch)

        def work(git_dir: Path, slot: int) -> MergedTree:
            wanted = {f"refs/heads/{branch}": _tip_ref(slot, branch)}
            (newest,) = self._fetch(git_dir, project, wanted)
            return self._tree_of(git_dir, newest)

        return self._with_cache(project, work)

    def at(self, project: str, commit: str) -> MergedTree:
        """The tree of a commit that was a branch's tip before; fetched only when unknown.

        Raises:
            ReviewServerError: Neither the cache nor the server has it.
            StorageError: The disk is full.
        """
        _require(project, revision=commit)

        def work(git_dir: Path, slot: int) -> MergedTree:
            try:
                return self._tree_of(git_dir, commit)
            except _CacheBroken:
                self._fetch(git_dir, project, {commit: f"{_slot(slot)}/at"})
                return self._tree_of(git_dir, commit)

        return self._with_cache(project, work)

    def archive(self, merged: MergedTree, to: IO[bytes]) -> None:
        """Write an uncompressed tar of the tree to an open file.

        Links are links and submodules empty folders in it; attributes of the tree that would
        leave files out or fill text in have no effect.

        Raises:
            StorageError: The disk is full, or the cache lost the tree: merge again.
        """
        try:
            self._git(
                merged.git_dir,
                "archive",
                "--format=tar",
                merged.tree,
                stdout=to,
                timeout_s=ARCHIVE_S,
            )
        except proc.CommandFailed as error:
            if not _DISK_FULL.search(error.stderr):
                # The next merge finds it unready and makes a new one.
                (merged.git_dir / _READY).unlink(missing_ok=True)
            raise StorageError(
                f"the tree {merged.tree} could not be read: {error.message}",
                hint="free the disk; a broken cache is made anew",
                retryable=True,
            ) from error

    def tidy(self) -> None:
        """Pack what the caches gathered and drop what nobody needs; for quiet hours.

        Raises:
            StorageError: git refused.
        """
        for ready in self._cache_dir.rglob(_READY):
            git_dir = ready.parent
            with _locked(_locks(git_dir) / "cache", exclusive=True):
                try:
                    self._git(git_dir, "gc", "--quiet", f"--prune={KEEP}", timeout_s=TIDY_S)
                except proc.CommandFailed as error:
                    ready.unlink(missing_ok=True)
                    raise StorageError(
                        f"the cache {git_dir} could not be packed: {error.message}",
                        hint="it is made anew when it is next needed",
                        retryable=True,
                    ) from error

    def _with_cache(self, project: str, work: _Work) -> MergedTree:
        """Do `work` in a cache that is sound, making or replacing it where needed."""
        git_dir = self._cache_dir / f"{project}.git"
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
                except _CacheBroken:
                    (git_dir / _READY).unlink(missing_ok=True)
            with _locked(locks / "cache", exclusive=True):
                return self._anew(git_dir, project, work)
        except OSError as error:
            raise StorageError(
                f"the cache of {project} cannot be used: {error}",
                hint="check the disk that holds the state directory",
                retryable=True,
            ) from error

    def _anew(self, git_dir: Path, project: str, work: _Work) -> MergedTree:
        """Make the cache beside the old one; it takes its place once the work succeeded in it."""
        draft = git_dir.with_name(f"{git_dir.name}.new")
        try:
            if (git_dir / _READY).exists():
                return work(git_dir, 0)
            shutil.rmtree(draft, ignore_errors=True)
            self._git(draft, "init", "--bare", "--quiet", "--template=", str(draft))
            (draft / "info").mkdir(exist_ok=True)
            (draft / "info" / "attributes").write_text(ATTRIBUTES)
            conflict: MergeConflict | None = None
            try:
                merged = work(draft, 0)
            except MergeConflict as error:
                conflict = error
            (draft / _READY).touch()
            shutil.rmtree(git_dir, ignore_errors=True)
            draft.replace(git_dir)
        except (_CacheBroken, proc.CommandFailed) as error:
            raise ReviewServerError(
                f"{project} could not be fetched: {error}",
                hint="check that git is at least 2.38 and that the server's copy is sound",
                retryable=True,
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if conflict is not None:
            raise conflict
        return replace(merged, git_dir=git_dir)

    def _fetch(self, git_dir: Path, project: str, wanted: dict[str, str]) -> tuple[str, ...]:
        """Fetch refs to private ones; returns the commits they have now."""
        url = self._remote.project_url(project)
        specs = [f"+{theirs}:{ours}" for theirs, ours in wanted.items()]
        try:
            self._git(git_dir, *_FETCH, url, *specs, timeout_s=FETCH_S)
        except proc.CommandFailed as error:
            said = f"{error.message}\n{error.stderr}"
            if _DISK_FULL.search(said):
                raise StorageError(
                    f"{project} could not be fetched: {error.message}",
                    hint="free the disk that holds the state directory",
                    retryable=True,
                ) from error
            if not _REMOTE_FAULT.search(said):
                raise _CacheBroken(error.message) from error
            raise ReviewServerError(
                f"{project} could not be fetched by {self._remote.transport}: {error.message}",
                hint="check that the server is up and that our account may read the project",
                # Objects that are malformed today are so tomorrow.
                retryable="fsck error" not in said,
            ) from error
        try:
            commits = tuple((git_dir / ours).read_text().strip() for ours in wanted.values())
        except OSError as error:
            raise _CacheBroken(f"a fetched ref is missing: {error}") from error
        if not all(REVISION.fullmatch(commit) for commit in commits):
            raise _CacheBroken("a fetched ref is broken")
        return commits

    def _merge_tree(
        self, git_dir: Path, branch: str, tip: str, revision: str, *, sure: bool
    ) -> MergedTree | None:
        """Merge two commits; None when something is missing and we were not `sure` of it."""
        try:
            done = self._git(git_dir, *_MERGE, tip, revision, timeout_s=MERGE_S, ok=(0, 1))
        except proc.CommandFailed as error:
            if "unrelated histories" in error.stderr:
                raise MergeConflict(
                    f"{revision} shares no history with {branch}", hint="push it to its own branch"
                ) from error
            if not sure:
                return None
            raise _CacheBroken(error.message) from error
        tree, *files = done.text.split("\0")
        if not REVISION.fullmatch(tree):
            # Status 1 without a tree is no conflict: a commit is unknown.
            if not sure:
                return None
            raise _CacheBroken(done.complaint)
        if done.status == 1:
            raise _conflict(branch, tip, sorted({name for name in files if name}))
        return MergedTree(tip=tip, revision=revision, tree=tree, git_dir=git_dir)

    def _tree_of(self, git_dir: Path, commit: str) -> MergedTree:
        try:
            done = self._git(git_dir, "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
        except proc.CommandFailed as error:
            raise _CacheBroken(f"{commit} is not in the cache") from error
        return MergedTree(tip=commit, revision=commit, tree=done.text.strip(), git_dir=git_dir)

    def _git(
        self,
        git_dir: Path,
        *arguments: str,
        stdout: IO[bytes] | None = None,
        timeout_s: float = 60.0,
        ok: Sequence[int] = (0,),
    ) -> proc.Completed:
        env = environment(self._remote, git_dir)
        return proc.run(["git", *arguments], env=env, stdout=stdout, timeout_s=timeout_s, ok=ok)


def _require(
    project: str, branch: str = "main", ref: str = "", revision: str = "", tip: str | None = None
) -> None:
    """Make sure that no argument is an option, a path trick or a refspec of its own."""
    sound = (
        valid_project(project)
        and valid_branch(branch)
        and (not ref or CHANGE_REF.fullmatch(ref))
        and all(REVISION.fullmatch(commit) for commit in (revision, tip) if commit)
    )
    if not sound:
        raise ConfigError(f"not a change that git may be asked for: {project!r} {branch!r} {ref!r}")


def _conflict(branch: str, tip: str, files: Sequence[str]) -> MergeConflict:
    named = ", ".join(name if name.isprintable() else ascii(name) for name in files[:MAX_NAMED])
    more = len(files) - MAX_NAMED
    return MergeConflict(
        f"does not merge onto {branch} at {tip[:10]}: conflict in {named or 'the tree'}"
        + (f" and {more} more" if more > 0 else ""),
        hint=f"rebase the change on {branch}",
    )


def _slot(slot: int) -> str:
    return f"{_REFS}/{slot}"


def _tip_ref(slot: int, branch: str) -> str:
    # Hashed: the branches `a` and `a/b` may follow each other, their refs cannot.
    return f"{_slot(slot)}/tip-{hashlib.sha256(branch.encode()).hexdigest()[:16]}"


def _locks(git_dir: Path) -> Path:
    return git_dir.with_suffix(".locks")


def _drop_stale_locks(git_dir: Path, slot: int) -> None:
    """A git that was killed leaves its ref locks; whoever holds the slot may drop them."""
    for stale in (git_dir / _slot(slot)).glob("*.lock"):
        stale.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a lock that threads and processes respect and that dies with its holder."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for _ in proc.wait_until(time.monotonic() + LOCK_S, every_s=0.005):
            if _try_lock(handle, exclusive=exclusive):
                break
        else:
            raise TimeoutError(f"{path} is held by another process for {LOCK_S:g} s")
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
