# SPDX-License-Identifier: Apache-2.0
"""What a patch's own run showed of the matrix's features, beside the branch and the matrix. Pure.

It is shown and never counted: what counts is decided where evidence is filed, in
`ci.store.evidence`. The states are worked out as those of the matrix are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ci.matrix import cells, nova
from ci.matrix.cells import Cell, Column, State
from ci.model.evidence import Evidence, System
from ci.model.feature import Feature
from ci.model.result import Grade, Outcome, Result, Status
from ci.store.evidence import SYSTEM, TITLE, told
from ci.store.reads.records import AttemptDetail, BuildDetail
from webui import views

_FEATURES = frozenset(one.value for one in Feature)
_RANK = {State.COMPLETE: 3, State.PARTIAL: 2, State.FAILING: 1, State.MISSING: 1}
_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_TERM = timedelta(days=cells.STALE_DAYS)


@dataclass(frozen=True, kw_only=True)
class FeatureTrial:
    """One feature in a patch's own run.

    Attributes:
        feature: Nova's key.
        title: Nova's.
        state: What the run showed; `unknown` where its tests said nothing.
        tests: Tests of the feature in the run.
        passed: How many of them passed.
        reason: Why it fails, is not supported or was not tried; hostile text.
        baseline: The same of the branch without the patch; None where that did not try it.
        matrix: What the matrix says of the branch today; None where it says nothing.
        matrix_grade: How real that evidence is.
        change: `worse` or `better` than the baseline, or than the matrix where the baseline
            says nothing; `new` where neither says anything; else empty.
        against: `baseline` or `matrix`: which of them; else empty.
    """

    feature: str
    title: str
    state: State
    tests: int
    passed: int
    reason: str
    baseline: State | None
    matrix: State | None
    matrix_grade: Grade
    change: str
    against: str


@dataclass(frozen=True, kw_only=True)
class FeatureTrials:
    """What the last run of a patch showed of features.

    Attributes:
        system: Key of the matrix's column; empty where the suite names none.
        title: Its title.
        grade: How real the hypervisor was.
        attempt_id: Which run.
        baseline_id: The run without the patch that it is compared with; None: there is none.
        counted: Whether the run counts in the matrix: the patch set has merged.
        standing: Why it counts or does not, one sentence.
        rows: Worse first, then better, new, and the rest in Nova's order.
    """

    system: str
    title: str
    grade: Grade
    attempt_id: str
    baseline_id: str | None
    counted: bool
    standing: str
    rows: tuple[FeatureTrial, ...]

    @property
    def differing(self) -> tuple[FeatureTrial, ...]:
        """Rows that the patch changes."""
        return tuple(row for row in self.rows if row.change in {"worse", "better"})

    @property
    def others(self) -> tuple[FeatureTrial, ...]:
        """The rest."""
        return tuple(row for row in self.rows if row.change not in {"worse", "better"})


def last_run(detail: BuildDetail) -> AttemptDetail | None:
    """The run of the patch that would count, and tried a feature; None where there is none."""
    counted = {Result.SUCCESS.value, Result.FAILURE.value}
    own = [one for one in detail.attempts if one.kind != "baseline" and one.result in counted]
    last = own[-1] if own else None
    return last if last and any(_tried(last)) else None


def trials(detail: BuildDetail, evidence: Sequence[Evidence]) -> FeatureTrials | None:
    """The features that a build tried; None where it tried none.

    Args:
        detail: The build.
        evidence: All that the matrix knows of the system of `last_run`.
    """
    run = last_run(detail)
    if run is None:
        return None
    baseline = _baseline(detail)
    system = _system(run)
    known: dict[str, list[Evidence]] = {}
    for one in evidence:
        known.setdefault(one.feature, []).append(one)
    without = _cells(baseline) if baseline else {}
    own = _cells(run)
    rows = [
        _row(feature, run, own.get(feature), without.get(feature), known.get(feature, ()))
        for feature in _in_order({*_tried(run), *without})
    ]
    counted, standing = _standing(detail, system, run.grade)
    return FeatureTrials(
        system=system,
        title=nova.drivers().get(system) or run.facts.get(TITLE, "") or system,
        grade=Grade(run.grade),
        attempt_id=run.id,
        baseline_id=baseline.id if baseline else None,
        counted=counted,
        standing=standing,
        rows=tuple(sorted(rows, key=lambda row: _ORDER[row.change])),
    )


_ORDER = {"worse": 0, "better": 1, "new": 2, "": 3}


def change_badge(row: FeatureTrial) -> views.Badge | None:
    """A word for what the patch does to a feature; None where it does nothing."""
    looks = {"worse": ("bad", "fail"), "better": ("good", "pass"), "new": ("wait", "wait")}
    words = {"worse": "Breaks it", "better": "Mends it", "new": "Tried first here"}
    if row.change == "worse" and row.state is State.PARTIAL:
        words["worse"] = "Breaks a part"
    if row.change not in looks:
        return None
    tone, icon = looks[row.change]
    return views.Badge(word=words[row.change], tone=tone, icon=icon)


def _row(
    feature: str,
    run: AttemptDetail,
    own: Cell | None,
    without: Cell | None,
    evidence: Sequence[Evidence],
) -> FeatureTrial:
    matrix = _cell(feature, evidence) if evidence else None
    outcomes = _tried(run).get(feature, [])
    state = own.state if own else State.UNKNOWN
    before = without or matrix
    said = next((one.message for one in outcomes if one.message), "did not run")
    row = nova.rows().get(feature)
    return FeatureTrial(
        feature=feature,
        title=row.title if row else feature,
        state=state,
        tests=len(outcomes),
        passed=sum(1 for one in outcomes if one.status is Status.PASS),
        reason=own.reason if own else said,
        baseline=without.state if without else None,
        matrix=matrix.state if matrix else None,
        matrix_grade=matrix.grade if matrix else Grade.NONE,
        change=_change(state, before.state if before else None),
        against=("baseline" if without else "matrix") if before else "",
    )


def _change(state: State, before: State | None) -> str:
    if state not in _RANK:
        return ""
    if before not in _RANK:
        return "new"
    if _RANK[state] == _RANK[before]:
        return ""
    return "worse" if _RANK[state] < _RANK[before] else "better"


def _standing(detail: BuildDetail, system: str, grade: str) -> tuple[bool, str]:
    """Whether this run counts in the matrix, and why; see `ci.store.evidence.adopt`."""
    if not system or grade == Grade.NONE:
        return False, "the suite named no hypervisor of the matrix, so this is never evidence"
    if detail.buildset.depends:
        return False, "tested on top of other changes, so it never counts in the matrix"
    if detail.build.patchset < detail.newest_patchset:
        return False, "a newer patch set is there, so it does not count in the matrix"
    if detail.change_status == "MERGED":
        return True, "the patch set has merged, so this run counts in the matrix"
    if detail.change_status == "ABANDONED":
        return False, "the change was abandoned, so it does not count in the matrix"
    return False, "a patch’s own run counts in the matrix only once it has merged"  # noqa: RUF001


def _system(run: AttemptDetail) -> str:
    return run.facts.get(SYSTEM, "")


def _baseline(detail: BuildDetail) -> AttemptDetail | None:
    """The newest run without the patch that the judgement rests on and that tried a feature."""
    found = [
        one for one in views.compared(detail) if _is_baseline(detail, one) and any(_tried(one))
    ]
    return max(found, key=lambda one: one.started_at, default=None)


def _is_baseline(detail: BuildDetail, attempt: AttemptDetail) -> bool:
    return attempt.kind == "baseline" or attempt.build_id != detail.build.id


def _tried(run: AttemptDetail) -> Mapping[str, list[Outcome]]:
    """Outcomes that try a row of the matrix, by row."""
    found: dict[str, list[Outcome]] = {}
    for one in run.outcomes:
        if one.feature in _FEATURES:
            found.setdefault(one.feature, []).append(
                Outcome(
                    test_id=one.test_id,
                    status=Status(one.status),
                    duration_s=one.duration_s,
                    message=one.message,
                    feature=one.feature,
                )
            )
    return found


def _cells(run: AttemptDetail) -> dict[str, Cell]:
    """What a run shows of each feature, as the matrix would say it."""
    grade = Grade(run.grade)
    system = System(key=_system(run) or "none", title="", grade=grade)
    every = (one for outcomes in _tried(run).values() for one in outcomes)
    by_feature: dict[str, list[Evidence]] = {}
    for one in told(system, every, at=run.finished_at or _BEGIN, source=run.id):
        by_feature.setdefault(one.feature, []).append(one)
    return {feature: _cell(feature, words) for feature, words in by_feature.items()}


def _cell(feature: str, words: Sequence[Evidence]) -> Cell:
    system = words[0].system
    column = Column(key=system.key, title=system.title, grades=(system.grade,))
    return cells.cell(feature, column, words, now=words[0].at, term=_TERM)


def _in_order(features: Iterable[str]) -> list[str]:
    every = [*nova.rows(), *(one.value for one in Feature)]
    rank = {feature: place for place, feature in enumerate(reversed(every))}
    return sorted(features, key=lambda feature: -rank.get(feature, 0))
