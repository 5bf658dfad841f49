# SPDX-License-Identifier: Apache-2.0
"""A patch author: pushes changes and patch sets, and reviews as people do.

Works against any server that speaks Gerrit's SSH and REST, the real one and the sandbox.
"""

import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ci import proc
from ci.errors import ReviewServerError
from ci.sandbox.account import ReviewServer
from ci.sandbox.reviewer import PushedChange, Reviewer

__all__ = ["Files", "PushRefused", "PushedChange", "Pusher", "git_environment"]

_NEW = re.compile(r"/\+/(\d+) ")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIG = """\
[gc]
	auto = 0
[remote "origin"]
	url = "{url}"
	fetch = +refs/heads/*:refs/remotes/origin/*
"""
Files = Mapping[str, str | bytes | None]


class PushRefused(ReviewServerError):
    """Git or the server refused; the text is what they said."""


def git_environment(server: ReviewServer) -> dict[str, str]:
    """Environment for git as this account: its key, pinned host keys, no user's settings."""
    ssh = [
        *("ssh", "-F", "/dev/null", "-i", str(server.key_file)),
        *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
        *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={server.known_hosts}"),
        *("-o", "GlobalKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", server.user), ("EMAIL", server.email))
    }
    return {
        **kept,
        **who,
        "GIT_SSH_COMMAND": shlex.join(ssh),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


class Pusher(Reviewer):
    """One author with a clone of one project. Not thread-safe: one pusher per thread.

    Args:
        server: The server, seen by the author's account.
        project: Project to work on; it must have a branch `master`.
        workdir: Directory for the clone; made.
    """

    def __init__(self, server: ReviewServer, project: str, workdir: Path) -> None:
        super().__init__(server)
        self.project = project
        self.workdir = workdir
        self._environment = git_environment(server)
        workdir.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "work")
        # Written by hand: a process of git for each line takes longer than all of them.
        with (workdir / ".git" / "config").open("a") as config:
            config.write(_CONFIG.format(url=server.ssh_url(project)))
        self.refresh()

    def beside(self, project: str) -> "Pusher":
        """The same author with a clone of another project."""
        clone = f"{self.workdir.name}-{project.replace('/', '-')}"
        return Pusher(self.server, project, self.workdir.parent / clone)

    def git(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run git in the clone; returns both its streams.

        Raises:
            PushRefused: It ended with a status other than 0.
        """
        done = proc.run(
            ["git", *arguments],
            cwd=self.workdir,
            env=self._environment,
            timeout_s=timeout_s,
            check=False,
        )
        said = done.text + done.stderr.decode("utf-8", "replace")
        if done.status != 0:
            raise PushRefused(f"git {' '.join(arguments)}: {said}")
        return said

    def refresh(self) -> None:
        """Fetch the branches; new changes are based on what the last refresh saw."""
        self.git("fetch", "-q", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")

    def push_change(
        self,
        subject: str,
        files: Files,
        *,
        branch: str = "master",
        base: str | None = None,
        body: str = "",
        footers: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> PushedChange:
        """Push a new change.

        Args:
            subject: First line of the commit message.
            files: Path to new content; None deletes.
            branch: Target branch.
            base: Commit to build upon; the branch's tip by default.
            body: Further paragraphs of the message.
            footers: Lines before its Change-Id, for instance `Depends-On: ...`.
            options: Push options of the server, for instance `wip` or `topic=xen`.

        Raises:
            PushRefused: The server refused.
        """
        change_id = "I" + secrets.token_hex(20)
        self.git("checkout", "-q", "-f", "--detach", base or f"refs/remotes/origin/{branch}")
        self._write(files)
        change = PushedChange(
            project=self.project,
            branch=branch,
            number=0,
            change_id=change_id,
            patchset=1,
            revision="",
            subject=subject,
            body=body,
            footers=tuple(footers),
        )
        self._commit(_message(change))
        said = self._push_for_review(branch, options)
        found = _NEW.search(said)
        if found is None:
            raise PushRefused(f"the server named no change number: {said}")
        return replace(change, number=int(found.group(1)), revision=self.head())

    def amend(
        self,
        change: PushedChange,
        files: Files | None = None,
        *,
        subject: str | None = None,
        body: str | None = None,
        footers: Sequence[str] | None = None,
        options: Sequence[str] = (),
    ) -> PushedChange:
        """Push the next patch set of a change; without files only the message changes.

        What is not given of the message stays as it was.

        Raises:
            PushRefused: The server refused, for instance an identical patch set.
        """
        self.git("checkout", "-q", "-f", "--detach", change.revision)
        self._write(files or {})
        amended = replace(
            change,
            patchset=change.patchset + 1,
            subject=subject or change.subject,
            body=change.body if body is None else body,
            footers=change.footers if footers is None else tuple(footers),
        )
        self._commit(_message(amended), "--amend")
        self._push_for_review(change.branch, options)
        return replace(amended, revision=self.head())

    def rebase(self, change: PushedChange) -> PushedChange:
        """Push a change anew on the branch's tip, as `refresh` saw it last.

        Raises:
            PushRefused: It does not apply there.
        """
        self.git("checkout", "-q", "-f", "--detach", change.revision)
        self.git("rebase", "-q", f"refs/remotes/origin/{change.branch}")
        self._push_for_review(change.branch, ())
        return replace(change, patchset=change.patchset + 1, revision=self.head())

    def push_branch(self, files: Files, *, branch: str = "master", subject: str = "Base") -> str:
        """Push a commit to a branch directly, without review; returns its id.

        Raises:
            PushRefused: The account may not.
        """
        self.git("checkout", "-q", "-f", "--detach", f"refs/remotes/origin/{branch}")
        self._write(files)
        self._commit(subject)
        # Git moves the remote's branch here as well: there is nothing to fetch.
        self.git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return self.head()

    def head(self) -> str:
        """The commit checked out now."""
        detached = (self.workdir / ".git" / "HEAD").read_text().strip()
        return detached if _COMMIT.fullmatch(detached) else self.git("rev-parse", "HEAD").strip()

    def _write(self, files: Files) -> None:
        for name, content in files.items():
            path = self.workdir / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def _commit(self, message: str, *options: str) -> None:
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", *options, "-m", message)

    def _push_for_review(self, branch: str, options: Sequence[str]) -> str:
        target = f"refs/for/{branch}" + ("%" + ",".join(options) if options else "")
        return self.git("push", "origin", f"HEAD:{target}")


def _message(change: PushedChange) -> str:
    footers = "\n".join([*change.footers, f"Change-Id: {change.change_id}"])
    return "\n\n".join(part for part in (change.subject, change.body, footers) if part) + "\n"
