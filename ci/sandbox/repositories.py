# SPDX-License-Identifier: Apache-2.0
"""The sandbox's git repositories, worked with git's own binaries."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import HypervouchError, ReviewServerError
from ci.model.change import REVISION, valid_project
from ci.sandbox import git_hook
from ci.sandbox.labels import NO_CHANGE, NO_CODE_CHANGE, REWORK, TRIVIAL_REBASE

ZERO = "0" * 40
_CHANGE_ID = re.compile(r"^Change-Id: (I[0-9a-f]{40})$", re.MULTILINE)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "Sandbox",
    "GIT_AUTHOR_EMAIL": "sandbox@example.com",
    "GIT_COMMITTER_NAME": "Sandbox",
    "GIT_COMMITTER_EMAIL": "sandbox@example.com",
}


class NoSuchProject(HypervouchError):
    """The project does not exist, or its name is not one."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What a commit says of itself."""

    revision: str
    tree: str
    parents: tuple[str, ...]
    author_name: str
    author_email: str
    message: str

    @property
    def change_id(self) -> str:
        """The last Change-Id footer; empty when there is none."""
        last = self.message.rstrip().rsplit("\n\n", 1)[-1]
        found: list[str] = _CHANGE_ID.findall(last)
        return found[-1] if found else ""


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """One file of a patch set; status A, M or D."""

    path: str
    status: str
    insertions: int
    deletions: int
    binary: bool = False


