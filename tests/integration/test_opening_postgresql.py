# SPDX-License-Identifier: Apache-2.0
"""What an operator is told when PostgreSQL cannot be opened: what is wrong, and how to mend it."""

import socket
from pathlib import Path

import pytest
from psycopg import sql

from ci.errors import ConfigError, HypervouchError, StorageError
from ci.layout import SecretRef, Service
from ci.store.database import Database
from tests.kit.postgres import Postgres

pytestmark = pytest.mark.integration
SECRET = "s3cret-word"


def _refusal(url: str, password: str = "") -> HypervouchError:
    database = Database(url, password=password)
    with pytest.raises(HypervouchError) as caught:
        database.create()
    database.close()
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"
    return caught.value


def test_a_server_that_is_away_may_come_back():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = _refusal(f"postgresql://ci@127.0.0.1:{free.getsockname()[1]}/ci", SECRET)
    assert isinstance(told, StorageError)
    assert told.retryable
    assert "cannot be reached" in told.message
    assert "port" in told.hint


def test_a_missing_database_is_named(postgres: Postgres):
    told = _refusal(postgres.url("nowhere"))
    assert isinstance(told, ConfigError)
    assert 'database "nowhere" does not exist' in told.message
    assert 'CREATE DATABASE "nowhere"' in told.hint


def test_a_missing_role_is_named(postgres: Postgres):
    url = postgres.url("ready").replace("hypervouch@", "stranger@")
    told = _refusal(url)
    assert isinstance(told, ConfigError)
    assert 'CREATE ROLE "stranger"' in told.hint


def test_a_role_that_may_make_no_tables(postgres: Postgres, postgresql_url: str):
    postgres.run(sql.SQL("CREATE ROLE {} LOGIN"), "guest")
    told = _refusal(postgresql_url.replace("hypervouch@", "guest@"))
    assert isinstance(told, ConfigError)
    assert "OWNER TO" in told.hint


def test_an_encoding_that_cannot_hold_every_text(postgres: Postgres):
    postgres.run(
        sql.SQL("CREATE DATABASE {} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0"), "latin"
    )
    told = _refusal(postgres.url("latin"))
    assert isinstance(told, ConfigError)
    assert "encoding is LATIN1" in told.message
    postgres.drop_database("latin")


def test_a_server_that_is_too_old(postgresql_url: str, monkeypatch: pytest.MonkeyPatch):
    database = Database(postgresql_url)
    database.version()
    monkeypatch.setattr(database.engine.dialect, "server_version_info", (12, 4))
    with pytest.raises(ConfigError, match="PostgreSQL 12"):
        database.create()
    database.close()


def test_passwords(tmp_path: Path, locked_postgres: Postgres):
    url = locked_postgres.make_database("ci")
    none, wrong = _refusal(url), _refusal(url, SECRET)
    assert isinstance(none, ConfigError)
    assert "give the key database-password" in none.hint
    assert isinstance(wrong, ConfigError)
    assert "compare database-password" in wrong.hint
    file = tmp_path / "secret"
    file.write_text(f"{locked_postgres.password}\n")
    service = Service(state_dir=tmp_path, database=url, database_password=SecretRef(from_file=file))
    database = Database.of(service)
    database.create()
    assert "p4ss" in database.full_url()
    assert "p4ss" not in str(database.engine.url)
    database.close()


def test_nothing_ran_where_no_table_is(tmp_path: Path, postgresql_url: str):
    service = Service(state_dir=tmp_path, database=postgresql_url)
    assert Database.that_ran(service) is None
    database = Database.of(service)
    database.create()
    database.close()
    found = Database.that_ran(service)
    assert found is not None
    found.close()
