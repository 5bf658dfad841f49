# SPDX-License-Identifier: Apache-2.0
"""`hypervouch outbox`: lists by itself, and what its verbs do and say."""

import json
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from click.testing import CliRunner, Result

from ci import app
from ci.cli import main
from ci.store import schema
from tests.kit.core import rows
from tests.kit.desk import Desk
from tests.unit.test_cli import CONFIG

# A library that it needs starts a process when it is first imported: not inside a unit test.
assert app

Cli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERVOUCH_TEST_PASSWORD", "s3cret")
    (tmp_path / "c.yaml").write_text(CONFIG)
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "hosts").write_text("review.example.org ssh-ed25519 AAAA\n")
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["outbox", *words, "-c", str(folder / "c.yaml")])

    return run


@pytest.fixture
def desk(folder: Path) -> Desk:
    made = Desk(folder / "state")
    made.close()
    return made


def test_lists_what_is_owed_and_what_is_held(cli, desk):
    held, owed = desk.owe(13, value=-1, held=True), desk.owe()
    shown = cli()
    assert shown.exit_code == 0
    assert "Verified -1" in shown.output
    assert "Verified +1" in shown.output
    assert [one["id"] for one in json.loads(cli("--json").output)] == [owed, held]


def test_settled_ones_are_listed_on_request(cli, desk):
    row = desk.owe()
    assert cli("drop", str(row), "--why", "a wrong node").exit_code == 0
    assert json.loads(cli("--json").output) == []
    (shown,) = json.loads(cli("--all", "--json").output)
    assert (shown["state"], "a wrong node" in shown["error"]) == ("dropped", True)


def test_release(cli, desk):
    row = desk.owe(value=-1, held=True)
    assert "is released" in cli("release", str(row)).output
    assert desk.row(row).state == "pending"
    (line,) = rows(desk.database, schema.audit)
    assert line.by.endswith(" (command line)")


@pytest.mark.parametrize("which", [["1"], ["--all"]])
def test_retry(cli, desk, which):
    desk.owe()
    assert "due now" in cli("retry", *which).output


def test_a_configuration_named_before_the_verb_counts(desk, folder):
    desk.owe()
    done = CliRunner().invoke(main, ["outbox", "-c", str(folder / "c.yaml"), "retry", "1"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("words", [["retry"], ["retry", "1", "--all"], ["drop", "1"]])
def test_half_a_command_is_refused(cli, desk, words):
    assert cli(*words).exit_code == 2


@pytest.mark.parametrize("words", [["retry", "9"], ["drop", "9", "--why", "x"], ["release", "9"]])
def test_a_review_that_never_was(cli, desk, words):
    found = cli(*words)
    assert found.exit_code == 1
    assert "there is no review 9" in found.output
    assert "fix: see `hypervouch outbox --all`" in found.output


@pytest.mark.parametrize("words", [["retry", "1"], ["retry", "--all"], ["release", "1"]])
def test_before_anything_ran(cli, words):
    found = cli(*words)
    assert "nothing was ever run in" in found.output
    assert found.exit_code == 1
