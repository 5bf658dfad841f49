# SPDX-License-Identifier: Apache-2.0
"""The verbs: what is printed, which status, and never a traceback for what a person did wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from click.testing import CliRunner, Result

from ci import app
from ci.cli import main
from ci.clock import FakeClock
from ci.model.node import NodeState
from ci.store import builds, leases, schema
from tests.kit.core import GERRIT, database_in, queue_buildset, rows

# A library that it needs starts a process when it is first imported: not inside a unit test.
assert app

CONFIG = """
- hypervouch: {state-dir: state}
- connection:
    name: review
    server: review.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://review.example.org/
    password: {from-env: HYPERVOUCH_TEST_PASSWORD}
- pipeline: {name: check, connection: review, policy: vote}
- job: {name: unit, suite: shell, run: "true", node-label: lab, irrelevant-files: [docs/]}
- project: {name: acme/virt, check: {jobs: [unit]}}
- provider: {name: lab, driver: dummy, label: lab}
"""

EVENT = {
    "type": "patchset-created",
    "project": "acme/virt",
    "uploader": {"username": "ann"},
    "patchSet": {
        "number": 1,
        "revision": "1" * 40,
        "ref": "refs/changes/12/12/1",
        "uploader": {"username": "ann"},
        "createdOn": 1767225600,
        "kind": "REWORK",
    },
    "change": {
        "project": "acme/virt",
        "branch": "main",
        "id": "I" + "a" * 40,
        "number": 12,
        "subject": "s",
        "owner": {"username": "ann"},
        "url": "https://review.example.org/12",
        "status": "NEW",
    },
    "eventCreatedOn": 1767225600,
}

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
        return CliRunner().invoke(main, list(words), env={"HYPERVOUCH_CONFIG": str(folder)})

    return run


@pytest.fixture
def build(folder: Path) -> str:
    """A queued build of change 12 in the installation's database."""
    database, clock = database_in(folder / "state"), FakeClock()
    (made,) = queue_buildset(database, at=clock.now())
    (row,) = rows(database, schema.buildset)
    with database.write() as tx:
        change = {"number": 12, "project": "acme/virt", "branch": "main", "change_id": "I1"}
        text = {"subject": "s", "owner": "ann", "url": "u", "status": "NEW"}
        at = {"connection": GERRIT, "patchset": row.patchset, "updated_at": clock.now()}
        tx.execute(schema.change.insert().values({**change, **text, **at}))
        leases.register(tx, name="lab-1", label="lab", provider="lab")
        leases.set_health(
            tx,
            name="lab-1",
            state=NodeState.BAD,
            reason="no banner",
            failures=3,
            now=clock.now(),
        )
    database.close()
    return made


def complaint(result: Result) -> str:
    """What was said of a mistake: no traceback, a message and how to mend it."""
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


class TestConfig:
    def test_a_good_one(self, cli):
        found = cli("config", "check")
        assert (found.exit_code, "no mistakes found" in found.output) == (0, True)

    def test_every_mistake_at_once_with_its_place(self, cli, folder):
        bad = CONFIG.replace("policy: vote", "policy: always").replace("jobs: [unit]", "jobs: [x]")
        (folder / "c.yaml").write_text(bad.replace("driver: dummy", "driver: dummy, slots: 99"))
        said = complaint(cli("config", "check"))
        for wanted in ("c.yaml:11:", "policy", "jobs", "slots"):
            assert wanted in said
        found = json.loads(cli("config", "check", "--json").output)
        assert len(found) >= 2
        assert {"file", "line", "message"} <= set(found[0])

    @pytest.mark.parametrize("text", ["", "- : :", "- job: {run: x}", "\t", "a: 1"])
    def test_broken_yaml(self, cli, folder, text):
        (folder / "c.yaml").write_text(text)
        complaint(cli("config", "check"))
        complaint(cli("config", "show"))

    def test_a_path_that_is_not_there(self, cli):
        assert "/nowhere" in complaint(cli("config", "show", "-c", "/nowhere"))

    def test_show_says_the_defaults_and_no_secret(self, cli):
        found = cli("config", "show")
        assert json.loads(found.output)["service"]["lease-s"] == 60
        assert "s3cret" not in found.output

    def test_schema_is_json(self, cli):
        assert "$schema" in cli("config", "schema").output


