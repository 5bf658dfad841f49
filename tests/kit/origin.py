# SPDX-License-Identifier: Apache-2.0
"""A project as a review server keeps it, made with real git."""

import os
import subprocess
from pathlib import Path


class Origin:
    """A repository on the server's side, with a work tree to make commits in.

    Args:
        root: Where the server finds its repositories.
        project: Its name there.
    """

    def __init__(self, root: Path, project: str = "acme/virt") -> None:
        self.project = project
        self.bare = root / f"{project}"
        self.work = root.parent / "work" / project
        git(root, "init", "-q", "--bare", "-b", "main", str(self.bare))
        git(root, "init", "-q", "-b", "main", str(self.work))

    def commit(
        self,
        files: dict[str, str],
        *,
        onto: str = "",
        to: str = "refs/heads/main",
        message: str = "A change",
    ) -> str:
        """Commit `files` (on top of the work tree, or of `onto`), publish it as `to`."""
        if onto:
            git(self.work, "checkout", "-q", "--detach", onto)
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(self.work, "add", "-A")
        return self.publish(to, message)

    def publish(self, to: str, message: str = "A change") -> str:
        """Commit what is staged and push it as `to`; returns its id."""
        git(self.work, "commit", "-q", "--allow-empty", "-m", message)
        git(self.work, "push", "-q", "-f", str(self.bare), f"HEAD:{to}")
        return git(self.work, "rev-parse", "HEAD")


def git(where: Path, *arguments: str) -> str:
    """Run git as an author; returns what it prints."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=where, env=env, check=True, capture_output=True
    )
    return done.stdout.decode().strip()
