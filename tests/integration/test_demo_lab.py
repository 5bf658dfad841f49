# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: the suite as a child, its evidence in the demo's matrix, its end."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from ci.demo import lab
from ci.demo.lab import LabNode, Reach
from ci.errors import NodeUnavailable
from ci.model.result import Grade
from ci.store import schema
from ci.store.database import Database
from tests.kit.core import database_in, rows

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Stub:
    """A lab of one hypervisor; remembers where it was and that it was ended."""

    def __init__(self, url: str, error: Exception | None = None) -> None:
        self.url, self.error = url, error
        self.folder: Path | None = None
        self.ended = False

    @contextmanager
    def up(self, folder: Path, say: object) -> Iterator[Reach]:
        self.folder = folder
        if self.error:
            raise self.error
        yield Reach(url=self.url, grade=Grade.EMULATOR)
        self.ended = True


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = database_in(tmp_path)
    yield made
    made.close()


def show(
    stub: Stub,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    asked: threading.Event | None = None,
) -> tuple[bool, str]:
    monkeypatch.setattr(lab, "LAB", {"stub": LabNode(lacks=lambda: (), up=stub.up)})
    screen = io.StringIO()
    good = lab.show(
        ("stub",), database, Console(file=screen, width=200), asked or threading.Event()
    )
    return good, screen.getvalue()


def test_what_the_suite_showed_is_evidence_with_its_grade(database, monkeypatch):
    stub = Stub("dummy:///a?unsupported=operation.suspend")
    good, screen = show(stub, database, monkeypatch)
    assert good, screen
    found = rows(database, schema.evidence, feature="operation.launch")
    assert {(row.system, row.grade, row.shown) for row in found} == {("dummy", "emulator", "works")}
    said = rows(database, schema.evidence, feature="operation.suspend")
    assert {row.shown for row in said} == {"unsupported"}
    assert "test_launch" in screen, "live lines"
    assert stub.ended
    assert stub.folder is not None
    assert not stub.folder.exists()


def test_a_hypervisor_that_dies_leaves_no_evidence(database, monkeypatch):
    stub = Stub("dummy:///a?dies=12")
    good, screen = show(stub, database, monkeypatch)
    assert not good
    assert "not tried" in screen
    assert rows(database, schema.evidence) == []


def test_one_that_does_not_come_up_is_told_in_a_line(database, monkeypatch):
    stub = Stub("dummy:///a", NodeUnavailable("dockerd did not start", hint="look at its log"))
    good, screen = show(stub, database, monkeypatch)
    assert not good
    assert "lab stub: not tested: dockerd did not start (look at its log)" in screen
    assert rows(database, schema.evidence) == []


def test_ctrl_c_ends_the_suite_and_the_node(database, monkeypatch):
    asked = threading.Event()
    stub = Stub("dummy:///a?slow=2")
    threading.Timer(4.0, asked.set).start()
    good, _ = show(stub, database, monkeypatch, asked)
    assert not good
    assert stub.ended
    assert stub.folder is not None
    assert not stub.folder.exists()
