# SPDX-License-Identifier: Apache-2.0
"""Step 7: the one table of who gets -1, row by row, and what may never happen."""

import random
from collections.abc import Sequence
from itertools import product

import pytest

from ci.judge import INTERRUPTION_LIMIT, STACKED, BuildRules, BuildWord, next_step, verdict
from ci.layout import ConflictPolicy, Pipeline, VotePolicy
from ci.model.build import INFRA_RESULTS, AttemptKind, AttemptRecord
from ci.model.result import FailureClass, Judgement, Outcome, Result, Status, Vote
from ci.retry import Quota

CHECK, REPEAT, BASELINE = AttemptKind.CHECK, AttemptKind.REPEAT, AttemptKind.BASELINE
LETTERS = {"p": Status.PASS, "f": Status.FAIL, "e": Status.ERROR, "s": Status.SKIP}
RULES = BuildRules(quota=Quota(default=2))


def ran(kind: AttemptKind, word: str, **more: object) -> AttemptRecord:
    """An attempt whose tests a, b, c ... ended as the letters say; `-` did not run."""
    outcomes = tuple(
        Outcome(test_id="abcdefgh"[place], status=LETTERS[letter], message=f"it says {letter}")
        for place, letter in enumerate(word)
        if letter != "-"
    )
    bad = any(o.status.bad for o in outcomes)
    fields = {
        "attempt_id": f"{kind}-{word}",
        "kind": kind,
        "result": Result.FAILURE if bad else Result.SUCCESS,
        "outcomes": outcomes,
        "tip": "t1",
        "tree": "without" if kind is AttemptKind.BASELINE else "with",
        "base_tree": "without",
        "grade": "nested",
        "node": "n1",
    }
    return AttemptRecord(**{**fields, **more})


def broke(kind: AttemptKind, result: Result, **more: object) -> AttemptRecord:
    return AttemptRecord(
        attempt_id=f"{kind}-{result}", kind=kind, result=result, error="the node died", **more
    )


def judged(
    attempts: Sequence[AttemptRecord],
    baselines: Sequence[AttemptRecord] = (),
    rules: BuildRules = RULES,
) -> Judgement:
    found = next_step(attempts, baselines, rules)
    assert isinstance(found, Judgement), f"wants another {found}"
    return found


class TestPass:
    def test_all_passed(self):
        found = judged([ran(CHECK, "pp")])
        assert (found.result, found.failure_class, found.vote) == (
            Result.SUCCESS,
            FailureClass.PASS,
            1,
        )
        assert found.reason == "all 2 tests passed"

    def test_one_test_is_said_in_the_singular(self):
        assert judged([ran(CHECK, "p")]).reason == "the one test passed"

    def test_skips_are_counted_and_no_failure(self):
        found = judged([ran(CHECK, "pps")])
        assert (found.vote, found.reason) == (1, "2 of 3 tests passed, 1 skipped")

    def test_only_skips_is_our_fault_and_never_a_plus_one(self):
        found = judged([ran(CHECK, "ss")])
        assert (found.failure_class, found.vote) == (FailureClass.EMPTY, 0)

    def test_no_outcome_at_all_is_never_a_plus_one(self):
        found = judged([ran(CHECK, "")])
        assert (found.result, found.vote) == (Result.ERROR, 0)

    def test_needs_neither_baseline_nor_repeat(self):
        assert judged([ran(CHECK, "p")]).attempts_compared == ("check-p",)


