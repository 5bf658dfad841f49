# SPDX-License-Identifier: Apache-2.0
"""Opening the database: WAL and real write transactions on SQLite, one schema version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.errors import ConfigError, StorageError
from ci.store.schema import SCHEMA_VERSION, metadata, schema_version

# The disk or the file is at fault; what derives from these is our own mistake.
_AT_FAULT = (sa.exc.OperationalError, sa.exc.DatabaseError)


class Database:
    """One engine for our own tables. Thread-safe; a transaction belongs to one thread.

    Args:
        url: SQLAlchemy URL, for instance `sqlite:////var/lib/hypervouch/hypervouch.db`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite_settings)
            sa.event.listen(self.engine, "begin", _begin_immediate)

    @classmethod
    def in_directory(cls, state_dir: Path) -> "Database":
        """The SQLite file of an installation.

        Raises:
            ConfigError: The directory cannot be made or written.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"state-dir {state_dir} cannot be used: {error.strerror}",
                hint="name a directory that this user may write",
            ) from error
        return cls(f"sqlite:///{state_dir / 'hypervouch.db'}")

    def create(self) -> None:
        """Make the tables where there are none; refuse those of another version.

        Raises:
            ConfigError: The file belongs to another version of the schema.
            StorageError: The database cannot be read or written.
        """
        try:
            metadata.create_all(self.engine)
            with self.write() as connection:
                found = connection.execute(sa.select(schema_version.c.version)).scalar()
                if found is None:
                    connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
        except sa.exc.DatabaseError as error:
            if type(error) not in _AT_FAULT:
                raise
            raise _refused(
                f"the database {self.engine.url.render_as_string()} cannot be used", error
            ) from error
        if found not in {None, SCHEMA_VERSION}:
            raise ConfigError(
                f"the database has schema version {found}, this program needs {SCHEMA_VERSION}",
                hint="use the version that made it, or another state-dir",
            )

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits at the end of the block and rolls back on an error.

        Raises:
            StorageError: The disk is full or the database is locked for too long.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.DatabaseError as error:
            if type(error) not in _AT_FAULT:
                raise
            raise _refused("a write to the database failed", error) from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading; on SQLite it holds no lock against writers.

        Raises:
            StorageError: The database cannot be read.
        """
        try:
            with self.engine.connect() as connection:
                yield connection.execution_options(ci_reading=True)
        except sa.exc.DatabaseError as error:
            if type(error) not in _AT_FAULT:
                raise
            raise _refused("the database could not be read", error) from error

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


def _refused(what: str, error: sa.exc.DatabaseError) -> StorageError:
    return StorageError(
        f"{what}: {error.orig}",
        hint="look at the disk's free space, at the file's owner, and whether state-dir is right",
        retryable=True,
    )


def _sqlite_settings(connection: Any, _record: Any) -> None:
    """Take transactions into our own hand and let readers and a writer coexist."""
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "busy_timeout=30000",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: sa.Connection) -> None:
    """Lock for writing at once: a read inside a write transaction is then under the lock."""
    reading = connection.get_execution_options().get("ci_reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
