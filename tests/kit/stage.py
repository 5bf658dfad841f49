# SPDX-License-Identifier: Apache-2.0
"""An installation on a project of its own, on a real Gerrit, and an author who pushes to it."""

import time
from itertools import count
from pathlib import Path

from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit.installation import GOOD, SUITE, Installation

BROKEN = GOOD.replace("resume pass", "resume fail")
SLOW = GOOD + "watch sleep 3\n"
_numbers = count(1)


class Stage:
    """An installation on a project of its own, and an author.

    Args:
        gerrit: The server.
        directory: For both of them.
        options: What `Installation` takes besides.
    """

    def __init__(self, gerrit: RealGerrit, directory: Path, **options: object) -> None:
        self.gerrit = gerrit
        self.project = f"flow-{next(_numbers)}"
        gerrit.create_project(self.project)
        self.author = Pusher(gerrit.admin, self.project, directory / "author")
        self.author.push_branch({"suite.py": SUITE, "cases.txt": GOOD, "docs/a.md": "A\n"})
        self.ci = Installation(gerrit.ci, directory / "ci", self.project, **options)  # type: ignore[arg-type]

    def push(self, cases: str, subject: str = "Change the cases") -> PushedChange:
        """A change that makes the suite run these cases."""
        return self.author.push_change(
            subject, {"cases.txt": f"{cases}tag-{time.time_ns()} pass\n"}
        )
