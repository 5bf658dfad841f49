# SPDX-License-Identifier: Apache-2.0
"""What the machines' own journal proves: never two builds on one at once. Pure.

Times are seconds of the machine's clock since its boot, which nothing in a run moves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SLACK_S = 1.0
"""A process that was thawed so lately cannot have learned yet that it lost its nodes."""
NS = 1e9


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a journal."""

    word: str
    node: str
    holder: str
    pid: int
    at_s: float
    how: str = ""
    earlier: str = ""

    def __str__(self) -> str:
        """For messages."""
        return f"{self.at_s:.3f} {self.node} {self.word} {self.holder} by {self.pid} {self.how}"


@dataclass(kw_only=True)
class Life:
    """When a process could act.

    Attributes:
        died_s: When it was killed or ended; None while it lives.
        frozen: From when to when it stood still; None while it does.
    """

    died_s: float | None = None
    frozen: list[tuple[float, float | None]] = field(default_factory=list)

    def could_act(self, at_s: float) -> bool:
        """Whether it was alive and awake, and had been for a while."""
        if self.died_s is not None and self.died_s <= at_s + SLACK_S:
            return False
        return not any(
            since <= at_s and (until is None or at_s <= until + SLACK_S)
            for since, until in self.frozen
        )


def read(lines: Iterable[str]) -> list[Entry]:
    """The entries of a journal, in the order in which they were written."""
    return [_entry(json.loads(line)) for line in lines if line.strip()]


def _entry(values: Mapping[str, Any]) -> Entry:
    return Entry(
        word=values["word"],
        node=values["node"],
        holder=values["holder"],
        pid=values["pid"],
        at_s=values["boot_ns"] / NS,
        how=values.get("how", ""),
        earlier=values.get("earlier", ""),
    )


def objections(entries: Sequence[Entry], lives: Mapping[int, Life]) -> list[str]:
    """What should not have happened.

    Args:
        entries: A whole journal.
        lives: The processes of the run by pid; one that is not named lived all the time.
    """
    found: list[str] = []
    for node in sorted({entry.node for entry in entries}):
        mine = [entry for entry in entries if entry.node == node]
        found += _of_node(mine, lives)
    return found


def _of_node(entries: Sequence[Entry], lives: Mapping[int, Life]) -> list[str]:
    node = _Node(lives)
    for entry in entries:
        node.take(entry)
    return node.found


class _Node:
    """What one machine went through, entry by entry."""

    def __init__(self, lives: Mapping[int, Life]) -> None:
        self.found: list[str] = []
        self._lives = lives
        self._running: Entry | None = None  # the suite on the machine
        self._booted = ""  # who the machine was booted for
        self._gone: dict[str, Entry] = {}  # how the machines of earlier suites ended

    def take(self, entry: Entry) -> None:
        """Go on by one entry."""
        if entry.word == "begin":
            self._begin(entry)
        elif entry.word in {"end", "lost"}:
            self._end(entry)
        elif entry.word in {"takeover", "stop", "die"}:
            self._reset(entry)
        elif entry.word == "boot":
            if self._booted:
                self.found.append(f"booted over {self._booted!r} without a word: {entry}")
            self._booted = entry.holder

    def _begin(self, entry: Entry) -> None:
        if self._running is not None:
            self.found.append(f"two builds at once: {entry}, while {self._running}")
        if self._booted != entry.holder:
            self.found.append(f"a suite on a machine that is not its own: {entry}")
        self._running = entry

    def _end(self, entry: Entry) -> None:
        ended = self._gone.pop(entry.holder, None)
        if ended and entry.word == "end" and entry.at_s > ended.at_s + SLACK_S:
            self.found.append(f"a suite went on without its machine: {entry}, after {ended}")
        if self._running is not None and self._running.holder == entry.holder:
            self._running = None

    def _reset(self, entry: Entry) -> None:
        running = self._running
        if running is not None:
            self._gone[running.holder] = entry
            awake = self._lives.get(running.pid, Life()).could_act(entry.at_s)
            if entry.word != "die" and awake:
                self.found.append(
                    f"taken from a suite whose process lives: {entry}, while {running}"
                )
        self._running, self._booted = None, ""
