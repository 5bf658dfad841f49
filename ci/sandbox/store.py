# SPDX-License-Identifier: Apache-2.0
"""The sandbox's memory: one SQLite file that survives a `kill -9` of the server."""

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from ci.errors import StorageError
from ci.sandbox.records import AccountRecord, ChangeRecord, change_from_json, to_json

FIRST_ACCOUNT = 1_000_000
_LAST = "last_change"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (username TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS project (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS change (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_at ON event (at);
"""


class Store:
    """Accounts, projects and changes. Thread-safe; each save is on disk when it returns.

    Args:
        path: The SQLite file; made if need be.

    Raises:
        StorageError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(f"{path} cannot be opened: {error}") from error
        self._accounts = {
            name: AccountRecord(**json.loads(body))
            for name, body in self._connection.execute("SELECT username, body FROM account")
        }
        self._projects = {name for (name,) in self._connection.execute("SELECT name FROM project")}
        found = [
            change_from_json(json.loads(body))
            for (body,) in self._connection.execute("SELECT body FROM change")
        ]
        # Oldest activity first: whatever is saved moves to the end.
        found.sort(key=lambda one: (one.updated, one.number))
        self._changes = {one.number: one for one in found}
        self._last = max([int(self.setting(_LAST) or 0), *self._changes])
        self._version = 0

    def close(self) -> None:
        """Release the file; repeatable."""
        with self._lock:
            self._connection.close()

    def _write(self, statement: str, *values: str | int) -> None:
        try:
            self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StorageError(f"the sandbox could not save: {error}") from error

    def account(self, username: str) -> AccountRecord | None:
        """The account of that name."""
        with self._lock:
            return self._accounts.get(username)

    def accounts(self) -> list[AccountRecord]:
        """All accounts."""
        with self._lock:
            return list(self._accounts.values())

    def account_by_email(self, email: str) -> AccountRecord | None:
        """The account with that address."""
        return next((one for one in self.accounts() if one.email == email), None)

    def save_account(self, account: AccountRecord) -> None:
        """Add an account or replace it."""
        with self._lock:
            self._write(
                "INSERT OR REPLACE INTO account VALUES (?, ?)",
                account.username,
                json.dumps(to_json(account)),
            )
            self._accounts[account.username] = account

    def next_account_number(self, username: str) -> int:
        """The number an account keeps, or the next free one."""
        with self._lock:
            known = self._accounts.get(username)
            return known.number if known else FIRST_ACCOUNT + len(self._accounts)

    def has_project(self, name: str) -> bool:
        """Whether the project exists."""
        with self._lock:
            return name in self._projects

    def projects(self) -> list[str]:
        """Names of all projects, sorted."""
        with self._lock:
            return sorted(self._projects)

    def save_project(self, name: str) -> None:
        """Remember a project whose repository exists."""
        with self._lock:
            self._write("INSERT OR IGNORE INTO project VALUES (?)", name)
            self._projects.add(name)

    def change(self, number: int) -> ChangeRecord | None:
        """The change of that number."""
        with self._lock:
            return self._changes.get(number)

    def changes(self) -> list[ChangeRecord]:
        """All changes, newest activity first."""
        with self._lock:
            return list(reversed(self._changes.values()))

    @property
    def version(self) -> int:
        """Another one whenever a change was saved or deleted."""
        with self._lock:
            return self._version

    def next_change_number(self) -> int:
        """The number that the next new change gets; none is given twice."""
        with self._lock:
            return self._last + 1

    def save_change(self, change: ChangeRecord) -> None:
        """Add a change or replace it."""
        self.save_changes([change])

    def save_changes(self, changes: Sequence[ChangeRecord]) -> None:
        """Add or replace many changes, all or none."""
        rows = [(one.number, json.dumps(to_json(one))) for one in changes]
        with self._lock:
            self._write("BEGIN")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO change VALUES (?, ?)", rows)
            except sqlite3.Error as error:
                self._write("ROLLBACK")
                raise StorageError(f"the sandbox could not save: {error}") from error
            self._write("COMMIT")
            for one in changes:
                self._changes.pop(one.number, None)
                self._changes[one.number] = one
                self._last = max(self._last, one.number)
            self._version += 1

    def delete_change(self, number: int) -> None:
        """Forget a change; its number is not given again."""
        with self._lock:
            self.save_setting(_LAST, str(self._last))
            self._write("DELETE FROM change WHERE number = ?", number)
            self._changes.pop(number, None)
            self._version += 1

    def save_event(self, at: int, line: str) -> None:
        """Keep a line of the event stream."""
        with self._lock:
            self._write("INSERT INTO event (at, line) VALUES (?, ?)", at, line)

    def events(self, since: float, until: float) -> list[str]:
        """Kept lines of that time, ends included, in the order in which they were sent."""
        with self._lock:
            found = self._connection.execute(
                "SELECT line FROM event WHERE at BETWEEN ? AND ? ORDER BY id", (since, until)
            ).fetchall()
        return [line for (line,) in found]

    def setting(self, name: str) -> str:
        """A remembered setting; empty when there is none."""
        with self._lock:
            found = self._connection.execute(
                "SELECT value FROM setting WHERE name = ?", (name,)
            ).fetchone()
        return str(found[0]) if found else ""

    def save_setting(self, name: str, value: str) -> None:
        """Remember a setting."""
        with self._lock:
            self._write("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, value)


def password_digest(password: str) -> tuple[str, str]:
    """A fresh salt and the digest that goes with it."""
    salt = secrets.token_hex(16)
    return salt, hashlib.sha256((salt + password).encode()).hexdigest()


def password_fits(account: AccountRecord, password: str) -> bool:
    """Whether this is the account's HTTP password."""
    asked = hashlib.sha256((account.salt + password).encode()).hexdigest()
    return bool(account.digest) and hmac.compare_digest(asked, account.digest)
