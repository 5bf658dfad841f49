# SPDX-License-Identifier: Apache-2.0
"""`hypervouch db` over either kind: what it says, and its exit status."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from ci import cli, settings
from ci.layout import Service
from ci.store.database import Database
from tests.kit.frozen import thaw


@pytest.fixture
def service(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The configuration of an installation that never ran."""
    url = "" if empty_url.startswith("sqlite") else empty_url
    made = Service(state_dir=tmp_path, database=url)
    monkeypatch.setattr(settings, "load", lambda *_: SimpleNamespace(service=made))
    return made


def _db(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(cli.main, ["db", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def test_an_empty_one(service: Service, tmp_path: Path):
    status, said = _db("check")
    assert status == 1
    assert said.endswith("has no tables yet: the first start makes them\n")
    assert len(said.splitlines()) == 1
    status, said = _db("backup", tmp_path / "copy")
    assert status == 1
    assert "nothing was ever run" in said
    assert "was empty: made at schema version 4" in _db("upgrade")[1]
    assert _db("check")[0] == 0


def test_an_old_one(service: Service, tmp_path: Path):
    with closing(Database.of(service)) as database:
        thaw(database, 2)
    status, said = _db("check")
    assert status == 1
    assert "run `hypervouch db upgrade`" in said
    assert _db("backup", tmp_path / "before")[0] == 0
    assert _db("upgrade")[1].endswith("schema version 2 -> 4\n")
    assert _db("upgrade")[1].endswith("has schema version 4 already\n")
    assert _db("check")[1].endswith("is good: schema version 4\n")
    assert _db("backup", tmp_path / "after")[0] == 0
    assert _db("backup", tmp_path / "after")[0] == 1


def test_a_damaged_one(service: Service):
    with closing(Database.of(service)) as database:
        database.create()
        with database.write() as tx:
            tx.exec_driver_sql("DROP INDEX ci_build_line")
    status, said = _db("check")
    assert status == 1
    assert said.splitlines()[0] == "missing index ci_build ci_build_line"