class TestWhatIsWantedNext:
    def test_nothing_yet(self):
        assert next_step([], [], RULES) is CHECK

    def test_a_failure_wants_the_baseline_first(self):
        assert next_step([ran(CHECK, "pf")], [], RULES) is BASELINE

    def test_then_the_repeat(self):
        assert next_step([ran(CHECK, "f"), ran(BASELINE, "p")], [], RULES) is REPEAT

    def test_a_baseline_of_another_build_saves_one(self):
        assert next_step([ran(CHECK, "f")], [ran(BASELINE, "p")], RULES) is REPEAT

    def test_nothing_is_repeated_when_the_tip_fails_it_too(self):
        assert judged([ran(CHECK, "f"), ran(BASELINE, "f")]).failure_class is FailureClass.KNOWN

    @pytest.mark.parametrize(
        "other",
        [
            {"tree": "with"},
            {"tree": ""},
            {"grade": "emulator"},
            {"result": Result.TIMED_OUT},
            {"result": Result.LOST},
        ],
    )
    def test_only_a_baseline_of_the_same_trees_and_grade_counts(self, other):
        assert next_step([ran(CHECK, "f")], [ran(BASELINE, "p", **other)], RULES) is BASELINE

    def test_a_check_of_the_trees_without_the_patch_is_a_baseline(self):
        merged = ran(CHECK, "f", tree="without", base_tree="older")
        assert judged([ran(CHECK, "f")], [merged]).failure_class is FailureClass.KNOWN

    def test_what_it_was_compared_with_is_told(self):
        rules = BuildRules(base=STACKED)
        found = judged([ran(CHECK, "f"), ran(BASELINE, "f")], rules=rules)
        assert found.reason.startswith("1 test is broken on the branch tip with what this depends")
        assert "with what this depends on fails it" in found.findings[0].reason

    def test_the_first_fitting_baseline_is_taken(self):
        old, new = ran(BASELINE, "f"), ran(BASELINE, "p")
        assert next_step([ran(CHECK, "f")], [new, old], RULES) is REPEAT

    def test_an_own_baseline_on_a_node_of_another_grade_is_not_compared(self):
        attempts = [ran(CHECK, "f"), ran(BASELINE, "p", grade="emulator")]
        assert next_step(attempts, [], RULES) is BASELINE
        found = judged([ran(CHECK, "f"), *[ran(BASELINE, "p", grade="emulator")] * 3])
        assert (found.failure_class, found.vote) == (FailureClass.INFRA, 0)
        assert "evidence grade emulator" in found.reason

    def test_only_a_baseline_of_a_like_node_is_compared(self):
        check = ran(CHECK, "f", likeness="qemu 7")
        for other in ("qemu 8", ""):
            assert next_step([check], [ran(BASELINE, "f", likeness=other)], RULES) is BASELINE
        alike = ran(BASELINE, "f", likeness="qemu 7")
        assert judged([check], [alike]).failure_class is FailureClass.KNOWN

    def test_a_node_that_was_upgraded_since_the_check_blames_nobody(self):
        check = ran(CHECK, "f", likeness="qemu 7")
        after = [ran(BASELINE, "p", likeness="qemu 8"), ran(REPEAT, "f", likeness="qemu 8")]
        assert next_step([check, *after], [], RULES) is BASELINE
        found = judged([check, *[after[0]] * 3])
        assert (found.failure_class, found.vote) == (FailureClass.INFRA, 0)
        assert "its node is unlike the check's: evidence grade nested, qemu 8" in found.reason

    def test_a_repeat_on_an_unlike_node_proves_nothing(self):
        done = [ran(CHECK, "f", likeness="a"), ran(BASELINE, "p", likeness="a")]
        assert next_step([*done, ran(REPEAT, "f", likeness="b")], [], RULES) is REPEAT
        again = [*done, ran(REPEAT, "f", likeness="a")]
        assert judged(again).failure_class is FailureClass.REGRESSION

    def test_a_build_that_was_under_way_when_likeness_came_in_ends(self):
        attempts = [ran(CHECK, "f"), ran(BASELINE, "f", likeness="a")]
        assert judged(attempts).failure_class is FailureClass.KNOWN


