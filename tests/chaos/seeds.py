# SPDX-License-Identifier: Apache-2.0
"""Seeds that every test run plays, in short; one that found something stays for good."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A short run.

    Attributes:
        number: The seed.
        database: `sqlite` or `postgresql`.
        why: What it has in it, or what it found before that was mended.
    """

    number: int
    database: str
    why: str

    def __str__(self) -> str:
        """For the names of tests."""
        return f"{self.database}-{self.number}"


SEEDS = (
    Seed(
        number=630,
        database="sqlite",
        why="a clock that is late, a deaf stream, a dead node, a full disk and lost replies",
    ),
    Seed(
        number=779,
        database="postgresql",
        why="a worker an hour ahead lost every attempt: it timed leases by its own clock (found "
        "by 11 in its long form), and no build of it was voted on; a zombie, PostgreSQL away",
    ),
)
