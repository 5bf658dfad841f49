# SPDX-License-Identifier: Apache-2.0
"""Notices are written with their cause: the verdict of a buildset, a node taken out."""

from pathlib import Path
from typing import Any

import pytest

from ci import attempt, worker
from ci.errors import MergeConflict, StorageError
from ci.store import schema
from tests.kit.core import FakeCheckout, Lab, ScriptedRunner, lab, layout, queue_buildset, rows

GOOD = "write-junit r.xml pass=2"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


def site(folder: Path, script: str = GOOD, errors: Any = (), **pipeline: Any) -> Lab:
    plan = layout(state_dir=folder, **pipeline)
    return lab(folder, FakeCheckout((script,), GOOD, errors), plan=plan)


def run(made: Lab) -> None:
    (build,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build)


def kinds(made: Lab) -> list[str]:
    return [row.kind for row in rows(made.database, schema.notice)]


class TestVerdicts:
    def test_a_verdict_is_told_with_its_builds(self, tmp_path):
        made = site(tmp_path)
        run(made)
        (row,) = rows(made.database, schema.notice)
        (buildset,) = rows(made.database, schema.buildset)
        assert (row.kind, row.key) == ("verdict", f"verdict:{buildset.id}")
        assert row.subject == "acme/virt 12,1: succeeded, Verified +1"
        assert row.facts["builds"][0]["result"] == "SUCCESS"
        assert row.occurred_at == made.clock.now()

    def test_a_silent_pipeline_tells_its_verdict_all_the_same(self, tmp_path):
        made = site(tmp_path, policy="silent")
        run(made)
        assert kinds(made) == ["verdict"]
        assert rows(made.database, schema.outbox) == []

    def test_a_merge_conflict(self, tmp_path):
        made = site(tmp_path, errors=[MergeConflict("conflict in a.py")])
        run(made)
        assert kinds(made) == ["verdict", "merge-conflict"]
        assert "conflict in a.py" in rows(made.database, schema.notice)[1].text

    def test_a_second_report_tells_nothing_new(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        made.drive(build)
        made.report(build)
        assert kinds(made) == ["verdict"]

    def test_no_notice_without_its_verdict(self, tmp_path, monkeypatch):
        made = site(tmp_path)

        def full(*_: Any, **__: Any) -> None:
            raise StorageError("disk full", retryable=True)

        monkeypatch.setattr(worker.outbox, "add", full)
        monkeypatch.setattr(made.worker._stop, "wait", lambda _: True)
        with pytest.raises(worker.Stopping):
            run(made)
        assert kinds(made) == []
        assert rows(made.database, schema.buildset)[0].state != "done"


class TestQuarantine:
    def test_a_node_that_is_taken_out_is_told_of_once(self, tmp_path):
        made = site(tmp_path)
        for count in range(1, 6):
            made.pool.note_failure("lab-1", "no disk")
            assert kinds(made) == ["quarantine"] * (count >= 3)
        made.pool.quarantine("lab-1", "still no disk")
        (row,) = rows(made.database, schema.notice)
        assert row.facts == {"node": "lab-1", "label": "lab", "reason": "no disk", "failures": 3}

    def test_and_again_when_it_had_come_back(self, tmp_path):
        made = site(tmp_path)
        for _ in range(2):
            made.pool.quarantine("lab-1", "no image")
            made.pool.note_success("lab-1")
            made.clock.advance(60)
        assert kinds(made) == ["quarantine"] * 2

    def test_a_node_nobody_knows_is_not_told_of(self, tmp_path):
        made = site(tmp_path)
        made.pool.quarantine("lab-9", "no image")
        assert kinds(made) == []