class TestFailures:
    @pytest.mark.parametrize("bad", "fe")
    def test_regression(self, bad):
        found = judged([ran(CHECK, f"p{bad}"), ran(BASELINE, "pp"), ran(REPEAT, f"p{bad}")])
        assert (found.result, found.failure_class, found.vote) == (
            Result.FAILURE,
            FailureClass.REGRESSION,
            -1,
        )
        assert found.reason == "this patch breaks 1 test that the branch tip passes: b"
        assert [f.test_id for f in found.findings] == ["b"]
        assert found.attempts_compared == (f"check-p{bad}", "baseline-pp", f"repeat-p{bad}")

    def test_new_failing(self):
        found = judged([ran(CHECK, "pf"), ran(BASELINE, "p"), ran(REPEAT, "pf")])
        assert (found.failure_class, found.vote) == (FailureClass.NEW_FAILING, -1)

    def test_a_test_that_the_tip_skips_is_new_and_says_so(self):
        found = judged([ran(CHECK, "f"), ran(BASELINE, "s"), ran(REPEAT, "f")])
        assert (found.failure_class, found.vote) == (FailureClass.NEW_FAILING, -1)
        assert "skips" in found.findings[0].reason

    @pytest.mark.parametrize("vote", [0, 1])
    def test_known_votes_as_set(self, vote):
        rules = BuildRules(known_failure_vote=vote)
        found = judged([ran(CHECK, "pf"), ran(BASELINE, "pf")], rules=rules)
        assert (found.result, found.failure_class, found.vote) == (
            Result.SUCCESS,
            FailureClass.KNOWN,
            vote,
        )

    def test_known_with_another_message_is_said(self):
        found = judged([ran(CHECK, "f"), ran(BASELINE, "e")])
        assert "another message: it says e" in found.findings[0].reason

    def test_flaky(self):
        found = judged([ran(CHECK, "f"), ran(BASELINE, "p"), ran(REPEAT, "p")])
        assert (found.result, found.failure_class, found.vote) == (
            Result.SUCCESS,
            FailureClass.FLAKY,
            1,
        )
        assert found.findings[0].test_id == "a"

    @pytest.mark.parametrize("again", ["p-", "ps"])
    def test_what_did_not_run_again_neither_failed_nor_passed(self, again):
        found = judged([ran(CHECK, "pf"), ran(BASELINE, "pp"), ran(REPEAT, again)])
        assert (found.failure_class, found.vote) == (FailureClass.INFRA, 0)
        assert found.reason == "1 test did not run again when the suite was repeated: b"

    def test_one_regression_decides_over_all_else(self):
        found = judged([ran(CHECK, "ffff"), ran(BASELINE, "ppf-"), ran(REPEAT, "fpff")])
        assert found.failure_class is FailureClass.REGRESSION
        assert [f.failure_class for f in found.findings] == [
            FailureClass.REGRESSION,
            FailureClass.FLAKY,
            FailureClass.KNOWN,
            FailureClass.NEW_FAILING,
        ]

    def test_another_failure_on_repeat_does_not_confirm_the_first(self):
        found = judged([ran(CHECK, "fp"), ran(BASELINE, "pp"), ran(REPEAT, "pf")])
        assert (found.failure_class, found.vote) == (FailureClass.FLAKY, 1)

    def test_many_names_are_cut(self):
        word = "f" * 8
        found = judged([ran(CHECK, word), ran(BASELINE, "p" * 8), ran(REPEAT, word)])
        assert found.reason.endswith("8 tests that the branch tip passes: a, b, c, d, e, ...")


