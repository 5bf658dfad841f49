# SPDX-License-Identifier: Apache-2.0
"""Step 7 with a template of the operator's: the review is owed whatever the template does."""

from pathlib import Path

import pytest

from ci import attempt
from ci.comment import problems
from ci.store import schema
from tests.kit.core import FakeCheckout, Lab, ScriptedRunner, lab, layout, queue_buildset, rows

PASSES = "write-junit r.xml pass=2"
BREAKS = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"
GOOD = "{{ header }}\n{{ url }}\n{% for row in rows %}\n{{ row.line }}\n{% endfor %}\nAsk the lab."


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


def site(folder: Path, source: str, *scripts: str) -> Lab:
    (folder / "mine.j2").write_text(source)
    plan = layout(state_dir=folder, **{"comment-template": folder / "mine.j2"})
    return lab(folder, FakeCheckout(scripts or (PASSES,), PASSES, ()), plan=plan)


def run(made: Lab, number: int = 12) -> str:
    (build,) = queue_buildset(made.database, at=made.clock.now(), number=number)
    made.drive(build)
    return rows(made.database, schema.outbox, change_number=number)[0].message


def test_the_operators_words_are_owed(tmp_path):
    made = site(tmp_path, GOOD)
    assert run(made).endswith("\nAsk the lab.")
    assert not rows(made.database, schema.notice, kind="comment-template")


@pytest.mark.parametrize("source", ["{{ gone }}", GOOD + "\nNo errors.", ""])
def test_a_template_that_fails_costs_no_vote_and_is_told_once(tmp_path, source):
    made = site(tmp_path, source)
    for number in (12, 13):
        message = run(made, number)
        assert message.startswith("Build succeeded (check pipeline).\nAll voting jobs passed.")
        assert problems(message) == ()
    assert [row.value for row in rows(made.database, schema.outbox)] == [1, 1]
    (notice,) = rows(made.database, schema.notice, kind="comment-template")
    assert str(tmp_path / "mine.j2") in notice.text
    assert "hypervouch config check --preview" in notice.text


def test_a_failing_row_opens_at_its_test(tmp_path):
    message = run(site(tmp_path, GOOD, BREAKS))
    (line,) = (one for one in message.split("\n") if one.startswith("- "))
    assert "/#test-" in line
    assert problems(message) == ()
