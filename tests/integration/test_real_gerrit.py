# SPDX-License-Identifier: Apache-2.0
"""The kit's real Gerrit survives what the tests do to it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from ci.sandbox.author import Pusher
from ci.sandbox.real.server import RealGerrit

pytestmark = pytest.mark.integration


def test_a_crash_directly_after_a_vote_loses_nothing(real_gerrit: RealGerrit, tmp_path: Path):
    project = f"crash/{uuid.uuid4().hex[:8]}"
    real_gerrit.create_project(project)
    author = Pusher(real_gerrit.admin, project, tmp_path / "author")
    change = author.push_change("Fix", {"a": "1\n"})
    Pusher(real_gerrit.ci, project, tmp_path / "ci").review(change, "ok", labels={"Verified": 1})
    ports = (real_gerrit.ssh_port, real_gerrit.http_port)
    real_gerrit.kill()
    assert real_gerrit.pid is None
    real_gerrit.start()
    real_gerrit.start()
    assert (real_gerrit.ssh_port, real_gerrit.http_port) == ports
    assert author.votes(change) == {real_gerrit.ci_user: 1}
    found = real_gerrit.rest("GET", f"/changes/?q=project:{project}")
    assert [one["_number"] for one in found] == [change.number]


def test_another_process_sees_it_run(real_gerrit: RealGerrit):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ci.sandbox.real.server", "status", "--json"),
            *("--site", str(real_gerrit.site.path)),
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        capture_output=True,
        timeout=60,
        check=True,
    )
    known = json.loads(done.stdout)
    assert known["running"] is True
    assert known["url"] == real_gerrit.url
    assert known["ci_user"] == "hypervouch-ci"
