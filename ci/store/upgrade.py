# SPDX-License-Identifier: Apache-2.0
"""From an older version of the schema to this program's, in one transaction, or not at all.

`ci_schema` alone says which version a database has; Alembic does the steps between two.
The writers' lock lets one upgrade run at a time: the second finds nothing left to do.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from ci.clock import Clock
from ci.errors import ConfigError, StorageError
from ci.hold import exclusive
from ci.store import processes, schema
from ci.store.backup import copy_sqlite
from ci.store.database import Database, found_version
from ci.store.moment import moment

ALIVE_S = 30
"""Seconds for which a heartbeat counts as a sign of life."""

LOCKS = ("engine.lock", "process.lock")
"""Files that a process on SQLite holds as long as it runs, of this version and of older ones."""

_STEPS = Path(__file__).parent / "migrations"


def upgrade(database: Database, clock: Clock, *, force: bool = False) -> tuple[int, int]:
    """Bring the tables to this program's version; the same version again is no mistake.

    On SQLite a copy of the file is made first, beside it.

    Args:
        database: Any that can be opened; an empty one gets its tables.
        clock: Names the copy.
        force: Go on although processes of the installation seem to run.

    Returns:
        Version before and after; 0 before for an empty database.

    Raises:
        ConfigError: Processes still run, or a newer program made the tables.
        StorageError: The database refused a step; everything is as it was before.
    """
    found = database.version()
    if found is None:
        database.create()
        return 0, schema.SCHEMA_VERSION
    if found == schema.SCHEMA_VERSION:
        return found, found
    with nullcontext() if force else _alone(database), _transaction(database) as connection:
        found = found_version(connection) or 0
        if found > schema.SCHEMA_VERSION:
            raise ConfigError(
                f"the database has schema version {found}, this program knows"
                f" {schema.SCHEMA_VERSION}",
                hint="a newer program has upgraded it: install that one here as well",
            )
        if found < schema.SCHEMA_VERSION:
            if not force:
                _refuse_living(connection, clock)
            if (file := database.file) is not None:
                stamp = clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
                copy_sqlite(file, file.with_name(f"{file.name}.v{found}-{stamp}"))
            _run_steps(connection, found)
    return found, schema.SCHEMA_VERSION


def differences(database: Database) -> list[str]:
    """What the real tables have that the model has not, and the other way round; sorted.

    Raises:
        StorageError: The database cannot be read.
    """
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": _ours, "compare_type": True}
        )
        found = compare_metadata(context, schema.metadata)
    return sorted(_told(one) for group in found for one in _flat(group))


def _run_steps(connection: sa.Connection, found: int) -> None:
    script = ScriptDirectory(str(_STEPS))
    newest = str(schema.SCHEMA_VERSION)
    steps = list(script.iterate_revisions(newest, str(found)))
    with Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()
    connection.execute(sa.update(schema.schema_version).values(version=schema.SCHEMA_VERSION))


@contextmanager
def _transaction(database: Database) -> Iterator[sa.Connection]:
    """The one transaction, under the writers' lock, with all the time that it needs."""
    with database.opening(), database.engine.connect() as connection:
        on_sqlite = connection.dialect.name == "sqlite"
        if on_sqlite:
            # A copied table takes its name back at the end: until then references hang in the
            # air. This connection is not given to anybody else.
            connection.detach()
            raw: Any = connection.connection.dbapi_connection
            raw.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            if not on_sqlite:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection
            if on_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise StorageError(
                    "rows refer to others that are not there; nothing was changed",
                    hint="restore a backup: the file was damaged before",
                )


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep processes of an installation on SQLite from starting meanwhile.

    Raises:
        ConfigError: One runs.
    """
    with ExitStack() as held:
        if (file := database.file) is not None:
            for name in LOCKS:
                held.enter_context(exclusive(file.with_name(name)))
        yield


def _refuse_living(connection: sa.Connection, clock: Clock) -> None:
    if not sa.inspect(connection).has_table(schema.process.name):
        return
    since = moment(connection, clock) - timedelta(seconds=ALIVE_S)
    if living := processes.alive(connection, since=since):
        raise ConfigError(
            f"processes of this installation run: {', '.join(living)}",
            hint=f"stop them and wait {ALIVE_S} s, or give --force where you know that they ended",
        )


def _ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Leave tables alone that are not ours: the engine's, and whatever else lives there."""
    return kind != "table" or (name or "").startswith("ci_")


def _flat(group: Any) -> list[Any]:
    """Alembic gives single differences, and lists of them for one column."""
    return group if isinstance(group, list) else [group]


def _told(difference: Any) -> str:
    """One difference in words; the tuple begins with what would have to be done."""
    what, *rest = difference
    names = [getattr(one, "name", one) for one in rest]
    owners = [one.table.name for one in rest if getattr(one, "table", None) is not None]
    said = dict.fromkeys(name for name in (*owners, *names) if isinstance(name, str))
    action, _, thing = what.partition("_")
    word = {"add": "missing", "remove": "unknown", "modify": "different"}.get(action, action)
    return " ".join((word, thing.replace("_", " "), *said))
