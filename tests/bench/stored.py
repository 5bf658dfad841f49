# SPDX-License-Identifier: Apache-2.0
"""Reads what our contender has in its database, while it runs or not."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

_TO_OUTBOX = """
    SELECT ci_event.change_number, ci_event.received_at, ci_outbox.created_at
    FROM ci_outbox JOIN ci_buildset ON ci_buildset.id = ci_outbox.buildset_id
    JOIN ci_event ON ci_event.id = ci_buildset.event_id
"""
_UPLOADS = "SELECT change_number, processed_at FROM ci_event WHERE kind = 'patchset-created'"


@contextmanager
def _opened(directory: Path) -> Iterator[sqlite3.Connection]:
    path = directory / "hypervouch.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        yield connection


def events(directory: Path) -> int:
    """How many events are stored in a state directory."""
    with _opened(directory) as connection:
        count: int = connection.execute("SELECT count(*) FROM ci_event").fetchone()[0]
    return count


def uploads(directory: Path, numbers: Collection[int]) -> tuple[int, int]:
    """Of how many of these changes a patch set is stored, and of how many it is planned."""
    with _opened(directory) as connection:
        found = {number: done for number, done in connection.execute(_UPLOADS) if number in numbers}
    return len(found), sum(1 for done in found.values() if done)


def to_outbox_s(directory: Path, numbers: Collection[int]) -> dict[int, float]:
    """By change, seconds from the event's arrival until its review was owed."""
    with _opened(directory) as connection:
        return {
            number: (datetime.fromisoformat(owed) - datetime.fromisoformat(came)).total_seconds()
            for number, came, owed in connection.execute(_TO_OUTBOX)
            if number in numbers
        }
