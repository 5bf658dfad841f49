# SPDX-License-Identifier: Apache-2.0
"""`hypervouch nodes ...`: looks at a node from here, keeps it, gives it back."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import paramiko
import pytest
from click.testing import CliRunner, Result

from ci.cli import main
from ci.clock import SystemClock
from ci.node_verbs import told
from ci.store import leases, node_health, schema
from ci.store.holds import Hold
from tests.kit.core import database_in, rows

CONFIG = """
- hypervouch: {state-dir: state}
- connection:
    name: review
    server: review.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://review.example.org
    password: {from-env: HYPERVOUCH_TEST_PASSWORD}
- pipeline: {name: check, connection: review}
- job: {name: unit, suite: shell, run: make test, node-label: lab}
- project: {name: acme/virt, check: {jobs: [unit]}}
- provider: {name: lab, driver: dummy, label: lab, slots: 2}
"""
Cli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERVOUCH_TEST_PASSWORD", "s3cret")
    (tmp_path / "c.yaml").write_text(CONFIG)
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "hosts").write_text("review.example.org ssh-ed25519 AAAA\n")
    database = database_in(tmp_path / "state")
    with database.write() as tx:
        for name in ("lab-1", "lab-2"):
            leases.register(tx, name=name, label="lab", provider="lab")
        node_health.put(tx, "lab-1", state="Bad", reason="no banner", failures=3)
    database.close()
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["nodes", *words], env={"HYPERVOUCH_CONFIG": str(folder)})

    return run


def node(folder: Path, name: str = "lab-1") -> Any:
    database = database_in(folder / "state")
    found = rows(database, schema.node, name=name)[0]
    database.close()
    return found


def test_the_list_is_the_same_by_both_names(cli):
    assert cli().output == cli("list").output
    assert "no banner" in cli().output
    first = json.loads(cli("list", "--json").output)[0]
    assert (first["name"], first["use"], first["held_until"]) == ("lab-1", "free", None)


@pytest.mark.parametrize("verb", ["probe", "health"])
def test_a_look_returns_a_node_that_is_fit_and_is_audited(cli, folder, verb):
    found = cli(verb, "lab-1")
    assert (found.exit_code, found.output) == (0, "lab-1 is fit\n")
    assert (node(folder).state, node(folder).holder) == ("Good", None)
    database = database_in(folder / "state")
    assert [row.action for row in rows(database, schema.audit)] == [f"node-{verb}"]
    database.close()


def test_a_node_that_is_not_fit_is_status_one_and_said_why(cli, folder):
    text = CONFIG.replace("slots: 2", "slots: 2, fail-starts: 9")
    (folder / "c.yaml").write_text(text)
    found = cli("probe", "lab-2", "--json")
    assert found.exit_code == 1
    assert json.loads(found.output)["fit"] is False
    assert "told to fail" in json.loads(found.output)["trouble"]
    assert node(folder, "lab-2").state == "Bad"


def test_a_pinned_version_is_named(cli, folder):
    text = CONFIG.replace("slots: 2", "slots: 2, pinned: {qemu: '9.*'}")
    (folder / "c.yaml").write_text(text)
    assert "qemu is not known, pinned is 9.*" in cli("probe", "lab-1").output


def test_one_that_somebody_has_is_left_alone(cli, folder):
    database, now = database_in(folder / "state"), SystemClock().now()
    with database.write() as tx:
        asker = leases.Asker(holder="a1", worker="w", now=now, term=timedelta(hours=1))
        leases.take_one(tx, "lab-1", asker)
    database.close()
    found = cli("probe", "lab-1")
    assert found.exit_code == 1
    assert "lab-1 is leased (a1)" in found.output


@pytest.mark.parametrize("words", [("probe",), ("hold", "--why", "x"), ("return",)])
def test_an_unknown_node_is_refused_with_the_nearest(cli, words):
    found = cli(*words, "lab-11")
    assert found.exit_code == 1
    assert "there is no node lab-11" in found.output
    assert "did you mean lab-1?" in found.output


class TestHold:
    def test_it_is_told_listed_and_given_back(self, cli, folder):
        said = cli("hold", "lab-1", "--for", "30m", "--why", "look").output
        assert "lab-1 is held until " in said
        assert "no machine of it runs that one could log in to" in said
        assert "lab-1 is held by " in cli().output
        assert "lab-1 is held by" in cli("probe", "lab-1").output
        assert cli("return", "lab-1").exit_code == 0
        assert node(folder).held_until <= SystemClock().now()

    def test_on_failure_it_waits(self, cli, folder):
        said = cli("hold", "lab-2", "--on-failure", "--why", "flaky").output
        assert "is kept for 120 min as soon as a build fails there" in said
        assert "next failure is held" in cli().output
        assert node(folder, "lab-2").held_until is None
        assert cli("return", "lab-2").exit_code == 0
        assert node(folder, "lab-2").held_for_s == 0

    def test_what_nobody_holds_cannot_be_returned(self, cli):
        found = cli("return", "lab-1")
        assert (found.exit_code, "nobody holds lab-1" in found.output) == (1, True)

    def test_json(self, cli):
        found = json.loads(cli("hold", "lab-1", "--why", "x", "--json").output)
        assert (found["node"], found["for_s"]) == ("lab-1", 0)

    def test_the_login_line_stands_alone(self):
        lines = told(
            Hold(
                node="n",
                by="ann",
                why="x",
                until=SystemClock().now(),
                for_s=0,
                login="ssh -p 22 ci@h",
                worker="ci1",
                attempt_id=None,
            )
        )
        assert "  ssh -p 22 ci@h" in lines
        assert "log in on the machine of ci1 with:" in lines


def test_drain_is_a_pause(cli, folder):
    assert "is paused by" in cli("drain", "lab-1", "--why", "new disk", "--for", "2h").output
    database = database_in(folder / "state")
    assert [(row.kind, row.name) for row in rows(database, schema.pause)] == [("node", "lab-1")]
    database.close()
