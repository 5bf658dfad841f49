# SPDX-License-Identifier: Apache-2.0
"""Step 2: filters by the change, by votes, and trust, with the reason for each no and not yet."""

import time
from dataclasses import replace
from typing import Any

import pytest

from ci.clock import FakeClock
from ci.layout import Layout
from ci.model.change import Patchset
from ci.model.event import Event, EventKind
from ci.triggers import Decision, Known, Need, explain, match, needs
from tests.kit.core import change, comment, event, facts, job, layout, patchset, vote

CLOCK = FakeClock()
SHA = "patch set 1 (111111111111)"
ANN = {"owner_email": "ann@example.org", "message": "Fix it\n\nDepends on luck\n"}


def upload(**more: Any) -> Event:
    kind = more.pop("kind", "REWORK")
    uploader = more.pop("uploader", "ann")
    return event(
        CLOCK, change=change(**{**ANN, **more}), patchset=patchset(1, kind=kind, uploader=uploader)
    )


def only(happened: Event, plan: Layout, **known: Any) -> Decision:
    (decision,) = match(happened, plan, Known(**known), frozenset({"acme-ci"}))
    return decision


@pytest.mark.parametrize(
    ("rules", "subject"),
    [
        ({"branch": ["main", "stable/.*"]}, {}),
        ({"branch": ["stable/.*"]}, {"branch": "stable/2"}),
        ({"topic": ["hv-.*"]}, {"topic": "hv-xen"}),
        ({"topic": [""]}, {}),
        ({"hashtag": ["ci"]}, {"hashtags": ("lab", "ci")}),
        ({"owner": ["ann"]}, {}),
        ({"owner": [r".*@example\.org"]}, {}),
        ({"message": ["^Depends on"]}, {"message": "Fix\n\nDepends on"}),
        ({"message": ["luck"], "topic": ["a|b"], "owner": ["x", "ann"]}, {"topic": "b"}),
    ],
)
def test_what_is_required_and_there(rules: dict[str, Any], subject: dict[str, Any]) -> None:
    rules = {k: [v.replace("^", "(?m)^") for v in vs] for k, vs in rules.items()}
    assert only(upload(**subject), layout(require=rules)).starts


@pytest.mark.parametrize(
    ("rules", "subject", "reason"),
    [
        ({"branch": ["stable"]}, {}, "branch main matches none of require: stable"),
        ({"branch": ["mai"]}, {}, "branch main matches none of require: mai"),
        ({"topic": ["hv-.*", "x"]}, {}, "no topic matches none of require: hv-.*, x"),
        (
            {"topic": ["hv-.*"]},
            {"topic": "a\x1b[2Jb\u202e"},
            "topic a?[2Jb? matches none of require: hv-.*",
        ),
        ({"hashtag": ["ci"]}, {"hashtags": ("a", "b")}, "hashtag a, b matches none of require: ci"),
        ({"hashtag": ["ci"]}, {}, "no hashtag matches none of require: ci"),
        (
            {"owner": ["bob"]},
            {},
            "owner ann, ann@example.org matches none of require: bob",
        ),
        ({"message": ["bug"]}, {}, "the commit message matches none of require: bug"),
    ],
)
def test_what_is_required_and_missing(
    rules: dict[str, Any], subject: dict[str, Any], reason: str
) -> None:
    decision = only(upload(**subject), layout(require=rules))
    assert decision == Decision(pipeline="check", starts=False, reason=reason)


@pytest.mark.parametrize(
    ("rules", "subject", "reason"),
    [
        ({"branch": ["main"]}, {}, "branch main matches reject: main"),
        ({"topic": ["wip.*"]}, {"topic": "wip-x"}, "topic wip-x matches reject: wip.*"),
        (
            {"hashtag": ["no-ci"]},
            {"hashtags": ("x", "no-ci")},
            "hashtag x, no-ci matches reject: no-ci",
        ),
        ({"owner": ["ann"]}, {}, "owner ann, ann@example.org matches reject: ann"),
        ({"message": ["luck"]}, {}, "the commit message matches reject: luck"),
    ],
)
def test_what_is_rejected(rules: dict[str, Any], subject: dict[str, Any], reason: str) -> None:
    decision = only(upload(**subject), layout(reject=rules))
    assert decision == Decision(pipeline="check", starts=False, reason=reason)
    assert only(upload(branch="b", owner="x", owner_email="x@y", message="m"), layout(reject=rules))


