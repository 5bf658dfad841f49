# SPDX-License-Identifier: Apache-2.0
"""What evidence makes of a cell, and how it stands to what Nova declares."""

from dataclasses import replace

import pytest

from ci.matrix import nova
from ci.matrix.cells import Cell, Matrix, State, build, only
from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature
from ci.model.result import Grade
from tests.kit.evidence_rows import LXC, QEMU, VCENTER, story, word
from tests.kit.rows import NOW, ago

DAY = 86_400
NESTED = replace(QEMU, grade=Grade.NESTED)
EMULATED = replace(QEMU, grade=Grade.EMULATOR)


def cell_of(
    *evidence: Evidence,
    feature: str = Feature.PAUSE,
    system: System = QEMU,
    against: int | None = None,
) -> Cell:
    return find(build(evidence, now=NOW, against=against), feature, system.key)


def find(matrix: Matrix, feature: str, system: str) -> Cell:
    cells = (cell for line in matrix.lines for cell in line.cells)
    return next(cell for cell in cells if (cell.feature, cell.system) == (feature, system))


def pause(shown: Shown = Shown.WORKS, **other) -> Evidence:
    return word(other.pop("system", QEMU), Feature.PAUSE, shown, **other)


def test_no_evidence_of_a_system_is_no_node_and_of_one_feature_not_tested():
    assert cell_of().state is State.NO_NODE
    found = cell_of(word(QEMU, Feature.LAUNCH))
    assert (found.state, found.grade, found.last_at) == (State.UNKNOWN, Grade.NONE, None)
    assert found.declared["2026"] == "complete"


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ([Shown.WORKS], State.COMPLETE),
        ([Shown.WORKS, Shown.WORKS], State.COMPLETE),
        ([Shown.WORKS, Shown.FAILS], State.PARTIAL),
        ([Shown.WORKS, Shown.UNSUPPORTED], State.PARTIAL),
        ([Shown.FAILS, Shown.UNSUPPORTED], State.FAILING),
        ([Shown.UNSUPPORTED, Shown.UNSUPPORTED], State.MISSING),
    ],
)
def test_tests_together_make_a_state(shown, state):
    found = cell_of(*(pause(one, test=f"t{n}") for n, one in enumerate(shown)))
    assert (found.state, found.tests, found.passed) == (state, len(shown), shown.count("works"))


def test_the_newest_word_of_a_test_counts_and_an_older_pass_is_remembered():
    words = [pause(at=ago(300)), pause(Shown.FAILS, reason="hung", at=ago(60), source="a2")]
    for order in (words, words[::-1]):
        found = cell_of(*order)
        assert (found.state, found.reason, found.source) == (State.FAILING, "hung", "a2")
        assert (found.last_at, found.last_pass_at) == (ago(60), ago(300))
    mended = cell_of(*words, pause(at=ago(10)))
    assert (mended.state, mended.reason) == (State.COMPLETE, "")


def test_works_on_one_grade_only_is_partial_and_shows_the_grade_it_works_on():
    found = cell_of(pause(Shown.FAILS, reason="no"), pause(system=NESTED))
    assert (found.state, found.grade, found.passed) == (State.PARTIAL, Grade.NESTED, 0)
    both = cell_of(pause(), pause(system=NESTED))
    assert (both.state, both.grade, both.tests) == (State.COMPLETE, Grade.BARE, 1)


def test_an_emulator_never_speaks_against_or_for_a_real_hypervisor():
    failing = cell_of(pause(Shown.FAILS), pause(system=EMULATED))
    assert (failing.state, failing.grade) == (State.FAILING, Grade.BARE)
    alone = cell_of(pause(system=EMULATED))
    assert (alone.state, alone.grade) == (State.COMPLETE, Grade.EMULATOR)


@pytest.mark.parametrize("told", ["test_told.py::test_pause", "test_told::test_pause"])
def test_what_a_hypervisor_alone_told_never_stands_against_a_guest(told):
    alone = pause(test=told, system=VCENTER)
    assert cell_of(alone, system=VCENTER).state is State.COMPLETE
    failed = pause(Shown.FAILS, test="test_memory.py::test_pause", system=VCENTER, at=ago(40 * DAY))
    found = cell_of(alone, failed, system=VCENTER)
    assert (found.state, found.tests) == (State.FAILING, 1)


def test_every_cell_of_novas_tables_is_there_with_a_word_for_what_nobody_showed():
    matrix = build([], now=NOW)
    cells = {(one.feature, one.system): one for line in matrix.lines for one in line.cells}
    nowhere = {"operation.service-control.wtf.com"}
    for year in nova.YEARS:
        table = nova.declared(year)
        rows = {key: row for key, row in table.rows.items() if key not in nowhere}
        for key, row in rows.items():
            assert set(row.support) <= set(table.drivers)
            for driver, said in row.support.items():
                found = cells[key, driver]
                assert found.declared[str(year)] == said
                assert (found.state, found.grade) == (State.NO_NODE, Grade.NONE)
    titles = {one.key: one.title for one in matrix.columns}
    assert {key for key, title in titles.items() if title != nova.drivers()[key]} == set()


def test_old_evidence_keeps_its_state_and_is_called_old():
    found = cell_of(pause(at=ago(31 * DAY)))
    assert (found.state, found.stale) == (State.COMPLETE, True)
    assert not cell_of(pause(at=ago(29 * DAY))).stale


