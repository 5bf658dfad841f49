# SPDX-License-Identifier: Apache-2.0
"""What people ask of a running installation becomes a row, or a refusal with its reason."""

import pytest
import sqlalchemy as sa

from ci.store import audit, builds, schema
from ci.store.actions import RequestRefused, request_cancel, request_recheck
from tests.kit.core import (
    GERRIT,
    Planning,
    event,
    finish,
    layout,
    planning,
    rows,
    run,
    take,
)


@pytest.fixture
def lab(tmp_path) -> Planning:
    made = planning(tmp_path)
    take(made, event(made.clock))
    return made


def ask(lab: Planning, number: int = 12, **more):
    fields = {"by": "root", "words": "", "connection": None, **more}
    return request_recheck(lab.database, number, at=lab.clock.now(), **fields)


def decision(lab: Planning, one) -> str:
    lab.planner.plan_pending()
    return str(rows(lab.database, schema.event, key=one.key)[0].decision)


class TestRecheck:
    def test_runs_the_newest_patch_set_again(self, lab):
        finish(lab, 1)
        assert decision(lab, ask(lab)).startswith("check starts unit: operator root asked for a")
        newest = max(rows(lab.database, schema.buildset), key=lambda s: s.recheck)
        assert (newest.patchset, newest.recheck, newest.state) == (1, 1, "queued")

    def test_words_narrow_it(self, lab):
        finish(lab, 1)
        assert "starts unit" in decision(lab, ask(lab, words="unit"))

    @pytest.mark.parametrize("user", ["acme-ci", "Acme CI"])
    def test_works_for_a_user_named_like_our_gerrit_account(self, lab, user):
        finish(lab, 1)
        assert "check starts unit" in decision(lab, ask(lab, by=user))

    def test_two_requests_in_one_second_are_two_events_and_one_run(self, lab):
        finish(lab, 1)
        first, second = ask(lab), ask(lab)
        assert "starts" in decision(lab, first)
        assert "under way" in decision(lab, second)

    def test_of_a_change_nobody_knows(self, lab):
        with pytest.raises(RequestRefused, match="never tested") as refused:
            ask(lab, 99)
        assert "Gerrit" in refused.value.hint

    def test_of_a_patch_set_that_is_no_longer_current(self, lab):
        finish(lab, 1)
        with lab.database.write() as tx:
            tx.execute(sa.update(schema.change).values(patchset=2))
        with pytest.raises(RequestRefused, match="patch set 2 of change 12 is current"):
            ask(lab)

    def test_of_a_number_that_two_servers_have(self, lab):
        row = rows(lab.database, schema.buildset)[0]
        known = rows(lab.database, schema.change)[0]
        with lab.database.write() as tx:
            twin = {**row._mapping, "id": "other", "connection": "second"}
            tx.execute(sa.insert(schema.buildset).values(twin))
            tx.execute(sa.insert(schema.change).values({**known._mapping, "connection": "second"}))
        with pytest.raises(RequestRefused, match="several servers"):
            ask(lab)
        assert ask(lab, connection=GERRIT).connection == GERRIT

    def test_it_stands_in_the_audit_log(self, lab):
        ask(lab, words="unit bug\x1b 1")
        (line,) = rows(lab.database, schema.audit)
        assert (line.by, line.action, line.subject) == ("root", "recheck", "change 12,1")
        assert (line.note, line.at) == ("unit bug? 1", lab.clock.now())

    def test_a_refusal_leaves_nothing(self, lab):
        before = len(rows(lab.database, schema.event))
        with pytest.raises(RequestRefused):
            ask(lab, 99)
        assert rows(lab.database, schema.audit) == []
        assert len(rows(lab.database, schema.event)) == before

    def test_without_its_line_in_the_audit_log_there_is_no_request(self, lab, monkeypatch):
        before = len(rows(lab.database, schema.event))
        monkeypatch.setattr(audit, "note", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(lab)
        assert len(rows(lab.database, schema.event)) == before

    def test_who_asked_and_why_stand_on_the_run(self, lab):
        finish(lab, 1)
        ask(lab, words="unit the node fell over")
        lab.planner.plan_pending()
        newest = max(rows(lab.database, schema.buildset), key=lambda s: s.recheck)
        assert newest.requested_by == "operator root"
        assert newest.request == "the node fell over"

    def test_an_operator_has_no_limit(self, tmp_path):
        lab = planning(tmp_path, layout(recheck_limit={"count": 1, "per-s": 3600}))
        take(lab, event(lab.clock))
        for _ in range(3):
            finish(lab, 1)
            assert "check starts" in decision(lab, ask(lab))

    def test_the_watermark_stays(self, lab):
        before = rows(lab.database, schema.watermark)
        lab.clock.advance(900)
        ask(lab)
        assert rows(lab.database, schema.watermark) == before


class TestCancel:
    def cancel(self, lab: Planning, build_id: str) -> str:
        return request_cancel(lab.database, build_id, by="root", at=lab.clock.now())

    def test_a_queued_build_ends_here(self, lab):
        (build,) = rows(lab.database, schema.build)
        assert self.cancel(lab, build.id) == build.buildset_id
        (now,) = rows(lab.database, schema.build)
        assert (now.state, now.reason) == ("canceled", "canceled by root")

    def test_it_stands_in_the_audit_log(self, lab):
        (build,) = rows(lab.database, schema.build)
        self.cancel(lab, build.id)
        (line,) = rows(lab.database, schema.audit)
        assert (line.by, line.action, line.subject) == ("root", "cancel", f"build {build.id}")
        assert build.buildset_id in line.note

    def test_a_running_one_is_asked_to_stop(self, lab):
        run(lab)
        (build,) = rows(lab.database, schema.build)
        self.cancel(lab, build.id)
        (now,) = rows(lab.database, schema.build)
        assert (now.state, now.cancel_reason) == ("running", "canceled by root")
        assert rows(lab.database, schema.buildset)[0].state == "canceled"

    def test_one_that_ended_is_refused(self, lab):
        (build,) = rows(lab.database, schema.build)
        self.cancel(lab, build.id)
        with pytest.raises(RequestRefused, match="ended already"):
            self.cancel(lab, build.id)

    def test_one_that_never_was(self, lab):
        with pytest.raises(RequestRefused, match="no build nothing") as refused:
            self.cancel(lab, "nothing")
        assert "hypervouch builds" in refused.value.hint

    def test_a_recheck_may_follow_while_the_old_build_still_stops(self, lab):
        run(lab)
        (build,) = rows(lab.database, schema.build)
        self.cancel(lab, build.id)
        assert "starts" in decision(lab, ask(lab))
        assert build.id != builds.make_id("build", GERRIT, 12, 1, "check", 1, "unit")
