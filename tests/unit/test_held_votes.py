# SPDX-License-Identifier: Apache-2.0
"""The ladder's third rung: a pipeline that may say +1, and whose -1 waits for an operator."""

from pathlib import Path
from typing import Any

import pytest

from ci import attempt
from ci.store import schema
from tests.kit.core import FakeCheckout, ScriptedRunner, lab, layout, queue_buildset, rows

GOOD = "write-junit r.xml pass=2"
BAD = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


def judged(folder: Path, patched: str, **pipeline: Any) -> tuple[Any, list[Any]]:
    """What is owed after a patch was tested, and the notices of votes held back."""
    plan = layout(state_dir=folder, **pipeline)
    made = lab(folder, FakeCheckout((patched,), GOOD, ()), plan=plan)
    (build,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build)
    (row,) = rows(made.database, schema.outbox)
    return row, list(rows(made.database, schema.notice, kind="held-vote"))


@pytest.mark.parametrize(
    ("patched", "policy", "expected"),
    [
        (BAD, "plus-one-only", (-1, "held")),
        (GOOD, "plus-one-only", (1, "pending")),
        (BAD, "vote", (-1, "pending")),
        (BAD, "comment", (None, "pending")),
    ],
)
def test_only_a_minus_one_of_that_rung_is_held(tmp_path, patched, policy, expected):
    row, told = judged(tmp_path, patched, policy=policy)
    assert (row.value, row.state) == expected
    assert len(told) == (row.state == "held")


@pytest.mark.parametrize("stale", ["drop", "comment"])
def test_the_policy_for_old_patch_sets_goes_with_the_review(tmp_path, stale):
    row, _ = judged(tmp_path, GOOD, stale=stale)
    assert row.stale == stale


def test_the_projects_own_label_is_voted_on(tmp_path):
    row, _ = judged(tmp_path, GOOD, label="CI-Verified", success=2)
    assert (row.label, row.value) == ("CI-Verified", 2)
