# SPDX-License-Identifier: Apache-2.0
"""Our processes, as a service manager would keep them; and when each of them could act."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.journal import Life

ROOT = Path(__file__).parents[2]
REST_S = 1.0
"""How long a service manager waits before it starts again what ended by itself."""


def now_s() -> float:
    """The journal's time: nothing in a run moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(kw_only=True)
class Member:
    """One process of ours, whichever pid it has at the moment.

    Attributes:
        name: Of its log, too.
        command: Verb and options.
        environment: All of it.
        log: Where its output goes.
        lives: Every process that it was.
        exits: How often it ended by itself, and with which status.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    lives: dict[int, Life] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    off_s: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _ended_s: float | None = None
    _down: bool = True

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""
        return self._process.pid if self._process else None

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        life = self.lives.get(self.pid or 0)
        return bool(life and life.frozen and life.frozen[-1][1] is None)

    def start(self, *, off_s: int = 0) -> None:
        """Start it, unless it runs; it is not waited for."""
        self._down = False
        if self._process is not None:
            return
        self.off_s = off_s
        program = ["tests.kit.clock_off", str(off_s)] if off_s else ["ci.cli"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *program, *self.command],
                env=dict(self.environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.lives[self._process.pid] = Life()

    def kill(self) -> None:
        """SIGKILL to it and its children; it stays down until `start`."""
        self._down = True
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=20)
            self._gone()

    def terminate(self, seconds: float) -> int:
        """Stop it as a service manager would; returns its exit status."""
        self._down = True
        if self._process is None:
            return 0
        self._signal(signal.SIGTERM)
        try:
            status = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        self._gone()
        return status

    def freeze(self) -> None:
        """Stop its clock hand."""
        if self._process is not None and not self.frozen:
            self.lives[self._process.pid].frozen.append((now_s(), None))
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on; one that is not frozen is left alone."""
        if self._process is not None and self.frozen:
            self._signal(signal.SIGCONT)
            frozen = self.lives[self._process.pid].frozen
            frozen[-1] = (frozen[-1][0], now_s())

    def look(self) -> None:
        """Start it again a while after it ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.exits.append(status)
            self._gone()
            self._ended_s = now_s()
        if self._process is None and not self._down and now_s() > (self._ended_s or 0) + REST_S:
            self.start(off_s=self.off_s)

    def _gone(self) -> None:
        if self._process is not None:
            life = self.lives[self._process.pid]
            life.died_s = now_s()
        self._process = None

    def _signal(self, number: int) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return


class Crew:
    """All our processes of one run.

    Args:
        members: Each of them.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)

    def member(self, target: int) -> Member:
        """The process that a fault means."""
        return self.members[target % len(self.members)]

    def start(self) -> None:
        """Start all."""
        for member in self.members:
            member.start()

    def look(self) -> None:
        """What a service manager does all the time."""
        for member in self.members:
            member.look()

    def heal(self) -> None:
        """All run, with the true time."""
        for member in self.members:
            member.thaw()
            if member.off_s:
                member.kill()
            member.start()

    def kill(self) -> None:
        """End all at once."""
        for member in self.members:
            member.kill()

    def lives(self) -> dict[int, Life]:
        """Every process of the run, by pid."""
        return {pid: life for member in self.members for pid, life in member.lives.items()}
