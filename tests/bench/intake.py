# SPDX-License-Identifier: Apache-2.0
"""How many events a second are parsed and stored, beside the least that storing one takes.

The floor reads the line as JSON and inserts one row of the same columns into plain SQLite, in
transactions of the same size and with the same settings. It looks for no twin, keeps no
votes and checks nothing.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha1
from pathlib import Path
from typing import Any

from ci.clock import SystemClock
from ci.gerrit.history import Reading
from ci.gerrit.parse import parse_line
from ci.gerrit.stream import MOST_LINES
from ci.listener import Listener
from ci.store.database import Database
from tests.bench import facts, stored

COUNT = 20_000
ALONE_COUNT = 4_000
"""Of the run with one event in each transaction: a quiet stream."""
CONNECTION, OWN = "gerrit", "ours-ci"
_TABLE = (
    "CREATE TABLE event (id INTEGER PRIMARY KEY, connection TEXT, key TEXT, kind TEXT,"
    " project TEXT, change_number INTEGER, patchset INTEGER, payload TEXT, source TEXT,"
    " author TEXT, occurred_at TEXT, received_at TEXT, UNIQUE (connection, key))"
)
_INSERT = "INSERT INTO event VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
Values = dict[str, Any]
Groups = Sequence[Sequence[bytes]]


class Lost(Exception):
    """Not every fact came to be stored: the figure would be of something else."""


class _NothingBefore:
    """A server on which nothing happened before the stream began."""

    def server_time(self) -> datetime:
        return facts.begin()

    def reconnected(self) -> None:
        pass

    def read(self, since: datetime) -> Reading:
        return Reading(until=since)


def listening(database: Database) -> Listener:
    """A listener that has caught up, with a database made for it; lines are handed to it."""
    database.create()

    def no_stream(*_: Any) -> Any:
        raise AssertionError("lines are handed over, no stream is opened")

    listener = Listener(
        CONNECTION,
        database,
        SystemClock(),
        no_stream,
        _NothingBefore(),
        own_username=OWN,
        on_stored=lambda: None,
        owed={facts.PROJECT: {}},
    )
    listener.catch_up()
    return listener


def ours(directory: Path) -> Values:
    """Facts into a new database, as the listener's thread stores them.

    Raises:
        Lost: Some were not stored.
    """
    return _values(directory, _take_all, lambda line: parse_line(line, CONNECTION))


def floor(directory: Path) -> Values:
    """The same lines, read as JSON and inserted."""
    return _values(directory, _insert_all, json.loads)


def _values(
    directory: Path, take: Callable[[Path, Groups], None], parse: Callable[[bytes], object]
) -> Values:
    def parse_all(_: Path, groups: Groups) -> None:
        for lines in groups:
            for line in lines:
                parse(line)

    timed = {
        "together": _timed(directory / "together", COUNT, MOST_LINES, take),
        "alone": _timed(directory / "alone", ALONE_COUNT, 1, take),
        "parse": _timed(directory / "parse", COUNT, MOST_LINES, parse_all),
    }
    return {"count": COUNT, **timed}


def _timed(
    directory: Path, count: int, group: int, take: Callable[[Path, Groups], None]
) -> dict[str, int]:
    """Events a second, and microseconds of CPU for each: those tell more on a busy machine."""
    directory.mkdir(parents=True)
    lines = facts.all_new(count)
    groups = [lines[first : first + group] for first in range(0, count, group)]
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    take(directory, groups)
    cpu_s, took_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    return {"per_s": round(count / took_s), "cpu_us": round(1e6 * cpu_s / count)}


def _take_all(directory: Path, groups: Groups) -> None:
    database = Database.in_directory(directory)
    listener = listening(database)
    for lines in groups:
        listener.take_lines(lines)
    database.close()
    given, found = sum(map(len, groups)), stored.events(directory)
    if found != given:
        raise Lost(f"{found} of {given} events are stored in {directory}")


def _insert_all(directory: Path, groups: Groups) -> None:
    tx = sqlite3.connect(directory / "floor.db", isolation_level=None)
    tx.execute("PRAGMA journal_mode=WAL")
    tx.execute("PRAGMA synchronous=NORMAL")
    tx.execute(_TABLE)
    for lines in groups:
        tx.execute("BEGIN IMMEDIATE")
        for line in lines:
            tx.execute(_INSERT, _row(line))
        tx.execute("COMMIT")
    tx.close()


def _row(line: bytes) -> tuple[object, ...]:
    event = json.loads(line)
    change, at = event["change"], event["eventCreatedOn"]
    return (
        CONNECTION,
        sha1(line, usedforsecurity=False).hexdigest(),
        event["type"],
        change["project"],
        change["number"],
        event.get("patchSet", {}).get("number"),
        line.decode(),
        "stream",
        change["owner"]["username"],
        at,
        at,
    )
