# SPDX-License-Identifier: Apache-2.0
"""How a real Gerrit shows votes that it copied, and that ours tell them from votes on this sha."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ci.cli import main
from ci.clock import FakeClock
from ci.gerrit.facts import OPTIONS, change_facts
from ci.gerrit.rest import GerritRest
from ci.layout import Connection
from ci.model.facts import ChangeFacts
from ci.sandbox.account import ReviewServer
from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from ci.triggers import Known, explain, match
from tests.kit.core import event, layout
from tests.kit.sandbox_host import SandboxHost

# Whichever test comes first starts the real server.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


class Scene:
    """A project of its own, its author (an administrator), and a second account that votes."""

    def __init__(self, gerrit: RealGerrit | SandboxHost, folder: Path) -> None:
        self.gerrit = gerrit
        self.project = f"votes/{uuid.uuid4().hex[:8]}"
        gerrit.create_project(self.project)
        voter = gerrit.create_account("vera", "Vera", stream_events=False, vote=True)
        self.author = Pusher(gerrit.admin, self.project, folder / "author")
        self.voter = Pusher(voter, self.project, folder / "voter")
        self.rest = GerritRest(_connection(gerrit.ci), gerrit.ci.password)

    def facts(self, change: PushedChange) -> ChangeFacts:
        return change_facts(self.rest, self.project, change.number)

    def reword(self, change: PushedChange) -> PushedChange:
        """The next patch set, with another message and the same code."""
        time.sleep(1.1)  # dates are whole seconds
        return self.author.amend(change, subject=f"Reworded {uuid.uuid4().hex[:6]}")


def _connection(account: ReviewServer) -> Connection:
    return Connection.model_validate(
        {
            "name": "real",
            "server": account.host,
            "port": account.ssh_port,
            "user": account.user,
            "key-file": account.key_file,
            "known-hosts": account.known_hosts,
            "url": account.url,
            "password": {"from-env": "UNUSED"},
        }
    )


@pytest.fixture
def scene(real_gerrit: RealGerrit, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(real_gerrit, tmp_path)
    yield made
    made.rest.close()


@pytest.fixture(params=["sandbox_host", "real_gerrit"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """The real server, and the sandbox that stands for it."""
    made = Scene(request.getfixturevalue(request.param), tmp_path)
    yield made
    made.rest.close()


def votes(found: ChangeFacts) -> list[tuple[str, int, str]]:
    return sorted((one.label, one.value, one.by.username) for one in found.approvals)


def copied(found: ChangeFacts) -> list[tuple[str, int, str]]:
    return sorted((one.label, one.value, one.by.username) for one in found.copied)


VERIFIED = ("Verified", 1, "vera")


def test_a_vote_on_this_patch_set_counts(either: Scene):
    change = either.author.push_change("Fix", {"a": "1\n"}, options=["topic=xen", "t=lab"])
    either.voter.review(change, "good\n\nPatch Set 1: Code-Review+2", labels={"Verified": 1})
    either.author.review(change, "", labels={"Code-Review": 2})
    found = either.facts(change)
    assert votes(found) == [("Code-Review", 2, "admin"), VERIFIED]
    assert found.copied == ()
    assert (found.patchset.revision, found.patchset.uploader) == (change.revision, "admin")
    assert (found.change.topic, found.change.hashtags) == ("xen", ("lab",))
    assert found.change.owner_email == either.gerrit.admin.email
    assert found.change.message.startswith("Fix\n\nChange-Id: I")


def test_a_copy_after_no_code_change_bears_the_date_of_the_upload(either: Scene):
    change = either.author.push_change("Fix", {"a": "1\n"})
    either.voter.review(change, "good", labels={"Verified": 1})
    again = either.reword(change)
    found = either.facts(again)
    assert found.patchset.kind == "NO_CODE_CHANGE"
    assert either.author.votes(again) == {"vera": 1}, "the server shows it as a vote"
    assert found.approvals == ()
    assert copied(found) == [VERIFIED]
    assert found.copied[0].granted_at == found.uploaded_at, "its date does not tell the copy"


def test_a_copy_after_a_trivial_rebase(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"})
    scene.author.review(change, "good", labels={"Code-Review": 2})
    scene.author.push_branch({"other": "1\n"})
    time.sleep(1.1)
    scene.gerrit.admin.rest("POST", f"/changes/{change.id}/rebase", {})
    found = scene.facts(change)
    assert (found.patchset.number, found.patchset.kind) == (2, "TRIVIAL_REBASE")
    assert found.approvals == ()
    assert copied(found) == [("Code-Review", 2, "admin")]


def test_a_late_vote_on_an_old_patch_set_is_copied_with_its_own_date(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"})
    again = scene.reword(change)
    time.sleep(1.1)
    scene.voter.review(change, "the old one is good", labels={"Verified": 1})
    found = scene.facts(again)
    assert found.approvals == ()
    assert copied(found) == [VERIFIED]
    assert found.copied[0].granted_at is not None
    assert found.copied[0].granted_at > found.uploaded_at, "younger than the patch set it is on"


def test_whoever_votes_again_on_the_new_patch_set_counts(either: Scene):
    change = either.author.push_change("Fix", {"a": "1\n"})
    either.voter.review(change, "good", labels={"Verified": 1})
    again = either.reword(change)
    time.sleep(1.1)
    either.voter.review(again, "still good", labels={"Verified": 1})
    assert votes(either.facts(again)) == [VERIFIED]


def test_a_vote_that_comes_with_a_push_counts(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"})
    again = scene.author.amend(change, {"a": "2\n"}, options=["l=Code-Review+1"])
    assert votes(scene.facts(again)) == [("Code-Review", 1, "admin")]


def test_one_that_comes_with_a_push_and_repeats_the_last_cannot_be_told_from_a_copy(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"}, options=["l=Code-Review+1"])
    assert votes(scene.facts(change)) == [("Code-Review", 1, "admin")]
    again = scene.author.amend(change, {"a": "2\n"}, options=["l=Code-Review+1"])
    found = scene.facts(again)
    assert (votes(found), copied(found)) == ([], [("Code-Review", 1, "admin")])


def test_a_vote_that_was_taken_away_is_none(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"})
    scene.voter.review(change, "good", labels={"Verified": 1})
    scene.gerrit.admin.rest("DELETE", f"/changes/{change.id}/reviewers/vera/votes/Verified")
    found = scene.facts(change)
    assert (found.approvals, found.copied) == ((), ())


def test_a_pipeline_that_waits_for_a_vote_waits_again_after_a_copy(scene: Scene):
    rule = {"approval": [{"label": "Verified", "value": 1, "by": ["vera"]}]}
    plan = layout(require=rule, skip_kinds=[])

    def decided(change: PushedChange) -> str:
        found = scene.facts(change)
        # The layout's one project stands for the one on the server.
        shown = replace(found.change, project=plan.projects[0].name)
        happened = event(FakeClock(), change=shown, patchset=found.patchset)
        (decision,) = match(happened, plan, Known(facts=replace(found, change=shown)))
        return explain([decision])[0]

    change = scene.author.push_change("Fix", {"a": "1\n"})
    assert decided(change).startswith("check waits for Verified+1 by vera on patch set 1 (")
    scene.voter.review(change, "good", labels={"Verified": 1})
    assert decided(change).startswith("check starts unit")
    again = scene.reword(change)
    assert change.revision[:12] not in decided(again)
    assert f"waits for Verified+1 by vera on patch set 2 ({again.revision[:12]})" in decided(again)


def test_explain_asks_the_server(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    account = scene.gerrit.ci
    monkeypatch.setenv("HYPERVOUCH_TEST_PASSWORD", account.password)
    (tmp_path / "config.yaml").write_text(f"""
- hypervouch: {{state-dir: state}}
- connection:
    name: real
    server: {account.host}
    port: {account.ssh_port}
    user: {account.user}
    key-file: {account.key_file}
    known-hosts: {account.known_hosts}
    url: {account.url}
    password: {{from-env: HYPERVOUCH_TEST_PASSWORD}}
- pipeline: {{name: check, connection: real}}
- job: {{name: unit, suite: shell, run: "true", node-label: lab, files: [a]}}
- project: {{name: {scene.project}, check: {{jobs: [unit]}}}}
- provider: {{name: lab, driver: dummy, label: lab}}
""")
    change = scene.author.push_change("Fix", {"a": "1\n"})
    words = ["explain", "--config", str(tmp_path / "config.yaml"), str(change.number)]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 0, said.output
    assert f"change {change.number} of {scene.project}, branch master, NEW: Fix" in said.output
    assert "now: check starts unit: patch set 1 of change" in said.output


def test_the_options_are_ones_the_server_knows(scene: Scene):
    change = scene.author.push_change("Fix", {"a": "1\n"})
    assert scene.rest.change(scene.project, change.number, OPTIONS)["messages"]
