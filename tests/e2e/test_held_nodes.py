# SPDX-License-Identifier: Apache-2.0
"""Guests that somebody holds live through restarts of `serve`, and end when their hold does."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.sandbox.author import PushedChange, Pusher
from nodes.images import machine
from tests.kit.installation import GOOD, ROOT, SUITE, Installation
from tests.kit.node_sources import require_qemu
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BUILD_S = 240.0
HOURS = 3600
# Long enough for two commands of ours to be started meanwhile, on a machine that is busy.
SLOW = f"{GOOD}watch sleep 25\n"
BOTH = ("guest-1", "guest-2")


@pytest.fixture
def ci(sandbox_host: SandboxHost, tmp_path: Path) -> Iterator[Installation]:
    """Two guests, each with a build that runs long enough for both to be held."""
    require_qemu()
    project = f"held-{time.time_ns()}"
    sandbox_host.create_project(project)
    author = Pusher(sandbox_host.admin, project, tmp_path / "author")
    author.push_branch({"suite.py": SUITE, "cases.txt": SLOW}, subject="Base")
    guests = {"driver": "qemu", "slots": len(BOTH), "warm": 1}
    other = {"name": "other", "suite": "driver", "run": "python3 suite.py"}
    made = Installation(
        sandbox_host.ci,
        tmp_path / "ci",
        project,
        job={"node-label": "guest"},
        items=[
            {"provider": {"name": "guest", "label": "guest", **guests}},
            {"job": {**other, "results": ["junit.xml"], "node-label": "guest"}},
        ],
        project_keys={"check": ["suite", "other"]},
    )
    made.start()
    change = author.push_change("Change it", {"cases.txt": f"{SLOW}one pass\n"})
    made.wait(lambda: nodes_of(made, change) == set(BOTH), BUILD_S, "both builds to have a guest")
    for node, length in zip(BOTH, ("1h", "8h"), strict=True):
        verb(made, "hold", node, "--for", length, "--why", "why does it not boot")
    said = made.wait_for_comments(author, change, seconds=BUILD_S)
    assert said.vote == 1, said.comments
    yield made
    made.stop()
    for pid in running(made).values():  # of a test that failed
        os.kill(pid, signal.SIGKILL)


def nodes_of(ci: Installation, change: PushedChange) -> set[str]:
    details = [ci.get(f"builds/{one['id']}.json")["detail"] for one in ci.builds(change)]
    return {one["node"] for detail in details for one in detail["attempts"]}


def verb(ci: Installation, *words: str, check: bool = True) -> str:
    argv = [sys.executable, "-m", "ci.cli", "nodes", words[0], "-c", str(ci.config), *words[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def running(ci: Installation) -> dict[str, int]:
    """Pids of QEMUs by their slot."""
    folders = ci.directory.glob("state/nodes/guest/guest-*")
    return {folder.name: pid for folder in folders for pid, _ in machine.running_in(folder)}


def boot_of(ci: Installation, node: str) -> str:
    """What tells this boot of a guest from any other, by the login that the operator is told."""
    (line,) = [one for one in verb(ci, "list").splitlines() if one.startswith(f"{node} is held")]
    argv = [*shlex.split(line.partition("; ")[2]), "cat /proc/sys/kernel/random/boot_id"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_held_guest_lives_through_restarts_and_ends_with_its_hold(ci: Installation):
    held, boots = running(ci), {node: boot_of(ci, node) for node in BOTH}
    assert ci.stop() == 0
    assert running(ci) == held
    assert {node: boot_of(ci, node) for node in BOTH} == boots
    ci.start()
    assert {node: boot_of(ci, node) for node in BOTH} == boots
    verb(ci, "return", BOTH[1])
    ci.wait(lambda: running(ci).get(BOTH[1]) != held[BOTH[1]], 60, "the returned one to end")
    assert boot_of(ci, BOTH[0]) == boots[BOTH[0]]
    ci.stop()
    ci.set_clock(2 * HOURS)
    ci.start()
    ci.wait(lambda: held[BOTH[0]] not in running(ci).values(), 60, "the one whose time is over")
    ci.stop()
    assert running(ci) == {}
