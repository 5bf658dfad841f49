# SPDX-License-Identifier: Apache-2.0
"""`hypervouch pause`, `resume` and `pauses`."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from ci import pausing
from ci.cli import main
from ci.errors import ConfigError
from ci.layout import Maintenance
from ci.store import leases, schema
from tests.kit.core import database_in, layout, rows

NOW = datetime(2026, 11, 28, 3, 30, tzinfo=UTC)


@pytest.fixture
def database(tmp_path, monkeypatch):
    """An installation with one node, whose configuration has a window open at NOW."""
    made = database_in(tmp_path)
    window = Maintenance(name="disks", labels=("lab",), cron="0 3 * * 6", minutes=60, why="new")
    plan = layout(state_dir=tmp_path).model_copy(update={"maintenance": (window,)})
    monkeypatch.setattr(pausing.settings, "load", lambda _: plan)
    monkeypatch.setattr(pausing, "open_database", lambda _: made)
    with made.write() as tx:
        leases.register(tx, name="lab-1", label="lab", provider="lab")
    return made


def pause(folder, kind="node", name="lab-1", **more):
    fields = {"by": "ann", "why": "disk", "until": None, "at": NOW, **more}
    return pausing.pause(folder, kind, name, **fields)


def test_a_pause_is_told_and_ended(database, tmp_path, capsys):
    said = pause(tmp_path, until=NOW + timedelta(hours=1))
    assert said.startswith("node lab-1 is paused by ann: disk, until 2026-11-28 04:30 UTC; ")
    pausing.show(tmp_path, at=NOW, as_json=True)
    found = [(one["kind"], one["name"], one["why"]) for one in json.loads(capsys.readouterr().out)]
    assert found == [("node", "lab-1", "disk"), ("label", "lab", "new")]
    pausing.show(tmp_path, at=NOW, as_json=False)
    assert "lab-1" in capsys.readouterr().out
    said = pausing.resume(tmp_path, "node", "lab-1", by="bob", at=NOW)
    assert said == "node lab-1 takes builds again"
    with pytest.raises(ConfigError, match="is not paused"):
        pausing.resume(tmp_path, "node", "lab-1", by="bob", at=NOW)
    assert [(row.by, row.action) for row in rows(database, schema.audit)] == [
        ("ann", "pause"),
        ("bob", "resume"),
    ]


@pytest.mark.parametrize(
    ("kind", "name"), [("node", "lab-2"), ("label", "lap"), ("pipeline", "chek")]
)
def test_what_does_not_exist_is_not_paused(database, tmp_path, kind, name):
    with pytest.raises(ConfigError, match=f"there is no {kind} {name}"):
        pause(tmp_path, kind, name)
    assert rows(database, schema.pause) == []


def test_a_time_that_is_over(database, tmp_path):
    with pytest.raises(ConfigError, match="is over"):
        pause(tmp_path, until=NOW)
    assert rows(database, schema.pause) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "soon"], "is not a time"),
        (["--for", "2w"], "is not a length"),
        (["--for", "2h", "--until", "2030-01-01T00:00Z"], "not both"),
        ([], "Missing option '--why'"),
    ],
)
def test_what_the_command_line_refuses(options, said):
    why = ["--why", "x"] if options else []
    found = CliRunner().invoke(main, ["pause", "node", "lab-1", *why, *options])
    assert found.exit_code == 2
    assert said in found.output


def test_a_length_becomes_a_time(monkeypatch):
    asked: dict = {}
    monkeypatch.setattr(pausing, "pause", lambda *_, **more: asked.update(more) or "done")
    argv = ["pause", "label", "lab", "--why", "x", "--for", "2h"]
    found = CliRunner().invoke(main, argv, catch_exceptions=False)
    assert found.output == "done\n"
    assert asked["until"] - asked["at"] == timedelta(hours=2)
