# SPDX-License-Identifier: Apache-2.0
"""Step 3: events become queued builds, whole or not at all, and nothing is lost on the way."""

import pytest
import sqlalchemy as sa

from ci.errors import ReviewServerError
from ci.gerrit.rest import RestError
from ci.model.change import Change
from ci.model.event import Account, EventKind
from ci.store import backlog, builds, events, schema
from tests.kit.core import (
    Planning,
    comment,
    event,
    finish,
    job,
    layout,
    patchset,
    planning,
    queue_buildset,
    rows,
    run,
    take,
)


def test_an_upload_queues_a_buildset_with_its_builds(tmp_path):
    lab = planning(tmp_path, layout(job("unit"), job("extra", voting=False)))
    assert take(lab, event(lab.clock)).startswith("check starts unit, extra")
    (made,) = rows(lab.database, schema.buildset)
    assert (made.change_number, made.patchset, made.recheck, made.state) == (12, 1, 0, "queued")
    found = rows(lab.database, schema.build, buildset_id=made.id)
    assert {(b.job_name, b.voting, b.state) for b in found} == {
        ("unit", True, "queued"),
        ("extra", False, "queued"),
    }
    assert lab.queued == [None]


def test_planning_again_changes_nothing(tmp_path):
    lab = planning(tmp_path)
    take(lab, event(lab.clock))
    assert lab.planner.plan_pending() == 0
    assert len(rows(lab.database, schema.buildset)) == 1


