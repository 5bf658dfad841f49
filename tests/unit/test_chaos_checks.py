# SPDX-License-Identifier: Apache-2.0
"""What judges a run of faults: bad journals and bad records must be objected to."""

import json
from dataclasses import replace

import pytest

from tests.chaos.journal import Entry, Life, objections, read
from tests.chaos.plan import Kind, Settings, Story, What, schedule
from tests.chaos.verdict import Case, Told, lacking, report, wrong

ME, OTHER = 10, 20
ALIVE = Life()


def entries(*told: tuple[str, str, int, float]) -> list[Entry]:
    """Entries of one node: word, holder, pid, seconds."""
    return [
        Entry(word=word, node="n", holder=holder, pid=pid, at_s=at_s)
        for word, holder, pid, at_s in told
    ]


GOOD = entries(
    ("boot", "a", ME, 1),
    ("begin", "a", ME, 2),
    ("end", "a", ME, 3),
    ("stop", "a", ME, 4),
    ("boot", "b", OTHER, 5),
    ("begin", "b", OTHER, 6),
    ("end", "b", OTHER, 7),
    ("stop", "b", OTHER, 8),
)
ROBBED = entries(
    ("boot", "a", ME, 1),
    ("begin", "a", ME, 2),
    ("takeover", "b", OTHER, 10),
    ("boot", "b", OTHER, 10),
    ("begin", "b", OTHER, 11),
    ("lost", "a", ME, 11.2),
    ("end", "b", OTHER, 12),
)


def test_builds_one_after_the_other_are_fine():
    assert objections(GOOD, {}) == []


def test_a_line_is_read_as_it_was_written():
    line = {"word": "end", "node": "n", "holder": "a", "pid": 7, "boot_ns": 2_500_000_000}
    found = read([json.dumps(line | {"how": "LeaseLost", "at": 1.0}), ""])
    assert found == [Entry(word="end", node="n", holder="a", pid=7, at_s=2.5, how="LeaseLost")]


def test_two_suites_at_once_are_told():
    told = entries(("boot", "a", ME, 1), ("begin", "a", ME, 2), ("begin", "b", OTHER, 3))
    assert any("two builds at once" in one for one in objections(told, {}))


def test_a_suite_on_a_machine_of_another_is_told():
    told = entries(("boot", "a", ME, 1), ("begin", "b", OTHER, 3), ("end", "b", OTHER, 4))
    assert any("not its own" in one for one in objections(told, {}))


def test_a_machine_taken_from_a_suite_that_lives_is_told():
    found = objections(ROBBED, {ME: ALIVE, OTHER: ALIVE})
    assert len(found) == 1
    assert "taken from a suite whose process lives" in found[0]


@pytest.mark.parametrize(
    "life",
    [
        Life(died_s=5.0),
        Life(died_s=10.5),
        Life(frozen=[(4.0, None)]),
        Life(frozen=[(4.0, 11.0)]),
        Life(frozen=[(4.0, 9.5)]),
    ],
    ids=["dead", "just dead", "frozen", "thawed later", "thawed a moment ago"],
)
def test_a_machine_taken_from_who_cannot_act_is_fine(life: Life):
    assert objections(ROBBED, {ME: life}) == []


def test_who_was_frozen_long_ago_can_act():
    assert objections(ROBBED, {ME: Life(frozen=[(2.1, 4.0)])})


def test_a_machine_that_died_is_nobodys_fault():
    told = entries(
        ("boot", "a", ME, 1), ("begin", "a", ME, 2), ("die", "a", 99, 3), ("lost", "a", ME, 3.1)
    )
    assert objections(told, {}) == []


def test_a_machine_stopped_under_a_suite_of_its_own_process_is_told():
    told = entries(("boot", "a", ME, 1), ("begin", "a", ME, 2), ("stop", "a", ME, 3))
    assert objections(told, {})


def test_a_suite_that_goes_on_without_its_machine_is_told():
    told = [*ROBBED[:-2], *entries(("end", "a", ME, 15.0))]
    found = objections(told, {ME: Life(frozen=[(4.0, None)])})
    assert any("went on without its machine" in one for one in found)


def test_a_machine_booted_twice_without_an_end_is_told():
    told = entries(("boot", "a", ME, 1), ("boot", "b", OTHER, 2))
    assert any("without a word" in one for one in objections(told, {}))


def test_machines_are_judged_each_for_itself():
    other = [replace(entry, node="m") for entry in GOOD]
    assert objections([*GOOD[:2], *other, *GOOD[2:]], {}) == []


def story(kind: Kind = Kind.GOOD, *, broken: bool = False) -> Story:
    return Story(
        index=1, at_s=0, kind=kind, broken=broken, last_broken=broken, suite_s=1, again_s=1
    )