class TestTrouble:
    @pytest.mark.parametrize("result", sorted(INFRA_RESULTS - {Result.ERROR}))
    @pytest.mark.parametrize("quota", [1, 2, 3])
    def test_the_check_is_tried_on_so_many_nodes(self, result, quota):
        rules = BuildRules(quota=Quota(default=quota - 1))
        for tries in range(quota):
            assert next_step([broke(CHECK, result)] * tries, [], rules) is CHECK
        found = judged([broke(CHECK, result)] * quota, rules=rules)
        assert found.result is (result if quota == 1 else Result.RETRY_LIMIT)
        assert (found.failure_class, found.vote) == (FailureClass.INFRA, 0)
        assert "the node died" in found.reason

    @pytest.mark.parametrize("kind", [BASELINE, REPEAT])
    @pytest.mark.parametrize("result", sorted(INFRA_RESULTS))
    def test_each_kind_has_a_quota_of_its_own(self, kind, result):
        before = [broke(CHECK, Result.LOST), broke(CHECK, Result.LOST), ran(CHECK, "f")]
        if kind is REPEAT:
            before += [broke(BASELINE, Result.LOST)] * 2 + [ran(BASELINE, "p")]
        assert next_step([*before, *[broke(kind, result)] * 2], [], RULES) is kind
        found = judged([*before, *[broke(kind, result)] * 3])
        assert (found.result, found.failure_class, found.vote) == (
            Result.RETRY_LIMIT,
            FailureClass.INFRA,
            0,
        )

    def test_an_empty_check_is_not_tried_again(self):
        found = judged([broke(CHECK, Result.ERROR)])
        assert (found.result, found.failure_class, found.vote) == (
            Result.ERROR,
            FailureClass.EMPTY,
            0,
        )

    def test_a_check_that_came_through_at_last_counts(self):
        assert judged([broke(CHECK, Result.NODE_FAILURE), ran(CHECK, "p")]).vote == 1

    def test_interruptions_are_not_counted_against_the_nodes(self):
        stopped = broke(CHECK, Result.LOST, interrupted=True)
        attempts = [*[stopped] * (INTERRUPTION_LIMIT - 1), *[broke(CHECK, Result.LOST)] * 2]
        assert next_step(attempts, [], RULES) is CHECK
        assert judged([*attempts, broke(CHECK, Result.LOST)]).vote == 0

    def test_endless_interruptions_end(self):
        stopped = [broke(CHECK, Result.LOST, interrupted=True)] * INTERRUPTION_LIMIT
        assert judged(stopped).failure_class is FailureClass.INFRA

    @pytest.mark.parametrize(
        ("result", "wanted"),
        [
            (Result.CANCELED, FailureClass.CANCELED),
            (Result.MERGE_CONFLICT, FailureClass.CONFLICT),
        ],
    )
    def test_cancel_and_conflict_end_it_whatever_was_found(self, result, wanted):
        found = judged([ran(CHECK, "f"), ran(BASELINE, "p"), broke(REPEAT, result)])
        assert (found.result, found.failure_class, found.vote) == (result, wanted, 0)

    def test_trouble_with_a_dependency_is_not_the_patchs_conflict(self):
        trouble = broke(CHECK, Result.MERGE_CONFLICT, dependency=True)
        found = judged([trouble])
        assert found.result is Result.MERGE_CONFLICT
        assert (found.failure_class, found.vote) == (FailureClass.DEPENDENCY, 0)


def test_minus_one_needs_a_baseline_that_does_not_fail_it_and_a_repeat_that_does():
    """Every history of one test, and a random sample of three."""
    chance = random.Random(3)
    three = ["".join(chance.choices("pfes-", k=3)) for _ in range(40)]
    words = list(product("pfes-", repeat=3)) + [tuple(chance.sample(three, 3)) for _ in range(400)]
    for check, tip, again in words:
        attempts = [ran(CHECK, check), ran(BASELINE, tip), ran(REPEAT, again)]
        found = next_step(attempts, [], RULES)
        guilty = [
            place
            for place, letter in enumerate(check)
            if letter in "fe" and tip[place] not in "fe" and again[place] in "fe"
        ]
        assert isinstance(found, Judgement)
        assert (found.vote == -1) == bool(guilty), (check, tip, again)
        blamed = {FailureClass.REGRESSION, FailureClass.NEW_FAILING}
        assert [f.test_id for f in found.findings if f.failure_class in blamed] == [
            "abc"[place] for place in guilty
        ]


