# SPDX-License-Identifier: Apache-2.0
"""A build whose change depends on others: asked once, kept, told, canceled, given up."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from ci import attempt
from ci.checkout import RefMissing
from ci.errors import DependencyError, ReviewServerError
from ci.model.change import Patchset
from ci.model.event import Account, Approval
from ci.model.facts import ChangeFacts
from ci.model.stack import stack_from_json
from ci.store import schema
from ci.store.actions import request_cancel
from ci.trees import MISSING_S, MISSING_TRIES
from tests.kit.core import (
    PROJECT,
    TIP,
    FakeCheckout,
    Lab,
    ScriptedRunner,
    change,
    found,
    job,
    lab,
    layout,
    patchset,
    queue_buildset,
    rows,
)

GOOD = "write-junit r.xml pass=2"
BAD = "write-junit r.xml pass=1 fail=test_pass_2; exit 1"
OWN_REF = "refs/changes/12/12/1"


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())


def on(*numbers: int) -> str:
    return "A\n\n" + "".join(f"Depends-On: https://review.example.org/{n}\n" for n in numbers)


def site(folder: Any, *patched: str, text: str = on(41), errors: Any = (), **more: Any) -> Lab:
    made = lab(folder, FakeCheckout(patched or (GOOD,), GOOD, errors), **more)
    made.checkout.text = text
    made.lookup.changes = {41: found(41)}
    return made


def run(made: Lab, *, number: int = 12) -> str:
    (build,) = queue_buildset(made.database, at=made.clock.now(), number=number)
    made.drive(build)
    return build


def owed(made: Lab) -> list[tuple[str | None, int | None]]:
    return [(row.label, row.value) for row in rows(made.database, schema.outbox)]


def kept(made: Lab) -> list[int] | None:
    (row,) = rows(made.database, schema.buildset)
    return None if row.depends is None else [one.number for one in stack_from_json(row.depends)]


class TestKept:
    def test_a_change_without_a_line_asks_nobody(self, tmp_path):
        made = site(tmp_path, text="A change")
        run(made)
        assert (kept(made), made.lookup.asked) == ([], [])

    def test_it_is_asked_once_for_check_baseline_and_repeat(self, tmp_path):
        made = site(tmp_path, BAD)
        build = run(made)
        assert [kind for kind, _ in made.kinds(build)] == ["check", "baseline", "repeat"]
        assert (kept(made), made.lookup.asked) == ([41], [41])
        assert owed(made) == [("Verified", -1)]

    def test_and_once_for_all_builds_even_when_the_server_changed_its_mind(self, tmp_path):
        jobs = (job("a"), job("b"))
        made = site(tmp_path, plan=layout(*jobs, state_dir=tmp_path))
        first, second = queue_buildset(made.database, *jobs, at=made.clock.now())
        made.drive(first)
        made.lookup.changes = {41: found(41, status="ABANDONED")}
        made.drive(second)
        assert made.lookup.asked == [41]
        assert owed(made) == [("Verified", 1)]

    def test_whoever_comes_first_decides_for_both(self, tmp_path):
        made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        other = [{**vars(found(40).patchset)}]

        def meanwhile() -> dict[int, Any]:
            with made.database.write() as tx:
                tx.execute(sa.update(schema.buildset).values(depends=other))
            return {41: found(41)}

        real = made.lookup.by_number
        made.lookup.by_number = lambda number, project: (  # type: ignore[method-assign]
            meanwhile() and real(number, project)
        )
        made.drive(build)
        assert kept(made) == [40]

    def test_a_baseline_has_the_dependencies_and_is_no_baseline_without_them(self, tmp_path):
        made = site(tmp_path, BAD)
        run(made)
        made.checkout.text = "A change"
        build = run(made, number=13)
        assert [kind for kind, _ in made.kinds(build)] == ["check", "baseline", "repeat"]
        made.checkout.text = on(41)
        build = run(made, number=14)
        assert [kind for kind, _ in made.kinds(build)] == ["check", "repeat"]

    def test_a_recheck_asks_anew(self, tmp_path):
        made = site(tmp_path)
        run(made)
        run(made)
        assert made.lookup.asked == [41, 41]

    def test_the_log_says_with_what_it_was_tested(self, tmp_path):
        made = site(tmp_path)
        made.lookup.changes[41] = found(41, project="acme/os")
        build = run(made)
        (log,) = (tmp_path / "logs" / build).rglob("console.log")
        said = f"with change 41,1 ({41:040x}) of acme/os, beside the checkout, onto main at {TIP}"
        assert said in log.read_text()

    def test_what_lies_beside_makes_other_trees(self, tmp_path):
        made = site(tmp_path, text="A change")
        run(made)
        made.checkout.text = on(41)
        made.lookup.changes[41] = found(41, project="acme/os")
        run(made, number=12)
        trees = [(r.tree, r.base_tree) for r in rows(made.database, schema.attempt)]
        assert len({tree for pair in trees for tree in pair}) == 4
        assert all(len(tree) <= 64 for pair in trees for tree in pair)


class TestTrouble:
    @pytest.mark.parametrize("policy", ["silent", "comment", "vote"])
    def test_it_is_told_as_configured(self, tmp_path, policy):
        made = site(tmp_path, plan=layout(state_dir=tmp_path, **{"dependency-trouble": policy}))
        made.lookup.changes = {41: found(41, status="ABANDONED")}
        build = run(made)
        assert made.kinds(build) == [("check", "MERGE_CONFLICT")]
        assert made.build(build).failure_class == "dependency"
        wanted = {"silent": [], "comment": [(None, None)], "vote": [("Verified", -1)]}
        assert owed(made) == wanted[policy]
        assert kept(made) is None

    def test_the_comment_names_it(self, tmp_path):
        made = site(tmp_path)
        made.lookup.changes = {12: found(12), 41: found(41, message=on(12))}
        run(made)
        (row,) = rows(made.database, schema.outbox)
        assert ": MERGER_FAILURE" in row.message
        assert "in a circle: 12, 41, 12" in row.message

    def test_one_that_does_not_merge_is_not_the_patchs_conflict(self, tmp_path):
        made = site(tmp_path, errors=[DependencyError("change 41,1 does not merge")])
        build = run(made)
        assert made.build(build).failure_class == "dependency"
        assert owed(made) == [(None, None)]


class TestTrust:
    """A job that requires trust runs nothing that is not trusted, also not from below."""

    def site(self, folder: Any, *, requires: bool = True) -> Lab:
        unit = job(**{"requires-trust": requires})
        rule = {"approval": [{"label": "Allow", "value": 1}]}
        plan = layout(unit, state_dir=folder, trust=rule)
        made = site(folder, plan=plan)
        made.lookup.known = {41: self.facts(41)}
        self.unit = unit
        return made

    def facts(self, number: int, *votes: Approval, **more: Any) -> ChangeFacts:
        one = found(number).patchset
        shown = Patchset(number=1, revision=one.revision, ref=one.ref, uploader="bob")
        return ChangeFacts(
            change=change(number, owner="bob", **more),
            patchset=shown,
            uploaded_at=datetime(2026, 1, 1, tzinfo=UTC),
            approvals=votes,
        )

    def ends(self, made: Lab) -> sa.Row[Any]:
        (build,) = queue_buildset(made.database, self.unit, at=made.clock.now())
        made.drive(build)
        return made.build(build)

    def vote(self, by: str = "root") -> Approval:
        return Approval(label="Allow", value=1, by=Account(username=by))

    def test_an_untrusted_dependency_is_not_run(self, tmp_path):
        made = self.site(tmp_path)
        row = self.ends(made)
        assert (row.result, row.failure_class) == ("MERGE_CONFLICT", "dependency")
        assert "change 41,1, which is depended on, is not trusted: waits for Allow+1" in row.reason
        assert {r.node for r in rows(made.database, schema.attempt)} == {None}

    def test_nor_one_that_its_owner_vouches_for(self, tmp_path):
        made = self.site(tmp_path)
        made.lookup.known = {41: self.facts(41, self.vote("bob"))}
        assert self.ends(made).failure_class == "dependency"

    def test_a_trusted_one_is(self, tmp_path):
        made = self.site(tmp_path)
        made.lookup.known = {41: self.facts(41, self.vote())}
        assert self.ends(made).result == "SUCCESS"

    def test_trust_ends_with_a_newer_patch_set(self, tmp_path):
        made = self.site(tmp_path)
        newer = replace(self.facts(41, self.vote()), patchset=patchset(2, of=41))
        made.lookup.known = {41: newer}
        assert "a newer patch set" in self.ends(made).reason

    def test_what_is_merged_meanwhile_is_trusted_and_what_is_gone_is_not(self, tmp_path):
        made = self.site(tmp_path)
        made.lookup.known = {}
        assert "gone or hidden" in self.ends(made).reason
        made.lookup.known = {41: self.facts(41, status="MERGED")}
        assert self.ends(made).result == "SUCCESS"

    def test_other_jobs_ask_nobody(self, tmp_path):
        made = self.site(tmp_path, requires=False)
        made.lookup.known = {}
        assert self.ends(made).result == "SUCCESS"


class TestAway:
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: Lab | None = None

        def wait(_: object, seconds: float | None = None) -> bool:
            if self.made is not None:
                self.made.clock.advance(seconds or 0)
            return False

        monkeypatch.setattr("ci.cancel.threading.Event.wait", wait)

    def test_the_server_is_waited_for_while_it_is_asked(self, tmp_path):
        self.made = made = site(tmp_path)
        made.lookup.errors = [ReviewServerError("away", retryable=True)] * 30
        assert made.kinds(run(made)) == [("check", "SUCCESS")]
        assert kept(made) == [41]

    def test_without_bound_while_it_is_away(self, tmp_path):
        away = [ReviewServerError("away", retryable=True)] * 500
        self.made = made = site(tmp_path, errors=away)
        assert made.kinds(run(made)) == [("check", "SUCCESS")]

    def missing(self, ref: str = OWN_REF, project: str = PROJECT) -> RefMissing:
        return RefMissing(f"couldn't find remote ref {ref}", project=project, ref=ref)

    def test_a_ref_that_comes_late_is_waited_for(self, tmp_path):
        self.made = made = site(tmp_path, errors=[self.missing()] * (MISSING_TRIES - 1))
        assert made.kinds(run(made)) == [("check", "SUCCESS")]

    def test_one_that_never_comes_ends_as_our_trouble(self, tmp_path):
        self.made = made = site(tmp_path, errors=[self.missing()] * 1000)
        began = made.clock.monotonic_s()
        build = run(made)
        assert made.kinds(build) == [("check", "LOST")] * 3
        assert made.clock.monotonic_s() - began > 3 * MISSING_S
        row = made.build(build)
        assert (row.result, row.failure_class) == ("RETRY_LIMIT", "infra")
        assert f"the server does not have {OWN_REF} of {PROJECT}" in row.reason
        assert owed(made) == [(None, None)]

    def test_an_outage_in_between_begins_the_count_anew(self, tmp_path):
        lags = [self.missing()] * (MISSING_TRIES - 1)
        away = ReviewServerError("away", retryable=True)
        self.made = made = site(tmp_path, errors=[*lags, away] * 4)
        assert made.kinds(run(made)) == [("check", "SUCCESS")]

    @pytest.mark.parametrize(
        ("ref", "project"),
        [
            ("refs/changes/41/41/1", PROJECT),
            ("refs/heads/stable", PROJECT),
            ("refs/heads/main", "acme/os"),
        ],
    )
    def test_a_dependency_that_never_comes_is_told_as_such(self, tmp_path, ref, project):
        self.made = made = site(tmp_path, errors=[self.missing(ref, project)] * 1000)
        build = run(made)
        assert made.kinds(build) == [("check", "MERGE_CONFLICT")]
        assert made.build(build).failure_class == "dependency"
        assert ref in made.build(build).reason

    def test_a_cancel_by_another_process_is_seen_while_the_server_is_away(self, tmp_path):
        away = [ReviewServerError("away", retryable=True)] * 500
        self.made = made = site(tmp_path, errors=away)
        (build,) = queue_buildset(made.database, at=made.clock.now())
        tries = []

        def canceled() -> None:
            tries.append(None)
            if len(tries) == 5:
                request_cancel(made.database, build, by="ann", at=made.clock.now())

        made.checkout.before_merge = canceled
        made.drive(build)
        assert len(tries) == 5
        assert made.kinds(build) == [("check", "CANCELED")]
        assert made.build(build).reason == "canceled by ann"

    def test_a_cancel_ends_it_while_the_server_is_away(self, tmp_path):
        self.made = made = site(tmp_path)
        (build,) = queue_buildset(made.database, at=made.clock.now())

        def away(number: int, project: str) -> None:
            made.worker.cancel([build], "superseded")
            raise ReviewServerError("away", retryable=True)

        made.lookup.by_number = away  # type: ignore[method-assign]
        made.drive(build)
        assert made.kinds(build) == [("check", "CANCELED")]
        assert (owed(made), kept(made)) == ([], None)


def test_a_cancel_between_two_questions_asks_no_further(tmp_path):
    made = site(tmp_path, text=on(41, 42))
    (build,) = queue_buildset(made.database, at=made.clock.now())
    real = made.lookup.by_number

    def answer(number: int, project: str) -> Any:
        made.worker.cancel([build], "superseded")
        return real(number, project)

    made.lookup.by_number = answer  # type: ignore[method-assign]
    made.drive(build)
    assert made.kinds(build) == [("check", "CANCELED")]
    assert made.lookup.asked == [41]
