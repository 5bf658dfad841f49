# SPDX-License-Identifier: Apache-2.0
"""Older databases of either kind become today's, rows and all, or stay exactly as they were."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock, SystemClock
from ci.errors import ConfigError, StorageError
from ci.hold import exclusive
from ci.store import processes, schema, upgrade
from ci.store.database import Database
from ci.store.moment import moment
from tests.kit.frozen import contents, shape, thaw

OLD = [1, 2, 3]
NEWEST = schema.SCHEMA_VERSION
# What each version gave to rows that were there before.
DEFAULTS = {
    3: {
        "ci_attempt": {"peers": [], "worker": None, "claim": 0},
        "ci_build": {"priority": 1, "turn": 0, "wants": [], "claim": 0, "logs": "kept"},
        "ci_node": {"tags": [], "worker": None},
        "ci_outbox": {"sender": None},
    },
    4: {
        "ci_attempt": {"likeness": "", "left_behind": []},
        "ci_node": {"facts": {}, "blamed_by": [], "health_tries": 0, "held_by": ""},
        "ci_outcome": {"feature": ""},
    },
}
KILLED = """
import sys
import sqlalchemy as sa
from ci.clock import SystemClock
from ci.store import upgrade
from ci.store.database import Database
def stand_still(connection, cursor, statement, *rest):
    if sys.argv[2] in " ".join(statement.split()):
        print("here", flush=True)
        sys.stdin.read()
