# SPDX-License-Identifier: Apache-2.0
"""How what a session started is ended: three signals, each with its time. Pure.

Interrupt first, so that a suite can say what it was doing; then terminate; then kill. Each
step takes what is left of the step before, and a step whose processes are gone ends at once.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Tell = Callable[[str], None]
"""Takes one sentence for the log."""


def quiet(_: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, kw_only=True)
class Grace:
    """How long each step may take, in seconds; a step of 0 is left out.

    Attributes:
        interrupt_s: After SIGINT.
        terminate_s: After SIGTERM.
        kill_s: After SIGKILL, which is repeated, until it is certain that nothing is left.
    """

    interrupt_s: float = 10.0
    terminate_s: float = 5.0
    kill_s: float = 5.0

    @property
    def total_s(self) -> float:
        """All steps together."""
        return self.interrupt_s + self.terminate_s + self.kill_s

    @property
    def steps(self) -> tuple[tuple[signal.Signals, float], ...]:
        """The signals in order, with their times."""
        every = (
            (signal.SIGINT, self.interrupt_s),
            (signal.SIGTERM, self.terminate_s),
            (signal.SIGKILL, self.kill_s),
        )
        return tuple((signum, seconds) for signum, seconds in every if seconds > 0)

    def within(self, left_s: float) -> "Grace":
        """The same, cut so that all steps fit; the kill has its time first."""
        kill_s = min(self.kill_s, max(0.1, left_s))
        terminate_s = min(self.terminate_s, max(0.0, left_s - kill_s))
        interrupt_s = min(self.interrupt_s, max(0.0, left_s - kill_s - terminate_s))
        return Grace(interrupt_s=interrupt_s, terminate_s=terminate_s, kill_s=kill_s)

    @property
    def for_leftovers(self) -> "Grace":
        """For what stays behind after a command has ended: nobody waits for its words."""
        return Grace(
            interrupt_s=min(self.interrupt_s, LEFTOVERS.interrupt_s),
            terminate_s=min(self.terminate_s, LEFTOVERS.terminate_s),
            kill_s=self.kill_s,
        )


LEFTOVERS = Grace(interrupt_s=2.0, terminate_s=3.0, kill_s=2.0)
"""For what an earlier holder left behind."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one signal did.

    Attributes:
        signal: Its name, for instance `SIGINT`.
        sent: Processes that it was sent to.
        left: How many of them, or of their children, still ran when its time was over.
        took_s: Seconds until then.
    """

    signal: str
    sent: int
    left: int
    took_s: float

    def __str__(self) -> str:
        """One sentence for the log."""
        who = f"{self.sent} process" + ("" if self.sent == 1 else "es")
        if not self.left:
            return f"{self.signal} ended {who} after {self.took_s:.1f} s"
        return f"{self.signal} to {who}: {self.left} still ran after {self.took_s:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """How an end came about.

    Attributes:
        steps: What each signal did; empty where nothing ran.
        left: What could not be ended, `pid (name)` each.
        confirmed: Whether it is certain that nothing is left.
        why: Why it is not.
    """

    steps: tuple[Step, ...] = ()
    left: tuple[str, ...] = ()
    confirmed: bool = True
    why: str = ""

    def tell(self, to: Tell) -> None:
        """Say it, one sentence a step."""
        for step in self.steps:
            to(str(step))
        if self.left:
            to(f"could not be ended: {', '.join(self.left)}")
        elif not self.confirmed:
            to(f"nobody knows whether it ended: {self.why}")


def read(said: str) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Steps, and what is left, from the lines that `ci.runners.scripts.end` writes."""
    steps: list[Step] = []
    left: list[str] = []
    for line in said.splitlines():
        words = line.split()
        if line.startswith("=") and len(words) == 4 and _numbers(words[1:]):  # noqa: PLR2004
            name, sent, remaining, hundredths = words
            steps.append(
                Step(
                    signal=f"SIG{name[1:]}",
                    sent=int(sent),
                    left=int(remaining),
                    took_s=int(hundredths) / 100,
                )
            )
        elif line.strip():
            left.append("".join(c if c.isprintable() else "?" for c in line.strip())[:80])
    return tuple(steps), tuple(left)


def _numbers(words: Sequence[str]) -> bool:
    return all(word.isdecimal() and len(word) < 10 for word in words)  # noqa: PLR2004