class TestExplain:
    def explain(self, cli: Cli, folder: Path, text: str, *more: str) -> Result:
        file = folder / "event.json"
        file.write_text(text)
        return cli("explain", str(file), *more)

    def test_yes(self, cli, folder):
        said = self.explain(cli, folder, json.dumps(EVENT, indent=2)).output
        assert said.startswith("review: check starts unit: patch set 1 of change 12")

    def test_no(self, cli, folder):
        said = self.explain(cli, folder, json.dumps(EVENT), "--file", "docs/a.rst").output
        assert "check does not start: every changed file matches irrelevant-files" in said

    def test_an_unknown_type(self, cli, folder):
        found = self.explain(cli, folder, '{"type": "reviewer-added"}')
        assert (found.exit_code, "nothing starts" in found.output) == (0, True)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "patchset-created"}'])
    def test_what_is_no_event(self, cli, folder, text):
        complaint(self.explain(cli, folder, text))


class TestListings:
    VERBS = ("builds", "nodes", "outbox", "build x", "logs x", "recheck 12", "cancel x")

    @pytest.mark.parametrize("verb", VERBS)
    def test_before_anything_ran(self, cli, verb):
        said = complaint(cli(*verb.split()))
        assert "nothing was ever run in" in said
        assert "fix: start it: `hypervouch serve`" in said

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("content", [b"", b"this is no database" * 100])
    def test_a_state_that_is_no_database_of_ours(self, cli, folder, verb, content):
        (folder / "state").mkdir()
        (folder / "state" / "hypervouch.db").write_bytes(content)
        complaint(cli(*verb.split()))

    def test_builds(self, cli, build):
        found = cli("builds")
        assert found.exit_code == 0
        assert build in found.output
        assert json.loads(cli("builds", "--json").output)[0]["id"] == build
        assert json.loads(cli("builds", "--json", "--state", "done").output) == []

    def test_one_build(self, cli, build):
        assert "unit on change 12,1 of acme/virt" in cli("build", build).output
        assert json.loads(cli("build", build, "--json").output)["build"]["id"] == build

    def test_nodes(self, cli, build):
        assert "no banner" in cli("nodes").output
        assert json.loads(cli("nodes", "--json").output)[0]["name"] == "lab-1"

    def test_outbox(self, cli, build):
        assert cli("outbox").exit_code == 0
        assert json.loads(cli("outbox", "--json", "--all").output) == []

    @pytest.mark.parametrize("verb", ["build", "logs", "cancel"])
    def test_a_build_that_never_was(self, cli, build, verb):
        said = complaint(cli(verb, "nobody"))
        assert "there is no build nobody" in said
        assert "fix: see `hypervouch builds`" in said

    def test_logs_of_a_build_without_a_log(self, cli, build):
        found = cli("logs", build)
        assert (found.exit_code, found.stdout) == (0, "")
        assert "there is no log yet" in found.stderr


class TestRequests:
    def test_cancel(self, cli, build, folder):
        assert "is cancelled" in cli("cancel", build).output
        found = rows(database_in(folder / "state"), schema.build, id=build)[0]
        assert found.state == "canceled"
        assert "ended already" in complaint(cli("cancel", build))

    def test_recheck(self, cli, build, folder):
        assert "recheck of 12,1 is noted" in cli("recheck", "12", "unit").output
        (event,) = rows(database_in(folder / "state"), schema.event)
        assert event.payload["texts"] == ["recheck unit"]

    def test_recheck_of_an_unknown_change(self, cli, build):
        assert "change 99 was never tested here" in complaint(cli("recheck", "99"))

    def test_recheck_of_no_number(self, cli):
        found = cli("recheck", "twelve")
        assert (found.exit_code, "Traceback" in found.output) == (2, False)


@pytest.mark.parametrize("verb", [[], *[[name] for name in main.commands], ["config", "check"]])
def test_every_verb_has_its_help(cli, verb):
    found = cli(*verb, "--help")
    assert found.exit_code == 0
    assert found.output.startswith("Usage: ")


def test_a_wrong_log_level_is_said(cli):
    found = cli("--log-level", "LOUD", "config", "check")
    assert found.exit_code != 0
    assert "Traceback" not in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit)


def test_ids_are_stable_over_versions():
    assert builds.make_id("buildset", "review", 12, 1, "check", 0) == "812922b59d56"
