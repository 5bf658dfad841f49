# SPDX-License-Identifier: Apache-2.0
"""Opening the database, SQLite or PostgreSQL: one writer at a time on either, one schema version.

What is read inside a write transaction stays true until it commits, on SQLite by its own lock
and on PostgreSQL by an advisory lock that ends with the transaction. A process that stands
still in the middle of a transaction loses it after `STALLED_S`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import sqlalchemy as sa

from ci import settings
from ci.errors import ConfigError
from ci.layout import Service
from ci.metrics import Metrics
from ci.store.refusals import TROUBLE, at_fault, not_opened, refused
from ci.store.schema import SCHEMA_VERSION, metadata, schema_version

STALLED_S = 10
WRITER_LOCK = 0x68767563
"""Key of PostgreSQL's advisory lock that makes writers wait for each other."""

OLDEST_POSTGRESQL = 13
FILE_NAME = "hypervouch.db"

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

        self._metrics: Metrics | None = None
        self._reading: dict[str, Any] = {}
        if self.shared:
            self._reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @property
    def shared(self) -> bool:
        """Whether other processes may do our work as well: on PostgreSQL, never on SQLite."""
        return self.engine.dialect.name != "sqlite"

    @classmethod
    def of(cls, service: Service) -> "Database":
        """The database of an installation, as its configuration says; nothing is made yet.

        Raises:
            ConfigError: The state directory cannot be made, or the password is missing.
        """
        if not service.database:
            return cls.in_directory(service.state_dir)
        secret = service.database_password
        return cls(service.database, password=settings.resolve_secret(secret) if secret else "")

    @classmethod
    def that_ran(cls, service: Service) -> "Database | None":
        """The same, ready to be read; None where nothing was ever run.

        Raises:
            ConfigError: It cannot be opened, or has another version of the schema.
            StorageError: It cannot be reached.
        """
        if not service.database and not (service.state_dir / FILE_NAME).is_file():
            return None
        database = cls.of(service)
        try:
            if (version := database.version()) is None:
                database.close()
                return None
            _refuse_other(version)
        except BaseException:
            database.close()
            raise
        return database

    def measure(self, metrics: Metrics) -> None:
        """Time every write from now on, and count what is refused."""
        self._metrics = metrics

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
        return cls(f"sqlite:///{state_dir / FILE_NAME}")

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for PostgreSQL."""
        name = self.engine.url.database
        return None if self.shared or not name else Path(name)

    @property
    def where(self) -> str:
        """Its URL as the configuration gives it, for messages; a password is hidden."""
        url = self.engine.url
        return url.set(drivername=url.get_backend_name()).render_as_string()

    def full_url(self) -> str:
        """URL with the password in it: for another library, never for a message."""
        return self.engine.url.render_as_string(hide_password=False)

    def version(self) -> int | None:
        """Version of its schema; None where it has no tables of ours.

        Raises:
            ConfigError: It cannot be opened, or its server is too old.
            StorageError: It cannot be reached or read.
        """
        with self.opening(), self.engine.connect() as connection:
            connection.execution_options(ci_reading=True)
            _refuse_server(connection)
            return found_version(connection)

    def create(self) -> None:
        """Make the tables where there are none; refuse those of another version.

        Raises:
            ConfigError: It cannot be opened, or belongs to another version of the schema.
            StorageError: The database cannot be reached, read or written.
        """
        with self.opening(), self.engine.begin() as connection:
            _refuse_server(connection)
            found = found_version(connection)
            if found is None:
                metadata.create_all(connection)
                connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
        if found is not None:
            _refuse_other(found)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Turn the troubles of a first connection into something an operator can mend.

        Raises:
            ConfigError: The operator has to mend something first.
            StorageError: The database cannot be reached, read or written.
        """
        try:
            yield
        except TROUBLE as error:
            if (told := not_opened(self.engine.url, error)) is None:
                raise
            raise told from error

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that commits at the end of the block and rolls back on an error.

        Raises:
            StorageError: The disk is full or the database is locked for too long.
        """
        began_s = perf_counter()
        try:
            with self.engine.begin() as connection:
                yield connection
        except TROUBLE as error:
            if not at_fault(error):
                raise
            self._count_refusal("write")
            raise refused("a write to the database failed", error) from error
        if self._metrics is not None:
            self._metrics.write_seconds.observe(perf_counter() - began_s)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading; on SQLite it holds no lock against writers.

        Raises:
            StorageError: The database cannot be read.
        """
        try:
            with self.engine.connect() as connection:
                yield connection.execution_options(ci_reading=True, **self._reading)
        except TROUBLE as error:
            if not at_fault(error):
                raise
            self._count_refusal("read")
            raise refused("the database could not be read", error) from error

    def _count_refusal(self, what: str) -> None:
        if self._metrics is not None:
            self._metrics.refusals.labels(what).inc()

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


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


def found_version(connection: sa.Connection) -> int | None:
    """Version of the schema that a database has; None where it has none of our tables."""
    if not sa.inspect(connection).has_table(schema_version.name):
        return None
    found: int | None = connection.execute(
        sa.select(sa.func.max(schema_version.c.version))
    ).scalar()
    return found


def _refuse_other(found: int) -> None:
    """Raise a ConfigError for a schema that is not this program's."""
    if found < SCHEMA_VERSION:
        raise ConfigError(
            f"the database has schema version {found}, this program needs {SCHEMA_VERSION}",
            hint="stop every process of the installation, then run `hypervouch db upgrade`",
        )
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"the database has schema version {found}, this program knows {SCHEMA_VERSION}",
            hint="a newer program has upgraded it: install that one here as well",
        )


def _refuse_server(connection: sa.Connection) -> None:
    """Raise a ConfigError for a PostgreSQL that is too old, or a database of few characters."""
    dialect = connection.dialect
    if dialect.name == "sqlite":
        return
    major = int((dialect.server_version_info or (0,))[0])
    if major < OLDEST_POSTGRESQL:
        raise ConfigError(
            f"the server is PostgreSQL {major}; {OLDEST_POSTGRESQL} is the oldest that will do",
            hint="upgrade the server, or name another one in the key database",
        )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise ConfigError(
            f"the database's encoding is {encoding}, which cannot hold every text",
            hint="make another: CREATE DATABASE name OWNER role ENCODING UTF8 TEMPLATE template0",
        )