def test_without_both_baseline_and_repeat_nobody_is_blamed():
    """Random heaps of attempts: a -1 always rests on one of each kind."""
    chance = random.Random(7)
    kinds, results = list(AttemptKind), sorted(INFRA_RESULTS)
    for _ in range(3000):
        heap = [
            ran(
                chance.choice(kinds), "".join(chance.choices("pfs-", k=2)), tree=chance.choice("tu")
            )
            if chance.random() < 0.6
            else broke(chance.choice(kinds), chance.choice(results))
            for _ in range(chance.randrange(6))
        ]
        found = next_step(heap, [], RULES)
        if isinstance(found, Judgement) and found.vote < 0:
            usable = {a.kind for a in heap if a.finished_tests}
            assert usable == {CHECK, REPEAT, BASELINE}, heap
            assert len(found.attempts_compared) == 3


PASS = Judgement(result=Result.SUCCESS, failure_class=FailureClass.PASS, vote=1, reason="fine")
GUILTY = Judgement(
    result=Result.FAILURE, failure_class=FailureClass.REGRESSION, vote=-1, reason="broken"
)
INFRA = Judgement(
    result=Result.RETRY_LIMIT, failure_class=FailureClass.INFRA, vote=0, reason="no node"
)
CONFLICT = Judgement(
    result=Result.MERGE_CONFLICT, failure_class=FailureClass.CONFLICT, vote=0, reason="conflict"
)
DEPENDENCY = Judgement(
    result=Result.MERGE_CONFLICT, failure_class=FailureClass.DEPENDENCY, vote=0, reason="circle"
)
CANCELED = Judgement(
    result=Result.CANCELED, failure_class=FailureClass.CANCELED, vote=0, reason="superseded"
)
KNOWN_0 = Judgement(
    result=Result.SUCCESS, failure_class=FailureClass.KNOWN, vote=0, reason="broken before"
)


def pipeline(**more: object) -> Pipeline:
    return Pipeline.model_validate({"name": "check", "connection": "g", "policy": "vote", **more})


def word(judgement: Judgement, name: str = "unit", *, voting: bool = True) -> BuildWord:
    return BuildWord(job=name, judgement=judgement, voting=voting)


