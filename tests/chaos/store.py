# SPDX-License-Identifier: Apache-2.0
"""The database of a run from outside: how it is hurt, and what must not be left in it."""

import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

UNDONE = {
    "events not planned": "SELECT count(*) FROM ci_event WHERE processed_at IS NULL",
    "buildsets not done": "SELECT count(*) FROM ci_buildset WHERE state NOT IN ('done','canceled')",
    "builds not done": "SELECT count(*) FROM ci_build WHERE state NOT IN ('done','canceled')",
    "attempts not done": "SELECT count(*) FROM ci_attempt WHERE state <> 'done'",
    "leases": "SELECT count(*) FROM ci_node WHERE holder IS NOT NULL",
    "bad nodes": "SELECT count(*) FROM ci_node WHERE state = 'Bad'",
    "reviews not settled": (
        "SELECT count(*) FROM ci_outbox WHERE state NOT IN ('delivered','dropped')"
    ),
    "notices not settled": (
        "SELECT count(*) FROM ci_delivery WHERE state NOT IN ('delivered','dropped')"
    ),
}
STORY = {
    "events": "SELECT * FROM ci_event WHERE change_number = :number ORDER BY id",
    "buildsets": "SELECT * FROM ci_buildset WHERE change_number = :number ORDER BY created_at",
    "builds": (
        "SELECT b.* FROM ci_build b JOIN ci_buildset s ON s.id = b.buildset_id"
        " WHERE s.change_number = :number"
    ),
    "attempts": (
        "SELECT a.* FROM ci_attempt a JOIN ci_build b ON b.id = a.build_id"
        " JOIN ci_buildset s ON s.id = b.buildset_id WHERE s.change_number = :number"
        " ORDER BY a.started_at"
    ),
    "outbox": "SELECT * FROM ci_outbox WHERE change_number = :number",
}
LONG = 300


class Hurt(Protocol):
    """What can be done to a database."""

    configured: str
    """What the configuration says of it; empty for the file in the state directory."""

    @property
    def url(self) -> str:
        """Where it is, for SQLAlchemy."""
        ...

    def cut(self) -> None:
        """Restart it at once, as after a crash."""
        ...

    def away(self) -> None:
        """End it until `heal`."""
        ...

    def freeze(self) -> None:
        """Let it stand still until `heal`."""
        ...

    def heal(self) -> None:
        """It works again; repeatable."""
        ...


class SqliteFile:
    """A file that somebody else may keep locked; it cannot be away.

    Args:
        path: The file.
    """

    configured = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        """Read-only: looking must not change it."""
        return f"sqlite:///file:{self._path}?mode=ro&uri=true"

    def cut(self) -> None:
        """Nothing: it has no process of its own."""

    def away(self) -> None:
        """Nothing."""

    def freeze(self) -> None:
        """Keep the write lock, if it can be had soon."""
        if self._lock is None and self._path.exists():
            self._lock = sqlite3.connect(self._path, timeout=5, isolation_level=None)
            with suppress(sqlite3.OperationalError):
                self._lock.execute("BEGIN IMMEDIATE")

    def heal(self) -> None:
        """Let the lock go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class Looker:
    """Reads the database of a run; one that does not answer is no news.

    Args:
        url: Where it is.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def undone(self) -> dict[str, int]:
        """What is left to do, by kind; kinds of which nothing is left are left out."""
        try:
            with self._engine.connect() as tx:
                found = {
                    name: tx.execute(sa.text(sql)).scalar_one() for name, sql in UNDONE.items()
                }
        except sa.exc.DBAPIError as error:
            return {f"no answer: {error.orig}": 1}
        return {name: count for name, count in found.items() if count}

    def left(self) -> list[str]:
        """The rows behind `undone`."""
        lines: list[str] = []
        try:
            with self._engine.connect() as tx:
                for name, sql in UNDONE.items():
                    rows = tx.execute(sa.text(sql.replace("count(*)", "*"))).mappings()
                    lines += [f"{name}: {_told(row)}" for row in rows]
        except sa.exc.DBAPIError as error:
            lines.append(f"no rows: {error}")
        return lines

    def listens(self) -> bool:
        """Whether a first catch-up is done: from there on no event is missed."""
        try:
            with self._engine.connect() as tx:
                return bool(tx.execute(sa.text("SELECT count(*) FROM ci_watermark")).scalar())
        except sa.exc.DBAPIError:
            return False

    def beats(self) -> dict[str, Any]:
        """When each process that should run was last heard of, by name."""
        sql = "SELECT name, beat_at FROM ci_process WHERE state <> 'stopped'"
        try:
            with self._engine.connect() as tx:
                return {row.name: row.beat_at for row in tx.execute(sa.text(sql))}
        except sa.exc.DBAPIError:
            return {}

    def story(self, number: int) -> list[str]:
        """Every row about one change."""
        lines: list[str] = []
        try:
            with self._engine.connect() as tx:
                for name, sql in STORY.items():
                    rows = tx.execute(sa.text(sql), {"number": number}).mappings()
                    lines += [f"{name}: {_told(row)}" for row in rows]
        except sa.exc.DBAPIError as error:
            lines.append(f"no rows: {error}")
        return lines


def _told(row: Mapping[Any, Any]) -> dict[str, str]:
    return {str(k): str(v)[:LONG] for k, v in row.items() if v not in (None, "", 0)}
