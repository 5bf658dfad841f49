# SPDX-License-Identifier: Apache-2.0
"""Evidence in the store: what is kept, what replaces what, and whose runs count."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ci.clock import FakeClock
from ci.model.build import AttemptKind
from ci.model.evidence import Shown
from ci.model.feature import Feature
from ci.model.result import Outcome, Result, Status
from ci.store import attempts, evidence, schema
from ci.store.attempts import AttemptEnd
from ci.store.evidence import Added
from ci.store.reads import all_evidence, cell_words
from tests.kit.core import database_in, job, queue_buildset, rows
from tests.kit.evidence_rows import HOSTILE, QEMU, XEN, word
from tests.kit.rows import ago

OUTCOMES = (
    Outcome(test_id="t_pause", status=Status.PASS, duration_s=2.0, feature=Feature.PAUSE),
    Outcome(test_id="t_resc", status=Status.FAIL, message="no answer", feature=Feature.RESCUE),
    Outcome(test_id="t_err", status=Status.ERROR, message="broke", feature=Feature.RESIZE),
    Outcome(
        test_id="t_uefi",
        status=Status.SKIP,
        message="unsupported: no firmware",
        feature=Feature.UEFI_BOOT,
    ),
    Outcome(
        test_id="t_evac", status=Status.SKIP, message="no second host", feature=Feature.EVACUATE
    ),
    Outcome(test_id="t_other", status=Status.PASS),
    Outcome(test_id="t_made_up", status=Status.PASS, feature="operation.fly"),
)
SHOWN = {
    (Feature.PAUSE, Shown.WORKS, ""),
    (Feature.RESCUE, Shown.FAILS, "no answer"),
    (Feature.RESIZE, Shown.FAILS, "broke"),
    (Feature.UEFI_BOOT, Shown.UNSUPPORTED, "no firmware"),
}


class Lab:
    """A database with one buildset of one job."""

    def __init__(self, folder):
        self.clock, self.database = FakeClock(), database_in(folder)
        (self.build,) = queue_buildset(self.database, job("a"), at=self.clock.now())

    def add(self, *words):
        with self.database.write() as tx:
            return evidence.add(tx, words)

    def run(self, kind, outcomes=OUTCOMES, *, result=Result.FAILURE, system=QEMU, grade="nested"):
        self.clock.advance(60)
        with self.database.write() as tx:
            attempt = attempts.begin(tx, self.build, kind, at=self.clock.now())
            attempts.update(tx, attempt, grade=grade, facts={"cpu": "max"})
            end = AttemptEnd(result=result, outcomes=outcomes, system=system)
            attempts.finish(tx, attempt, end, at=self.clock.now())
        return attempt

    def adopt(self, patchset=None):
        (row,) = rows(self.database, schema.buildset)
        with self.database.write() as tx:
            number = patchset or row.patchset
            return evidence.adopt(tx, row.connection, row.change_number, number)

    def stack(self):
        with self.database.write() as tx:
            tx.execute(schema.buildset.update().values(depends=[{"number": 1}]))

    def shown(self):
        return {(one.feature, one.shown, one.reason) for one in all_evidence(self.database)}


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    yield made
    made.database.close()


def test_the_newest_word_per_test_grade_and_what_it_showed_is_kept(lab):
    old, new = word(QEMU, Feature.PAUSE, at=ago(100)), word(QEMU, Feature.PAUSE, at=ago(50))
    assert lab.add(old) == Added(new=1)
    assert lab.add(replace(new, source="later")) == Added(renewed=1)
    assert lab.add(old, new) == Added(known=1)
    (kept,) = all_evidence(lab.database)
    assert (kept.at, kept.source, kept.system) == (new.at, "later", QEMU)


def test_other_words_of_a_test_stand_beside_it(lab):
    pause = word(QEMU, Feature.PAUSE)
    beside = [
        replace(pause, shown=Shown.FAILS, reason="x"),
        replace(pause, test_id="another"),
        replace(pause, feature=Feature.UNPAUSE.value),
        replace(pause, system=XEN),
        replace(pause, system=replace(QEMU, grade=XEN.grade)),
    ]
    assert lab.add(pause, *beside) == Added(new=6)


def test_the_same_twice_in_one_go_is_one_row(lab):
    pause = word(QEMU, Feature.PAUSE)
    assert lab.add(pause, replace(pause, at=pause.at + timedelta(seconds=1)), pause) == Added(new=1)


def test_hostile_text_is_kept_in_one_line_and_found_again(lab):
    hostile = word(
        replace(QEMU, title=HOSTILE),
        Feature.PAUSE,
        Shown.FAILS,
        test="t\0\ud800",
        reason=f"\0\ud800 {HOSTILE}" + "x" * 5_000,
    )
    assert lab.add(hostile) == Added(new=1)
    assert lab.add(hostile) == Added(known=1)
    (kept,) = all_evidence(lab.database)
    assert "\n" not in kept.reason + kept.system.title
    assert len(kept.reason) == evidence.MAX_REASON


def test_a_baseline_counts_at_once_with_the_grade_of_its_node(lab):
    attempt = lab.run(AttemptKind.BASELINE)
    assert lab.shown() == SHOWN
    for one in all_evidence(lab.database):
        assert (one.system.key, one.system.grade) == (QEMU.key, "nested")
        assert one.system.versions == {"cpu": "max", **QEMU.versions}
        assert (one.source, one.at) == (attempt, lab.clock.now())


def test_a_patchs_own_run_counts_when_it_has_merged(lab):
    lab.run(AttemptKind.CHECK)
    lab.run(AttemptKind.REPEAT)
    assert lab.shown() == set()
    assert lab.adopt() == len(SHOWN)
    assert lab.shown() == SHOWN
    assert lab.adopt() == 0


def test_the_last_run_of_a_merged_patch_set_counts(lab):
    lab.run(AttemptKind.CHECK)
    mended = replace(OUTCOMES[1], status=Status.PASS, message="")
    lab.run(AttemptKind.REPEAT, (mended,), result=Result.SUCCESS)
    lab.adopt()
    assert lab.shown() == {(Feature.RESCUE, Shown.WORKS, "")}


def test_another_patch_set_than_the_merged_one_does_not_count(lab):
    lab.run(AttemptKind.CHECK)
    assert lab.adopt(patchset=99) == 0
    assert lab.shown() == set()


def test_what_was_tested_on_top_of_others_does_not_count(lab):
    lab.stack()
    lab.run(AttemptKind.BASELINE)
    lab.run(AttemptKind.CHECK)
    assert lab.adopt() == 0
    assert lab.shown() == set()


@pytest.mark.parametrize("result", [Result.LOST, Result.NODE_FAILURE, Result.TIMED_OUT])
def test_a_run_that_does_not_count_is_no_evidence(lab, result):
    lab.run(AttemptKind.BASELINE, result=result)
    lab.run(AttemptKind.CHECK, result=result)
    lab.adopt()
    assert lab.shown() == set()


def test_without_a_system_or_a_grade_nothing_is_shown(lab):
    lab.run(AttemptKind.BASELINE, system=None)
    lab.run(AttemptKind.BASELINE, grade="none")
    assert lab.shown() == set()


def test_a_report_is_read_in_once_and_audited(lab):
    words = [word(QEMU, Feature.PAUSE), word(XEN, Feature.PAUSE)]
    at = lab.clock.now()
    added = evidence.read_in(lab.database, "nightly", words, by="ann", at=at)
    assert added == Added(new=2)
    again = evidence.read_in(lab.database, "nightly", words, by="ann", at=at)
    assert again == Added(known=2)
    (line,) = rows(lab.database, schema.audit)
    assert (line.action, line.subject, line.by) == ("matrix-add", "report nightly", "ann")
    assert line.note == "2 new, 0 renewed, 0 known before"


def test_a_cell_tells_its_words_newest_first_with_the_build_they_came_from(lab):
    attempt = lab.run(AttemptKind.BASELINE)
    lab.add(word(QEMU, Feature.PAUSE, test="by hand", at=lab.clock.now() - timedelta(days=1)))
    first, second = cell_words(lab.database, Feature.PAUSE, QEMU.key)
    assert (first.test_id, first.source, first.build_id, first.job) == (
        "t_pause",
        attempt,
        lab.build,
        "a",
    )
    assert (second.test_id, second.build_id) == ("by hand", None)
    assert cell_words(lab.database, Feature.PAUSE, "nobody") == ()


def test_evidence_outlives_its_attempt(lab):
    lab.run(AttemptKind.BASELINE)
    with lab.database.write() as tx:
        tx.execute(schema.outcome.delete())
        tx.execute(schema.attempt.delete())
    assert lab.shown() == SHOWN
    (kept,) = cell_words(lab.database, Feature.PAUSE, QEMU.key)
    assert kept.build_id is None
