# SPDX-License-Identifier: Apache-2.0
"""`hypervouch doctor` against a real Gerrit: what is wrong is named, with the fix."""

from pathlib import Path
from typing import Any

import pytest

from ci.app import load_layout
from ci.doctor import Finding, examine
from ci.sandbox.account import ReviewServer
from ci.sandbox.author import Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit.installation import PASSWORD_VARIABLE, Installation

pytestmark = pytest.mark.integration
PROJECT = "doctor"


@pytest.fixture(scope="module")
def project(real_gerrit: RealGerrit, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A project with one open change, to ask about its labels."""
    real_gerrit.create_project(PROJECT)
    author = Pusher(real_gerrit.admin, PROJECT, tmp_path_factory.mktemp("author"))
    author.push_change("Open", {"a.txt": "a\n"})
    return PROJECT


@pytest.fixture
def examined(project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(server: ReviewServer, **options: Any) -> dict[str, Finding]:
        installation = Installation(server, tmp_path / "ci", project, **options)
        monkeypatch.setenv(PASSWORD_VARIABLE, server.password)
        found = {one.what: one for one in examine(load_layout(installation.config))}
        return {what.removeprefix("connection gerrit, "): one for what, one in found.items()}

    return run


def test_all_is_well(real_gerrit: RealGerrit, examined):
    found = examined(real_gerrit.ci)
    assert [one for one in found.values() if not one.good] == []
    assert found["label Verified on doctor"].message.endswith("may give +1, -1")


def test_a_label_that_does_not_exist(real_gerrit: RealGerrit, examined):
    found = examined(real_gerrit.ci, pipeline={"label": "Verifyed"})
    one = found["label Verifyed on doctor"]
    assert not one.good
    assert one.message.startswith("doctor has no label Verifyed")


def test_a_vote_out_of_range(real_gerrit: RealGerrit, examined):
    one = examined(real_gerrit.ci, pipeline={"success": 2})["label Verified on doctor"]
    assert (one.good, "may not give Verified +2" in one.message) == (False, True)
    assert "Label Verified" in one.hint


def test_an_account_without_rights(real_gerrit: RealGerrit, examined):
    plain = real_gerrit.create_account("plain", "Plain Person", stream_events=False, vote=False)
    found = examined(plain)
    wrong = {what for what, one in found.items() if not one.good}
    assert wrong == {
        "SSH and the right Stream Events",
        "REST and account",
        "label Verified on doctor",
    }
    assert "' CI'" in found["REST and account"].message


def test_a_wrong_password(real_gerrit: RealGerrit, examined):
    found = examined(real_gerrit.ci.but(password="wrong"))
    assert not found["REST and account"].good
    assert "HTTP password" in found["REST and account"].hint
    assert found["SSH and the right Stream Events"].good


def test_a_pipeline_that_only_comments_needs_no_right_to_vote(real_gerrit: RealGerrit, examined):
    found = examined(real_gerrit.ci, pipeline={"policy": "comment"})
    assert not [what for what in found if what.startswith("label")]
