# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: suites as children, evidence in the demo's matrix, and what is left."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ci import proc
from ci.demo import guard, lab, lab_turn
from ci.demo.lab import Plan
from ci.demo.lab_turn import Place
from ci.model.result import Grade
from ci.store import schema
from ci.store.database import Database
from nodes.images.build import Progress
from nodes.lab import table
from nodes.lab.table import LabNode, Reach
from tests.kit.core import database_in, rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Stub(LabNode):
    """A node whose hypervisor is the dummy; `lab up` of it is a child that does what it is told."""

    def __init__(self, url: str, script: str = "") -> None:
        super().__init__("stub", "a stub")
        self.url = url
        self.script = script or "import sys; print(f'stub: starting')"
        self.ended: list[Path] = []

    def lacks(self) -> tuple[str, ...]:
        return ()

    def up(self, folder: Path, say: Progress) -> None:
        raise AssertionError

    def down(self, folder: Path) -> None:
        self.ended.append(folder)

    def reach(self, folder: Path) -> Reach | None:
        return Reach(urls=(self.url,), grade=Grade.EMULATOR)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = database_in(tmp_path)
    yield made
    made.close()


@pytest.fixture
def place(tmp_path: Path, database: Database) -> Place:
    return Place(
        folder=tmp_path / "folder",
        kept=tmp_path / "kept",
        database=database,
        console=Console(file=io.StringIO(), width=200),
        asked=threading.Event(),
    )


def show(stub: Stub, place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    monkeypatch.setattr(table, "LAB", {"stub": stub})
    spawn = proc.spawn

    def spawned(argv: list[str], **more: object) -> proc.Process:
        if argv[3:5] == ["lab", "up"]:
            argv = [sys.executable, "-c", stub.script]
        return spawn(argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(proc, "spawn", spawned)
    good = lab.show(Plan(nodes=(stub,), left_out={}), place)
    assert isinstance(place.console.file, io.StringIO)
    return good, place.console.file.getvalue()


def test_what_the_suite_showed_is_evidence_with_its_grade(place, monkeypatch):
    stub = Stub("dummy:///a?unsupported=operation.suspend")
    good, screen = show(stub, place, monkeypatch)
    assert good, screen
    found = rows(place.database, schema.evidence, feature="operation.launch")
    assert {(row.system, row.grade, row.shown) for row in found} == {("dummy", "emulator", "works")}
    said = rows(place.database, schema.evidence, feature="operation.suspend")
    assert {row.shown for row in said} == {"unsupported"}
    assert "test_launch" in screen, "live lines"
    assert "stub: starting" in screen
    assert place.folder / "stub" in stub.ended
    assert "operation.launch" in (place.kept / "stub.log").read_text(), "the suite's own table"
    assert (place.kept / "stub-dummy.json").is_file(), "for `matrix add`"


def test_a_hypervisor_that_dies_leaves_no_evidence(place, monkeypatch):
    good, screen = show(Stub("dummy:///a?dies=12"), place, monkeypatch)
    assert not good
    assert "no evidence: " in screen
    assert rows(place.database, schema.evidence) == []
    assert not list(place.kept.glob("*.json"))


def test_a_suite_without_an_end_is_ended_and_told(place, monkeypatch):
    monkeypatch.setattr(lab_turn, "SUITE_LIMIT_S", 3.0)
    good, screen = show(Stub("dummy:///a?slow=2"), place, monkeypatch)
    assert not good
    assert "no evidence: it was not done after 3 s" in screen


def test_one_that_does_not_come_up_is_told_in_a_line(place, monkeypatch):
    broken = "print('hypervouch: dockerd did not start'); print('  fix: look at its log'); exit(1)"
    stub = Stub("dummy:///a", broken)
    good, screen = show(stub, place, monkeypatch)
    assert not good
    assert "lab stub: not tested: dockerd did not start; look at its log" in screen
    assert rows(place.database, schema.evidence) == []
    assert place.folder / "stub" in stub.ended


@pytest.mark.parametrize("when", ["up", "suite"])
def test_ctrl_c_ends_what_is_under_way_and_the_node(place, monkeypatch, when):
    stub = Stub("dummy:///a?slow=2", "import time; time.sleep(60)" if when == "up" else "")
    timer = threading.Timer(1.5 if when == "up" else 4.0, place.asked.set)
    timer.start()
    good, screen = show(stub, place, monkeypatch)
    timer.join()
    assert not good
    assert lab_turn.INTERRUPTED in screen
    assert place.folder / "stub" in stub.ended
    assert rows(place.database, schema.evidence) == []


def test_a_demo_that_is_killed_leaves_no_process_and_no_folder(tmp_path):
    """The guard is a process of its own: the demo here is one that starts a child and is killed."""
    directory, nodes = tmp_path / "demo", tmp_path / "lab"
    directory.mkdir()
    nodes.mkdir()
    demo = subprocess.Popen(
        [sys.executable, "-c", _DEMO, str(directory), str(nodes)], stdout=subprocess.PIPE
    )
    assert demo.stdout is not None
    child = int(demo.stdout.readline())
    born = proc.start_tick(child)
    assert born
    os.kill(demo.pid, signal.SIGKILL)
    demo.wait(timeout=30)
    demo.stdout.close()
    for _ in proc.wait_until(time.monotonic() + 120):
        if not (proc.is_running(child, born) or directory.exists() or nodes.exists()):
            break
    assert not proc.is_running(child, born)
    assert not directory.exists()
    assert not nodes.exists()


_DEMO = """
import sys, time
from pathlib import Path
from ci import proc
from ci.demo.guard import guarded
with guarded(Path(sys.argv[1]), Path(sys.argv[2]), keep=False):
    print(proc.spawn(["sleep", "300"]).pid, flush=True)
    time.sleep(300)
"""


def test_a_demo_that_ends_by_itself_ends_its_guard(tmp_path):
    before = threading.active_count()
    with guard.guarded(tmp_path, tmp_path / "lab", keep=True):
        assert os.environ[guard.MARK]
    assert guard.MARK not in os.environ
    assert threading.active_count() == before
    assert tmp_path.is_dir()