def test_a_test_that_is_no_longer_run_no_longer_counts():
    gone = pause(Shown.FAILS, test="renamed since", at=ago(40 * DAY))
    found = cell_of(gone, pause())
    assert (found.state, found.tests) == (State.COMPLETE, 1)
    still = cell_of(replace(gone, at=ago(20 * DAY)), pause())
    assert still.state is State.PARTIAL


@pytest.mark.parametrize(
    ("system", "feature", "shown", "difference"),
    [
        (QEMU, Feature.MAINTENANCE_MODE, Shown.WORKS, "proved"),
        (QEMU, Feature.MAINTENANCE_MODE, Shown.UNSUPPORTED, ""),
        (QEMU, Feature.PAUSE, Shown.FAILS, "refuted"),
        (QEMU, Feature.PAUSE, Shown.UNSUPPORTED, "refuted"),
        (QEMU, Feature.PAUSE, Shown.WORKS, ""),
        (QEMU, Feature.EVACUATE, Shown.WORKS, ""),
        (VCENTER, Feature.PAUSE, Shown.WORKS, ""),
        (EMULATED, Feature.PAUSE, Shown.FAILS, ""),
    ],
)
def test_a_difference_to_nova_needs_real_evidence(system, feature, shown, difference):
    found = cell_of(word(system, feature, shown), feature=feature, system=system)
    assert found.difference == difference


def test_the_newest_table_that_has_the_cell_is_compared_or_the_year_that_was_asked_for():
    xen = replace(QEMU, key="libvirt-xen")
    found = cell_of(word(xen, Feature.PAUSE, Shown.FAILS), system=xen)
    assert (found.against, found.difference) == ("2020", "refuted")
    assert cell_of(pause(), against=2015).against == "2015"
    other = cell_of(word(xen, Feature.PAUSE, Shown.FAILS), system=xen, against=2026)
    assert (other.against, other.difference) == ("", "")


def test_every_feature_is_a_row_and_every_driver_of_nova_a_column():
    matrix = build(story(), now=NOW)
    assert {line.feature for line in matrix.lines} == {one.value for one in Feature}
    assert len(matrix.lines) == len(Feature)
    keys = [column.key for column in matrix.columns]
    for year in nova.YEARS:
        assert set(nova.declared(year).drivers) <= set(keys)
    assert len(keys) == len(set(keys))
    assert keys[:5] == ["libvirt-qemu-x86", "libvirt-lxc", "libvirt-xen", "vmware", "dummy"]
    assert not any(column.grades for column in matrix.columns[5:])
    assert all(line.title != line.feature for line in matrix.lines)
    assert find(matrix, Feature.LAUNCH, "powervm").state is State.NO_NODE


def test_a_stand_in_stands_beside_what_it_stands_in_for_and_never_counts_for_it():
    ours = replace(QEMU, key="libvirt-qemu-s390x", title="Libvirt QEMU (s390x), TCG stand-in")
    matrix = build([word(QEMU, Feature.PAUSE), word(ours, Feature.PAUSE)], now=NOW)
    keys = [column.key for column in matrix.columns]
    place = keys.index("libvirt-qemu-s390x")
    assert keys[place + 1] == "libvirt-kvm-s390x"
    assert keys.count("libvirt-kvm-s390x") == 1
    assert "TCG stand-in" in matrix.columns[place].title
    assert find(matrix, Feature.PAUSE, "libvirt-kvm-s390x").state is State.NO_NODE
    assert find(matrix, Feature.PAUSE, "libvirt-qemu-s390x").declared == {}
    real = replace(QEMU, key="libvirt-kvm-s390x")
    both = build([word(real, Feature.PAUSE), word(ours, Feature.PAUSE)], now=NOW)
    assert [column.key for column in both.columns].count("libvirt-kvm-s390x") == 1


def test_nova_has_the_values_of_its_own_tables():
    assert nova.says("operation.launch", "libvirt-xen") == {"2015": "complete", "2020": "complete"}
    assert nova.says("operation.launch", "uml") == {}
    renamed = {"2015": "missing", "2020": "missing", "2026": "missing"}
    assert nova.says("guest.disk.autoconfig", "libvirt-qemu-x86") == renamed
    statuses = {row.status for row in nova.rows().values()}
    assert {"mandatory", "optional", "choice(console)"} <= statuses


def test_filters_leave_what_was_asked_for():
    matrix = build(story(), now=NOW)
    assert {line.group for line in only(matrix, group="console").lines} == {"console"}
    one = only(matrix, systems=["libvirt-lxc"])
    assert [column.key for column in one.columns] == ["libvirt-lxc"]
    assert all([cell.system for cell in line.cells] == ["libvirt-lxc"] for line in one.lines)
    assert all(column.grades for column in only(matrix, with_node=True).columns)
    differing = only(matrix, differences=True)
    assert all(any(cell.difference for cell in line.cells) for line in differing.lines)
    assert {cell.feature for cell in differing.differences} == {
        Feature.ATTACH_VOLUME,
        Feature.RESCUE,
        Feature.GUEST_DISK_AUTOCONFIG,
    }
    assert len(differing.columns) == 2


def test_a_system_that_nova_does_not_know_keeps_its_own_name():
    uml = replace(LXC, key="uml", title="User-mode Linux")
    matrix = build([word(uml, Feature.LAUNCH)], now=NOW)
    assert matrix.columns[0].title == "User-mode Linux"
    assert matrix.columns[0].declared == ()
    assert find(matrix, Feature.LAUNCH, "uml").declared == {}
