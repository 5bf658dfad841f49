# SPDX-License-Identifier: Apache-2.0
"""A consistent copy of the database while everything runs; never half a file.

SQLite copies itself page by page; PostgreSQL's `pg_dump` does it, in its custom format. The
password goes by a file that only we may read, never by an argument or the environment.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from ci import proc
from ci.errors import ConfigError, StorageError
from ci.store.database import Database

DUMP_S = 6 * 3600.0
"""Seconds that a dump may take."""


def backup(database: Database, file: Path) -> int:
    """Copy a database into a new file; returns its size in bytes.

    Args:
        database: Any that can be opened.
        file: Must not exist; its directory must.

    Raises:
        ConfigError: The file exists, its directory does not, or pg_dump is missing.
        StorageError: The copy failed; nothing is left of it.
    """
    if (source := database.file) is not None:
        copy_sqlite(source, file)
    else:
        _dump(database.engine.url, file)
    return file.stat().st_size


def copy_sqlite(source: Path, file: Path) -> None:
    """Copy a SQLite file as it is at one moment, whoever writes to it meanwhile.

    Raises:
        ConfigError: The file exists, or its directory does not.
        StorageError: The copy failed; nothing is left of it.
    """
    with _whole(file) as part:
        try:
            with (
                closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as here,
                closing(sqlite3.connect(part)) as there,
            ):
                here.backup(there)
        except sqlite3.Error as error:
            raise StorageError(
                f"{source} could not be copied to {file}: {error}",
                hint="look at the disk's free space and at the file's owner",
                retryable=True,
            ) from error


def _dump(url: sa.URL, file: Path) -> None:
    with _whole(file) as part, tempfile.TemporaryDirectory(prefix="hypervouch-") as private:
        env = {}
        if url.password:
            pgpass = Path(private) / "pgpass"
            pgpass.touch(mode=0o600)
            pgpass.write_text(f"*:*:*:*:{_escaped(str(url.password))}\n")
            env["PGPASSFILE"] = str(pgpass)
        address = url.set(drivername="postgresql", password=None)
        target = address.render_as_string(hide_password=False)
        argv = [
            "pg_dump",
            "--no-password",
            "--format=custom",
            f"--file={part}",
            f"--dbname={target}",
        ]
        try:
            proc.run(argv, timeout_s=DUMP_S, env=env)
        except proc.CommandFailed as error:
            if error.hint:
                raise ConfigError(
                    "pg_dump is not installed",
                    hint="install PostgreSQL's client, not older than the server:"
                    " apt-get install postgresql-client",
                ) from error
            raise StorageError(
                f"the database {url.render_as_string()} could not be dumped: {error.message}",
                hint="pg_dump must not be older than the server, and the disk must have room",
                retryable=True,
            ) from error


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace(":", "\\:")


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A name beside a file to write to; at the end it is on the disk under its own name."""
    if file.exists():
        raise ConfigError(f"{file} exists", hint="name a new file: none is ever overwritten")
    if not file.parent.is_dir():
        raise ConfigError(f"the directory {file.parent} does not exist", hint="make it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise StorageError(
            f"{file} cannot be written: {error.strerror}", hint="name a directory you may write"
        ) from error
    part = Path(name)
    try:
        yield part
        os.fsync(handle)
        # A link is refused where the name was taken meanwhile; a rename would overwrite it.
        file.hardlink_to(part)
    except FileExistsError as error:
        raise ConfigError(f"{file} exists", hint="name a new file") from error
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            part.unlink()
        for leftover in ("-journal", "-wal", "-shm"):
            Path(f"{part}{leftover}").unlink(missing_ok=True)
