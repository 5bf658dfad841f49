# SPDX-License-Identifier: Apache-2.0
"""What happens in a run, when, and to whom: a pure function of the seed and the settings."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

BAD = 0.25
"""Share of the patch sets that break a test where the author's kind does not say."""
CALM = 0.12
"""Share of the run, at its end, in which no fault begins any more."""


class Kind(StrEnum):
    """What an author does."""

    GOOD = "good"
    BROKEN = "broken"
    DOCS = "docs"
    SUPERSEDED = "superseded"
    RECHECKED = "rechecked"
    ABANDONED = "abandoned"


class What(StrEnum):
    """What breaks."""

    KILL = "kill"  # kill -9 of a process, started again after a while
    CLOCK = "clock"  # the same, and it comes back with a wrong clock
    FREEZE = "freeze"  # SIGSTOP, shorter than a lease
    ZOMBIE = "zombie"  # SIGSTOP, longer than a lease
    CRAWL = "crawl"  # many short SIGSTOPs: a slow disk or a busy machine
    NODE = "node"  # a machine ends under its holder
    DISK = "disk"  # the disk of a process's state is full
    DB_CUT = "db-cut"  # PostgreSQL restarts at once, without a farewell
    DB_AWAY = "db-away"  # PostgreSQL is away for a while
    DB_FROZEN = "db-frozen"  # PostgreSQL stands still; SQLite: somebody keeps the write lock
    SERVER_AWAY = "server-away"  # the review server refuses REST and SSH
    SERVER_500 = "server-500"  # it answers REST with an error
    LOST_REPLY = "lost-reply"  # it takes a review, its answer is lost
    DEAF = "deaf"  # the stream hangs without being closed


