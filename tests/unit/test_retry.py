# SPDX-License-Identifier: Apache-2.0
"""How often an attempt is made again, by what ended it; and that there is always an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.judge import INTERRUPTION_LIMIT, BuildRules, next_step
from ci.layout import Job
from ci.model.build import AttemptKind, AttemptRecord
from ci.model.result import FailureClass, Judgement, Outcome, Result, Status
from ci.retry import Quota, Trouble, told, trouble_of
from ci.store.attempts import nodes_tried
from tests.kit.core import job

CHECK, REPEAT, BASELINE = AttemptKind.CHECK, AttemptKind.REPEAT, AttemptKind.BASELINE
RESULTS = {
    Trouble.SETUP: (Result.NODE_FAILURE, False),
    Trouble.NODE: (Result.NODE_FAILURE, True),
    Trouble.LOST: (Result.LOST, True),
    Trouble.COLLECT: (Result.POST_FAILURE, True),
    Trouble.TIMEOUT: (Result.TIMED_OUT, True),
    Trouble.ERROR: (Result.ERROR, True),
}


def broke(trouble: Trouble, *, kind: AttemptKind = CHECK, **more: object) -> AttemptRecord:
    result, began = RESULTS[trouble]
    fields = {"attempt_id": "a", "node": "n1", "error": f"{trouble} trouble", **more}
    return AttemptRecord(kind=kind, result=result, began=began, **fields)


def ran(kind: AttemptKind, word: str, **more: object) -> AttemptRecord:
    """An attempt whose tests a, b, c ended as the letters say."""
    words = {"p": Status.PASS, "f": Status.FAIL, "s": Status.SKIP}
    outcomes = tuple(
        Outcome(test_id="abc"[place], status=words[letter])
        for place, letter in enumerate(word)
        if letter in words
    )
    bad = any(one.status.bad for one in outcomes)
    tree = "without" if kind is BASELINE else "with"
    fields = {"tree": tree, "base_tree": "without", "node": "n1", "began": True, **more}
    result = Result.FAILURE if bad else Result.SUCCESS
    return AttemptRecord(attempt_id="a", kind=kind, result=result, outcomes=outcomes, **fields)


def rules(job: Job) -> BuildRules:
    return BuildRules(quota=Quota.of(job))


class TestClasses:
    @pytest.mark.parametrize("trouble", list(Trouble))
    def test_of_each_result(self, trouble):
        assert trouble_of(broke(trouble)) is trouble

    def test_before_the_suite_a_time_out_is_the_nodes_setup(self):
        early = AttemptRecord(attempt_id="a", kind=CHECK, result=Result.TIMED_OUT)
        assert trouble_of(early) is Trouble.SETUP

    def test_a_finished_run_that_cannot_be_compared_is_its_nodes(self):
        assert trouble_of(ran(BASELINE, "p")) is Trouble.NODE

    def test_the_layout_knows_them_all(self):
        assert set(type(job().retries).model_fields) == set(Trouble)


class TestQuota:
    def test_by_default_there_are_three_tries_whatever_happens(self):
        quota = Quota.of(job())
        every = [broke(one) for one in Trouble]
        assert not quota.used_up(every[:2])
        assert quota.used_up(every[:3]) == "all 3 tries used up"
        assert quota.tries == 3

    @pytest.mark.parametrize("trouble", list(Trouble))
    @pytest.mark.parametrize("limit", [0, 1, 5])
    def test_each_has_its_own(self, trouble, limit):
        quota = Quota.of(job(node_attempts=1, retries={trouble.value: limit}))
        assert not quota.used_up([broke(trouble)] * limit)
        assert quota.used_up([broke(trouble)] * (limit + 1))

    def test_what_is_not_named_has_one_less_than_node_attempts(self):
        quota = Quota.of(job(node_attempts=5, retries={"timeout": 0}))
        assert quota.limit(Trouble.NODE) == 4
        assert quota.limit(Trouble.TIMEOUT) == 0

    def test_the_largest_bounds_any_mixture(self):
        quota = Quota.of(job(retries={"lost": 5}))
        mixed = [broke(one) for one in (Trouble.NODE, Trouble.NODE, Trouble.LOST, Trouble.LOST)]
        assert not quota.used_up(mixed)
        assert quota.used_up([*mixed, broke(Trouble.COLLECT), broke(Trouble.SETUP)])

    def test_each_kind_of_attempt_has_them_anew(self):
        plan = rules(job(retries={"lost": 1}))
        before = [broke(Trouble.LOST), ran(CHECK, "f"), broke(Trouble.LOST, kind=BASELINE)]
        assert next_step(before, [], plan) is BASELINE
        found = next_step([*before, broke(Trouble.LOST, kind=BASELINE)], [], plan)
        assert isinstance(found, Judgement)

    @pytest.mark.parametrize("bad", [{"lost": -1}, {"lost": 21}, {"wrong": 1}])
    def test_what_the_layout_refuses(self, bad):
        with pytest.raises(ValueError, match="retries"):
            job(retries=bad)


class TestTheReason:
    def said(self, attempts: list[AttemptRecord], **keys: object) -> str:
        found = next_step(attempts, [], rules(job(**keys)))
        assert isinstance(found, Judgement)
        assert (found.failure_class, found.vote) == (FailureClass.INFRA, 0)
        return found.reason

    def test_names_quota_errors_and_nodes(self):
        tried = [broke(Trouble.SETUP, node=f"n{n}", error=f"no boot {n}") for n in (1, 2, 3)]
        assert self.said(tried) == (
            "the patch could not be tested in 3 tries: no boot 3; the 2 retries for setup trouble "
            "used up: n1 (no boot 1), n2 (no boot 2), n3 (no boot 3)"
        )

    def test_of_a_single_try_says_it_once(self):
        said = self.said([broke(Trouble.TIMEOUT)], retries={"timeout": 0})
        assert said == (
            "the patch could not be tested in 1 try: timeout trouble; no retry for timeout trouble"
        )

    def test_is_bounded(self):
        tried = [broke(Trouble.LOST, error="x" * 500)] * 11
        assert len(told(tried)) < 600
        assert "and 6 before" in told(tried)


class TestNodesToAvoid:
    def test_are_those_it_was_on_their_peers_included(self):
        tried = [
            broke(Trouble.NODE, node="n1", peers=("p1", "p2")),
            broke(Trouble.SETUP, node=""),
            ran(CHECK, "p", node="n2"),
        ]
        assert nodes_tried(tried) == ("n1", "p1", "p2", "n2")

    def test_what_we_interrupted_says_nothing_of_its_node(self):
        assert nodes_tried([broke(Trouble.LOST, interrupted=True)]) == ()


histories = st.lists(
    st.one_of(
        st.builds(
            lambda trouble, interrupted: (trouble, interrupted),
            st.sampled_from(list(Trouble)),
            st.booleans(),
        ),
        st.text(alphabet="pfs-", max_size=3),
    ),
    max_size=200,
)
quotas = st.builds(
    lambda attempts, named: Quota.of(job(node_attempts=attempts, retries=named)),
    st.integers(1, 10),
    st.dictionaries(st.sampled_from([one.value for one in Trouble]), st.integers(0, 20)),
)


@given(history=histories, quota=quotas)
def test_any_history_ends_and_only_guilt_gives_a_minus_one(history, quota):
    """Whatever happens on the nodes: a bounded number of attempts, and no -1 for our trouble."""
    plan = BuildRules(quota=quota)
    attempts: list[AttemptRecord] = []
    most = len(AttemptKind) * (quota.tries + INTERRUPTION_LIMIT)
    ahead = [*history, *[(Trouble.LOST, True)] * (most + 1)]
    for one in ahead:
        wanted = next_step(attempts, [], plan)
        if isinstance(wanted, Judgement):
            break
        done = ran(wanted, one) if isinstance(one, str) else None
        attempts.append(done or broke(one[0], kind=wanted, interrupted=one[1]))
    assert isinstance(wanted, Judgement)
    assert len(attempts) <= most
    assert (wanted.vote < 0) == (
        wanted.failure_class in {FailureClass.REGRESSION, FailureClass.NEW_FAILING}
    )
    if wanted.vote < 0:
        assert {a.kind for a in attempts if a.finished_tests} == set(AttemptKind)
    if wanted.vote > 0:
        assert wanted.result is Result.SUCCESS