database = Database(sys.argv[1])
database.version()
sa.event.listen(database.engine, "before_cursor_execute", stand_still)
upgrade.upgrade(database, SystemClock())
"""


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    with closing(Database(empty_url)) as database:
        yield database


@pytest.mark.parametrize("version", OLD)
def test_a_migrated_schema_is_the_fresh_one(empty: Database, version: int):
    thaw(empty, version)
    assert upgrade.upgrade(empty, SystemClock()) == (version, NEWEST)
    migrated = shape(empty)
    assert upgrade.differences(empty) == []
    empty.create()
    with empty.write() as tx:
        schema.metadata.drop_all(tx)
    empty.create()
    assert migrated == shape(empty)


@pytest.mark.parametrize("version", OLD)
def test_every_row_is_kept(empty: Database, version: int):
    thaw(empty, version)
    before = contents(empty)
    upgrade.upgrade(empty, SystemClock())
    after = contents(empty)
    del before["ci_schema"], after["ci_schema"]
    for table, rows in before.items():
        assert len(after[table]) == len(rows) == 2
        for old, new in zip(rows, after[table], strict=True):
            added = {name: new[name] for name in new.keys() - old.keys()}
            assert {name: new[name] for name in old} == old
            wanted = _defaults(table, version)
            assert {name: added[name] for name in wanted} == wanted
    with empty.read() as tx:
        at = tx.execute(sa.select(schema.build.c.queued_at).order_by("id")).scalars().first()
    assert at == datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


def test_a_migrated_database_numbers_rows_on_and_takes_large_numbers(empty: Database):
    thaw(empty, 1)
    upgrade.upgrade(empty, SystemClock())
    row = {"connection": "c", "key": "k" * 3000, "kind": "x", "project": "p", "source": "stream"}
    now = SystemClock().now()
    with empty.write() as tx:
        key = tx.execute(
            sa.insert(schema.event).values(
                **row, change_number=2**53, payload={}, occurred_at=now, received_at=now
            )
        ).inserted_primary_key
    assert key is not None
    assert key[0] >= 20


def test_an_old_database_is_refused_and_left_alone(empty: Database):
    thaw(empty, 2)
    before = shape(empty)
    with pytest.raises(ConfigError) as refused:
        empty.create()
    assert "hypervouch db upgrade" in refused.value.hint
    assert shape(empty) == before


def test_a_newer_database_is_refused(database: Database):
    with database.write() as tx:
        tx.execute(sa.update(schema.schema_version).values(version=99))
    with pytest.raises(ConfigError, match="99"):
        database.create()
    with pytest.raises(ConfigError, match="99"):
        upgrade.upgrade(database, SystemClock())


def test_an_empty_database_gets_its_tables_and_a_current_one_is_left_alone(empty: Database):
    assert upgrade.upgrade(empty, SystemClock()) == (0, NEWEST)
    assert upgrade.upgrade(empty, SystemClock()) == (NEWEST,) * 2


def test_two_upgrades_at_once_are_one(empty_url: str):
    with closing(Database(empty_url)) as first, closing(Database(empty_url)) as second:
        thaw(first, 1)
        done: list[tuple[int, int]] = []
        threads = [
            threading.Thread(
                target=lambda one=one: done.append(upgrade.upgrade(one, SystemClock(), force=True))
            )
            for one in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) in ([(1, NEWEST), (NEWEST, NEWEST)], [(1, NEWEST), (1, NEWEST)])
        assert upgrade.differences(first) == []


def test_a_failed_step_changes_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch):
    thaw(empty, 2)
    before = shape(empty), contents(empty)
    with empty.write() as tx:  # in the way of a new table
        tx.exec_driver_sql("CREATE TABLE ci_leader (name TEXT)")
    with pytest.raises((StorageError, sa.exc.DBAPIError)):
        upgrade.upgrade(empty, SystemClock())
    with empty.write() as tx:
        tx.exec_driver_sql("DROP TABLE ci_leader")
    assert (shape(empty), contents(empty)) == before


def test_living_processes_hold_an_upgrade_off(database: Database):
    with database.write() as tx:
        now = moment(tx, SystemClock())
        processes.register(
            tx,
            name="w1",
            incarnation="i",
            roles=["work"],
            host="h",
            pid=1,
            version="1",
            slots=1,
            at=now,
        )
        tx.execute(sa.update(schema.schema_version).values(version=2))
    with pytest.raises(ConfigError, match="w1") as refused:
        upgrade.upgrade(database, SystemClock())
    assert "--force" in refused.value.hint


@pytest.mark.parametrize("lock", upgrade.LOCKS)
def test_a_running_serve_holds_an_upgrade_off(tmp_path: Path, lock: str):
    with closing(Database.in_directory(tmp_path)) as database:
        thaw(database, 2)
        with exclusive(tmp_path / lock), pytest.raises(ConfigError, match="already runs"):
            upgrade.upgrade(database, SystemClock())
        assert upgrade.upgrade(database, SystemClock()) == (2, NEWEST)


def test_sqlite_is_copied_first(tmp_path: Path):
    clock = FakeClock()
    with closing(Database.in_directory(tmp_path)) as database:
        thaw(database, 2)
        before = contents(database)
        upgrade.upgrade(database, clock)
        (copy,) = tmp_path.glob("hypervouch.db.v2-*Z")
    with closing(Database(f"sqlite:///{copy}")) as old:
        assert contents(old) == before


@pytest.mark.parametrize(
    "at", ["CREATE INDEX ci_build_line", "CREATE TABLE ci_evidence", "UPDATE ci_schema"]
)
def test_a_killed_upgrade_leaves_the_old_state(empty_url: str, at: str):
    with closing(Database(empty_url)) as database:
        thaw(database, 1)
        before = shape(database), contents(database)
        database.close()
        _kill_before(empty_url, at)
        assert (shape(database), contents(database)) == before
        assert upgrade.upgrade(database, SystemClock()) == (1, NEWEST)
        assert upgrade.differences(database) == []


def test_the_check_names_what_differs(database: Database):
    with database.write() as tx:
        tx.exec_driver_sql("DROP INDEX ci_build_line")
        tx.exec_driver_sql("ALTER TABLE ci_pin ADD COLUMN more TEXT")
        tx.exec_driver_sql("CREATE TABLE somebody_elses (x TEXT)")
    assert upgrade.differences(database) == [
        "missing index ci_build ci_build_line",
        "unknown column ci_pin more",
    ]


def _defaults(table: str, version: int) -> dict[str, object]:
    """What rows of a table have more after an upgrade from a version."""
    found: dict[str, object] = {}
    for step, tables in DEFAULTS.items():
        if step > version:
            found |= tables.get(table, {})
    return found


def _kill_before(url: str, statement: str) -> None:
    """Run an upgrade in a process of its own and kill it before that statement."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, url, statement],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with child:
        assert child.stdout
        assert child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGKILL)
