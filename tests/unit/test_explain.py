# SPDX-License-Identifier: Apache-2.0
"""`hypervouch explain`: a change's present state on the server, and what is stored of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import paramiko
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from ci import app, explain
from ci.cli import main
from ci.clock import FakeClock
from ci.gerrit.rest import GerritRest
from ci.store import events, schema
from ci.store.builds import NewBuildset, add_buildset
from tests.kit.core import GERRIT, change, database_in, event, job, patchset
from tests.kit.fake_rest import reply

# A library that it needs starts a process when it is first imported: not inside a unit test.
assert app

CONNECTION = """
- connection:
    name: {name}
    server: {name}.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://{name}.example.org/
    password: {{from-env: HYPERVOUCH_TEST_PASSWORD}}
"""
LAYOUT = """
- hypervouch: {state-dir: state}
- pipeline: {name: check, connection: review}
- pipeline:
    name: gate
    connection: review
    require: {approval: [{label: Verified, value: 1, by: [zuul]}]}
- job: {name: unit, suite: shell, run: "true", node-label: lab, irrelevant-files: [docs/]}
- project: {name: acme/virt, check: {jobs: [unit]}, gate: {jobs: [unit]}}
- provider: {name: lab, driver: dummy, label: lab}
"""
REVISION = "1" * 40
PATCHSET = "patch set 1 of change 12"
ANN = {"_account_id": 1, "name": "Ann", "username": "ann"}
CHANGE = {
    "project": "acme/virt",
    "branch": "main",
    "change_id": "I" + "a" * 40,
    "_number": 12,
    "subject": "Fix \x1b[31mit",
    "status": "NEW",
    "owner": ANN,
    "current_revision": REVISION,
    "revisions": {
        REVISION: {
            "_number": 1,
            "kind": "REWORK",
            "ref": "refs/changes/12/12/1",
            "created": "2026-01-01 00:00:00.000000000",
            "uploader": ANN,
            "commit": {"message": "Fix"},
        }
    },
    "labels": {
        "Verified": {
            "all": [{**ANN, "username": "zuul", "value": 1, "date": "2026-01-01 00:00:00.0"}]
        }
    },
    "messages": [],
}

Cli = Callable[..., Result]


class Gerrit:
    """Answers as a server that has change 12."""

    def __init__(self) -> None:
        self.files = {"/COMMIT_MSG": {}, "src/a.py": {}}
        self.away = False
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.url.host}{request.url.path}")
        if self.away:
            raise httpx.ConnectError("refused")
        path = request.url.path
        if path == "/a/changes/":
            return reply([CHANGE] if request.url.params["q"] == "change:12" else [])
        if path.endswith("/files"):
            return reply(self.files)
        if path == "/a/accounts/self":
            return reply({"username": "acme-ci", "name": "Acme CI"})
        return reply(CHANGE)


@pytest.fixture
def gerrit(monkeypatch: pytest.MonkeyPatch) -> Gerrit:
    made = Gerrit()

    def rest(connection: Any, password: str) -> GerritRest:
        return GerritRest(connection, password, transport=httpx.MockTransport(made.answer))

    monkeypatch.setattr(explain, "GerritRest", rest)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERVOUCH_TEST_PASSWORD", "s3cret")
    (tmp_path / "c.yaml").write_text(LAYOUT + CONNECTION.format(name="review"))
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "key"))
    (tmp_path / "hosts").write_text("review.example.org ssh-ed25519 AAAA\n")
    return tmp_path


@pytest.fixture
def cli(folder: Path, gerrit: Gerrit) -> Cli:
    assert gerrit
    environment = {"HYPERVOUCH_CONFIG": str(folder)}
    return lambda *words: CliRunner().invoke(main, ["explain", *words], env=environment)


def complaint(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def test_a_change_that_nothing_is_stored_of(cli: Cli) -> None:
    found = cli("12")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines() == [
        "change 12 of acme/virt, branch main, NEW: Fix [31mit",
        f"patch set 1, {REVISION}, REWORK",
        "copied from an older patch set, so they do not count: Verified+1 of zuul",
        "now: check starts unit: patch set 1 of change 12 was uploaded.",
        f"after `recheck`: check starts unit: somebody asked for a recheck of {PATCHSET}.",
        "now: gate waits for Verified+1 by zuul on patch set 1 (111111111111).",
        "after `recheck`: gate waits for Verified+1 by zuul on patch set 1 (111111111111).",
        "nothing is stored of it here",
    ]


def test_its_files_are_asked_for_or_given(cli: Cli, gerrit: Gerrit) -> None:
    gerrit.files = {"docs/a.rst": {}}
    assert "check does not start: every changed file matches" in cli("12").output
    assert "check starts unit" in cli("12", "--file", "src/x.py").output


def test_what_ran_and_was_decided(cli: Cli, folder: Path) -> None:
    database, clock = database_in(folder / "state"), FakeClock()
    events.store(database, event(clock), received_at=clock.now(), move_watermark=False)
    with database.write() as tx:
        tx.execute(sa.update(schema.event).values(decision="check starts unit: it was uploaded."))
        facts = {"status": "NEW", "patchset": 1, "updated_at": clock.now(), "seen_at": clock.now()}
        known = {"connection": GERRIT, "number": 12, "change_id": "I1", "subject": "Fix"}
        where = {"project": "acme/virt", "branch": "main", "owner": "ann", "url": "u"}
        tx.execute(sa.insert(schema.change).values(**known, **where, **facts))
        new = NewBuildset(
            connection=GERRIT,
            change=change(),
            patchset=patchset(),
            pipeline="check",
            jobs=(job(),),
            event_id=None,
            reason="why",
        )
        add_buildset(tx, new, at=clock.now())
    database.close()
    lines = cli("12").output.splitlines()
    assert "now: check does not start: run 0 of this patch set is queued." in lines
    assert lines[-1] == (
        "2026-01-01 00:00:00 UTC, patchset-created by ann: check starts unit: it was uploaded."
    )


def test_an_unknown_change(cli: Cli) -> None:
    said = complaint(cli("99"))
    assert "change 99 is not on https://review.example.org/" in said
    assert "acme-ci may not see it" in said


def test_a_server_that_is_away_is_one_clear_error(cli: Cli, gerrit: Gerrit) -> None:
    gerrit.away = True
    said = complaint(cli("12"))
    assert "https://review.example.org/ does not answer" in said
    assert len(said.strip().splitlines()) == 2


def test_a_file_that_is_not_there(cli: Cli) -> None:
    said = complaint(cli("nothing.json"))
    assert "nothing.json cannot be read" in said
    assert "the number of a change" in said


class TestSeveralConnections:
    @pytest.fixture(autouse=True)
    def _second(self, folder: Path) -> None:
        (folder / "d.yaml").write_text(
            CONNECTION.format(name="mirror")
            + "- pipeline: {name: copy, connection: mirror}\n"
            + "- project: {name: acme/else, copy: {jobs: [unit]}}\n"
        )
        (folder / "hosts").write_text(
            "review.example.org ssh-ed25519 AAAA\nmirror.example.org ssh-ed25519 AAAA\n"
        )

    def test_one_has_to_be_named(self, cli: Cli) -> None:
        said = complaint(cli("12"))
        assert "may be on several servers" in said
        assert "review, mirror" in said or "mirror, review" in said

    def test_only_its_own_pipelines_are_told(self, cli: Cli, gerrit: Gerrit) -> None:
        found = cli("12", "--connection", "mirror").output
        assert {one.partition("/")[0] for one in gerrit.asked} == {"mirror.example.org"}
        assert "copy does not start: project acme/virt does not use" in found
        assert ": check" not in found

    def test_one_that_is_not_there(self, cli: Cli) -> None:
        assert "there is no connection x" in complaint(cli("12", "--connection", "x"))
