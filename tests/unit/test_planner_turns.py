# SPDX-License-Identifier: Apache-2.0
"""Step 3 over several events: waits that end, missed events in turn, newer facts, limits."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ci.bell import Bell
from ci.errors import ReviewServerError
from ci.gerrit.rest import RestError
from ci.layout import Project
from ci.model.build import AttemptKind
from ci.model.event import EventKind
from ci.model.feature import Feature
from ci.model.result import Outcome, Result, Status
from ci.planner import ASK_TRIES, Planner
from ci.store import attempts, events, schema
from ci.store.attempts import AttemptEnd
from tests.kit.core import (
    GERRIT,
    FakeServer,
    Planning,
    change,
    comment,
    event,
    facts,
    finish,
    job,
    layout,
    patchset,
    planning,
    rows,
    take,
    vote,
)
from tests.kit.evidence_rows import QEMU

ZUUL = {"approval": [{"label": "Verified", "value": 1, "by": ["zuul"]}]}
GOOD = vote("Verified", 1, "zuul", changed=True)


def runs(lab: Planning) -> list[tuple[int, int, str]]:
    """(patch set, recheck, state) of every buildset, in that order."""
    return sorted((s.patchset, s.recheck, s.state) for s in rows(lab.database, schema.buildset))


def decided(lab: Planning, number: int) -> str | None:
    (row,) = rows(lab.database, schema.event, change_number=number)
    said: str | None = row.decision
    return said


class TestReconsider:
    def test_a_patch_set_waits_for_the_first_party_ci_and_starts_once(self, tmp_path):
        lab = planning(tmp_path, layout(require=ZUUL))
        lab.server.current = facts()
        waits = "check waits for Verified+1 by zuul on patch set 1 (111111111111)."
        assert take(lab, event(lab.clock)) == waits
        assert runs(lab) == []
        lab.clock.advance(60)
        lab.server.current = facts(GOOD)
        voted = comment(lab.clock, "Build succeeded", approvals=(GOOD,))
        assert str(take(lab, voted)).startswith("check starts unit: patch set 1 of change 12 had")
        lab.clock.advance(60)
        finish(lab, 1)
        again = comment(lab.clock, "Build succeeded again", approvals=(GOOD,))
        asked = lab.server.facts_asked
        assert take(lab, again) == "check does not start: patch set 1 has run or runs now."
        assert lab.server.facts_asked == asked, "there was nothing to ask"
        assert runs(lab) == [(1, 0, "done")]

    def test_two_votes_in_one_batch_start_one_run(self, tmp_path):
        lab = planning(tmp_path, layout(require=ZUUL))
        lab.server.current = facts(GOOD)
        for text in ("one", "two"):
            said = comment(lab.clock, text, approvals=(GOOD,), key=text)
            events.store(lab.database, said, received_at=lab.clock.now(), move_watermark=False)
        assert lab.planner.plan_pending() == 2
        assert runs(lab) == [(1, 0, "queued")]

    def test_ready_for_review(self, tmp_path):
        lab = planning(tmp_path)
        assert "waits for" in str(take(lab, event(lab.clock, change=change(wip=True))))
        lab.clock.advance(5)
        lab.server.current = facts()
        assert "starts unit" in str(take(lab, event(lab.clock, EventKind.WIP_STATE_CHANGED)))
        lab.clock.advance(5)
        twice = str(take(lab, event(lab.clock, EventKind.WIP_STATE_CHANGED)))
        assert "has run or runs now" in twice

    def test_ready_for_a_moment_only(self, tmp_path):
        lab = planning(tmp_path)
        lab.server.current = facts(wip=True)
        assert "waits for" in str(take(lab, event(lab.clock, EventKind.WIP_STATE_CHANGED)))
        assert runs(lab) == []

    def test_the_topic_it_needed(self, tmp_path):
        lab = planning(tmp_path, layout(require={"topic": ["hv"]}))
        assert "no topic matches none" in str(take(lab, event(lab.clock, ps=2)))
        lab.clock.advance(5)
        lab.server.current = facts(ps=2, topic="hv")
        turned = event(lab.clock, EventKind.TOPIC_CHANGED, patchset=None)
        assert "starts unit" in str(take(lab, turned))
        assert runs(lab) == [(2, 0, "queued")]

    def test_a_skipped_kind_stays_skipped_when_its_forerunner_was_judged(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        finish(lab, 1)
        same = patchset(2, kind="NO_CODE_CHANGE", uploader="ann")
        hidden = event(lab.clock, ps=2, patchset=same, change=change(wip=True))
        assert "waits for" in str(take(lab, hidden))
        lab.server.current = replace(facts(ps=2), patchset=same)
        lab.clock.advance(5)
        ready = event(lab.clock, EventKind.WIP_STATE_CHANGED, ps=2, patchset=same)
        assert "NO_CODE_CHANGE, which this pipeline skips" in str(take(lab, ready))
        assert runs(lab) == [(1, 0, "done")]

    @pytest.mark.parametrize("kind", ["NO_CODE_CHANGE", "TRIVIAL_REBASE"])
    def test_and_runs_when_the_one_below_never_started(self, tmp_path, kind):
        lab = planning(tmp_path, layout(skip_kinds=["NO_CODE_CHANGE", "TRIVIAL_REBASE"]))
        take(lab, event(lab.clock))
        finish(lab, 1)
        waiting = event(lab.clock, ps=2, change=change(wip=True))
        assert "waits for" in str(take(lab, waiting)), "new code, never judged"
        same = patchset(3, kind=kind, uploader="ann")
        assert "starts unit" in str(take(lab, event(lab.clock, ps=3, patchset=same)))


class TestServer:
    def test_a_plain_patch_set_asks_nobody(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        assert (lab.server.asked, lab.server.facts_asked) == (0, 0)

    def test_while_it_is_away_the_event_waits(self, tmp_path):
        lab = planning(tmp_path, layout(require=ZUUL))
        lab.server.error = ReviewServerError("Gerrit is down", retryable=True)
        assert take(lab, event(lab.clock)) is None
        lab.server.error, lab.server.current = None, facts(GOOD)
        lab.clock.advance(31)
        assert lab.planner.plan_pending() == 1
        assert runs(lab) == [(1, 0, "queued")]

    def test_one_that_never_tells_the_votes_leaves_the_patch_set_waiting(self, tmp_path):
        lab = planning(tmp_path, layout(job(requires_trust=True), trust=ZUUL))
        lab.server.error = RestError(500, "broken", hint="", retryable=True)
        assert take(lab, event(lab.clock)) is None
        for _ in range(ASK_TRIES):
            lab.clock.advance(61)
            lab.planner.plan_pending()
        (row,) = rows(lab.database, schema.event)
        assert "the server has not told: unit requires trust" in row.decision
        assert runs(lab) == [], "what may not run without trust did not"

    def test_a_change_that_is_gone_is_given_up(self, tmp_path):
        lab = planning(tmp_path, layout(require=ZUUL))
        assert "no change 12" in str(take(lab, event(lab.clock)))

    def test_the_facts_are_what_is_stored(self, tmp_path):
        lab = planning(tmp_path, layout(require=ZUUL))
        lab.server.current = facts(GOOD, subject="as it is now")
        take(lab, event(lab.clock))
        assert rows(lab.database, schema.change)[0].subject == "as it is now"


class TestMissed:
    """Events that a catch-up made up start a few builds at a time."""

    def lab(self, folder: Any, most: int = 2) -> Planning:
        plan = layout()
        (one,) = plan.connections
        paced = one.model_copy(update={"catch_up_builds": most})
        return planning(folder, plan.model_copy(update={"connections": (paced,)}))

    def keep(self, lab: Planning, *numbers: int, **more: Any) -> None:
        fields = {"source": "catch-up", **more}
        for number in numbers:
            one = event(lab.clock, number=number, **fields)
            events.store(lab.database, one, received_at=lab.clock.now(), move_watermark=False)

    def test_so_many_at_once_and_live_ones_overtake(self, tmp_path):
        lab = self.lab(tmp_path)
        self.keep(lab, *range(20, 90))
        assert lab.planner.plan_pending() == 2
        self.keep(lab, 1, source="stream")
        assert lab.planner.plan_pending() == 1
        assert str(decided(lab, 1)).startswith("check starts")
        made = rows(lab.database, schema.buildset)
        assert {s.change_number: s.made_up for s in made} == {20: True, 21: True, 1: False}

    def test_the_rest_follow_as_builds_end(self, tmp_path):
        lab = self.lab(tmp_path)
        self.keep(lab, 20, 21, 22, 23, 24)
        for expected in (2, 4, 5, 5):
            lab.planner.plan_pending()
            assert len(rows(lab.database, schema.buildset)) == expected
            finish(lab, 1)

    def test_what_starts_nothing_takes_no_turn(self, tmp_path):
        lab = self.lab(tmp_path, most=1)
        closed = change(21, status="MERGED")
        self.keep(lab, 21, change=closed)
        self.keep(lab, 22, 23)
        assert lab.planner.plan_pending() == 2
        assert decided(lab, 23) is None

    def test_the_end_of_a_change_waits_for_no_turn(self, tmp_path):
        lab = self.lab(tmp_path, most=1)
        self.keep(lab, 20, 21)
        lab.planner.plan_pending()
        lab.clock.advance(5)
        self.keep(lab, 21, kind=EventKind.CHANGE_ABANDONED, change=change(21, status="ABANDONED"))
        assert lab.planner.plan_pending() == 1
        finish(lab, 1)
        lab.planner.plan_pending()
        said = [r.decision for r in rows(lab.database, schema.event, change_number=21)]
        assert said[0] == "check does not start: change 21 was closed since (ABANDONED)."

    def test_after_a_restart_open_ones_still_count(self, tmp_path):
        lab = self.lab(tmp_path)
        self.keep(lab, 20, 21, 22)
        lab.planner.plan_pending()
        second = self.lab(tmp_path)
        assert second.planner.plan_pending() == 0

    def test_a_connection_that_was_taken_out_has_no_turn_to_wait_for(self, tmp_path):
        lab = self.lab(tmp_path)
        self.keep(lab, 20, connection="gone")
        assert lab.planner.plan_pending() == 1
        assert "no longer in the configuration" in str(decided(lab, 20))

    def test_a_missed_recheck_is_answered_by_a_run_that_began_later(self, tmp_path):
        lab = self.lab(tmp_path)
        take(lab, event(lab.clock))
        finish(lab, 1)
        missed = comment(lab.clock, "recheck", at=lab.clock.now() + timedelta(seconds=5))
        lab.clock.advance(60)
        take(lab, comment(lab.clock))
        finish(lab, 1)
        said = str(take(lab, replace(missed, source="catch-up")))
        assert "began after this was said" in said
        assert len(runs(lab)) == 2

    def test_a_patch_set_that_ran_already_does_not_run_again(self, tmp_path):
        lab = self.lab(tmp_path)
        take(lab, comment(lab.clock))
        finish(lab, 1)
        assert "ran before" in str(take(lab, event(lab.clock, source="catch-up")))
        assert runs(lab) == [(1, 0, "done")]


class TestNewerFacts:
    def test_nothing_starts_for_a_change_that_was_closed_since(self, tmp_path):
        lab = planning(tmp_path)
        late = event(lab.clock)
        lab.clock.advance(60)
        merged = event(lab.clock, EventKind.CHANGE_MERGED, change=change(status="MERGED"))
        take(lab, merged)
        said = take(lab, late)
        assert said == "check does not start: change 12 was closed since (MERGED)."
        assert rows(lab.database, schema.change)[0].status == "MERGED"

    def test_what_a_merged_patch_set_showed_counts_for_the_matrix(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        (build,) = rows(lab.database, schema.build)
        tried = Outcome(test_id="t", status=Status.PASS, feature=Feature.PAUSE)
        end = AttemptEnd(result=Result.SUCCESS, outcomes=(tried,), system=QEMU)
        with lab.database.write() as tx:
            attempt = attempts.begin(tx, build.id, AttemptKind.CHECK, at=lab.clock.now())
            attempts.update(tx, attempt, grade="bare")
            attempts.finish(tx, attempt, end, at=lab.clock.now())
        assert rows(lab.database, schema.evidence) == []
        lab.clock.advance(60)
        take(lab, event(lab.clock, EventKind.CHANGE_MERGED, change=change(status="MERGED")))
        (word,) = rows(lab.database, schema.evidence)
        assert (word.system, word.feature, word.shown, word.source) == (
            QEMU.key,
            Feature.PAUSE,
            "works",
            attempt,
        )

    def test_an_old_abandon_does_not_end_what_was_restored_since(self, tmp_path):
        lab = planning(tmp_path)
        old = event(lab.clock, EventKind.CHANGE_ABANDONED, source="catch-up")
        lab.clock.advance(60)
        take(lab, event(lab.clock))
        assert take(lab, old) == "the change was abandoned, and taken up again since"
        assert runs(lab) == [(1, 0, "queued")]

    def test_a_request_that_bears_our_clocks_date_outdates_nothing(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        finish(lab, 1)
        ahead = lab.clock.now() + timedelta(minutes=5)
        assert "starts" in str(take(lab, comment(lab.clock, source="request", at=ahead)))
        lab.clock.advance(5)
        gone = event(lab.clock, EventKind.CHANGE_ABANDONED, change=change(status="ABANDONED"))
        assert take(lab, gone) == "the change was abandoned"
        assert runs(lab)[-1] == (1, 1, "canceled")
        lab.clock.advance(5)
        again = comment(lab.clock, "recheck again", source="request")
        assert "closed since (ABANDONED)" in str(take(lab, again))

    def test_a_deleted_change_ends_its_builds(self, tmp_path):
        lab = planning(tmp_path)
        take(lab, event(lab.clock))
        lab.clock.advance(5)
        gone = event(lab.clock, EventKind.CHANGE_DELETED, patchset=None)
        assert take(lab, gone) == "the change was deleted"
        assert runs(lab) == [(1, 0, "canceled")]
        assert rows(lab.database, schema.change)[0].status == "DELETED"


class TestLimit:
    def test_the_next_one_is_named_with_its_time(self, tmp_path):
        lab = planning(tmp_path, layout(recheck_limit={"count": 2, "per-s": 600}))
        take(lab, event(lab.clock))
        for _ in range(2):
            finish(lab, 1)
            lab.clock.advance(60)
            assert "starts" in str(take(lab, comment(lab.clock, "recheck bug 7")))
        finish(lab, 1)
        lab.clock.advance(60)
        assert take(lab, comment(lab.clock)) == (
            "check does not start: ann had 2 rechecks within 600 s; the next is allowed at "
            "2026-01-01 00:11:00 UTC."
        )
        lab.clock.advance(481)
        assert "starts" in str(take(lab, comment(lab.clock)))
        asked = [s for s in rows(lab.database, schema.buildset) if s.recheck in {1, 2}]
        assert {(s.requested_by, s.request) for s in asked} == {("ann", "bug 7")}

    def test_a_new_patch_set_is_no_recheck(self, tmp_path):
        lab = planning(tmp_path, layout(recheck_limit={"count": 1, "per-s": 600}))
        for number in (1, 2, 3):
            assert "starts" in str(take(lab, event(lab.clock, ps=number)))
        assert {s.requested_by for s in rows(lab.database, schema.buildset)} == {""}

    def test_hostile_names_are_printable(self, tmp_path):
        lab = planning(tmp_path)
        author = replace(comment(lab.clock).author, username="a\x1b\n" + "b" * 400)
        take(lab, comment(lab.clock, author=author))
        (made,) = rows(lab.database, schema.buildset)
        assert made.requested_by.isprintable()
        assert len(made.requested_by) == 255


def test_two_connections_to_one_project(tmp_path):
    plan = layout()
    other = plan.connections[0].model_copy(update={"name": "other"})
    mirror = plan.pipelines[0].model_copy(update={"name": "mirror", "connection": "other"})
    both = {"check": {"jobs": ["unit"]}, "mirror": {"jobs": ["unit"]}}
    plan = plan.model_copy(
        update={
            "connections": (*plan.connections, other),
            "pipelines": (*plan.pipelines, mirror),
            "projects": (Project.model_validate({"name": plan.projects[0].name, **both}),),
        }
    )
    lab = planning(tmp_path, plan)
    lab.planner = _with_servers(lab, {GERRIT: FakeServer(), "other": FakeServer()}, plan)
    for name in (GERRIT, "other"):
        take(lab, event(lab.clock, connection=name, key=name))
    made = rows(lab.database, schema.buildset)
    assert {(s.connection, s.pipeline) for s in made} == {(GERRIT, "check"), ("other", "mirror")}
    known = rows(lab.database, schema.change)
    assert {row.connection for row in known} == {GERRIT, "other"}
    take(lab, event(lab.clock, EventKind.CHANGE_ABANDONED, connection="other"))
    states = {s.connection: s.state for s in rows(lab.database, schema.buildset)}
    assert states == {GERRIT: "queued", "other": "canceled"}


def _with_servers(lab: Planning, servers: dict[str, Any], plan: Any) -> Planner:
    return Planner(
        lab.database,
        lab.clock,
        lambda: plan,
        servers,
        bell=Bell(),
        on_queued=lambda: None,
        on_cancel=lambda _ids, _reason: None,
    )