def case(kind: Kind = Kind.GOOD, **values: object) -> Case:
    settings: dict[str, object] = {"patchsets": 1, "rechecks": 0, "broken": False} | values
    broken = bool(settings.pop("broken"))
    return Case(story=story(kind, broken=broken), number=5, **settings)  # type: ignore[arg-type]


RIGHT = [
    (case(), Told(patchset=1, vote=1, comments=(1,))),
    (case(Kind.BROKEN, broken=True), Told(patchset=1, vote=-1, comments=(1,))),
    (case(Kind.DOCS), Told(patchset=1, vote=0)),
    (case(Kind.SUPERSEDED, patchsets=2), Told(patchset=2, vote=1, comments=(2,))),
    (case(Kind.SUPERSEDED, patchsets=2), Told(patchset=2, vote=1, comments=(1, 2))),
    (case(Kind.RECHECKED, rechecks=1), Told(patchset=1, vote=1, comments=(1, 1))),
    (case(Kind.ABANDONED), Told(patchset=1, vote=0)),
    (case(Kind.ABANDONED), Told(patchset=1, vote=1, comments=(1,))),
]
WRONG = [
    (case(), Told(patchset=1, vote=1, comments=(1, 1)), "at most 1"),
    (case(), Told(patchset=1, vote=-1, comments=(1,)), "vote -1, deserved +1"),
    (case(), Told(patchset=1, vote=0, comments=(1,)), "vote +0, deserved +1"),
    (case(Kind.BROKEN, broken=True), Told(patchset=1, vote=1, comments=(1,)), "deserved -1"),
    (case(Kind.DOCS), Told(patchset=1, vote=1, comments=(1,)), "at most 0"),
    (case(Kind.RECHECKED, rechecks=1), Told(patchset=1, vote=1, comments=(1,) * 3), "at most 2"),
    (case(Kind.SUPERSEDED, patchsets=2), Told(patchset=2, vote=1, comments=(1, 1, 2)), "set 1"),
    (case(Kind.ABANDONED), Told(patchset=1, vote=1, comments=(1, 1)), "at most 1"),
]
LATE = [
    (case(), Told(patchset=1, vote=0), "0 of 1"),
    (case(Kind.RECHECKED, rechecks=1), Told(patchset=1, vote=1, comments=(1,)), "1 of 2"),
    (case(Kind.SUPERSEDED, patchsets=2), Told(patchset=2, vote=0, comments=(1,)), "0 of 1"),
    (case(patchsets=2), Told(patchset=1, vote=1, comments=(1,)), "patch set 1 of 2"),
]


@pytest.mark.parametrize(("one", "told"), RIGHT)
def test_a_change_with_what_it_deserves_is_fine(one: Case, told: Told):
    assert report([one], {5: told}) == {}


@pytest.mark.parametrize(("one", "told", "words"), WRONG)
def test_a_wrong_or_second_word_is_told(one: Case, told: Told, words: str):
    assert any(words in said for said in wrong(one, told))
    assert report([one], {5: told})


@pytest.mark.parametrize(("one", "told", "words"), LATE)
def test_what_is_still_owed_is_told_apart_from_what_is_wrong(one: Case, told: Told, words: str):
    assert words in lacking(one, told)
    assert wrong(one, told) == []


SETTINGS = Settings(seconds=120, changes=50, processes=4, nodes=3, lease_s=8)


def test_a_seed_means_the_same_everywhere():
    assert schedule(7, SETTINGS) == schedule(7, SETTINGS)
    assert schedule(7, SETTINGS) != schedule(8, SETTINGS)


def test_a_schedule_stays_within_its_bounds():
    for seed in range(30):
        made = schedule(seed, SETTINGS)
        assert len(made.stories) == SETTINGS.changes
        for fault in made.faults:
            assert 0 < fault.at_s < SETTINGS.seconds
            assert 0 <= fault.target < max(SETTINGS.processes, SETTINGS.nodes)
            assert fault.for_s <= 3 * SETTINGS.lease_s
        assert [one.at_s for one in made.stories] == sorted(one.at_s for one in made.stories)


def test_a_fault_that_is_left_out_never_comes_and_all_others_do():
    few = replace(SETTINGS, leave_out=frozenset({What.KILL}))
    seen = {fault.what for seed in range(40) for fault in schedule(seed, few).faults}
    assert seen == set(What) - {What.KILL}


def test_authors_do_the_same_whatever_breaks():
    few = replace(SETTINGS, leave_out=frozenset({What.KILL}))
    assert schedule(3, few).stories == schedule(3, SETTINGS).stories


@pytest.mark.parametrize(
    ("kind", "broken", "vote"),
    [
        (Kind.GOOD, False, 1),
        (Kind.BROKEN, True, -1),
        (Kind.DOCS, False, 0),
        (Kind.ABANDONED, False, None),
    ],
)
def test_what_a_change_deserves(kind: Kind, broken: bool, vote: int | None):  # noqa: FBT001
    assert story(kind, broken=broken).vote == vote