WEIGHTS = {
    What.KILL: 6,
    What.CLOCK: 2,
    What.FREEZE: 3,
    What.ZOMBIE: 3,
    What.CRAWL: 2,
    What.NODE: 4,
    What.DISK: 2,
    What.DB_CUT: 2,
    What.DB_AWAY: 2,
    What.DB_FROZEN: 2,
    What.SERVER_AWAY: 2,
    What.SERVER_500: 2,
    What.LOST_REPLY: 3,
    What.DEAF: 2,
}
AUTHORS = {
    Kind.GOOD: 50,
    Kind.BROKEN: 14,
    Kind.DOCS: 6,
    Kind.SUPERSEDED: 12,
    Kind.RECHECKED: 12,
    Kind.ABANDONED: 6,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a schedule depends on besides the seed.

    Attributes:
        seconds: How long changes and faults come.
        changes: How many changes.
        processes: How many processes of ours there are.
        nodes: How many machines.
        lease_s: How long a lease lasts without renewal.
        pause_s: Mean time from one fault to the next.
        leave_out: Faults that cannot be had here.
    """

    seconds: float
    changes: int
    processes: int
    nodes: int
    lease_s: float
    pause_s: float = 7.0
    leave_out: frozenset[What] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Story:
    """One change of one author.

    Attributes:
        index: Counts them, from 0.
        at_s: When it is pushed, from the begin of the run.
        kind: What the author does.
        broken: Whether its first patch set breaks a test.
        last_broken: Whether the one that counts does.
        suite_s: How long its suite takes.
        again_s: How long after the push the second act comes: patch set, recheck, abandon.
    """

    index: int
    at_s: float
    kind: Kind
    broken: bool
    last_broken: bool
    suite_s: float
    again_s: float

    @property
    def vote(self) -> int | None:
        """What it deserves in the end; 0 for nothing at all, None where it does not matter."""
        if self.kind is Kind.DOCS:
            return 0
        if self.kind is Kind.ABANDONED:
            return None
        return -1 if self.last_broken else 1


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that breaks.

    Attributes:
        at_s: When.
        what: What.
        target: Number of the process or machine.
        for_s: How long; for LOST_REPLY and SERVER_500 it is the number of requests.
        off_s: How wrong a clock is.
    """

    at_s: float
    what: What
    target: int
    for_s: float
    off_s: int = 0

    def __str__(self) -> str:
        """One line of a printed schedule."""
        off = f" clock {self.off_s:+d} s" if self.off_s else ""
        return f"{self.at_s:7.1f} s {self.what} of {self.target} for {self.for_s:.1f}{off}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A whole run."""

    seed: int
    stories: tuple[Story, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> list[str]:
        """For a reader."""
        kinds: dict[Kind, int] = {}
        for story in self.stories:
            kinds[story.kind] = kinds.get(story.kind, 0) + 1
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return [
            f"seed {self.seed}: {len(self.stories)} changes ({told}), {len(self.faults)} faults",
            *map(str, self.faults),
        ]


def schedule(seed: int, settings: Settings) -> Schedule:
    """What a seed means; the same for the same arguments, anywhere."""
    stories = _stories(random.Random(f"stories {seed}"), settings)
    faults = _faults(random.Random(f"faults {seed}"), settings)
    return Schedule(seed=seed, stories=stories, faults=faults)


def _stories(dice: random.Random, settings: Settings) -> tuple[Story, ...]:
    kinds = dice.choices(list(AUTHORS), list(AUTHORS.values()), k=settings.changes)
    times = sorted(dice.uniform(0, settings.seconds * (1 - CALM)) for _ in kinds)
    return tuple(
        _story(dice, index, at_s, kind)
        for index, (at_s, kind) in enumerate(zip(times, kinds, strict=True))
    )


def _story(dice: random.Random, index: int, at_s: float, kind: Kind) -> Story:
    broken = kind is Kind.BROKEN or (kind is not Kind.GOOD and dice.random() < BAD)
    last = dice.random() < BAD if kind is Kind.SUPERSEDED else broken
    return Story(
        index=index,
        at_s=at_s,
        kind=kind,
        broken=broken,
        last_broken=last,
        suite_s=round(dice.choice((0.1, 0.3, 1.0, 3.0)), 1),
        again_s=dice.uniform(0.2, 6.0),
    )


def _faults(dice: random.Random, settings: Settings) -> tuple[Fault, ...]:
    weights = {w: n for w, n in WEIGHTS.items() if w not in settings.leave_out}
    found: list[Fault] = []
    at_s = settings.pause_s
    while at_s < settings.seconds * (1 - CALM):
        what = dice.choices(list(weights), list(weights.values()))[0]
        found.append(_fault(dice, settings, what, at_s))
        at_s += dice.uniform(0.4, 1.6) * settings.pause_s
    return tuple(found)


def _fault(dice: random.Random, settings: Settings, what: What, at_s: float) -> Fault:
    lease = settings.lease_s
    lengths: dict[What, tuple[float, float]] = {
        What.KILL: (0.1, 1.5 * lease),
        What.CLOCK: (0.1, 2.0),
        What.FREEZE: (0.3, 0.5 * lease),
        What.ZOMBIE: (1.3 * lease, 2.2 * lease),
        What.CRAWL: (2.0, lease),
        What.DISK: (2.0, lease),
        What.DB_AWAY: (1.0, 1.5 * lease),
        What.DB_FROZEN: (0.5, 1.2 * lease),
        What.SERVER_AWAY: (1.0, lease),
        What.SERVER_500: (1, 8),
        What.LOST_REPLY: (1, 3),
        What.DEAF: (3.0, 2 * lease),
    }
    least, most = lengths.get(what, (0.0, 0.0))
    for_s = dice.uniform(least, most)
    counted = what in {What.SERVER_500, What.LOST_REPLY}
    targets = settings.nodes if what is What.NODE else settings.processes
    return Fault(
        at_s=at_s,
        what=what,
        target=dice.randrange(targets),
        for_s=round(for_s) if counted else for_s,
        off_s=dice.choice((-3600, -40, 40, 3600)) if what is What.CLOCK else 0,
    )


def without(names: Sequence[str]) -> frozenset[What]:
    """Faults by their names.

    Raises:
        ValueError: There is none of that name.
    """
    return frozenset(What(name) for name in names)
