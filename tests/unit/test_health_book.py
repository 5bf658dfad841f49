# SPDX-License-Identifier: Apache-2.0
"""Who stays in work: different changes, hand-outs without a test, health jobs, probes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.clock import FakeClock
from ci.store import leases, node_health, schema
from nodes.health_book import HealthBook, due_for_probe, probe_pause
from tests.kit.core import database_in, rows


class Shelf:
    """One node and its book."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.database = FakeClock(), database_in(folder)
        self.book = HealthBook(self.database, self.clock, looping_after=3)
        with self.database.write() as tx:
            leases.register(tx, name="n", label="lab", provider="p")

    @property
    def node(self) -> Any:
        return rows(self.database, schema.node, name="n")[0]

    @property
    def standing(self) -> node_health.Standing:
        with self.database.read() as tx:
            found = node_health.standing(tx, "n")
        assert found is not None
        return found

    def fail(self, *changes: str, tested: bool = True) -> str:
        for change in changes:
            self.book.failed("n", f"broke under {change}", change=change, tested=tested)
        return str(self.node.state)

    def notices(self) -> list[str]:
        return [row.subject for row in rows(self.database, schema.notice)]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


class TestBlame:
    def test_three_different_changes_quarantine(self, shelf):
        assert shelf.fail("g:1", "g:2") == "Unknown"
        assert shelf.fail("g:3") == "Bad"
        assert shelf.notices() == ["node n was taken out of work"]

    def test_one_change_never_does_however_often(self, shelf):
        assert shelf.fail(*["g:1"] * 9) == "Unknown"
        assert shelf.node.failures == 9
        assert shelf.notices() == []

    def test_changes_of_two_servers_with_one_number_differ(self, shelf):
        assert shelf.fail("g:1", "h:1", "i:1") == "Bad"

    def test_a_build_that_comes_to_its_end_forgets_them(self, shelf):
        shelf.fail("g:1", "g:2")
        shelf.book.succeeded("n")
        assert shelf.fail("g:3", "g:4") == "Unknown"
        assert shelf.standing.changes == 2

    def test_a_node_nobody_knows_is_no_matter(self, shelf):
        shelf.book.failed("other", "x")
        assert shelf.fail() == "Unknown"


class TestLooping:
    def test_one_change_that_never_gets_to_a_test_makes_it_loop(self, shelf):
        assert shelf.fail("g:1", "g:1", tested=False) == "Unknown"
        assert shelf.fail("g:1", tested=False) == "Looping"
        assert shelf.notices() == ["node n is looping"]

    def test_what_passes_probes_and_fails_hand_outs_loops(self, shelf):
        assert shelf.fail("g:1", "g:2", "g:3", tested=False) == "Bad"
        shelf.book.probed("n")
        assert shelf.node.state == "Good"
        shelf.clock.advance(1)
        assert shelf.fail("g:4", tested=False) == "Looping"

    def test_a_suite_that_began_ends_the_row(self, shelf):
        shelf.fail("g:1", "g:1", tested=False)
        shelf.fail("g:1", tested=True)
        assert shelf.fail("g:1", "g:1", tested=False) == "Unknown"

    def test_health_jobs_that_keep_failing(self, shelf):
        for state in ("Bad", "Bad", "Looping", "Looping"):
            shelf.book.job_ended("n", "no libvirtd")
            assert shelf.node.state == state
            shelf.clock.advance(1)
        assert shelf.node.health_tries == 4
        assert "its health job failed: no libvirtd" in shelf.node.reason
        assert shelf.notices() == ["node n was taken out of work", "node n is looping"]
        shelf.book.job_ended("n")
        assert (shelf.node.state, shelf.node.health_tries) == ("Good", 0)
        assert shelf.node.health_at == shelf.clock.now()

    def test_probes_go_further_apart_and_never_beyond_an_hour(self, shelf):
        shelf.fail("g:1", "g:1", "g:1", tested=False)
        pauses = []
        for _ in range(8):
            pauses.append(probe_pause(shelf.standing))
            assert not due_for_probe(shelf.standing, shelf.clock.now())
            shelf.clock.advance(pauses[-1].total_seconds())
            assert due_for_probe(shelf.standing, shelf.clock.now())
            shelf.book.probed("n", "still broken")
        assert pauses == sorted(pauses)
        assert pauses[0] >= timedelta(seconds=120)
        assert pauses[-1] == timedelta(hours=1)

    def test_a_bad_node_is_probed_at_each_turn(self, shelf):
        shelf.book.quarantine("n", "x")
        assert due_for_probe(shelf.standing, shelf.clock.now())


def test_a_probe_that_fails_takes_a_good_node_out(shelf):
    shelf.book.succeeded("n")
    shelf.book.probed("n", "no disk")
    assert (shelf.node.state, shelf.node.reason) == ("Bad", "no disk")


def test_what_is_remembered_of_one_node_is_bounded(shelf):
    shelf.fail(*["g:1"] * 50)
    assert len(shelf.node.blamed_by) == node_health.KEPT
