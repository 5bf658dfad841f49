# SPDX-License-Identifier: Apache-2.0
"""Step 1: every fact is stored once, and the watermark never passes what was not read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from ci.clock import FakeClock
from ci.errors import ReviewServerError, StorageError
from ci.gerrit.history import Standing
from ci.gerrit.reconcile import Reconciler
from ci.listener import Listener
from ci.model.event import Account, Approval, BranchMoved, EventKind
from ci.model.event_key import comment_key
from ci.store import events, schema
from tests.kit.core import GERRIT, PROJECT, FakeHistory, comment, database_in, event, rows
from tests.kit.fake_rest import client, reply


class FakeStream:
    """A stream that plays what the test says, once per connect."""

    def __init__(self, plays: list[Callable[["FakeStream"], None]]) -> None:
        self._plays = plays
        self.on_lines: Callable[[Sequence[bytes]], None] = lambda _: None
        self.on_connected: Callable[[], None] = lambda: None
        self.opened = 0
        self.stopped = False

    def open(self, on_lines, on_connected) -> "FakeStream":
        self.on_lines, self.on_connected = on_lines, on_connected
        self.opened += 1
        return self

    def run_once(self) -> None:
        self._plays.pop(0)(self)

    def stop(self) -> None:
        self.stopped = True


class Ears:
    """A listener with its surroundings."""

    def __init__(self, folder: Path, *plays: Callable[[FakeStream], None]) -> None:
        self.clock = FakeClock()
        self.database = database_in(folder)
        self.history = FakeHistory(self.clock)
        self.stream = FakeStream(list(plays))
        self.stored = 0
        self.listener = Listener(
            GERRIT,
            self.database,
            self.clock,
            self.stream.open,
            self.history,
            own_username="acme-ci",
            on_stored=self._count,
        )
        # As `run` does before its first line arrives.
        events.set_connection_state(self.database, GERRIT, "connected", "", at=self.clock.now())

    def _count(self) -> None:
        self.stored += 1

    def watermark(self) -> datetime | None:
        return events.watermark(self.database, GERRIT)

    def keys(self) -> list[str]:
        return [row.key for row in rows(self.database, schema.event)]

    def counters(self) -> tuple[int, int]:
        (row,) = rows(self.database, schema.connection_state, name=GERRIT)
        return row.malformed, row.unknown


def line(clock: FakeClock, number: int = 12, ps: int = 1) -> bytes:
    """A patchset-created event as Gerrit sends it."""
    who = {"name": "Ann", "username": "ann", "email": "ann@example.org"}
    epoch = int(clock.now().timestamp())
    patch = {
        "number": ps,
        "revision": f"{ps}" * 40,
        "ref": f"refs/changes/{number % 100:02d}/{number}/{ps}",
        "uploader": who,
        "createdOn": epoch,
        "kind": "REWORK",
    }
    change = {
        "project": PROJECT,
        "branch": "main",
        "id": "I" + "a" * 40,
        "number": number,
        "subject": "s",
        "owner": who,
        "url": "https://review.example.org/12",
        "status": "NEW",
    }
    return json.dumps(
        {
            "type": "patchset-created",
            "uploader": who,
            "patchSet": patch,
            "change": change,
            "project": PROJECT,
            "eventCreatedOn": epoch,
        }
    ).encode()


def test_a_line_is_stored_once(tmp_path):
    ears = Ears(tmp_path)
    for _ in range(3):
        ears.listener.take_line(line(ears.clock))
    assert ears.keys() == ["patchset-created:12:1"]
    assert ears.stored == 1


def test_the_watermark_stands_still_until_the_catch_up_is_done(tmp_path):
    ears = Ears(tmp_path)
    events.advance_watermark(ears.database, GERRIT, ears.clock.now())
    before = ears.watermark()
    ears.clock.advance(3600)
    ears.listener.take_line(line(ears.clock))
    assert ears.watermark() == before
    ears.listener.catch_up()
    assert ears.watermark() == ears.clock.now()
    ears.clock.advance(60)
    ears.listener.take_line(line(ears.clock, ps=2))
    assert ears.watermark() == ears.clock.now()


def test_a_crash_between_line_and_catch_up_reads_the_gap_again(tmp_path):
    ears = Ears(tmp_path)
    began = ears.clock.now()
    events.advance_watermark(ears.database, GERRIT, began)
    ears.clock.advance(600)
    missed = event(ears.clock, ps=1, key="patchset-created:12:1")
    ears.clock.advance(600)
    ears.listener.take_line(line(ears.clock, ps=2))
    ears.database.close()

    again = Ears(tmp_path)
    again.clock.advance(1300)
    again.history.events = [missed]
    assert again.listener.catch_up() == 1
    assert again.history.asked_since == [began]
    assert set(again.keys()) == {"patchset-created:12:1", "patchset-created:12:2"}


def test_the_very_first_start_tests_no_history(tmp_path):
    ears = Ears(tmp_path)
    ears.history.events = [event(ears.clock)]
    assert ears.listener.catch_up() == 0
    assert ears.history.asked_since == []
    assert ears.watermark() == ears.clock.now()


def test_the_watermark_never_goes_back(tmp_path):
    ears = Ears(tmp_path)
    ears.clock.advance(100)
    events.advance_watermark(ears.database, GERRIT, ears.clock.now())
    ears.listener.catch_up()
    ears.listener.take_line(line(FakeClock()))
    assert ears.watermark() == ears.clock.now()


def test_a_failed_catch_up_moves_nothing(tmp_path):
    ears = Ears(tmp_path)
    events.advance_watermark(ears.database, GERRIT, ears.clock.now())
    before = ears.watermark()
    ears.clock.advance(500)
    ears.history.errors = [ReviewServerError("away", retryable=True)]
    with pytest.raises(ReviewServerError):
        ears.listener.catch_up()
    ears.listener.take_line(line(ears.clock))
    assert ears.watermark() == before


def test_a_catch_up_that_breaks_half_way_keeps_what_it_had_and_starts_over(tmp_path, monkeypatch):
    ears = Ears(tmp_path)
    events.advance_watermark(ears.database, GERRIT, ears.clock.now())
    monkeypatch.setattr("ci.listener.CHUNK", 1)
    ears.history.events = [event(ears.clock, ps=1), event(ears.clock, ps=2)]
    real, calls = events.store_all, []

    def full_disk(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise StorageError("disk full", retryable=True)
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "store_all", full_disk)
        with pytest.raises(StorageError):
            ears.listener.catch_up()
    assert len(ears.keys()) == 1
    assert ears.listener.catch_up() == 1
    assert len(ears.keys()) == 2


def test_a_catch_up_from_before_a_reconnect_does_not_close_the_new_gap(tmp_path, monkeypatch):
    monkeypatch.setattr("ci.listener.threading.Thread.start", lambda _: None)
    ears = Ears(tmp_path)
    events.advance_watermark(ears.database, GERRIT, ears.clock.now())
    began = ears.watermark()
    ears.history.while_asked = ears.listener._connected
    ears.listener.catch_up()
    ears.clock.advance(900)
    ears.listener.take_line(line(ears.clock))
    assert ears.watermark() == began, "what happened between query and reconnect was not read"
    ears.history.while_asked = lambda: None
    ears.listener.catch_up()
    assert ears.watermark() == ears.clock.now()


class TestTwins:
    """The stream dates a comment later than a query does, by what the server took."""

    def pair(self, ears: Ears, apart_s: float, text: str = "recheck", other: str = "recheck"):
        ann = Account(username="ann", name="Ann")
        at = ears.clock.now()
        late = at + timedelta(seconds=apart_s)
        first = comment(ears.clock, text, key=comment_key(12, ann, late, [text]), at=late)
        second = comment(ears.clock, other, key=comment_key(12, ann, at, [other]), at=at)
        return first, replace(second, source="catch-up")

    def both(self, ears: Ears, *pair) -> int:
        return sum(
            events.store(ears.database, e, received_at=ears.clock.now(), move_watermark=False)
            for e in pair
        )

    @pytest.mark.parametrize("apart_s", [0, 1, 3, 9])
    def test_one_comment_told_twice_is_stored_once(self, tmp_path, apart_s):
        ears = Ears(tmp_path)
        first, second = self.pair(ears, apart_s)
        assert self.both(ears, first, second) == 1
        assert self.both(ears, second, first) == 0

    def test_in_either_order(self, tmp_path):
        ears = Ears(tmp_path)
        assert self.both(ears, *reversed(self.pair(ears, 2))) == 1

    def test_blanks_do_not_make_two_of_it(self, tmp_path):
        ears = Ears(tmp_path)
        assert self.both(ears, *self.pair(ears, 1, "recheck  please\n", "recheck please")) == 1

    def test_other_words_or_another_time_are_another_comment(self, tmp_path):
        ears = Ears(tmp_path)
        assert self.both(ears, *self.pair(ears, 1, "recheck", "recheck unit")) == 2
        ears.clock.advance(1000)
        assert self.both(ears, *self.pair(ears, 60)) == 2

    def test_the_same_words_twice_through_the_stream_are_two(self, tmp_path):
        ears = Ears(tmp_path)
        first, second = self.pair(ears, 2)
        assert self.both(ears, first, replace(second, source="stream")) == 2


class TestReadings:
    """What a catch-up tells beside events."""

    def ears(self, folder: Path) -> Ears:
        ears = Ears(folder)
        events.advance_watermark(ears.database, GERRIT, ears.clock.now())
        owed = {EventKind.PATCHSET_CREATED: {"check", "gate"}, EventKind.COMMENT_ADDED: {"gate"}}
        ears.listener._owed = {PROJECT: owed}
        return ears

    def test_what_every_pipeline_reported_is_not_planned_again(self, tmp_path):
        ears = self.ears(tmp_path)
        whole = event(ears.clock, ps=1, key="patchset-created:12:1")
        half = event(ears.clock, number=13, key="patchset-created:13:1")
        said = comment(ears.clock, number=14)
        ears.history.events = [whole, half, said]
        ears.history.answered = {
            whole.key: frozenset({"check", "gate", "old"}),
            half.key: frozenset({"gate"}),
            said.key: frozenset({"gate"}),
        }
        assert ears.listener.catch_up() == 3
        (row,) = rows(ears.database, schema.event, key=whole.key)
        assert row.decision == "reported already by check, gate."
        assert [one.key for _, one in events.unprocessed(ears.database)] == [half.key]

    def test_standing_votes_and_tips_of_watched_branches(self, tmp_path):
        ears = self.ears(tmp_path)
        zuul = Approval(label="Verified", value=1, by=Account(username="zuul"))
        at = ears.clock.now()
        ears.history.standing = (
            Standing(change_number=12, patchset=1, approvals=(zuul,), as_of=at),
        )
        ears.history.branches = tuple(
            BranchMoved(
                connection=GERRIT, project=name, branch="main", old="", new="1" * 40, occurred_at=at
            )
            for name in (PROJECT, "not/ours")
        )
        assert ears.listener.catch_up() == 0
        assert [row.value for row in rows(ears.database, schema.approval)] == [1]
        assert [row.project for row in rows(ears.database, schema.branch)] == [PROJECT]

    def test_a_provisional_reading_is_kept_and_moves_nothing(self, tmp_path):
        ears = self.ears(tmp_path)
        before = ears.watermark()
        ears.clock.advance(100)
        ears.history.events = [event(ears.clock)]
        ears.history.provisional = True
        with pytest.raises(ReviewServerError, match="by SSH 1 new events"):
            ears.listener.catch_up()
        ears.listener.take_line(line(ears.clock, ps=2))
        assert ears.watermark() == before
        assert len(ears.keys()) == 2
        ears.history.provisional = False
        assert ears.listener.catch_up() == 0
        assert ears.watermark() == ears.clock.now()


def test_the_first_start_asks_for_no_change_however_many_are_open(tmp_path):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return reply("3.10.2")

    ears = Ears(tmp_path)
    ears.listener._history = Reconciler(client(answer), [PROJECT], ears.clock)
    assert ears.listener.catch_up() == 0
    assert asked == ["/a/config/server/version"]
    assert ears.watermark() == datetime(2026, 11, 22, 15, 28, 8, tzinfo=UTC), "the server's clock"


class TestSilence:
    """A quiet stream and a dead one look alike, so the server is asked."""

    def ears(self, folder: Path) -> Ears:
        ears = Ears(folder)
        events.advance_watermark(ears.database, GERRIT, ears.clock.now())
        return ears

    def test_asks_after_so_long_and_then_not_before_as_long_again(self, tmp_path):
        ears = self.ears(tmp_path)
        for seconds, asked in ((59, 0), (1, 1), (59, 1), (1, 2)):
            ears.clock.advance(seconds)
            ears.listener.check_silence()
            assert len(ears.history.asked_since) == asked

    def test_any_line_counts_as_life(self, tmp_path):
        ears = self.ears(tmp_path)
        for noise in (line(ears.clock), b"{", REF_LINE):
            ears.clock.advance(40)
            ears.listener.take_line(noise)
            ears.listener.check_silence()
        assert ears.history.asked_since == []

    def test_one_catch_up_at_a_time_is_enough(self, tmp_path):
        ears = self.ears(tmp_path)
        ears.clock.advance(100)
        with ears.listener._catching_up:
            ears.listener.check_silence()
        assert ears.history.asked_since == []
        ears.listener.check_silence()
        assert len(ears.history.asked_since) == 1

    def test_a_failure_is_tried_again_after_as_long(self, tmp_path):
        ears = self.ears(tmp_path)
        ears.history.errors = [ReviewServerError("away", retryable=True)]
        ears.clock.advance(100)
        with pytest.raises(ReviewServerError):
            ears.listener.check_silence()
        ears.listener.check_silence()
        ears.clock.advance(60)
        ears.listener.check_silence()
        assert len(ears.history.asked_since) == 1


class TestManyLines:
    """What waits is stored in one go, as each would be by itself."""

    def test_bad_ones_take_nobody_with_them(self, tmp_path):
        ears = Ears(tmp_path)
        lines = [line(ears.clock, ps=1), b"{", REF_LINE, b'{"type":"odd"}', line(ears.clock, ps=2)]
        ears.listener.take_lines(lines)
        assert ears.keys() == ["patchset-created:12:1", "patchset-created:12:2"]
        assert ears.counters() == (1, 1), "a change's own ref is neither bad nor unknown"
        assert ears.stored == 1

    def test_branches_of_watched_projects_move(self, tmp_path):
        ears = Ears(tmp_path)
        ears.listener._owed = {PROJECT: {}}
        moves = [REF_LINE.replace(b"refs/changes/12/12/1", b"refs/heads/main")]
        moves.append(moves[0].replace(PROJECT.encode(), b"not/ours"))
        ears.listener.take_lines(moves)
        (row,) = rows(ears.database, schema.branch)
        assert (row.project, row.name, row.tip) == (PROJECT, "main", "2" * 40)

    def test_the_events_log_is_asked_again_after_each_connect(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ci.listener.threading.Thread.start", lambda _: None)
        ears = Ears(tmp_path)
        ears.listener._connected()
        assert ears.history.reconnects == 1


REF_LINE = (
    b'{"refUpdate":{"oldRev":"' + b"1" * 40 + b'","newRev":"' + b"2" * 40 + b'",'
    b'"refName":"refs/changes/12/12/1","project":"' + PROJECT.encode() + b'"},'
    b'"type":"ref-updated","eventCreatedOn":1795361283}'
)


class TestBadLines:
    @pytest.mark.parametrize(
        "bad", [b"", b"{", b"\xff\xfe", b"[]", b'{"type": "patchset-created"}']
    )
    def test_malformed_ones_are_counted_and_harm_nobody(self, tmp_path, bad):
        ears = Ears(tmp_path)
        ears.listener.take_line(bad)
        ears.listener.take_line(line(ears.clock))
        assert ears.counters() == (1, 0)
        assert len(ears.keys()) == 1

    def test_unknown_types_are_counted_apart(self, tmp_path):
        ears = Ears(tmp_path)
        ears.listener.take_line(b'{"type": "cache-eviction", "eventCreatedOn": 1}')
        assert ears.counters() == (0, 1)

    def test_a_number_that_no_column_holds_is_malformed(self, tmp_path):
        ears = Ears(tmp_path)
        huge = line(ears.clock).replace(b'"number": 12,', b'"number": 99999999999999999999,')
        ears.listener.take_line(huge)
        assert ears.counters()[0] == 1


def said(clock: FakeClock, username: str) -> bytes:
    """A comment as Gerrit sends it."""
    uploaded = json.loads(line(clock))
    del uploaded["uploader"]
    who = {"name": "Somebody", "username": username}
    text = "Patch Set 1:\n\nrecheck"
    return json.dumps(uploaded | {"type": "comment-added", "author": who, "comment": text}).encode()


def test_our_own_comments_come_back_and_are_left_out(tmp_path):
    ears = Ears(tmp_path)
    ears.listener.take_line(said(ears.clock, "acme-ci"))
    assert ears.keys() == []
    ears.listener.take_line(said(ears.clock, "ann"))
    assert len(ears.keys()) == 1
    assert ears.counters() == (0, 0)


class TestDiskFull:
    def test_a_line_waits_and_is_not_lost(self, tmp_path, monkeypatch):
        ears = Ears(tmp_path)
        real, refusals, pauses = events.store_all, [1, 2, 3], []

        def store(*args, **kwargs):
            if refusals:
                refusals.pop()
                raise StorageError("disk full", retryable=True)
            return real(*args, **kwargs)

        monkeypatch.setattr(events, "store_all", store)
        monkeypatch.setattr(ears.listener._stop, "wait", pauses.append)
        ears.listener.take_line(line(ears.clock))
        assert len(ears.keys()) == 1
        assert len(pauses) == 3
        assert pauses[0] < pauses[1] < pauses[2]

    def test_a_stop_ends_the_wait_with_the_watermark_where_it_was(self, tmp_path, monkeypatch):
        ears = Ears(tmp_path)
        ears.listener.catch_up()
        before = ears.watermark()
        ears.clock.advance(60)

        def store(*_, **__):
            ears.listener.stop()
            raise StorageError("disk full", retryable=True)

        monkeypatch.setattr(events, "store_all", store)
        ears.listener.take_line(line(ears.clock))
        assert ears.keys() == []
        assert ears.watermark() == before


class TestRun:
    def test_reconnects_with_growing_pauses_and_says_why(self, tmp_path, monkeypatch):
        states: list[tuple[str, str]] = []
        pauses: list[float] = []

        def refuse(_: FakeStream) -> None:
            raise ReviewServerError("no route to host", retryable=True)

        ears = Ears(tmp_path, *[refuse] * 5, lambda _: ears.listener.stop())
        monkeypatch.setattr(
            events, "set_connection_state", lambda _db, _name, s, m, **_: states.append((s, m))
        )
        monkeypatch.setattr(ears.listener._stop, "wait", pauses.append)
        ears.listener.run()
        assert ears.stream.opened == 6
        assert len(pauses) == 5
        assert pauses[0] < pauses[2] < pauses[4]
        assert ("connecting", "") in states
        assert any(s == "away" and "no route to host; next try" in m for s, m in states)

    def test_a_connection_that_held_starts_over_with_short_pauses(self, tmp_path, monkeypatch):
        monkeypatch.setattr("ci.listener.threading.Thread.start", lambda _: None)
        pauses: list[float] = []

        def held(stream: FakeStream) -> None:
            ears.clock.advance(1)
            stream.on_connected()
            ears.clock.advance(60)

        def broke(stream: FakeStream) -> None:
            ears.clock.advance(1)
            stream.on_connected()

        ears = Ears(tmp_path, *[broke] * 6, held, lambda _: ears.listener.stop())
        monkeypatch.setattr(ears.listener._stop, "wait", pauses.append)
        ears.listener.run()
        assert pauses[5] > 3 * pauses[6]

    def test_stop_reaches_the_stream(self, tmp_path):
        ears = Ears(tmp_path, lambda _: ears.listener.stop())
        ears.listener.run()
        assert ears.stream.stopped
        assert rows(ears.database, schema.connection_state)[0].state == "connecting"


def test_events_of_every_kind_come_back_as_they_were(tmp_path):
    database = database_in(tmp_path)
    clock = FakeClock()
    told = [event(clock, kind) for kind in EventKind] + [comment(clock, "recheck\nbug 1", ps=3)]
    for one in told:
        events.store(database, one, received_at=clock.now(), move_watermark=False)
    assert [one for _, one in events.unprocessed(database)] == told
    assert len(events.unprocessed(database, limit=2)) == 2
    assert events.unprocessed(database, skip_connections=[GERRIT]) == []