def test_a_crash_inside_leaves_the_event_to_be_planned(tmp_path, monkeypatch):
    lab = planning(tmp_path)
    one = event(lab.clock)
    monkeypatch.setattr(events, "mark_processed", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        take(lab, one)
    assert rows(lab.database, schema.buildset) == []
    monkeypatch.undo()
    assert lab.planner.plan_pending() == 1
    assert len(rows(lab.database, schema.buildset)) == 1


def test_no_has_its_reason_too(tmp_path):
    lab = planning(tmp_path, layout(job(irrelevant_files=["^docs/"])))
    lab.server.files = ("/COMMIT_MSG", "docs/a.rst")
    said = take(lab, event(lab.clock))
    assert said.startswith("check does not start: every changed file matches irrelevant-files")
    assert rows(lab.database, schema.build) == []
    assert rows(lab.database, schema.change)[0].number == 12


def test_an_unwatched_project_leaves_no_change(tmp_path):
    lab = planning(tmp_path)
    elsewhere = Change(project="other/thing", branch="main", number=12, change_id="I" + "b" * 40)
    assert "not in the layout" in take(lab, event(lab.clock, change=elsewhere))
    assert rows(lab.database, schema.change) == []


def test_a_newer_patch_set_cancels_queued_and_asks_running_builds(tmp_path):
    lab = planning(tmp_path, layout(job("a"), job("b")))
    take(lab, event(lab.clock))
    running, waiting = rows(lab.database, schema.build)
    with lab.database.write() as tx:
        mine = schema.build.c.id == running.id
        tx.execute(sa.update(schema.build).where(mine).values(state="running"))
    take(lab, event(lab.clock, ps=2))
    reason = "patch set 2 replaced this one"
    assert lab.canceled[-1] == ((running.id,), reason)
    now = {b.id: b for b in rows(lab.database, schema.build)}
    assert (now[running.id].state, now[running.id].cancel_reason) == ("running", reason)
    assert (now[waiting.id].state, now[waiting.id].result) == ("canceled", "CANCELED")
    states = {s.patchset: s.state for s in rows(lab.database, schema.buildset)}
    assert states == {1: "canceled", 2: "queued"}


def test_an_older_patch_set_that_comes_late_starts_nothing_and_cancels_nothing(tmp_path):
    lab = planning(tmp_path)
    take(lab, event(lab.clock, ps=2))
    assert "patch set 1 is no longer current, 2 is" in take(lab, event(lab.clock, ps=1))
    assert [s.patchset for s in rows(lab.database, schema.buildset)] == [2]
    assert rows(lab.database, schema.buildset)[0].state == "queued"
    assert rows(lab.database, schema.change)[0].patchset == 2


@pytest.mark.parametrize("kind", backlog.ENDS)
def test_the_end_of_a_change_ends_its_builds(tmp_path, kind):
    lab = planning(tmp_path)
    take(lab, event(lab.clock))
    run(lab)
    (build,) = rows(lab.database, schema.build)
    said = take(lab, event(lab.clock, kind))
    assert lab.canceled[-1] == ((build.id,), said)
    assert rows(lab.database, schema.buildset)[0].state == "canceled"


def test_a_restored_change_is_run_again(tmp_path):
    lab = planning(tmp_path)
    take(lab, event(lab.clock))
    take(lab, event(lab.clock, EventKind.CHANGE_ABANDONED))
    assert take(lab, event(lab.clock, EventKind.CHANGE_RESTORED)).startswith("check starts unit")
    assert sorted(s.recheck for s in rows(lab.database, schema.buildset)) == [0, 1]


class TestRechecks:
    def test_numbers_count_up(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        for number in (1, 2):
            finish(lab, 1)
            lab.clock.advance(60)
            assert take(lab, comment(lab.clock)).startswith("check starts unit")
            newest = max(rows(lab.database, schema.buildset), key=lambda s: s.recheck)
            assert (newest.recheck, newest.state) == (number, "queued")
        ids = {b.id for b in rows(lab.database, schema.build)}
        assert len(ids) == 3

    def test_while_one_is_open_no_second_one_starts(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        assert "under way" in take(lab, comment(lab.clock))
        assert len(rows(lab.database, schema.buildset)) == 1

    def test_of_an_older_patch_set_is_refused(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock, ps=2))
        finish(lab, 2)
        assert "no longer current" in take(lab, comment(lab.clock, ps=1))
        assert len(rows(lab.database, schema.buildset)) == 1

    def test_our_own_comment_is_none(self, tmp_path):
        lab = planning(tmp_path)
        author = Account(username="acme-ci", name="Acme CI")
        assert "our own" in take(lab, comment(lab.clock, author=author))


class TestKinds:
    def test_no_code_change_is_skipped_once_there_is_a_vote_to_copy(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        finish(lab, 1)
        same = patchset(2, kind="NO_CODE_CHANGE")
        assert "NO_CODE_CHANGE" in take(lab, event(lab.clock, ps=2, patchset=same))
        assert len(rows(lab.database, schema.buildset)) == 1

    @pytest.mark.parametrize("state", ["queued", "canceled"])
    def test_but_runs_while_there_is_none(self, tmp_path, state):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        finish(lab, 1, state)
        same = patchset(2, kind="NO_CODE_CHANGE")
        assert take(lab, event(lab.clock, ps=2, patchset=same)).startswith("check starts unit")


class TestServerAway:
    AWAY = ReviewServerError("Gerrit is down", retryable=True)

    def lab(self, folder) -> Planning:
        return planning(folder, layout(job(files=["^src/"])))

    def test_the_event_waits_with_growing_pauses_and_is_planned_at_last(self, tmp_path):
        lab = self.lab(tmp_path)
        lab.server.error, lab.server.files = self.AWAY, ("src/a.c",)
        assert take(lab, event(lab.clock)) is None
        assert lab.planner.plan_pending() == 0
        assert lab.server.asked == 1, "asked again before the pause was over"
        for _ in range(5):
            lab.clock.advance(31)
            lab.planner.plan_pending()
        assert lab.server.asked == 6
        lab.server.error = None
        lab.clock.advance(31)
        assert lab.planner.plan_pending() == 1
        assert len(rows(lab.database, schema.buildset)) == 1

    def test_the_order_of_its_events_is_kept(self, tmp_path):
        lab = self.lab(tmp_path)
        lab.server.error, lab.server.files = self.AWAY, ("src/a.c",)
        take(lab, event(lab.clock))
        assert take(lab, event(lab.clock, EventKind.CHANGE_ABANDONED)) is None
        lab.server.error = None
        lab.clock.advance(31)
        assert lab.planner.plan_pending() == 2
        assert rows(lab.database, schema.buildset)[0].state == "canceled"

    @pytest.mark.parametrize("status", [401, 403, 500])
    def test_a_refusal_waits_for_the_operator(self, tmp_path, status):
        lab = self.lab(tmp_path)
        lab.server.error = RestError(status, "no", hint="", retryable=False)
        assert take(lab, event(lab.clock)) is None

    def test_a_change_that_is_gone_is_given_up_with_the_reason(self, tmp_path):
        lab = self.lab(tmp_path)
        lab.server.error = RestError(404, "no such change", hint="", retryable=False)
        assert "no such change" in str(take(lab, event(lab.clock)))
        assert rows(lab.database, schema.buildset) == []


def test_an_event_of_a_connection_that_was_taken_out_blocks_nobody(tmp_path):
    lab = planning(tmp_path)
    stray = event(lab.clock, connection="gone", key="stray")
    assert "no longer in the configuration" in take(lab, stray)
    assert take(lab, event(lab.clock)).startswith("check starts")


def test_same_ids_for_the_same_key_and_others_for_a_recheck(tmp_path):
    assert builds.make_id("buildset", "g", 1, 1, "check", 0) == builds.make_id(
        "buildset", "g", 1, 1, "check", 0
    )
    assert builds.make_id("ab", "c") != builds.make_id("a", "bc")


def test_cancel_leaves_other_changes_and_ended_buildsets_alone(tmp_path):
    lab = planning(tmp_path)
    at = lab.clock.now()
    queue_buildset(lab.database, at=at, number=12)
    queue_buildset(lab.database, at=at, number=13)
    with lab.database.write() as tx:
        done = schema.buildset.c.change_number == 13
        tx.execute(sa.update(schema.buildset).where(done).values(state="done"))
        for number in (12, 13):
            builds.cancel_builds(tx, connection="review", change_number=number, reason="why", at=at)
    states = {s.change_number: s.state for s in rows(lab.database, schema.buildset)}
    assert states == {12: "canceled", 13: "done"}


def test_stop_ends_the_loop(tmp_path):
    lab = planning(tmp_path)
    lab.planner.stop()
    lab.planner.run()