def test_filters_hold_for_a_recheck_too() -> None:
    asked = comment(CLOCK, change=change(topic="b", **ANN))
    assert not only(asked, layout(require={"topic": ["a"]})).starts


def test_an_event_that_does_not_show_enough_wants_the_facts() -> None:
    bare = event(CLOCK)
    for rules in ({"message": ["x"]}, {"owner": ["x"]}):
        for side in ("require", "reject"):
            decision = only(bare, layout(**{side: rules}))
            assert needs([decision]) == {Need.FACTS}
            assert not decision.starts
    told = facts(message="about x", owner="x")
    for rules in ({"message": ["x"]}, {"owner": ["x"]}):
        assert only(bare, layout(require=rules), facts=told).starts


def test_what_an_operator_asked_for_is_held_against_the_facts() -> None:
    asked = comment(CLOCK, source="request")
    plan = layout(require={"topic": ["hv"]})
    assert needs([only(asked, plan)]) == {Need.FACTS}
    assert only(asked, plan, facts=facts(topic="hv")).starts
    assert not only(asked, plan, facts=facts(topic="x")).starts
    assert only(asked, layout()).starts


def test_a_plain_layout_needs_nothing() -> None:
    plan = layout(require={"branch": ["main"], "topic": ["hv"], "hashtag": ["x"]})
    assert needs([only(upload(), plan)]) == frozenset()
    assert needs([only(upload(), layout())]) == frozenset()
    assert needs([only(comment(CLOCK), layout())]) == frozenset()


ZUUL: dict[str, Any] = {"approval": [{"label": "Verified", "value": 1, "by": ["zuul"]}]}


class TestApprovals:
    def test_the_votes_are_asked_for(self) -> None:
        for side in ("require", "reject"):
            decision = only(upload(), layout(**{side: ZUUL}))
            assert (decision.waits, needs([decision])) == (True, {Need.FACTS})
            assert decision.reason == f"waits for the votes on {SHA}, which the server has not told"

    def test_only_after_the_first_party_ci_voted(self) -> None:
        plan = layout(require=ZUUL)
        decision = only(upload(), plan, facts=facts())
        assert decision == Decision(
            pipeline="check",
            starts=False,
            waits=True,
            reason=f"waits for Verified+1 by zuul on {SHA}",
        )
        assert explain([decision]) == [f"check waits for Verified+1 by zuul on {SHA}."]
        assert only(upload(), plan, facts=facts(vote("Verified", 1, "zuul"))).starts

    @pytest.mark.parametrize(
        "given",
        [
            vote("Verified", -1, "zuul"),
            vote("Verified", 2, "zuul"),
            vote("Code-Review", 1, "zuul"),
            vote("Verified", 1, "zuul2"),
            vote("Verified", 1, ""),
        ],
    )
    def test_any_other_vote_will_not_do(self, given) -> None:
        assert only(upload(), layout(require=ZUUL), facts=facts(given)).waits

    def test_a_copied_vote_will_not_do(self) -> None:
        told = replace(facts(), copied=(vote("Verified", 1, "zuul"),))
        assert only(upload(), layout(require=ZUUL), facts=told).waits

    def test_every_rule_of_require_must_hold(self) -> None:
        rules = {"approval": [*ZUUL["approval"], {"label": "Code-Review", "value": [1, 2]}]}
        plan = layout(require=rules)
        one = only(upload(), plan, facts=facts(vote("Verified", 1, "zuul")))
        assert one.reason == f"waits for Code-Review+1/+2 on {SHA}"
        both = facts(vote("Verified", 1, "zuul"), vote("Code-Review", 2, "eve"))
        assert only(upload(), plan, facts=both).starts

    def test_by_e_mail(self) -> None:
        rule = {"approval": [{"label": "Verified", "value": 1, "by": [r".*@zuul\.org"]}]}
        by = replace(vote("Verified", 1, "").by, email="ci@zuul.org")
        told = facts(replace(vote("Verified", 1, ""), by=by))
        assert only(upload(), layout(require=rule), facts=told).starts

    def test_any_rejected_vote_refuses_until_it_is_taken_back(self) -> None:
        rule = {"approval": [{"label": "Verified", "value": [-1, -2]}, {"label": "X", "value": 1}]}
        plan = layout(reject=rule)
        assert only(upload(), plan, facts=facts()).starts
        decision = only(upload(), plan, facts=facts(vote("Verified", -2, "a\x1bb")))
        assert decision.waits
        assert decision.reason == f"waits for Verified-2 of a?b on {SHA} to be taken back"

    def test_they_hold_for_a_recheck_too(self) -> None:
        assert only(comment(CLOCK), layout(require=ZUUL), facts=facts()).waits

    def test_a_newer_patch_set_on_the_server_ends_the_matter(self) -> None:
        told = facts(vote("Verified", 1, "zuul"), ps=2)
        decision = only(upload(), layout(require=ZUUL), facts=told)
        assert decision == Decision(
            pipeline="check", starts=False, reason="patch set 1 is no longer current, 2 is"
        )

    def test_the_server_knows_better_than_the_event(self) -> None:
        good = vote("Verified", 1, "zuul")
        for late in ({"status": "MERGED"}, {"private": True}, {"wip": True}):
            assert not only(upload(), layout(require=ZUUL), facts=facts(good, **late)).starts