class TestVerdict:
    @pytest.mark.parametrize(
        ("judgements", "value", "succeeded"),
        [
            ((PASS,), 1, True),
            ((PASS, PASS), 1, True),
            ((PASS, GUILTY), -1, False),
            ((INFRA, GUILTY), -1, False),
            ((PASS, INFRA), None, False),
            ((INFRA,), None, False),
            ((KNOWN_0,), None, True),
            ((KNOWN_0, PASS), None, True),
            ((KNOWN_0, INFRA), None, False),
        ],
    )
    def test_voting_builds_together(self, judgements, value, succeeded):
        for order in (judgements, judgements[::-1]):
            found = verdict([word(j, f"job{n}") for n, j in enumerate(order)], pipeline())
            assert found.vote == (None if value is None else Vote(label="Verified", value=value))
            assert (found.succeeded, found.report) == (succeeded, True)

    @pytest.mark.parametrize("other", [GUILTY, INFRA, PASS])
    def test_non_voting_builds_decide_nothing(self, other):
        found = verdict([word(PASS), word(other, "extra", voting=False)], pipeline())
        assert found.vote == Vote(label="Verified", value=1)
        found = verdict([word(GUILTY), word(other, "extra", voting=False)], pipeline())
        assert found.vote == Vote(label="Verified", value=-1)

    @pytest.mark.parametrize(("judgement", "succeeded"), [(PASS, True), (GUILTY, False)])
    def test_only_non_voting_builds_never_vote(self, judgement, succeeded):
        found = verdict([word(judgement, voting=False)], pipeline())
        assert (found.vote, found.succeeded, found.report) == (None, succeeded, True)

    def test_values_are_the_pipelines(self):
        wide = pipeline(success=2, failure=-2, label="Lab-Check")
        assert verdict([word(PASS)], wide).vote == Vote(label="Lab-Check", value=2)
        assert verdict([word(GUILTY)], wide).vote == Vote(label="Lab-Check", value=-2)
        assert verdict([word(PASS)], pipeline(success=0)).vote is None

    @pytest.mark.parametrize(
        ("policy", "good", "bad", "report"),
        [
            (VotePolicy.SILENT, None, None, False),
            (VotePolicy.COMMENT, None, None, True),
            (VotePolicy.PLUS_ONE_ONLY, 1, -1, True),
            (VotePolicy.VOTE, 1, -1, True),
        ],
    )
    def test_the_ladder(self, policy, good, bad, report):
        for judgement, value in ((PASS, good), (GUILTY, bad), (INFRA, None)):
            found = verdict([word(judgement)], pipeline(policy=policy))
            assert (found.vote.value if found.vote else None) == value
            assert found.report is report
            assert found.held is (policy is VotePolicy.PLUS_ONE_ONLY and value == -1)

    @pytest.mark.parametrize(
        ("conflict", "policy", "value", "report"),
        [
            (ConflictPolicy.SILENT, VotePolicy.VOTE, None, False),
            (ConflictPolicy.COMMENT, VotePolicy.VOTE, None, True),
            (ConflictPolicy.VOTE, VotePolicy.VOTE, -1, True),
            (ConflictPolicy.VOTE, VotePolicy.PLUS_ONE_ONLY, -1, True),
            (ConflictPolicy.VOTE, VotePolicy.COMMENT, None, True),
            (ConflictPolicy.VOTE, VotePolicy.SILENT, None, False),
        ],
    )
    def test_conflicts(self, conflict, policy, value, report):
        rules = pipeline(policy=policy, merge_conflict=conflict)
        for builds in ([word(CONFLICT)], [word(CONFLICT), word(GUILTY, "b")]):
            found = verdict(builds, rules)
            assert (found.vote.value if found.vote else None) == value
            assert (found.report, found.succeeded, found.reason) == (report, False, "conflict")

    @pytest.mark.parametrize(
        ("policy", "value", "report"),
        [
            (ConflictPolicy.SILENT, None, False),
            (ConflictPolicy.COMMENT, None, True),
            (ConflictPolicy.VOTE, -1, True),
        ],
    )
    def test_trouble_with_dependencies(self, policy, value, report):
        rules = pipeline(dependency_trouble=policy)
        for builds in ([word(DEPENDENCY)], [word(PASS), word(DEPENDENCY, "b")]):
            found = verdict(builds, rules)
            assert (found.vote.value if found.vote else None) == value
            assert (found.report, found.succeeded, found.reason) == (report, False, "circle")
        assert verdict([word(DEPENDENCY)], pipeline()).vote is None

    def test_a_canceled_build_silences_the_whole(self):
        found = verdict([word(GUILTY), word(CANCELED, "b")], pipeline())
        assert (found.vote, found.report) == (None, False)

    def test_the_reason_names_the_culprits(self):
        found = verdict([word(PASS, "a"), word(GUILTY, "b"), word(INFRA, "c")], pipeline())
        assert found.reason == "b: broken"
        assert verdict([word(INFRA, "c")], pipeline()).reason == "c: no node"

    def test_no_minus_one_without_a_guilty_voting_build(self):
        choices = [PASS, GUILTY, INFRA, CONFLICT, DEPENDENCY, CANCELED, KNOWN_0]
        for judgements in product(choices, repeat=2):
            for voting in product([True, False], repeat=2):
                builds = [
                    word(j, f"j{n}", voting=v)
                    for n, (j, v) in enumerate(zip(judgements, voting, strict=True))
                ]
                found = verdict(builds, pipeline())
                if found.vote and found.vote.value < 0:
                    assert any(b.voting and b.judgement.vote < 0 for b in builds)
                if found.vote and found.vote.value > 0:
                    assert all(b.judgement.vote > 0 for b in builds if b.voting)
