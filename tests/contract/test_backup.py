# SPDX-License-Identifier: Apache-2.0
"""A backup of either kind is whole, taken while others write, and restores to the same rows."""

import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.errors import ConfigError, StorageError
from ci.store import audit, schema
from ci.store.backup import backup
from ci.store.database import Database
from tests.kit.frozen import contents
from tests.kit.postgres import Postgres, program

SECRET = "p4ss"


def _note(database: Database, word: str) -> None:
    with database.write() as tx:
        for part in ("first half", "second half"):
            audit.note(tx, by="ann", action="test", subject=word, why=part, at=FakeClock().now())


def test_a_backup_holds_whole_transactions(database: Database, tmp_path: Path, postgres: Postgres):
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            _note(database, f"n{(number := number + 1)}")

    _note(database, "n0")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        size = backup(database, tmp_path / "copy")
    finally:
        done.set()
        writer.join()
    assert size == (tmp_path / "copy").stat().st_size > 0
    with closing(_restored(database, tmp_path / "copy", postgres)) as copy:
        rows = contents(copy)["ci_audit"]
    assert rows
    assert len(rows) % 2 == 0
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _restored(database: Database, file: Path, postgres: Postgres) -> Database:
    """The documented way back."""
    if not database.shared:
        return Database(f"sqlite:///{file}")
    url = postgres.make_database(f"restored_{database.engine.url.database}")
    restore = [program("pg_restore"), "--no-owner", f"--dbname={url}", file]
    subprocess.run(restore, check=True, timeout=30)
    return Database(url)


def test_nothing_is_overwritten(database: Database, tmp_path: Path):
    file = tmp_path / "copy"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        backup(database, file)
    assert file.read_text() == "mine"


def test_a_missing_directory_is_named(database: Database, tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        backup(database, tmp_path / "no" / "copy")


def test_a_failed_copy_leaves_nothing(tmp_path: Path):
    (tmp_path / "hypervouch.db").write_bytes(b"no database at all" * 500)
    with (
        closing(Database(f"sqlite:///{tmp_path / 'hypervouch.db'}")) as database,
        pytest.raises(StorageError),
    ):
        backup(database, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["hypervouch.db"]


@pytest.mark.integration
def test_a_missing_pg_dump_is_told(
    ready_postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        closing(Database(ready_postgresql_url)) as database,
        pytest.raises(ConfigError, match="pg_dump is not installed") as told,
    ):
        backup(database, tmp_path / "copy")
    assert "postgresql-client" in told.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_password_reaches_pg_dump_and_nobody_else(locked_postgres: Postgres, tmp_path: Path):
    url = locked_postgres.make_database("dumped")
    with closing(Database(url, password=locked_postgres.password)) as database:
        database.create()
        _note(database, "kept")
        assert backup(database, tmp_path / "copy") > 0
        with database.read() as tx:
            assert tx.execute(sa.select(sa.func.count()).select_from(schema.audit)).scalar() == 2
    with (
        closing(Database(url, password=f"not {SECRET}")) as database,
        pytest.raises(StorageError, match="password authentication failed") as told,
    ):
        backup(database, tmp_path / "second")
    assert SECRET not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
