# SPDX-License-Identifier: Apache-2.0
"""Step 8: what is owed is delivered once, whatever the server does in between."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.bell import Bell
from ci.errors import ConfigError, ReviewServerError, StorageError
from ci.relay import REFUSED_S, Relay, _review
from ci.reporters.base import Delivery, ServerAway
from ci.store import outbox, schema
from tests.kit.core import GERRIT, rows
from tests.kit.desk import Desk

AWAY = ReviewServerError("Gerrit is away", retryable=True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def test_one_delivery_a_row(desk):
    row = desk.owe()
    assert desk.deliver() == 1
    assert desk.deliver() == 0
    assert [(r.change_number, r.value) for r in desk.reporter.posted] == [(12, 1)]
    assert (desk.row(row).state, desk.row(row).tries) == ("delivered", 1)
    assert desk.row(row).settled_at == desk.clock.now()
    assert desk.row(row).transport == "dummy"


def test_a_comment_without_a_vote(desk):
    desk.owe(label=None, value=0)
    desk.deliver()
    assert (desk.reporter.posted[0].label, desk.reporter.posted[0].value) == (None, 0)


@pytest.mark.parametrize("away", [AWAY, ServerAway("Gerrit is away")])
def test_a_dead_server_is_tried_again_with_growing_pauses(desk, away):
    desk.reporter._script = [away] * 6
    row = desk.owe()
    pauses = []
    for tries in range(1, 7):
        assert desk.deliver() == 1
        owed = desk.row(row)
        assert (owed.state, owed.tries, "away" in owed.error) == ("pending", tries, True)
        assert desk.deliver() == 0, "tried again before its time"
        pauses.append((owed.next_at - desk.clock.now()).total_seconds())
        desk.clock.advance(31)
    assert pauses[0] < pauses[2] < pauses[5] <= 30
    assert desk.deliver() == 1
    assert desk.row(row).state == "delivered"
    assert len(desk.reporter.posted) == 1


def test_a_line_that_breaks_after_the_post_gives_no_second_vote(desk):
    desk.reporter._crashes, desk.reporter._error = 1, AWAY
    row = desk.owe()
    desk.deliver()
    assert (desk.row(row).state, len(desk.reporter.posted)) == ("pending", 1)
    desk.clock.advance(31)
    desk.deliver()
    assert (desk.row(row).state, len(desk.reporter.posted)) == ("delivered", 1)


def test_a_crash_between_post_and_commit_gives_no_second_vote(desk, monkeypatch):
    row = desk.owe()

    def full(*_, **__):
        raise StorageError("disk full", retryable=True)

    monkeypatch.setattr(outbox, "settle", full)
    with pytest.raises(StorageError):
        desk.deliver()
    monkeypatch.undo()
    again = Desk.another(desk, desk.reporter)
    assert again.deliver_due(desk.threads) == 1
    assert (desk.row(row).state, len(desk.reporter.posted)) == ("delivered", 1)


def test_stale_is_dropped_with_the_reason(desk):
    desk.reporter.current[12] = 2
    row = desk.owe()
    desk.deliver()
    assert (desk.row(row).state, desk.reporter.posted) == ("dropped", [])
    assert "not the current patch set" in desk.row(row).error


def test_refused_is_owed_still_and_tried_again_after_minutes(desk):
    desk.reporter._script = [Delivery.REFUSED]
    row = desk.owe()
    desk.deliver()
    assert desk.row(row).state == "pending"
    desk.clock.advance(REFUSED_S - 1)
    assert desk.deliver() == 0
    desk.clock.advance(1)
    assert desk.deliver() == 1
    assert desk.row(row).state == "delivered"


@pytest.mark.parametrize("error", [ConfigError("no password"), KeyError("labels")])
def test_an_error_nobody_foresaw_costs_time_and_no_vote(desk, error):
    def deliver(*_: object) -> tuple[Delivery, str]:
        raise error

    row = desk.owe()
    other = desk.owe(13)
    Relay(
        GERRIT, desk.database, desk.clock, type("Broken", (), {"deliver": deliver}), bell=Bell()
    ).deliver_due(desk.threads)
    for one in (row, other):
        assert (desk.row(one).state, desk.row(one).tries) == ("pending", 1)
    desk.clock.advance(REFUSED_S)
    desk.deliver()
    assert len(desk.reporter.posted) == 2


def test_one_refused_row_holds_up_no_other_change(desk):
    desk.reporter._script = [Delivery.REFUSED]
    first, second = desk.owe(1), desk.owe(2)
    desk.deliver()
    assert (desk.row(first).state, desk.row(second).state) == ("pending", "delivered")


def test_reviews_of_one_change_go_out_in_order(desk):
    first = desk.owe(label=None, value=0)
    second = desk.owe(label=None, value=0)
    assert desk.deliver() == 1
    assert (desk.row(first).state, desk.row(second).state) == ("delivered", "pending")
    desk.deliver()
    assert [r.marker for r in desk.reporter.posted] == [
        f"#{s.id}" for s in sorted(rows(desk.database, schema.buildset), key=lambda s: s.recheck)
    ]


def test_a_later_vote_replaces_one_that_was_never_delivered(desk):
    desk.reporter._script = [AWAY]
    late = desk.owe(value=-1)
    desk.deliver()
    desk.owe(value=1)
    desk.clock.advance(3600)
    while desk.deliver():
        pass
    assert [r.value for r in desk.reporter.posted] == [1]
    assert (desk.row(late).state, "replaced" in desk.row(late).error) == ("dropped", True)


def test_a_later_comment_without_a_vote_replaces_nothing(desk):
    desk.reporter._script = [AWAY]
    desk.owe(value=-1)
    desk.deliver()
    desk.owe(label=None, value=0)
    desk.clock.advance(3600)
    while desk.deliver():
        pass
    assert sorted(r.value for r in desk.reporter.posted) == [-1, 0]


def test_each_connection_has_its_own_rows(desk):
    row = desk.owe(connection="other")
    assert desk.deliver() == 0
    assert desk.another(desk.reporter, "other").deliver_due(desk.threads) == 1
    assert desk.row(row).state == "delivered"


def test_one_row_a_buildset(desk):
    desk.owe()
    (row,) = rows(desk.database, schema.outbox)
    with desk.database.write() as tx:
        assert not outbox.add(
            tx,
            buildset_id=row.buildset_id,
            connection=GERRIT,
            review=_review(row),
            at=desk.clock.now(),
        )
    assert [r.state for r in rows(desk.database, schema.outbox)] == ["pending"]


def test_run_goes_on_after_a_full_disk_and_ends_with_stop(desk, monkeypatch):
    desk.owe()
    real, trouble = outbox.due, [StorageError("disk full", retryable=True)]

    def due(*args, **kwargs):
        if trouble:
            raise trouble.pop()
        found = real(*args, **kwargs)
        if desk.reporter.posted:
            desk.relay.stop()
        return found

    monkeypatch.setattr(outbox, "due", due)
    monkeypatch.setattr(desk.relay._stop, "wait", lambda _: True)
    desk.relay.run()
    assert len(desk.reporter.posted) == 1
