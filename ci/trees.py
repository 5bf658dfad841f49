# SPDX-License-Identifier: Apache-2.0
"""Part of step 5, run: all that one attempt tests, the checkout and what lies beside it.

The checkout is the change merged onto its branch and onto what it depends on in its own
project. Each other project it depends on is merged likewise and lies beside, in a folder of
its name. A baseline tests the same without the change itself, so that what a dependency
breaks is never the change's fault.
"""

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO

from ci import depends
from ci.checkout import Checkout, MergedTree, RefMissing
from ci.clock import Clock
from ci.errors import DependencyError, ReviewServerError, StorageError
from ci.model.stack import Dependency
from ci.store.attempts import BuildOrder

# What a server that answers does not have is asked for so long and so often, and no more.
MISSING_S = 240.0
MISSING_TRIES = 8
Stack = Callable[[Callable[[], str]], Sequence[Dependency]]
"""Gives what a change depends on; it is handed what reads the commit message."""


@dataclass(frozen=True, kw_only=True)
class Trees:
    """What one attempt tests.

    Attributes:
        main: The checkout.
        beside: Other projects by name, in alphabetical order.
        stack: What the change depends on, lowest first.
    """

    main: MergedTree
    beside: tuple[tuple[str, MergedTree], ...] = ()
    stack: tuple[Dependency, ...] = ()

    @property
    def tree(self) -> str:
        """Identifies all that is tested: git's own tree id where nothing lies beside."""
        return self._mark(self.main.tree)

    @property
    def base_tree(self) -> str:
        """The `tree` of the baseline."""
        return self._mark(self.main.base_tree)

    def _mark(self, tree: str) -> str:
        if not self.beside:
            return tree
        parts = [tree, *(f"{project}={one.tree}" for project, one in self.beside)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def root_of(order: BuildOrder) -> depends.Root:
    """The change of a build, for those who follow its dependencies."""
    return depends.Root(project=order.project, branch=order.branch, number=order.change_number)


def assemble(
    checkout: Checkout, order: BuildOrder, stack_of: Stack, *, tip: str | None, baseline: bool
) -> Trees:
    """Fetch and merge what an attempt tests.

    Args:
        checkout: Merges.
        order: The build.
        stack_of: Gives what the change depends on.
        tip: Branch tip of the build's first check; the newest one without it.
        baseline: Leave the change itself out.

    Raises:
        ChangeError: The change or what it depends on does not merge, or cannot be found.
        ReviewServerError: The server is away, or lacks something.
        StorageError: The disk is full.
    """
    onto = tip or checkout.newest(order.project, order.branch, order.ref, order.revision)
    stack = stack_of(lambda: checkout.message(order.project, order.ref, order.revision))
    root = root_of(order)
    below = depends.below(stack, root)
    if baseline:
        main = checkout.base(order.project, order.branch, onto, below)
    else:
        main = checkout.merge(
            order.project, order.branch, order.ref, order.revision, tip=onto, stack=below
        )
    beside = tuple(
        (project, checkout.base(project, some[0].branch, some[0].tip, some))
        for project, some in depends.beside(stack, root)
    )
    return Trees(main=main, beside=beside, stack=tuple(stack))


def archive_beside(checkout: Checkout, trees: Trees, to: IO[bytes]) -> None:
    """Write one uncompressed tar of all that lies beside, each project in its folder.

    Raises:
        StorageError: The disk is full, or a cache lost a tree.
    """
    for project, merged in trees.beside:
        with TemporaryFile() as part:
            checkout.archive(merged, part, below=project)
            try:
                _append(part, to)
            except OSError as error:
                raise StorageError(
                    f"the tree of {project} could not be written: {error}",
                    hint="free the disk",
                    retryable=True,
                ) from error


def _append(part: IO[bytes], to: IO[bytes]) -> None:
    """Put the entries of a tar over the end mark of another one."""
    end = to.tell()
    if end:
        to.seek(0)
        end = _end_of(to)
    part.seek(0)
    to.seek(end)
    to.truncate()
    copyfileobj(part, to)


def _end_of(tar: IO[bytes]) -> int:
    """Where the last entry of a tar ends; its content may end in zeros as the end mark does."""
    with tarfile.open(fileobj=tar, mode="r:", tarinfo=tarfile.TarInfo) as entries:
        end = 0
        for entry in entries:
            blocks = -(-entry.size // tarfile.BLOCKSIZE) if entry.isreg() else 0
            end = entry.offset_data + blocks * tarfile.BLOCKSIZE
    return end


class Missing:
    """Counts the answers of a server that lacks what it said it has."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None
        self._tries = 0

    def note(self, error: ReviewServerError, order: BuildOrder) -> None:
        """Take note of one more answer.

        Raises:
            DependencyError: There were enough, and it is a dependency that is not there.
            ReviewServerError: There were enough.
        """
        if not isinstance(error, RefMissing):
            self._since, self._tries = None, 0  # away: it may come back with what it lacked
            return
        now = self._clock.monotonic_s()
        self._since = now if self._since is None else self._since
        self._tries += 1
        if self._tries < MISSING_TRIES or now - self._since < MISSING_S:
            return
        text = f"the server does not have {error.ref} of {error.project}: {error.message}"
        own = {order.ref, f"refs/heads/{order.branch}"}
        depended_on = error.project != order.project or (
            error.ref.startswith("refs/") and error.ref not in own
        )
        if depended_on:
            raise DependencyError(text, hint=depends.HINT) from error
        raise ReviewServerError(
            text, hint="push the patch set again, or ask the server's administrator"
        ) from error
