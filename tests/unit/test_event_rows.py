# SPDX-License-Identifier: Apache-2.0
"""Rows of step 1: events in one go, votes and reports of others, tips of branches."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.model.event import Account, Approval, BranchMoved, Event, EventKind
from ci.model.event_key import state_key
from ci.store import approvals, branches, events, schema
from ci.store.database import Database
from tests.kit.core import GERRIT, PROJECT, comment, database_in, event, rows

CLOCK = FakeClock()
AT = CLOCK.now()
ZUUL = Account(username="zuul", name="Zuul")
OTHER = Account(username="other-ci", name="Other Virt CI")
ANN = Account(username="ann", name="Ann")
OURS = Account(username="acme-ci", name="Acme CI")


def later(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def store(database: Database, *told: Event | BranchMoved, **more: Any) -> int:
    options = {"received_at": AT, "move_watermark": False, "own_username": "acme-ci"}
    return events.store_all(database, told, **(options | more))


def vote(label: str, value: int, by: Account = ZUUL, **more: Any) -> Approval:
    return Approval(label=label, value=value, by=by, **{"changed": True, **more})


def voted(by: Account, *given: Approval, at: float = 0, text: str = "", ps: int = 1) -> Event:
    """A comment of an account that gives these votes."""
    when = later(at)
    return comment(
        CLOCK,
        text,
        ps=ps,
        key=f"comment-added:12:{by.username}:{int(when.timestamp())}:{hash(text) % 1000:012d}",
        at=when,
        author=by,
        approvals=given,
    )


def table(database: Database) -> dict[tuple[str, str], tuple[int, str]]:
    """(account, label) to (value, said)."""
    found = rows(database, schema.approval)
    return {(row.account, row.label): (row.value, row.said) for row in found}


class TestVotes:
    """What others voted and reported: newest by time."""

    def test_a_ci_that_votes_and_reports(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        text = "Build succeeded (check pipeline).\n\n- job : SUCCESS"
        store(database, voted(ZUUL, vote("Verified", 1), text=text))
        assert table(database) == {("zuul", "Verified"): (1, "succeeded")}
        (row,) = rows(database, schema.approval)
        assert (row.is_ci, row.name, row.at, row.patchset) == (True, "Zuul", AT, 1)

    def test_a_ci_that_only_comments(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(OTHER, text="Build failed."), voted(OTHER, text="hello", at=1))
        store(database, voted(ANN, text="Build failed, I fear"))
        assert table(database) == {("other-ci", ""): (0, "failed")}

    def test_the_newest_by_time_wins_in_whatever_order(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ZUUL, vote("Verified", -1), at=20, text="b"))
        store(database, voted(ZUUL, vote("Verified", 1), at=10, text="a"))
        assert table(database)["zuul", "Verified"][0] == -1
        first = voted(ANN, vote("Code-Review", 2, ANN), at=1, text="c")
        second = voted(ANN, vote("Code-Review", -2, ANN), at=1, text="d")
        store(database, first, second)
        assert table(database)["ann", "Code-Review"][0] == -2, "of one second, the later one"

    def test_what_an_event_did_not_change_is_no_news(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ANN, vote("Code-Review", 2, ANN, changed=False), text="thanks"))
        assert table(database) == {}

    def test_taken_away(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ZUUL, vote("Verified", 1)))
        gone = event(
            CLOCK, EventKind.VOTE_DELETED, at=later(5), author=ANN, approvals=(vote("Verified", 0),)
        )
        store(database, gone)
        assert table(database) == {("zuul", "Verified"): (0, "")}

    def test_our_own_and_nameless_ones_are_not_kept(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        nobody = Account()
        store(database, voted(OURS, vote("Verified", 1, OURS), text="x"))
        store(database, voted(nobody, vote("Verified", 1, nobody), text="y"))
        assert table(database) == {}

    def test_an_event_known_already_changes_no_vote(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = voted(ZUUL, vote("Verified", 1))
        store(database, told)
        store(database, voted(ZUUL, vote("Verified", 0), at=1, text="z"))
        assert store(database, told) == 0
        assert table(database)["zuul", "Verified"][0] == 0


class TestSettle:
    """What a query shows of a patch set is what stands."""

    def settle(self, database: Database, *standing: Approval, as_of: float = 100) -> None:
        with database.write() as tx:
            approvals.settle(
                tx, GERRIT, 12, 1, standing=standing, as_of=later(as_of), own_username="acme-ci"
            )

    def test_votes_that_were_missed(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        self.settle(
            database,
            vote("Verified", 1, granted_at=later(7)),
            vote("Verified", 1, OURS),
            vote("Code-Review", 2, ANN),
        )
        assert table(database) == {("zuul", "Verified"): (1, ""), ("ann", "Code-Review"): (2, "")}
        assert {row.at for row in rows(database, schema.approval)} == {later(7), later(100)}

    def test_what_is_no_longer_there_was_taken_away(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ZUUL, vote("Verified", 1)), voted(ANN, vote("Code-Review", 2, ANN)))
        store(database, voted(OTHER, text="Build succeeded."))
        self.settle(database, vote("Code-Review", 2, ANN, granted_at=AT))
        assert table(database) == {
            ("zuul", "Verified"): (0, ""),
            ("ann", "Code-Review"): (2, ""),
            ("other-ci", ""): (0, "succeeded"),
        }

    def test_what_came_after_the_question_stands(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ZUUL, vote("Verified", 1), at=101))
        self.settle(database)
        self.settle(database, vote("Verified", -1, granted_at=later(50)))
        assert table(database)["zuul", "Verified"][0] == 1

    def test_what_was_said_stays_with_the_same_vote(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, voted(ZUUL, vote("Verified", 1), text="Build succeeded."))
        self.settle(database, vote("Verified", 1, granted_at=AT))
        assert table(database)["zuul", "Verified"] == (1, "succeeded")


def moved(new: str, at: float = 0, branch: str = "main") -> BranchMoved:
    return BranchMoved(
        connection=GERRIT,
        project=PROJECT,
        branch=branch,
        old="",
        new=new * 40,
        occurred_at=later(at),
    )


def test_branches_keep_their_newest_tip(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    assert store(database, moved("1"), moved("2", at=5), moved("3", at=3)) == 0
    with database.write() as tx:
        branches.record(tx, [moved("4", branch="stable"), moved("", at=9, branch="stable")])
        branches.record(tx, [moved("2", at=50)])
    found = {row.name: (row.tip[:1], row.moved_at) for row in rows(database, schema.branch)}
    assert found == {"main": ("2", later(5)), "stable": ("", later(9))}, "the same tip is no move"


class TestInOneGo:
    """Many at once are as many one by one."""

    def test_neighbours_of_one_that_cannot_be_written_are_kept(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = [event(CLOCK, ps=ps, key=f"patchset-created:12:{ps}") for ps in range(1, 6)]
        told[2] = replace(told[2], source=None)  # type: ignore[arg-type]
        with pytest.raises(sa.exc.IntegrityError):
            store(database, *told)
        kept = [row.patchset for row in rows(database, schema.event)]
        assert kept == [1, 2, 4, 5]

    def test_one_fact_twice_in_one_batch_is_stored_once(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = event(CLOCK, key="patchset-created:12:1")
        assert store(database, told, told) == 1

    def test_the_watermark_moves_to_the_newest(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = [event(CLOCK, ps=ps, at=later(at)) for ps, at in ((1, 30), (2, 10))]
        store(database, *told, moved("1", at=20), move_watermark=True)
        assert events.watermark(database, GERRIT) == later(30)
        store(database, moved("2", at=40), move_watermark=True)
        assert events.watermark(database, GERRIT) == later(40)

    def test_what_needs_nothing_more_is_stored_as_processed(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = [event(CLOCK, ps=ps, key=f"patchset-created:12:{ps}") for ps in (1, 2)]
        store(database, *told, answered={"patchset-created:12:1": "reported already"})
        first, second = rows(database, schema.event)
        assert (first.decision, first.processed_at) == ("reported already", AT)
        assert (second.decision, second.processed_at) == (None, None)
        assert (first.author, second.author) == ("ann", "ann")


class TestStateTwins:
    """One switch told by stream and query is one row; a second switch is another."""

    def switch(self, at: float, state: str, source: str = "stream") -> Event:
        kind = EventKind.WIP_STATE_CHANGED
        key = state_key(kind, 12, later(at), [state])
        return event(CLOCK, kind, key=key, at=later(at), source=source)

    def test_the_stream_dates_later(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        assert store(database, self.switch(3, "ready")) == 1
        assert store(database, self.switch(0, "ready", "catch-up")) == 0
        assert store(database, self.switch(8, "ready", "catch-up")) == 1, "no query dates later"

    def test_other_states_are_other_facts(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        told = [self.switch(0, "wip"), self.switch(0, "ready"), self.switch(1, "wip")]
        assert store(database, *told) == 3

    def test_the_same_again_in_its_second_is_looked_at_again(self, tmp_path: Path) -> None:
        database = database_in(tmp_path)
        store(database, self.switch(0, "ready"))
        (todo,) = events.unprocessed(database)
        with database.write() as tx:
            events.mark_processed(tx, todo[0], decision="waits", at=AT)
        store(database, self.switch(0, "ready", "catch-up"))
        assert events.unprocessed(database) == []
        store(database, self.switch(0, "ready"))
        assert len(events.unprocessed(database)) == 1
