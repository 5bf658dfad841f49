# SPDX-License-Identifier: Apache-2.0
"""A patch author: pushes changes and patch sets, comments, and reads votes back.

Works against any server that speaks Gerrit's SSH and REST, the real one and the sandbox.
"""

import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ci import proc
from ci.errors import ReviewServerError
from ci.sandbox.account import ReviewServer

_NEW = re.compile(r"/\+/(\d+) ")
Files = Mapping[str, str | bytes | None]


class PushRefused(ReviewServerError):
    """Git or the server refused; the text is what they said."""


@dataclass(frozen=True, kw_only=True)
class PushedChange:
    """One patch set as it was pushed."""

    project: str
    branch: str
    number: int
    change_id: str
    patchset: int
    revision: str
    subject: str

    @property
    def ref(self) -> str:
        """Where the server keeps the patch set."""
        return f"refs/changes/{self.number % 100:02d}/{self.number}/{self.patchset}"

    @property
    def id(self) -> str:
        """The change in a REST path; unlike a bare number it needs no search index."""
        return f"{quote(self.project, safe='')}~{self.number}"


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


class Pusher:
    """One author with a clone of one project. Not thread-safe: one pusher per thread.

    Args:
        server: The server, seen by the author's account.
        project: Project to work on; it must have a branch `master`.
        workdir: Directory for the clone; made.
    """

    def __init__(self, server: ReviewServer, project: str, workdir: Path) -> None:
        self.server = server
        self.project = project
        self.workdir = workdir
        self._environment = git_environment(server)
        workdir.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "work")
        self.git("config", "gc.auto", "0")
        self.git("remote", "add", "origin", server.ssh_url(project))
        self.refresh()

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
        options: Sequence[str] = (),
    ) -> PushedChange:
        """Push a new change.

        Args:
            subject: First line of the commit message.
            files: Path to new content; None deletes.
            branch: Target branch.
            base: Commit to build upon; the branch's tip by default.
            body: Further paragraphs of the message.
            options: Push options of the server, for instance `wip` or `topic=xen`.

        Raises:
            PushRefused: The server refused.
        """
        change_id = "I" + secrets.token_hex(20)
        self.git("checkout", "-q", "-f", "--detach", base or f"refs/remotes/origin/{branch}")
        self._write(files)
        self._commit(_message(subject, body, change_id))
        said = self._push_for_review(branch, options)
        found = _NEW.search(said)
        if found is None:
            raise PushRefused(f"the server named no change number: {said}")
        return PushedChange(
            project=self.project,
            branch=branch,
            number=int(found.group(1)),
            change_id=change_id,
            patchset=1,
            revision=self.head(),
            subject=subject,
        )

    def amend(
        self,
        change: PushedChange,
        files: Files | None = None,
        *,
        subject: str | None = None,
        options: Sequence[str] = (),
    ) -> PushedChange:
        """Push the next patch set of a change; without files only the message changes.

        Raises:
            PushRefused: The server refused, for instance an identical patch set.
        """
        self.git("checkout", "-q", "-f", "--detach", change.revision)
        self._write(files or {})
        title = subject or change.subject
        self._commit(_message(title, "", change.change_id), "--amend")
        self._push_for_review(change.branch, options)
        return PushedChange(
            project=change.project,
            branch=change.branch,
            number=change.number,
            change_id=change.change_id,
            patchset=change.patchset + 1,
            revision=self.head(),
            subject=title,
        )

    def push_branch(self, files: Files, *, branch: str = "master", subject: str = "Base") -> str:
        """Push a commit to a branch directly, without review; returns its id.

        Raises:
            PushRefused: The account may not.
        """
        self.git("checkout", "-q", "-f", "--detach", f"refs/remotes/origin/{branch}")
        self._write(files)
        self._commit(subject)
        self.git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        self.refresh()
        return self.head()

    def head(self) -> str:
        """The commit checked out now."""
        return self.git("rev-parse", "HEAD").strip()

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

    def review(
        self,
        change: PushedChange,
        message: str,
        *,
        labels: Mapping[str, int] | None = None,
        patchset: int | None = None,
        tag: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Any:
        """Comment and vote by REST as this account; returns the server's reply."""
        body: dict[str, object] = {"message": message, "labels": dict(labels or {})}
        if tag is not None:
            body["tag"] = tag
        revision = change.patchset if patchset is None else patchset
        return self.server.rest(
            "POST",
            f"/changes/{change.id}/revisions/{revision}/review",
            body | dict(extra or {}),
        )

    def comment(self, change: PushedChange, text: str) -> Any:
        """Say something on the change's patch set, for instance `recheck`."""
        return self.review(change, text)

    def abandon(self, change: PushedChange, reason: str = "") -> Any:
        """Abandon the change."""
        return self.server.rest("POST", f"/changes/{change.id}/abandon", {"message": reason})

    def restore(self, change: PushedChange, reason: str = "") -> Any:
        """Take an abandoned change up again."""
        return self.server.rest("POST", f"/changes/{change.id}/restore", {"message": reason})

    def submit(self, change: PushedChange) -> Any:
        """Merge the change; an administrator's Code-Review+2 comes with it."""
        self.review(change, "", labels={"Code-Review": 2})
        return self.server.rest("POST", f"/changes/{change.id}/submit", {})

    def detail(self, change: PushedChange) -> Any:
        """The change as REST shows it, with labels, messages and current revision."""
        return self.server.rest("GET", f"/changes/{change.id}/detail?o=CURRENT_REVISION")

    def votes(self, change: PushedChange, label: str = "Verified") -> dict[str, int]:
        """Who voted what on the current patch set; zeros are left out."""
        given = self.detail(change)["labels"].get(label, {}).get("all", [])
        return {one["username"]: one["value"] for one in given if one.get("value", 0) != 0}

    def messages(
        self, change: PushedChange, *, tag: str | None = None, author: str | None = None
    ) -> list[dict[str, Any]]:
        """The change's messages, oldest first; only those with this tag or by this author."""
        return [
            one
            for one in self.detail(change)["messages"]
            if (tag is None or one.get("tag") == tag)
            and (author is None or one.get("author", {}).get("username") == author)
        ]


def _message(subject: str, body: str, change_id: str) -> str:
    return "\n\n".join(part for part in (subject, body, f"Change-Id: {change_id}") if part) + "\n"
