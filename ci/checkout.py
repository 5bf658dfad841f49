# SPDX-License-Identifier: Apache-2.0
"""Part of step 5, run: the tree to test, merged onto the branch tip on the controller.

Nothing of the tree is executed or even written out here: git fetches objects into a bare
cache, merges them as objects, and streams the result as a tar. What a change depends on in
its own project is merged first, one after the other, by commits that nobody ever pushes.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ci import proc
from ci.errors import ConfigError, DependencyError, MergeConflict, StorageError
from ci.git_cache import CacheBroken, GitCache, RefMissing, disk_is_full, slot_ref
from ci.git_remote import Remote
from ci.model.change import CHANGE_REF, REVISION, valid_branch, valid_project
from ci.model.stack import Dependency

__all__ = ["Checkout", "MergedTree", "RefMissing", "Remote"]

MERGE_S = 120.0
ARCHIVE_S = 300.0
MESSAGE_LIMIT_BYTES = 256 * 1024
MAX_NAMED = 5
_MERGE = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", "--end-of-options")
_SHOW = ("log", "--no-walk=unsorted", "-z", "--format=%T%n%B", "--encoding=UTF-8")
MEMORY_COMMITS = 256
# The same for everybody and always: the same merge has the same commit id.
_NOBODY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "ci"), ("EMAIL", "ci@localhost"), ("DATE", "@1 +0000"))
}


@dataclass(frozen=True, kw_only=True)
class MergedTree:
    """A tree that can be archived.

    Attributes:
        tip: Commit of the branch that was merged onto.
        revision: Commit of the patch set; the tip itself for a baseline.
        tree: Id of the merged tree.
        base_tree: Id of the tree without the patch set: the tip and what it depends on.
        git_dir: The cache that holds it.
    """

    tip: str
    revision: str
    tree: str
    base_tree: str
    git_dir: Path


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a commit says of itself: it never changes, so it may be remembered."""

    tree: str
    message: str


class _DoesNotMerge(Exception):
    """Two commits conflict; the text says where."""


