# SPDX-License-Identifier: Apache-2.0
"""Opening the database, SQLite or PostgreSQL: one writer at a time on either, one schema version.

What is read inside a write transaction stays true until it commits, on SQLite by its own lock
and on PostgreSQL by an advisory lock that ends with the transaction. A process that stands
still in the middle of a transaction loses it after `STALLED_S`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.errors import ConfigError, StorageError
from ci.store.schema import SCHEMA_VERSION, metadata, schema_version

STALLED_S = 10
WRITER_LOCK = 0x68767563
"""Key of PostgreSQL's advisory lock that makes writers wait for each other."""

# The disk, the file or the server is at fault; what else derives from these is our own mistake.
_AT_FAULT = (sa.exc.OperationalError, sa.exc.DatabaseError, sa.exc.InterfaceError)
_POSTGRESQL_OPTIONS = {
    "idle_in_transaction_session_timeout": f"{STALLED_S}s",
    "lock_timeout": "30s",
    "statement_timeout": "60s",
    "timezone": "UTC",
}
_POSTGRESQL_ARGS = {
    "application_name": "hypervouch",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds; a server that vanished is noticed
    "options": " ".join(f"-c {name}={value}" for name, value in _POSTGRESQL_OPTIONS.items()),
}


class Database:
    """One engine for our own tables. Thread-safe; a transaction belongs to one thread.

    Args:
        url: For instance `sqlite:////var/lib/hypervouch/hypervouch.db`, or
            `postgresql://hypervouch@db.example.org/hypervouch`.
        password: For PostgreSQL, where its server asks for one.
    """

    def __init__(self, url: str, *, password: str = "") -> None:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            self.engine = sa.create_engine(parsed)
            sa.event.listen(self.engine, "connect", _sqlite_settings)
            sa.event.listen(self.engine, "begin", _begin_immediate)
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = sa.create_engine(
                parsed.set(password=password) if password else parsed,
                connect_args=_POSTGRESQL_ARGS,
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
            )
            sa.event.listen(self.engine, "begin", _writers_wait)

        self._reading: dict[str, Any] = {}
        if self.shared:
            self._reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @property
    def shared(self) -> bool:
        """Whether other processes may do our work as well: on PostgreSQL, never on SQLite."""
        return self.engine.dialect.name != "sqlite"

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
            with self.engine.begin() as connection:
                metadata.create_all(connection)
                found = connection.execute(sa.select(schema_version.c.version)).scalar()
                if found is None:
                    connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
        except _TROUBLE as error:
            if not _at_fault(error):
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
        except _TROUBLE as error:
            if not _at_fault(error):
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
                yield connection.execution_options(ci_reading=True, **self._reading)
        except _TROUBLE as error:
            if not _at_fault(error):
                raise
            raise _refused("the database could not be read", error) from error

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


_TROUBLE = (sa.exc.DBAPIError, sa.exc.TimeoutError)


def _at_fault(error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> bool:
    """Whether the database is to blame for an error, and not a statement of ours."""
    if isinstance(error, sa.exc.TimeoutError) or error.connection_invalidated:
        return True
    # A transaction that stood still was ended by the server: 25P03.
    stalled = getattr(error.orig, "sqlstate", None) == "25P03"
    return type(error) in _AT_FAULT or stalled


def _refused(what: str, error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> StorageError:
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return StorageError(
        f"{what}: {first}",
        hint="look at the disk's free space, at the file's owner, and whether state-dir is right; "
        "for PostgreSQL, whether its server runs and lets us in",
        retryable=True,
    )


def _writers_wait(connection: sa.Connection) -> None:
    """One writer at a time, as on SQLite: what a transaction has read stays true."""
    if not connection.get_execution_options().get("ci_reading"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")


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
