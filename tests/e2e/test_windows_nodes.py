# SPDX-License-Identifier: Apache-2.0
"""A job on a `windows` node, from a pushed change to a vote: provider, WinRM runner, judge, page.

The node is our emulator of Windows' remote shells: this shows the way of a build, not Windows.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ci.sandbox.author import Pusher
from nodes.lab.apis import HOST, USER
from tests.kit import winrs
from tests.kit.installation import GOOD, SUITE, Installation
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
BAD = GOOD.replace("resume pass", "resume fail")
BUILD_S = 90.0


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[winrs.Winrs]:
    with winrs.running(tmp_path / "windows") as stand_in:
        yield stand_in


def test_a_patch_is_judged_by_what_a_windows_node_says(
    sandbox_host: SandboxHost, windows: winrs.Winrs, tmp_path: Path
):
    project = f"windows-{time.time_ns()}"
    sandbox_host.create_project(project)
    author = Pusher(sandbox_host.admin, project, tmp_path / "author")
    author.push_branch({"suite.py": SUITE, "cases.txt": GOOD}, subject="Base")
    node = {
        "name": "win",
        "driver": "windows",
        "label": "win",
        "host": HOST,
        "port": windows.endpoint(tmp_path).port,
        "user": USER,
        "password": {"from-file": str(windows.host.password_file)},
        "auth": "basic",
        "ca-file": str(windows.host.ca_file),
        "workdir": str(tmp_path / "node" / "work"),
        "grade": "emulator",
        "emulator-may-vote": True,
    }
    ci = Installation(
        sandbox_host.ci,
        tmp_path / "ci",
        project,
        job={"node-label": "win", "trusted": None, "timeout-s": BUILD_S},
        items=[{"provider": node}],
    )
    ci.start()
    try:
        change = author.push_change("Break a case", {"cases.txt": BAD})
        said = ci.wait_for_comments(author, change, seconds=BUILD_S)
        assert said.vote == -1, said
        assert "emulator" in said.comments[0]
        build = ci.builds(change)[0]
        log = httpx.get(f"{ci.url}builds/{build['id']}/log", trust_env=False).text
        assert "case resume fail" in log
        assert "win-1" in log
        assert windows.host.password() not in log
    finally:
        ci.stop()
    kept = [path for path in (tmp_path / "ci").rglob("*") if path.is_file()]
    password = windows.host.password().encode()
    assert not [path for path in kept if password in path.read_bytes()]
