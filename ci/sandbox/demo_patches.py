# SPDX-License-Identifier: Apache-2.0
"""The demo's driver project and the changes that the demo pushes to it. Files are read, no more.

Each change is made from the project's own files by replacing a passage that occurs once, so it
cannot drift from them unseen.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

DRIVER = "acme_virt/driver.py"
DOCS = "docs/index.md"
RESUME_TEST = "test_resume_continues_the_same_counter"
_SKIPPED = {"__pycache__", ".pytest_cache"}


@dataclass(frozen=True, kw_only=True)
class DemoPatch:
    """One change to the driver project.

    Attributes:
        subject: First line of the commit message.
        body: What follows it.
        files: New text by path in the project; other files stay as they are.
    """

    subject: str
    body: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """Subject and body, without a Change-Id."""
        return f"{self.subject}\n\n{self.body}\n"


@cache
def _project() -> tuple[tuple[str, str], ...]:
    return tuple(_texts(files("ci.sandbox") / "acme_virt", ""))


def project_files() -> dict[str, str]:
    """Every file of the driver project: text by path, in path order."""
    return dict(sorted(_project()))


def good_patch() -> DemoPatch:
    """Lets the console be read from a place on; every test passes."""
    return DemoPatch(
        subject="Read the console from an offset",
        body="A caller that polls no longer has to compare what it has read already.",
        files={
            DRIVER: _replaced(
                DRIVER,
                (
                    """    def console(self, name: str) -> str:
        \"\"\"Everything the guest has written to its console since its launch.\"\"\"
        return (self._guest(name).folder / "console.log").read_text("ascii", errors="replace")
""",
                    """    def console(self, name: str, *, start: int = 0) -> str:
        \"\"\"What the guest has written to its console since its launch, from `start` on.\"\"\"
        log = self._guest(name).folder / "console.log"
        return log.read_text("ascii", errors="replace")[start:]
""",
                ),
            )
        },
    )


def breaks_resume() -> DemoPatch:
    """Resets the guest on resume: the hypervisor says `running`, the guest has lost its memory."""
    return DemoPatch(
        subject="Resume: start the virtual timers at once",
        body=(
            "After a long pause the first timer interrupt could be late. Put the devices into a\n"
            "known state before the processors go on."
        ),
        files={
            DRIVER: _replaced(
                DRIVER,
                (
                    """        self._require(name, "paused")
        self._execute(name, "cont")
""",
                    """        self._require(name, "paused")
        self._execute(name, "system_reset")
        self._execute(name, "cont")
""",
                ),
            )
        },
    )


def docs_only() -> DemoPatch:
    """Touches the documentation and nothing else."""
    return DemoPatch(
        subject="Docs: say where guests keep their files",
        body="Asked twice by new users.",
        files={
            DOCS: project_files()[DOCS]
            + "\nA guest keeps its disk, its console log and its sockets in a folder of its own.\n"
        },
    )


def slow_good_patch(*, watch_s: float = 20.0) -> DemoPatch:
    """Adds a test that watches a guest for a while: time to kill the node under it.

    Args:
        watch_s: Seconds that the new test takes.
    """
    return DemoPatch(
        subject="Test that a guest keeps ticking over a longer time",
        body="A guest that loses its timer after some seconds was not noticed.",
        files={
            "tests/functional/test_endurance.py": f'''\
# SPDX-License-Identifier: Apache-2.0
"""A guest goes on ticking while nobody touches it."""

from __future__ import annotations

import time

from acme_virt import VirtDriver, guest


def test_the_guest_keeps_ticking(driver: VirtDriver, running: str) -> None:
    until = time.monotonic() + {watch_s!r}
    while time.monotonic() < until:
        before = len(guest.ticks(driver.console(running)))
        time.sleep(2)
        after = len(guest.ticks(driver.console(running)))
        print(f"{{after}} ticks", flush=True)
        assert after > before
'''
        },
    )


def _replaced(path: str, *passages: tuple[str, str]) -> str:
    """A project file with passages replaced, each of which occurs exactly once.

    Raises:
        ValueError: One does not.
    """
    text = project_files()[path]
    for old, new in passages:
        if text.count(old) != 1:
            raise ValueError(f"{path} holds {text.count(old)} times: {old.strip()[:60]}")
        text = text.replace(old, new)
    return text


def _texts(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            if entry.name not in _SKIPPED:
                found += _texts(entry, f"{path}/")
        elif not entry.name.endswith(".pyc"):
            found.append((path, entry.read_text("utf-8")))
    return found
