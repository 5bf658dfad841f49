# SPDX-License-Identifier: Apache-2.0
"""Databases for tests: a private PostgreSQL for the session, a fresh database for each test.

`database` gives both kinds in turn. A test that opens the database of a directory gets SQLite,
and PostgreSQL where it also asks for `on_postgresql`: see tests/contract/postgresql.
"""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from ci.store import moment as server_time
from ci.store.database import Database
from ci.store.schema import metadata, schema_version
from tests.kit.postgres import Postgres, PostgresMissing, cluster, program
from tests.kit.require import require

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.integration)
KINDS = ["sqlite", POSTGRESQL]
TEMPLATE = "ready"
COMPILED = 3000
"""Statements that stay compiled: more than all of ours."""
_numbers = count(1)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """All SQLite databases of a session share what compiles their SQL; a service has only one.

    Compiling is most of what a test with a database of its own takes. No row is shared.
    """
    common = sa.create_engine("sqlite://", query_cache_size=COMPILED)
    common.connect().close()
    real = Database.__init__

    def init(self: Database, url: str, *, password: str = "") -> None:
        real(self, url, password=password)
        if not self.shared:
            _share(common, self.engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "__init__", init)
        yield
    common.dispose()


def _share(common: sa.Engine, engine: sa.Engine) -> None:
    """Let an engine compile by the dialect, and keep in the cache, of another of its kind."""
    engine.dialect, engine._compiled_cache = common.dialect, common._compiled_cache


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server for the session; whoever stops or freezes it makes a `cluster` of their own."""
    try:
        program("initdb")
    except PostgresMissing as missing:
        require("postgresql", present=False, why=str(missing))
    with cluster(tmp_path_factory.mktemp("postgresql")) as server:
        database = Database(server.make_database(TEMPLATE))
        database.create()
        database.close()
        yield server


@pytest.fixture
def postgresql_url(postgres: Postgres) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    name = f"empty_{next(_numbers)}"
    yield postgres.make_database(name)
    postgres.drop_database(name)


@pytest.fixture
def ready_postgresql_url(postgres: Postgres) -> Iterator[str]:
    """URL of a PostgreSQL database with our tables, and no row in them."""
    name = f"ready_{next(_numbers)}"
    yield postgres.make_database(name, template=TEMPLATE)
    postgres.drop_database(name)


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hypervouch.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database of either kind that has our tables."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'hypervouch.db'}"
        database = Database(url)
        database.create()
        database.close()
    else:
        url = request.getfixturevalue("ready_postgresql_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A ready database of either kind."""
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _common_postgresql(postgres: Postgres) -> Iterator[sa.Engine]:
    """What compiles the SQL of all tests on PostgreSQL."""
    common = Database(postgres.url("postgres")).engine
    common.connect().close()
    yield common
    common.dispose()


@pytest.fixture(scope="session")
def _spare(postgres: Postgres) -> list[str]:
    """URLs of databases with our tables that nobody uses: making one costs more than emptying."""
    assert postgres.port
    return []


class _OneProcess(Database):
    """One that no other process uses, as on SQLite: a node's name is not its process's as well."""

    shared = False


@pytest.fixture
def on_postgresql(
    _common_postgresql: sa.Engine,
    _spare: list[str],
    monkeypatch: pytest.MonkeyPatch,
    postgres: Postgres,
) -> Iterator[None]:
    """Let each directory have a PostgreSQL database instead of a SQLite file, for one test."""
    urls: dict[Path, str] = {}
    opened: list[Database] = []
    reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def open_in(folder: Path) -> Database:
        if folder not in urls:
            name = f"ready_{next(_numbers)}"
            made = _spare.pop() if _spare else postgres.make_database(name, template=TEMPLATE)
            urls[folder] = made
        opened.append(_OneProcess(urls[folder]))
        _share(_common_postgresql, opened[-1].engine)
        opened[-1]._reading = reading
        return opened[-1]

    monkeypatch.setattr(Database, "in_directory", staticmethod(open_in))
    real = server_time.moment
    for module in list(sys.modules.values()):  # these tests turn their own clock, not the server's
        if vars(module).get("moment") is real:
            monkeypatch.setattr(module, "moment", lambda _tx, clock: clock.now())
    yield
    for one in opened:
        one.close()
    for url in urls.values():
        _empty(url)
    _spare.extend(urls.values())


def _empty(url: str) -> None:
    """Delete every row but the version, and number new ones from 1 again."""
    tables = [t for t in reversed(metadata.sorted_tables) if t is not schema_version]
    with psycopg.connect(url) as connection:
        for table in tables:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name)))
        connection.execute("SELECT setval(seqrelid::regclass, 1, false) FROM pg_sequence")


@pytest.fixture(scope="session")
def locked_postgres(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    """A second server, which asks for a password."""
    assert postgres.port
    with cluster(tmp_path_factory.mktemp("locked"), password="p4ss: word/%") as server:
        yield server