class Repositories:
    """Bare repositories below one directory. Thread-safe: git locks its refs itself.

    Args:
        directory: Holds `PROJECT.git`; made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, project: str) -> Path:
        """The repository of an existing project; a trailing `.git` or slash is forgiven.

        Raises:
            NoSuchProject: There is none.
        """
        name = project_name(project)
        path = self._directory / f"{name}.git"
        if not valid_project(name) or not path.is_dir():
            raise NoSuchProject(f"project {name} not found")
        return path

    def create(self, project: str) -> str:
        """Make a repository whose `master` holds one empty commit; returns that commit.

        Raises:
            ReviewServerError: The name is not one.
        """
        if not valid_project(project) or project.endswith(".git"):
            raise ReviewServerError(f"{project!r} is not a project name")
        path = self._directory / f"{project}.git"
        self._run("init", "-q", "--bare", "-b", "master", str(path))
        for name, value in {
            "receive.procReceiveRefs": "refs",
            "core.logAllRefUpdates": "false",
            "gc.auto": "0",
            "receive.autogc": "false",
            "uploadpack.allowReachableSHA1InWant": "true",
        }.items():
            self.git(project, "config", name, value)
        self.install_hook(project)
        tree = self.git(project, "hash-object", "-t", "tree", "-w", "/dev/null")
        first = self.git(project, "commit-tree", tree, "-m", "Initial empty repository")
        self.set_ref(project, "refs/heads/master", first)
        return first

    def install_hook(self, project: str) -> None:
        """Let pushes reach us, with the interpreter that runs now; repeatable."""
        hook = self.path(project) / "hooks" / "proc-receive"
        hook.parent.mkdir(exist_ok=True)
        # -I -S: the hook needs the standard library only, and should start fast.
        command = shlex.join([sys.executable, "-I", "-S", str(Path(git_hook.__file__).resolve())])
        hook.write_text(f"#!/bin/sh\nexec {command}\n")
        hook.chmod(0o755)

    def git(self, project: str, *arguments: str) -> str:
        """Run git in a repository; returns its output without the last line end."""
        return self._run("-C", str(self.path(project)), *arguments)

    def _run(self, *arguments: str, ok: Sequence[int] = (0,)) -> str:
        done = proc.run(["git", *arguments], env=_ENVIRONMENT, ok=ok)
        return done.text.rstrip("\n")

    def tip(self, project: str, ref: str) -> str:
        """The commit of a ref; empty when there is no such ref."""
        return self.git(project, "for-each-ref", "--format=%(objectname)", ref)

    def set_ref(self, project: str, ref: str, revision: str) -> None:
        """Point a ref at a commit."""
        self.git(project, "update-ref", ref, revision)

    def delete_ref(self, project: str, ref: str) -> None:
        """Remove a ref."""
        self.git(project, "update-ref", "-d", ref)

    def is_ancestor(self, project: str, old: str, new: str) -> bool:
        """Whether `new` contains `old`."""
        base = proc.run(
            ["git", "-C", str(self.path(project)), "merge-base", "--is-ancestor", old, new],
            env=_ENVIRONMENT,
            ok=(0, 1),
        )
        return base.status == 0

    def new_commits(self, project: str, tip: str, limit: int) -> list[str]:
        """Commits behind `tip` that no branch and no patch set holds, oldest first."""
        if REVISION.fullmatch(tip) is None:
            raise ReviewServerError(f"{tip!r} is not a commit")
        found = self.git(
            project,
            *("rev-list", "--reverse", "--topo-order", f"--max-count={limit + 1}", tip),
            *("--not", "--glob=refs/heads", "--glob=refs/changes"),
        )
        return found.split()

    def commit(self, project: str, revision: str) -> Commit:
        """Read a commit."""
        fields = self.git(
            project,
            *("log", "-1", "--no-show-signature", "--encoding=UTF-8"),
            *("--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%B", revision, "--"),
        ).split("\0", 5)
        return Commit(
            revision=fields[0],
            tree=fields[1],
            parents=tuple(fields[2].split()),
            author_name=fields[3],
            author_email=fields[4],
            message=fields[5].rstrip("\n") + "\n",
        )

    def files(self, project: str, revision: str) -> list[FileChange]:
        """What a commit changes against its first parent, by path."""
        parents = self.commit(project, revision).parents
        sides = (parents[0], revision) if parents else ("--root", revision)
        shown = self.git(
            project, "diff-tree", "-r", "-z", "--no-renames", "--raw", "--numstat", *sides
        )
        return parse_files(shown.split("\0"))

    def kind(self, project: str, old: Commit, new: Commit) -> str:
        """Gerrit's word for how a patch set differs from the one before."""
        if old.parents == new.parents and old.tree == new.tree:
            return NO_CHANGE if old.message == new.message else NO_CODE_CHANGE
        if old.parents != new.parents and old.message == new.message:
            before, after = (self._patch_id(project, one.revision) for one in (old, new))
            if before == after:
                return TRIVIAL_REBASE
        return REWORK

    def _patch_id(self, project: str, revision: str) -> str:
        where = ["git", "-C", str(self.path(project))]
        patch = proc.run([*where, "diff-tree", "-p", revision], env=_ENVIRONMENT)
        shown = proc.run([*where, "patch-id", "--stable"], stdin=patch.stdout, env=_ENVIRONMENT)
        return shown.text.split(" ", 1)[0]

    def merge(self, project: str, branch: str, revision: str, message: str) -> str | None:
        """Merge a commit into a branch, fast-forward if possible; None on a conflict."""
        ref = f"refs/heads/{branch}"
        tip = self.tip(project, ref)
        result = revision
        if not self.is_ancestor(project, tip, revision):
            merged = proc.run(
                ["git", "-C", str(self.path(project)), "merge-tree", "--write-tree", tip, revision],
                env=_ENVIRONMENT,
                ok=(0, 1),
            )
            if merged.status != 0:
                return None
            tree = merged.text.split("\n", 1)[0]
            result = self.git(
                project, "commit-tree", tree, "-p", tip, "-p", revision, "-m", message
            )
        self.set_ref(project, ref, result)
        return result


def project_name(asked: str) -> str:
    """The project behind what git clients send: `/a/b.git/` is `a/b`."""
    return asked.strip("/").removesuffix(".git")


def parse_files(fields: list[str]) -> list[FileChange]:
    """Raw rows (`:modes ids S`, path) first, then rows of counts (`1 TAB 2 TAB path`)."""
    statuses: dict[str, str] = {}
    found: list[FileChange] = []
    left = iter(fields)
    for entry in left:
        if entry.startswith(":"):
            statuses[next(left)] = entry.rsplit(" ", 1)[1]
        elif "\t" in entry:
            added, deleted, path = entry.split("\t", 2)
            binary = added == "-"
            found.append(
                FileChange(
                    path=path,
                    status=statuses.get(path, "M"),
                    insertions=0 if binary else int(added),
                    deletions=0 if binary else int(deleted),
                    binary=binary,
                )
            )
    return found