def lab_plan(**trust: Any) -> Layout:
    return layout(job("unit"), job("metal", "metal", requires_trust=True), trust=trust)


CORE: dict[str, Any] = {
    "approval": [{"label": "Code-Review", "value": [1, 2], "by": ["core"]}],
}


class TestTrust:
    def test_a_trusted_owner_may_at_once(self) -> None:
        for rule in ("ann", r".*@example\.org"):
            decision = only(upload(), lab_plan(owner=[rule]))
            assert (decision.jobs, needs([decision])) == (("unit", "metal"), frozenset())

    def test_another_waits_for_a_vote_on_this_very_commit(self) -> None:
        plan = lab_plan(owner=["bob"], **CORE)
        assert needs([only(upload(), plan)]) == {Need.FACTS}
        decision = only(upload(), plan, facts=facts())
        assert decision.waits
        assert decision.reason == (
            f"waits for Code-Review+1/+2 by core on {SHA}: metal requires trust, and owner ann of "
            "it may not without: trust.owner (bob)"
        )
        assert only(upload(), plan, facts=facts(vote("Code-Review", 2, "core"))).starts

    def test_a_copied_vote_vouches_for_another_commit(self) -> None:
        told = replace(facts(), copied=(vote("Code-Review", 2, "core"),))
        assert only(upload(), lab_plan(**CORE), facts=told).waits

    def test_a_strangers_upload_to_a_trusted_owners_change_is_not_trusted(self) -> None:
        plan = lab_plan(owner=["ann"], **CORE)
        told = replace(facts(**ANN), patchset=patchset(1, uploader="mallory"))
        decision = only(upload(uploader="mallory"), plan, facts=told)
        assert decision.waits
        assert "owner ann and uploader mallory" in decision.reason
        named = lab_plan(owner=["ann", "mallory"])
        assert only(upload(uploader="mallory"), named).starts

    def test_an_unknown_uploader_is_asked_for(self) -> None:
        assert needs([only(upload(uploader=""), lab_plan(owner=["ann"]))]) == {Need.FACTS}
        assert only(upload(uploader=""), lab_plan(owner=["ann"]), facts=facts()).starts

    @pytest.mark.parametrize("who", ["ann", "mallory"])
    def test_nobody_vouches_for_themselves(self, who: str) -> None:
        anybody = lab_plan(approval=[{"label": "Code-Review", "value": 1}])
        told = replace(facts(vote("Code-Review", 1, who)), patchset=patchset(1, uploader="mallory"))
        assert only(upload(uploader="mallory"), anybody, facts=told).waits
        named = lab_plan(approval=[{"label": "Code-Review", "value": 1, "by": [who]}])
        assert only(upload(uploader="mallory"), named, facts=told).starts

    def test_without_a_rule_for_votes_there_is_nothing_to_wait_for(self) -> None:
        decision = only(upload(), lab_plan(owner=["bob"]))
        assert (decision.starts, decision.waits, decision.lacks) == (False, False, frozenset())
        assert decision.reason.startswith(f"{SHA} is not trusted: metal requires trust")
        assert not only(upload(), lab_plan(), facts=facts()).starts

    def test_jobs_that_need_no_trust_are_not_asked(self) -> None:
        plan = lab_plan(owner=["bob"])
        assert only(comment(CLOCK, "recheck unit"), plan).starts
        assert not only(comment(CLOCK, "recheck metal"), plan, facts=facts()).starts

    def test_a_job_that_the_files_leave_out_needs_no_trust(self) -> None:
        plan = layout(job("unit"), job("metal", requires_trust=True, files=["drivers/"]))
        decision = only(upload(), plan, files=["docs/a"])
        assert (decision.starts, decision.jobs) == (True, ("unit",))