class Checkout:
    """Merges patch sets of one server's projects. Safe for threads and processes.

    Every method raises ReviewServerError where the server is away or refuses us, RefMissing
    where it has no such branch or patch set, or another commit there, and StorageError where
    the disk is full.

    Args:
        cache_dir: Directory for the bare caches, one per project.
        remote: The server.
    """

    def __init__(self, cache_dir: Path, remote: Remote) -> None:
        self._cache = GitCache(cache_dir, remote)
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self, project: str, branch: str, ref: str, revision: str) -> str:
        """Fetch a patch set and its branch; returns the branch's newest commit.

        Args:
            project: Gerrit's name of it.
            branch: Short name of the target branch.
            ref: `refs/changes/NN/CHANGE/PATCHSET`.
            revision: The commit that the ref must have.
        """
        _require(project, branch, ref, revision)

        def work(git_dir: Path, slot: int) -> str:
            tip = self._fetch(git_dir, slot, project, branch, {ref: revision})
            self._show(git_dir, tip, revision)  # one process for what is asked next
            return tip

        return self._cache.use(project, work)

    def message(self, project: str, ref: str, revision: str) -> str:
        """The commit message of a patch set, cut where it is very long; hostile text."""
        _require(project, ref=ref, revision=revision)

        def work(git_dir: Path, slot: int) -> str:
            try:
                return self._show(git_dir, revision)[0].message
            except CacheBroken:
                self._fetch(git_dir, slot, project, "", {ref: revision})
                return self._show(git_dir, revision)[0].message

        return self._cache.use(project, work)

    def merge(
        self,
        project: str,
        branch: str,
        ref: str,
        revision: str,
        *,
        tip: str | None = None,
        stack: Sequence[Dependency] = (),
    ) -> MergedTree:
        """Merge a patch set onto its branch and what it depends on; fetch what is missing.

        Args:
            project: Gerrit's name of it.
            branch: Short name of the target branch.
            ref: `refs/changes/NN/CHANGE/PATCHSET`.
            revision: The commit that the ref must have.
            tip: Commit to merge onto instead of the branch's newest one: that of an earlier
                merge. What the cache has already is not fetched again.
            stack: Patch sets of the same project and branch to merge first, in order.

        Raises:
            MergeConflict: It does not merge; the message names the files.
            DependencyError: One of the stack does not.
        """
        _require(project, branch, ref, revision, tip)
        _require_stack(project, branch, stack)
        wanted = {ref: revision, **{one.ref: one.revision for one in stack}}

        def work(git_dir: Path, slot: int) -> tuple[str, str, str]:
            if tip is None:
                onto = self._fetch(git_dir, slot, project, branch, wanted)
                return onto, *self._merged(git_dir, branch, onto, stack, revision)
            try:
                return tip, *self._merged(git_dir, branch, tip, stack, revision)
            except CacheBroken:
                self._fetch(git_dir, slot, project, branch, wanted)
                self._have(git_dir, slot, project, tip)
                return tip, *self._merged(git_dir, branch, tip, stack, revision)

        onto, tree, base = self._cache.use(project, work)
        return self._tree(project, onto, revision, tree, base)

    def base(
        self, project: str, branch: str, tip: str, stack: Sequence[Dependency] = ()
    ) -> MergedTree:
        """The tree of a commit that was a branch's tip, with a stack; for a baseline.

        Raises:
            DependencyError: One of the stack does not merge.
        """
        _require(project, branch, revision=tip)
        _require_stack(project, branch, stack)
        wanted = {one.ref: one.revision for one in stack}

        def work(git_dir: Path, slot: int) -> tuple[str, str]:
            try:
                return self._merged(git_dir, branch, tip, stack)
            except CacheBroken:
                self._fetch(git_dir, slot, project, branch, wanted)
                self._have(git_dir, slot, project, tip)
                return self._merged(git_dir, branch, tip, stack)

        return self._tree(project, tip, tip, *self._cache.use(project, work))

    def branch_tip(self, project: str, branch: str) -> MergedTree:
        """The newest tree of a branch."""
        _require(project, branch)

        def work(git_dir: Path, slot: int) -> tuple[str, str]:
            newest = self._fetch(git_dir, slot, project, branch, {})
            return newest, self._tree_of(git_dir, newest)

        newest, tree = self._cache.use(project, work)
        return self._tree(project, newest, newest, tree, tree)

    def archive(self, merged: MergedTree, to: IO[bytes], *, below: str = "") -> None:
        """Write an uncompressed tar of the tree to an open file.

        Links are links and submodules empty folders in it; attributes of the tree that would
        leave files out or fill text in have no effect.

        Args:
            merged: The tree.
            to: The file.
            below: Folder in the tar that everything is put into.

        Raises:
            StorageError: The disk is full, or the cache lost the tree: merge again.
        """
        prefix = [f"--prefix={below}/"] if below else []
        try:
            self._cache.git(
                merged.git_dir,
                *("archive", "--format=tar", *prefix, merged.tree),
                stdout=to,
                timeout_s=ARCHIVE_S,
            )
        except proc.CommandFailed as error:
            if not disk_is_full(error):
                # The next merge finds it unready and makes a new one.
                self._cache.distrust(merged.git_dir)
            raise StorageError(
                f"the tree {merged.tree} could not be read: {error.message}",
                hint="free the disk; a broken cache is made anew",
                retryable=True,
            ) from error

    def tidy(self) -> None:
        """Pack what the caches gathered, once a day each, where nobody uses them just now.

        Raises:
            StorageError: git refused.
        """
        self._cache.tidy()

    def _tree(self, project: str, tip: str, revision: str, tree: str, base: str) -> MergedTree:
        git_dir = self._cache.git_dir(project)
        return MergedTree(tip=tip, revision=revision, tree=tree, base_tree=base, git_dir=git_dir)

    def _fetch(
        self, git_dir: Path, slot: int, project: str, branch: str, wanted: dict[str, str]
    ) -> str:
        """Fetch a branch and patch sets in one go; returns the branch's newest commit.

        Args:
            git_dir: The cache.
            slot: Whose refs are moved.
            project: Gerrit's name of it.
            branch: Short name, or empty for none.
            wanted: The commit that each ref must have.
        """
        refs = {f"refs/heads/{branch}": _tip_ref(slot, branch)} if branch else {}
        places = {ref: slot_ref(slot, f"change-{n}") for n, ref in enumerate(wanted)}
        commits = self._cache.fetch(git_dir, project, {**refs, **places})
        fetched = commits[len(refs) :]
        for (ref, revision), found in zip(wanted.items(), fetched, strict=True):
            if found != revision:
                raise RefMissing(
                    f"{project} has {found} at {ref}, not {revision}", project=project, ref=ref
                )
        return commits[0]

    def _have(self, git_dir: Path, slot: int, project: str, commit: str) -> None:
        """Fetch a commit that the branch has left behind."""
        try:
            self._cache.git(git_dir, "cat-file", "-e", f"{commit}^{{commit}}")
        except proc.CommandFailed:
            self._cache.fetch(git_dir, project, {commit: slot_ref(slot, "at")})

    def _merged(
        self,
        git_dir: Path,
        branch: str,
        tip: str,
        stack: Sequence[Dependency],
        revision: str = "",
    ) -> tuple[str, str]:
        """Merge the stack onto a tip, and then a patch set; the trees with it and without."""
        # A baseline is not merged: only asking git shows that its tip is there.
        onto, base = tip, (self._show(git_dir, tip)[0].tree if revision else None)
        base = base or self._tree_of(git_dir, tip)
        for one in stack:
            try:
                base = self._merge_tree(git_dir, onto, one.revision)
            except _DoesNotMerge as error:
                raise DependencyError(
                    f"change {one.number},{one.patchset} of {one.project}, which is depended on, "
                    f"does not merge onto {branch} at {tip[:10]}: {error}",
                    hint=f"rebase change {one.number} on {branch}",
                ) from error
            onto = self._commit(git_dir, base, onto, one.revision)
        if not revision:
            return base, base
        try:
            return self._merge_tree(git_dir, onto, revision), base
        except _DoesNotMerge as error:
            also = " with what it depends on" if stack else ""
            raise MergeConflict(
                f"does not merge onto {branch} at {tip[:10]}{also}: {error}",
                hint=f"rebase the change on {branch}",
            ) from error

    def _merge_tree(self, git_dir: Path, onto: str, revision: str) -> str:
        """The tree of two commits merged.

        Raises:
            _DoesNotMerge: They conflict.
            CacheBroken: One is not in the cache, or it is broken.
        """
        try:
            done = self._cache.git(git_dir, *_MERGE, onto, revision, timeout_s=MERGE_S, ok=(0, 1))
        except proc.CommandFailed as error:
            if "unrelated histories" in error.stderr:
                raise _DoesNotMerge(f"{revision[:10]} shares no history with it") from error
            raise CacheBroken(error.message) from error
        tree, *files = done.text.split("\0")
        if not REVISION.fullmatch(tree):
            # Status 1 without a tree is no conflict: a commit is unknown.
            raise CacheBroken(done.complaint)
        if done.status == 1:
            raise _DoesNotMerge(_named(sorted({name for name in files if name})))
        return tree

    def _commit(self, git_dir: Path, tree: str, *parents: str) -> str:
        """A commit of a merged tree, so that more can be merged onto it."""
        above = [word for parent in parents for word in ("-p", parent)]
        try:
            done = self._cache.git(
                git_dir, "commit-tree", *above, "-m", "Merged for a test", tree, env=_NOBODY
            )
        except proc.CommandFailed as error:
            raise CacheBroken(error.message) from error
        return done.text.strip()

    def _tree_of(self, git_dir: Path, commit: str) -> str:
        try:
            done = self._cache.git(
                git_dir, "rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}"
            )
        except proc.CommandFailed as error:
            raise CacheBroken(f"{commit} is not in the cache") from error
        return done.text.strip()

    def _show(self, git_dir: Path, *commits: str) -> list[_Shown]:
        """What commits say of themselves, asked once each; messages cut where very long.

        Raises:
            CacheBroken: One that was never asked for is not there.
        """
        with self._lock:
            new = [one for one in dict.fromkeys(commits) if one not in self._shown]
        found = dict(zip(new, self._read(git_dir, new), strict=True)) if new else {}
        with self._lock:
            self._shown.update(found)
            shown = [self._shown[one] for one in commits]
            while len(self._shown) > MEMORY_COMMITS:
                self._shown.popitem(last=False)
        return shown

    def _read(self, git_dir: Path, commits: Sequence[str]) -> list[_Shown]:
        with TemporaryFile() as said:
            try:
                self._cache.git(git_dir, *_SHOW, "--end-of-options", *commits, stdout=said)
            except proc.CommandFailed as error:
                raise CacheBroken(f"{', '.join(commits)} is not in the cache") from error
            said.seek(0)
            text = said.read(len(commits) * MESSAGE_LIMIT_BYTES).decode("utf-8", "replace")
        if len(commits) > 1 and text.count("\0") < len(commits):  # one message fills the room
            return [self._read(git_dir, [one])[0] for one in commits]
        records = [one.partition("\n") for one in text.split("\0")[: len(commits)]]
        return [_Shown(tree=tree, message=message) for tree, _, message in records]


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


def _require_stack(project: str, branch: str, stack: Sequence[Dependency]) -> None:
    for one in stack:
        _require(one.project, one.branch, one.ref, one.revision)
        if (one.project, one.branch) != (project, branch) or not one.ref or not one.revision:
            raise ConfigError(
                f"change {one.number} of {one.project} cannot be merged into {project}"
            )


def _named(files: Sequence[str]) -> str:
    named = ", ".join(name if name.isprintable() else ascii(name) for name in files[:MAX_NAMED])
    more = len(files) - MAX_NAMED
    return f"conflict in {named or 'the tree'}" + (f" and {more} more" if more > 0 else "")


def _tip_ref(slot: int, branch: str) -> str:
    # Hashed: the branches `a` and `a/b` may follow each other, their refs cannot.
    return slot_ref(slot, f"tip-{hashlib.sha256(branch.encode()).hexdigest()[:16]}")
