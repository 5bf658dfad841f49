# SPDX-License-Identifier: Apache-2.0
"""A pretended machine: a folder, who holds it, and a journal of what happened to it.

It is the node's own side of the story: our database is never asked. Several processes may use
the same machine, as they would use a remote one, and one that another holder takes over is
reset under the earlier one, whose suite dies with it. The journal is one file of JSON lines,
appended to by every process in single writes; who reads it can say whether two builds were
ever on one machine at once.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MACHINE, HOLDER, JOURNAL = "machine", "holder", "journal"
"""Facts of an endpoint that lead a session to its machine."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine; nothing is kept in memory.

    Attributes:
        folder: Where it is; it runs while this exists.
        journal: Where what happens is written down; None for nowhere.
    """

    folder: Path
    journal: Path | None = None

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> "Held | None":
        """The machine that an endpoint's facts lead to; None where they lead nowhere."""
        if MACHINE not in facts:
            return None
        machine = cls(folder=Path(facts[MACHINE]), journal=Path(facts[JOURNAL]))
        return Held(machine, facts[HOLDER])

    @property
    def workdir(self) -> Path:
        """What a build may fill."""
        return self.folder / "work"

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self.folder.exists()

    @property
    def holder(self) -> str:
        """Who booted it; empty where nobody has, or it is gone."""
        try:
            return (self.folder / "holder").read_text()
        except OSError:
            return ""

    def boot(self, holder: str) -> None:
        """Begin anew for a holder; whatever ran there ends."""
        earlier = self.holder
        if earlier:
            self.note("takeover", holder, earlier=earlier)
        self._remove()
        self.workdir.mkdir(parents=True)
        (self.folder / "holder").write_text(holder)
        self.note("boot", holder)

    def stop(self, word: str = "stop") -> None:
        """End it; repeatable. `word` is what the journal calls it."""
        if self.runs:
            self.note(word, self.holder)
        self._remove()

    def facts(self, holder: str) -> dict[str, str]:
        """What leads a session here; nothing where no journal is kept."""
        if self.journal is None:
            return {}
        return {MACHINE: str(self.folder), HOLDER: holder, JOURNAL: str(self.journal)}

    def note(self, word: str, holder: str, **further: object) -> None:
        """One line, in one write: those of several processes do not mix."""
        if self.journal is None:
            return
        line = {
            "word": word,
            "node": self.folder.name,
            "holder": holder,
            "pid": os.getpid(),
            "at": time.time(),
            "boot_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            **further,
        }
        file = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
        finally:
            os.close(file)

    def _remove(self) -> None:
        # First the holder: a session must not find itself still there half-way.
        with suppress(OSError):
            (self.folder / "holder").unlink()
        shutil.rmtree(self.folder, ignore_errors=True)


class Held:
    """A machine as one holder's session sees it.

    Args:
        machine: The machine.
        holder: Who booted it for this session.
    """

    def __init__(self, machine: Machine, holder: str) -> None:
        self._machine = machine
        self._holder = holder

    @property
    def mine(self) -> bool:
        """Whether it is still the machine that was booted for this holder."""
        return self._machine.holder == self._holder

    def __enter__(self) -> Self:
        """A suite begins."""
        self._machine.note("begin", self._holder)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_raised: object) -> None:
        """It ended: by itself, by us (`how` names the error), or with its machine (`lost`)."""
        word = "end" if self.mine else "lost"
        self._machine.note(word, self._holder, how=kind.__name__ if kind else "")