class TestReconsider:
    """After these events a patch set that did not start may start, once."""

    def turn(self, kind: EventKind, **more: Any) -> Event:
        return event(CLOCK, kind, change=change(**ANN), **more)

    def test_what_ran_does_not_run_again_and_the_server_is_not_asked(self) -> None:
        ready = self.turn(EventKind.WIP_STATE_CHANGED)
        assert needs([only(ready, layout())]) == {Need.RUNS}
        ran = only(ready, layout(), has_run=frozenset({"check"}))
        assert ran == Decision(
            pipeline="check", starts=False, reason="patch set 1 has run or runs now"
        )

    def test_what_did_not_is_decided_on_the_facts(self) -> None:
        ready = self.turn(EventKind.WIP_STATE_CHANGED)
        waiting = only(ready, layout(), has_run=frozenset())
        assert (waiting.starts, needs([waiting])) == (False, {Need.FACTS})
        decision = only(ready, layout(), has_run=frozenset(), facts=facts())
        assert (decision.starts, decision.only_first) == (True, True)
        assert decision.reason == (
            "patch set 1 of change 12 had not run, and now it is ready for review"
        )
        assert only(ready, layout(), has_run=frozenset(), facts=facts(wip=True)).waits

    @pytest.mark.parametrize("kind", [EventKind.TOPIC_CHANGED, EventKind.HASHTAGS_CHANGED])
    def test_an_event_without_a_patch_set_takes_the_servers(self, kind: EventKind) -> None:
        key = "topic" if kind is EventKind.TOPIC_CHANGED else "hashtag"
        plan = layout(require={key: ["hv"]})
        happened = self.turn(kind, patchset=None)
        assert needs([only(happened, plan)]) == {Need.FACTS}
        told = facts(ps=4, topic="hv", hashtags=("hv",))
        assert needs([only(happened, plan, facts=told)]) == {Need.RUNS}
        decision = only(happened, plan, facts=told, has_run=frozenset())
        assert decision.reason.startswith("patch set 4 of change 12 had not run, and now its")

    def test_no_rule_that_looks_at_it_no_question(self) -> None:
        for kind in (EventKind.TOPIC_CHANGED, EventKind.HASHTAGS_CHANGED, EventKind.VOTE_DELETED):
            decision = only(self.turn(kind), layout())
            assert (decision.starts, decision.lacks) == (False, frozenset())
            assert decision.reason.endswith("no rule here looks at that")
        eager = layout(skip_wip=False)
        assert not only(self.turn(EventKind.WIP_STATE_CHANGED), eager).lacks

    def test_a_vote_that_somebody_waited_for(self) -> None:
        plan = layout(require=ZUUL)
        given = vote("Verified", 1, "zuul", changed=True)
        said = comment(CLOCK, "Build succeeded", approvals=(given,))
        told = {"facts": facts(given), "has_run": frozenset[str]()}
        decision = only(said, plan, **told)
        assert (decision.starts, decision.only_first) == (True, True)
        assert decision.reason.endswith("and now there is Verified+1 of zuul")
        program = replace(said.author, name="Zuul CI")
        assert only(replace(said, author=program), plan, **told).starts

    def test_an_older_vote_and_another_label_are_no_news(self) -> None:
        plan = layout(require=ZUUL)
        for one in (vote("Verified", 1, "zuul"), vote("Code-Review", 1, "zuul", changed=True)):
            decision = only(comment(CLOCK, "hello", approvals=(one,)), plan)
            assert (decision.reason, decision.lacks) == (
                "the comment asks for no recheck",
                frozenset(),
            )

    def test_our_own_vote_is_none(self) -> None:
        given = vote("Verified", 1, "acme-ci", changed=True)
        said = comment(CLOCK, "ok", approvals=(given,), author=given.by)
        assert only(said, layout(require=ZUUL)).reason == "the comment is our own"

    def test_a_recheck_with_a_vote_is_a_recheck(self) -> None:
        given = vote("Verified", 1, "zuul", changed=True)
        decision = only(
            comment(CLOCK, "recheck", approvals=(given,)), layout(require=ZUUL), facts=facts(given)
        )
        assert decision.recheck is not None
        assert not decision.only_first

    def test_a_vote_that_stood_in_the_way_is_gone(self) -> None:
        plan = layout(reject={"approval": [{"label": "Verified", "value": -1}]})
        gone = self.turn(EventKind.VOTE_DELETED, approvals=(vote("Verified", 0, "zuul"),))
        decision = only(gone, plan, facts=facts(), has_run=frozenset())
        assert decision.reason.endswith("had not run, and now there is no Verified of zuul")

    def test_the_kinds_that_are_skipped_stay_skipped(self) -> None:
        same = patchset(2, kind="NO_CODE_CHANGE")
        ready = self.turn(EventKind.WIP_STATE_CHANGED, ps=2, patchset=same)
        told: dict[str, Any] = {
            "facts": facts(ps=2, kind="NO_CODE_CHANGE"),
            "has_run": frozenset[str](),
        }
        assert needs([only(ready, layout(), **told)]) == {Need.JUDGED}
        skipped = only(ready, layout(), unjudged=frozenset(), **told)
        assert "of the kind NO_CODE_CHANGE" in skipped.reason
        assert only(ready, layout(), unjudged=frozenset({"check"}), **told).starts


