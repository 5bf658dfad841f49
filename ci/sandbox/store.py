# SPDX-License-Identifier: Apache-2.0
"""The sandbox's memory: one SQLite file that survives a `kill -9` of the server."""

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from pathlib import Path

from ci.errors import StorageError
from ci.sandbox.records import AccountRecord, ChangeRecord, change_from_json, to_json

FIRST_ACCOUNT = 1_000_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (username TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS project (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS change (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
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
        self._changes = {
            number: change_from_json(json.loads(body))
            for number, body in self._connection.execute("SELECT number, body FROM change")
        }

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
            return sorted(self._changes.values(), key=lambda one: (-one.updated, -one.number))

    def next_change_number(self) -> int:
        """The number that the next new change gets."""
        with self._lock:
            return max(self._changes, default=0) + 1

    def save_change(self, change: ChangeRecord) -> None:
        """Add a change or replace it."""
        with self._lock:
            self._write(
                "INSERT OR REPLACE INTO change VALUES (?, ?)",
                change.number,
                json.dumps(to_json(change)),
            )
            self._changes[change.number] = change

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
