# SPDX-License-Identifier: Apache-2.0
"""A job on a `windows` node, from a pushed change to a vote: provider, runner, judge, page.

The node is our emulator of Windows' remote shells, or of its cmd.exe behind a real OpenSSH: this
shows the way of a build, not Windows.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from ci.sandbox.author import Pusher
from nodes.lab.apis import HOST, USER
from tests.kit import sshd, winrs, winssh
from tests.kit.installation import GOOD, SUITE, Installation
from tests.kit.require import require
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
BAD = GOOD.replace("resume pass", "resume fail")
BUILD_S = 90.0
Reached = Callable[[Path], AbstractContextManager[tuple[dict[str, object], bytes]]]


@contextmanager
def over_winrm(home: Path) -> Iterator[tuple[dict[str, object], bytes]]:
    with winrs.running(home) as stand_in:
        login = {
            "host": HOST,
            "port": stand_in.endpoint(home).port,
            "user": USER,
            "password": {"from-file": str(stand_in.host.password_file)},
            "auth": "basic",
            "ca-file": str(stand_in.host.ca_file),
        }
        yield login, stand_in.host.password().encode()


@contextmanager
def over_ssh(home: Path) -> Iterator[tuple[dict[str, object], bytes]]:
    try:
        sshd.binary()
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    with winssh.running(home) as stand_in:
        node = stand_in.endpoint(home)
        assert node.key_file is not None
        login = {
            "transport": "ssh",
            "host": node.host,
            "port": node.port,
            "user": node.user,
            "key-file": str(node.key_file),
            "known-hosts": str(node.known_hosts),
        }
        yield login, node.key_file.read_bytes()


@pytest.mark.parametrize("reached", [over_winrm, over_ssh])
def test_a_patch_is_judged_by_what_a_windows_node_says(
    sandbox_host: SandboxHost, reached: Reached, tmp_path: Path
):
    project = f"windows-{time.time_ns()}"
    sandbox_host.create_project(project)
    author = Pusher(sandbox_host.admin, project, tmp_path / "author")
    author.push_branch({"suite.py": SUITE, "cases.txt": GOOD}, subject="Base")
    with reached(tmp_path / "windows") as (login, secret):
        node = {
            "name": "win",
            "driver": "windows",
            "label": "win",
            **login,
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
            assert secret not in log.encode()
        finally:
            ci.stop()
    kept = [path for path in (tmp_path / "ci").rglob("*") if path.is_file()]
    assert not [path for path in kept if secret in path.read_bytes()]