def test_hostile_text_costs_no_more_than_its_limit() -> None:
    # Some expressions need a step for each pair of characters: the text must be short.
    plan = layout(require={"message": [".*.*=x"], "topic": ["(a?)*b"], "owner": [".*.*z"]})
    long = "a" * 2_000_000
    started = time.monotonic()
    only(upload(message=long, topic=long[:400], owner=long), plan)
    assert time.monotonic() - started < 20


def test_every_reason_is_printable() -> None:
    nasty = "\x00\x1b[31m\u202e\n\ud800"
    told = facts(vote(nasty, 1, nasty), topic=nasty, owner=nasty, owner_email=nasty)
    rules = {"label": "Verified", "value": 1}
    plans = [
        layout(require={key: ["x"]}) for key in ("topic", "owner", "hashtag", "message", "branch")
    ] + [
        layout(require={"approval": [rules]}),
        layout(job(requires_trust=True), trust={"approval": [rules]}),
        layout(job(requires_trust=True)),
    ]
    bad = change(topic=nasty, owner=nasty, hashtags=(nasty,), branch=nasty, message=nasty)
    kind = Patchset(number=1, revision="1" * 40, ref="r", kind=nasty, uploader=nasty)
    for plan in plans:
        for known in ({}, {"facts": told}):
            said = only(event(CLOCK, change=bad, patchset=kind), plan, **known)
            assert said.reason.isprintable(), said.reason
