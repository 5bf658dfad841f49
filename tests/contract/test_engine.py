# SPDX-License-Identifier: Apache-2.0
"""The engine's promises on both databases, kept by real processes that are really killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CHILD = Path(__file__).parents[1] / "kit" / "engine_child.py"
ROOT = CHILD.parents[2]
WHOLE = ["b1 check", "b1 baseline", "b1 repeat", "b1 reported"]
KILLED = -signal.SIGKILL


class Desk:
    """A state directory and the processes on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self._children: list[subprocess.Popen[str]] = []

    def start(self, *plan: str, executor: str = "one", home: str = "") -> subprocess.Popen[str]:
        folder = self.folder / home
        folder.mkdir(exist_ok=True)
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(folder), self.url, *plan],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "EXECUTOR": executor},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def run(self, *plan: str) -> tuple[int, str]:
        """Exit status and what it said."""
        child = self.start(*plan)
        out, err = child.communicate(timeout=120)
        assert child.returncode in {0, 3, KILLED}, err
        return child.returncode, out.strip()

    def mark(self, name: str) -> Path:
        file = self.folder / name
        file.touch()
        return file

    def until(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.02)

    def journal(self) -> list[str]:
        file = self.folder / "journal.txt"
        return file.read_text().splitlines() if file.exists() else []

    def close(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    there = request.param == "postgresql"
    made = Desk(tmp_path, request.getfixturevalue("postgresql_url") if there else "-")
    yield made
    made.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Desk]:
    """What is the same on both: tried on the quicker one."""
    made = Desk(tmp_path, "-")
    yield made
    made.close()


def test_a_build_runs_its_steps_in_order_and_once(embedded):
    assert embedded.run("submit=b1", "submit=b1", "wait=b1", "submit=b1", "stop")[0] == 0
    assert embedded.journal() == WHOLE


def test_killed_at_every_step_it_goes_on_and_is_reported_once(desk):
    places = ("begin-check", "check", "begin-baseline", "repeat", "begin-report", "report")
    for where in places:
        desk.mark(f"kill-{where}-b1")
    for _ in places:
        assert desk.run("submit=b1", "wait=b1", "idle=30")[0] == KILLED
    assert desk.run("wait=b1", "idle=0.5")[0] == 0
    assert desk.journal() == WHOLE


def test_several_builds_at_once_each_go_on(embedded):
    for number in range(1, 5):
        embedded.mark(f"hold-check-b{number}")
    child = embedded.start(*(f"submit=b{n}" for n in range(1, 5)), "idle=60")
    for number in range(1, 5):
        embedded.until(f"held-check-b{number}")
    child.kill()
    child.wait()
    for number in range(1, 5):
        (embedded.folder / f"hold-check-b{number}").unlink()
    assert embedded.run(*(f"wait=b{n}" for n in range(1, 5)), "idle=0.5")[0] == 0
    journal = embedded.journal()
    assert len(journal) == len(set(journal)) == 16


def test_two_engines_on_one_directory_are_refused(embedded):
    hold = embedded.mark("hold-check-b1")
    first = embedded.start("submit=b1", "wait=b1")
    embedded.until("held-check-b1")
    status, said = embedded.run("submit=b2")
    assert status == 3
    assert said.startswith("ConfigError: another hypervouch already runs on")
    assert "state-dir" in said
    hold.unlink()
    assert first.wait(60) == 0
    assert embedded.journal() == WHOLE


def test_stopping_leaves_the_build_to_the_next_start(desk):
    desk.mark("stopping-begin-baseline-b1")
    assert desk.run("submit=b1", "idle=2", "stop")[0] == 0
    assert desk.journal() == ["b1 check"]
    assert desk.run("wait=b1", "idle=0.5")[0] == 0
    assert desk.journal() == WHOLE


def test_what_was_never_submitted_is_found_by_reconcile(desk):
    (desk.folder / "builds.txt").write_text("b1 b2")
    status, said = desk.run("submit=b2", "reconcile", "wait=b1", "wait=b2", "reconcile")
    assert status == 0
    assert said.splitlines()[-1] == "lost="
    assert "b1" in said.splitlines()[0]
    journal = desk.journal()
    assert len(journal) == len(set(journal)) == 8


def test_reconcile_leaves_alone_what_runs(embedded):
    (embedded.folder / "builds.txt").write_text("b1")
    hold = embedded.mark("hold-check-b1")
    child = embedded.start("submit=b1", "idle=1", "reconcile", "wait=b1")
    embedded.until("held-check-b1")
    time.sleep(2)
    hold.unlink()
    out, _ = child.communicate(timeout=60)
    assert out.splitlines()[0] == "lost="
    assert embedded.journal() == WHOLE


def test_a_full_disk_under_the_engine_costs_time_and_no_build(embedded):
    (embedded.folder / "builds.txt").write_text("b1")
    embedded.mark("full-check-b1")
    status, said = embedded.run("submit=b1", "idle=2", "reconcile", "wait=b1", "stop")
    assert status == 0
    assert said.splitlines()[0] == "lost=b1"
    assert embedded.journal() == WHOLE


def test_what_is_forgotten_may_be_submitted_anew(embedded):
    status, said = embedded.run("submit=b1", "wait=b1", "forget=b1", "submit=b1", "idle=1")
    assert status == 0
    assert said == "finished="
    assert embedded.journal() == WHOLE
