# SPDX-License-Identifier: Apache-2.0
"""One hypervisor's turn in the demo's lab: up, the compute suite, its evidence, down."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ci.clock import SystemClock
from ci.demo.lab_screen import Lines, child, meaning
from ci.errors import HypervouchError
from ci.matrix import report
from ci.model.evidence import Evidence, Shown
from ci.store import evidence
from ci.store.database import Database
from nodes.lab.table import LabNode, Reach

UP_LIMIT_S = 1200.0
SUITE_LIMIT_S = 2400.0
READER = "demo"
SECOND = "second"
INTERRUPTED = "interrupted"
SHOWN = ((Shown.WORKS, "works"), (Shown.UNSUPPORTED, "cannot"), (Shown.FAILS, "fails"))
_TOLD = (0, 1)
"""Exit statuses of a suite that came to its end: all works, or something fails."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one hypervisor: a row of the table at the end.

    Attributes:
        name: Of its node.
        title: Of its column in the matrix, or of the node.
        grade: Of its evidence; empty where there is none.
        counts: Tests by what they showed.
        took_s: From its start to its end.
        why: Why there is no evidence.
        left_out: Whether that is no failure.
    """

    name: str
    title: str
    grade: str = ""
    counts: Mapping[Shown, int] = field(default_factory=dict)
    took_s: float = 0.0
    why: str = ""
    left_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the lab works and what it works for.

    Attributes:
        folder: Of all nodes; short, for the names of libvirt's sockets are.
        kept: Where logs and reports go.
        database: The demo's.
        console: For live lines.
        asked: Set when the user wants an end.
    """

    folder: Path
    kept: Path
    database: Database
    console: Console
    asked: threading.Event


class Turn:
    """One node's turn."""

    def __init__(self, node: LabNode, place: Place, lines: Lines) -> None:
        """Nothing is started yet.

        Args:
            node: What is put to the proof.
            place: Where.
            lines: Its lines on the screen.
        """
        self._node = node
        self._place = place
        self._lines = lines
        self._began = time.monotonic()

    def run(self) -> list[Outcome]:
        """Up, each of its hypervisors tested, down; whatever goes wrong is in what came of it."""
        homes = (self._place.folder, self._place.folder / SECOND)
        try:
            return self._run(*homes)
        except HypervouchError as error:
            self._lines.say(f"not tested: {error}")
            return [self._outcome(why=error.message)]
        finally:
            self._lines.step("taking it down")
            for home in homes:
                self._node.down(home / self._node.name)

    def _run(self, home: Path, other: Path) -> list[Outcome]:
        self._lines.step("bringing it up")
        why = self._bring_up(home)
        reach = self._node.reach(home / self._node.name)
        if why or reach is None:
            why = why or "it is not up"
            self._lines.say(f"not tested: {why}")
            return [self._outcome(why=why)]
        second = self._second(other) if self._node.pairs else ""
        took = time.monotonic() - self._began
        self._lines.say(f"up after {took:.0f} s, evidence {reach.grade.value}")
        return [self._test(url, reach, second) for url in reach.urls]

    def _bring_up(self, home: Path) -> str:
        """`hypervouch lab up`; gives why it did not come up, or nothing."""
        name = self._node.name
        said: list[str] = []

        def hear(line: str) -> None:
            if line.startswith(f"{name}: "):
                self._lines.step(line.partition(": ")[2])
            elif found := meaning(line).trouble:
                said.append(found)

        asked = self._place.asked
        words = ["lab", "up", name, "--state", str(home)]
        status = child(words, hear, self._lines, asked, UP_LIMIT_S)
        if asked.is_set():
            return INTERRUPTED
        return "; ".join(said) or f"lab up ended with status {status}" if status else ""

    def _second(self, home: Path) -> str:
        """URL of another host like it, for what takes two; empty where it does not come up."""
        if why := self._bring_up(home):
            self._lines.say(f"no second host: {why}")
        reach = self._node.reach(home / self._node.name)
        return reach.urls[0] if reach else ""

    def _test(self, url: str, reach: Reach, second: str) -> Outcome:
        """The whole suite against one URL, and its evidence into the matrix."""
        self._began = time.monotonic()
        asked = self._place.asked
        told = self._place.kept / f"{self._node.name}-{_scheme(url)}.json"
        words = [*_order(url, reach), *(["--second", second] if second else [])]
        words += ["--work", str(self._place.folder / "work"), "--report", str(told)]
        trouble: list[str] = []

        def hear(line: str) -> None:
            said = meaning(line)
            if said.trouble:
                trouble.append(said.trouble)
            elif said.lasting:
                self._lines.say(said.text)
            elif said.text:
                self._lines.step(said.text)

        self._lines.step("starting the suite")
        status = child(words, hear, self._lines, asked, SUITE_LIMIT_S)
        # One that broke off half-way may have met a hypervisor that was dying: no evidence.
        if status not in _TOLD or asked.is_set() or not told.exists():
            told.unlink(missing_ok=True)
            why = "; ".join(trouble) or f"the suite ended with status {status}"
            if asked.is_set():
                why = INTERRUPTED
            elif time.monotonic() - self._began >= SUITE_LIMIT_S:
                why = f"it was not done after {SUITE_LIMIT_S:.0f} s"
            self._lines.say(f"no evidence: {why}")
            return self._outcome(why=why)
        outcome = self._read_in(told)
        self._lines.say(f"{counted(outcome.counts)} in {outcome.took_s:.0f} s")
        return outcome

    def _read_in(self, told: Path) -> Outcome:
        now = SystemClock().now()
        name, found = report.read(told, now=now)
        evidence.read_in(self._place.database, name, found, by=READER, at=now)
        return self._outcome(found)

    def _outcome(self, found: Sequence[Evidence] = (), *, why: str = "") -> Outcome:
        return Outcome(
            name=self._node.name,
            title=found[0].system.title if found else self._node.title,
            grade=found[0].system.grade.value if found else "",
            counts=Counter(one.shown for one in found),
            took_s=time.monotonic() - self._began,
            why=why,
        )


def _order(url: str, reach: Reach) -> list[str]:
    words = ["suite", "compute", "--hypervisor", url, "--grade", reach.grade.value]
    files = {
        "--key-file": reach.key_file,
        "--known-hosts": reach.known_hosts,
        "--password-file": reach.password_file,
        "--ca-file": reach.ca_file,
    }
    for name, path in files.items():
        if path is not None:
            words += [name, str(path)]
    return [*words, "--real-guests"] if reach.real_guests else words


def _scheme(url: str) -> str:
    return url.partition(":")[0].partition("+")[0]


def counted(counts: Mapping[Shown, int]) -> str:
    """`24 works, 37 cannot, 0 fails`."""
    return ", ".join(f"{counts.get(shown, 0)} {word}" for shown, word in SHOWN)
