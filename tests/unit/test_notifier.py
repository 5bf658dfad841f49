# SPDX-License-Identifier: Apache-2.0
"""Step 8, beside the vote: notices reach every reporter that wants them, whatever it does."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.bell import Bell
from ci.clock import FakeClock
from ci.errors import ConfigError, NoticeRefused, ReporterError, StorageError
from ci.layout import Layout, ReporterConfig
from ci.model.notice import NoticeKind
from ci.notifier import DISK_S, LOOK_S, REFUSALS, NoticeRelay, send_trial
from ci.reporters.dummy_notifier import DummyNotifier, DummyNotifierOptions
from ci.store import notices, schema
from tests.kit.core import database_in, layout, rows
from tests.kit.noticed import HOSTILE, notice

AWAY = ReporterError("the receiver is away", retryable=True)
BARRED = ReporterError("wrong password", hint="put the right one there")
REFUSED = NoticeRefused("bad notice")
ALL = [kind.value for kind in NoticeKind]


class Desk:
    """A database with notices, and reporters that remember."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.database = FakeClock(), database_in(folder)
        self._written = 0

    def reporter(
        self, name: str = "hook", *, most: int = 1, kinds: Any = ALL
    ) -> tuple[NoticeRelay, DummyNotifier]:
        told = DummyNotifier(DummyNotifierOptions(name=name, most=most))
        config = ReporterConfig.model_validate({"name": name, "driver": "dummy", "notices": kinds})
        relay = NoticeRelay(config, self.database, self.clock, told, bell=Bell())
        relay.register()
        return relay, told

    def write(self, count: int = 1, kind: NoticeKind = NoticeKind.VERDICT) -> None:
        for _ in range(count):
            self._written += 1
            with self.database.write() as tx:
                notices.add(tx, notice(self._written, kind))

    def states(self, reporter: str = "hook") -> list[tuple[str, int]]:
        found = rows(self.database, schema.delivery, reporter=reporter)
        return [(row.state, row.tries) for row in found]

    def row(self, index: int = 0) -> Any:
        return rows(self.database, schema.delivery)[index]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def drain(relay: NoticeRelay) -> float:
    """Deliver until there is nothing due; returns the pause that the loop would make."""
    for _ in range(1000):
        pause_s = relay.deliver_due()
        if pause_s:
            return pause_s
    raise AssertionError("it never comes to rest")


def numbers(told: DummyNotifier) -> list[int]:
    return [int(one.key.partition(":")[2]) for call in told.told for one in call]


class TestWhatAReporterSees:
    def test_each_notice_once_in_order(self, desk):
        relay, told = desk.reporter()
        desk.write(3)
        assert drain(relay) == LOOK_S
        assert numbers(told) == [1, 2, 3]
        assert desk.states() == [("delivered", 1)] * 3
        assert drain(relay) == LOOK_S
        assert len(told.told) == 3

    def test_nothing_from_before_it_was_configured(self, desk):
        desk.write(3)
        relay, told = desk.reporter()
        drain(relay)
        desk.write()
        drain(relay)
        assert numbers(told) == [4]

    def test_a_notice_from_between_the_start_and_the_first_look(self, desk):
        desk.reporter()
        desk.write()
        again, told = desk.reporter()  # died in between, without a look
        drain(again)
        assert numbers(told) == [1]

    def test_only_the_kinds_it_wants_and_none_later(self, desk):
        relay, told = desk.reporter(kinds=["quarantine"])
        desk.write(2)
        desk.write(1, NoticeKind.QUARANTINE)
        drain(relay)
        assert numbers(told) == [3]
        wider, told = desk.reporter(kinds=ALL)
        drain(wider)
        assert told.told == []

    def test_a_digest(self, desk):
        relay, told = desk.reporter(most=5)
        desk.write(12)
        drain(relay)
        assert [len(call) for call in told.told] == [5, 5, 2]
        assert numbers(told) == list(range(1, 13))

    def test_what_it_is_told_is_what_was_written(self, desk):
        relay, told = desk.reporter()
        with desk.database.write() as tx:
            assert notices.add(tx, notice())
            assert not notices.add(tx, notice())
        drain(relay)
        assert told.told == [(notice(),)]

    def test_hostile_text_is_kept_printable(self, desk):
        relay, told = desk.reporter()
        long = "x" * 100_000
        with desk.database.write() as tx:
            notices.add(tx, notice(subject=HOSTILE, text=HOSTILE + long, facts={"s": HOSTILE}))
        drain(relay)
        ((found,),) = told.told
        assert found.subject.startswith("Evil Bcc: victim@example.org body")
        assert found.subject.isprintable()
        assert all(line.isprintable() for line in found.text.split("\n"))
        assert len(found.text) <= notices.TEXT_LIMIT
        assert found.facts == {"s": HOSTILE}


class TestTrouble:
    def test_a_receiver_that_is_away_is_asked_less_and_less(self, desk):
        relay, told = desk.reporter()
        told.errors = [AWAY] * 12
        desk.write()
        pauses = []
        for tries in range(1, 13):
            drain(relay)
            row = desk.row()
            assert (row.state, row.tries) == ("pending", tries)
            assert "away" in row.error
            pauses.append((row.next_at - desk.clock.now()).total_seconds())
            desk.clock.advance(pauses[-1])
        assert pauses[0] <= 1.0 < pauses[3] < pauses[8] <= 300.0
        drain(relay)
        assert desk.states() == [("delivered", 13)]

    def test_it_is_left_alone_for_as_long_as_it_asks(self, desk):
        relay, told = desk.reporter()
        told.errors = [ReporterError("too many", retryable=True, pause_s=120.0)]
        desk.write()
        drain(relay)
        assert desk.row().next_at == desk.clock.now() + timedelta(seconds=120)

    def test_notices_pile_up_and_go_out_in_order(self, desk):
        relay, told = desk.reporter(most=3)
        told.errors = [AWAY] * 4
        for _ in range(4):
            desk.write(2)
            drain(relay)
            desk.clock.advance(300)
        drain(relay)
        assert numbers(told) == list(range(1, 9))

    def test_a_wrong_password_is_tried_every_few_minutes_at_most(self, desk):
        relay, told = desk.reporter()
        told.errors = [BARRED] * 100
        desk.write()
        for _ in range(24 * 60):  # a day, a look every minute
            relay.deliver_due()
            desk.clock.advance(60)
        assert 20 <= desk.row().tries <= 40
        assert "put the right one there" in desk.row().error
        assert desk.row().state == "pending"

    def test_a_restart_does_not_try_sooner(self, desk):
        relay, told = desk.reporter()
        told.errors = [BARRED]
        desk.write()
        drain(relay)
        again, told = desk.reporter()
        desk.clock.advance(60)
        drain(again)
        assert told.told == []

    def test_a_clock_that_was_set_back_does_not_stop_it(self, desk):
        relay, told = desk.reporter()
        told.errors = [AWAY]
        desk.write()
        drain(relay)
        desk.clock.advance(-86_400)
        drain(relay)
        assert numbers(told) == [1]

    def test_one_dead_receiver_holds_up_no_other(self, desk):
        dead, silent = desk.reporter("dead")
        silent.errors = [AWAY] * 50
        alive, told = desk.reporter("alive")
        desk.write(3)
        for relay in (dead, alive, dead):
            drain(relay)
        assert numbers(told) == [1, 2, 3]
        assert desk.states("dead") == [("pending", 1), ("pending", 0), ("pending", 0)]

    @pytest.mark.parametrize("error", [REFUSED, KeyError("a bug")])
    def test_a_notice_that_is_always_refused_is_dropped_with_the_reason(self, desk, error):
        relay, told = desk.reporter()
        told.errors = [error] * REFUSALS
        desk.write(2)
        for _ in range(REFUSALS):
            assert numbers(told) == []
            drain(relay)
            desk.clock.advance(60)
        drain(relay)
        assert desk.states() == [("dropped", REFUSALS), ("delivered", 1)]
        assert numbers(told) == [2]
        assert "refused 5 times" in desk.row().error
        assert str(error.args[0]) in desk.row().error

    def test_days_of_being_away_do_not_count_as_refusals(self, desk):
        relay, told = desk.reporter()
        told.errors = [AWAY] * 20 + [REFUSED]
        desk.write()
        for _ in range(22):
            drain(relay)
            desk.clock.advance(300)
        assert desk.states() == [("delivered", 22)]

    def test_one_bad_notice_in_a_digest_costs_only_itself(self, desk):
        relay, told = desk.reporter(most=5)
        told._options = told._options.model_copy(update={"refuse": "virt 3,1"})
        desk.write(7)
        for _ in range(REFUSALS):
            drain(relay)
            desk.clock.advance(60)
        drain(relay)
        assert numbers(told) == [1, 2, 4, 5, 6, 7]
        assert [len(call) for call in told.told] == [1, 1, 4]
        assert [state for state, _ in desk.states()].count("dropped") == 1

    def test_a_reporter_that_is_gone_from_the_configuration(self, desk):
        relay, told = desk.reporter("old")
        told.errors = [AWAY]
        desk.write()
        drain(relay)
        with desk.database.read() as tx:
            (line,) = notices.listing(tx, {})
        assert (line.configured, line.state, line.next_at) == (False, "pending", None)
        desk.clock.advance(86_400)
        back, told = desk.reporter("old")
        drain(back)
        assert numbers(told) == [1]


class TestTheDisk:
    def test_what_was_told_is_not_told_again_while_the_disk_is_full(self, desk, monkeypatch):
        relay, told = desk.reporter()
        desk.write()

        def full(*_: Any, **__: Any) -> None:
            raise StorageError("disk full", retryable=True)

        monkeypatch.setattr(notices, "settle", full)
        for _ in range(5):
            with pytest.raises(StorageError):
                relay.deliver_due()
        monkeypatch.undo()
        drain(relay)
        assert numbers(told) == [1]
        assert desk.states() == [("delivered", 1)]

    def test_nor_is_a_wrong_password_tried_then(self, desk, monkeypatch):
        relay, told = desk.reporter()
        told.errors = [BARRED] * 3
        desk.write()

        def full(*_: Any, **__: Any) -> None:
            raise StorageError("disk full", retryable=True)

        monkeypatch.setattr(notices, "postpone", full)
        for _ in range(5):
            with pytest.raises(StorageError):
                relay.deliver_due()
        assert len(told.errors) == 2

    def test_a_crash_before_the_write_tells_it_again(self, desk):
        relay, told = desk.reporter()
        desk.write()
        relay._write = lambda: None
        relay.deliver_due()
        again, twice = desk.reporter()
        drain(again)
        assert numbers(told) == numbers(twice) == [1]

    def test_run_waits_for_the_disk_and_ends_with_stop(self, desk, monkeypatch):
        relay, told = desk.reporter()
        desk.write()
        real, trouble, waited = notices.waiting, [StorageError("disk full")], []

        def waiting(*args: Any, **kwargs: Any) -> Any:
            if trouble:
                raise trouble.pop()
            found = real(*args, **kwargs)
            if not found:
                relay.stop()
            return found

        monkeypatch.setattr(notices, "waiting", waiting)
        monkeypatch.setattr(relay._stop, "wait", waited.append)
        relay.run()
        assert numbers(told) == [1]
        assert waited == [DISK_S]
        assert told._closed


class TestListing:
    def test_what_was_not_told_and_why(self, desk):
        relay, told = desk.reporter()
        told.errors = [BARRED]
        desk.write(2)
        drain(relay)
        desk.write()
        with desk.database.read() as tx:
            found = notices.listing(tx, {"hook": list(NoticeKind), "new": list(NoticeKind)})
        assert [(line.state, line.tries) for line in found] == [
            ("pending", 1),
            ("pending", 0),
            ("new", 0),
        ]
        assert found[0].error == "wrong password (put the right one there)"
        assert found[0].next_at > desk.clock.now()

    def test_delivered_ones_only_on_request(self, desk):
        relay, _ = desk.reporter()
        desk.write()
        drain(relay)
        with desk.database.read() as tx:
            assert notices.listing(tx, {"hook": list(NoticeKind)}) == ()
            (line,) = notices.listing(tx, {"hook": list(NoticeKind)}, everything=True)
        assert (line.state, line.error, line.next_at) == ("delivered", "told to the dummy", None)


class TestRetry:
    def test_what_was_dropped_is_owed_again_on_an_operators_word(self, desk):
        relay, told = desk.reporter()
        told.errors = [REFUSED] * REFUSALS
        desk.write(2)
        for _ in range(REFUSALS + 1):
            drain(relay)
            desk.clock.advance(60)
        assert numbers(told) == [2]
        with desk.database.write() as tx:
            assert notices.revive(tx, "hook", by="ann", at=desk.clock.now()) == 1
        drain(relay)
        assert numbers(told) == [2, 1]
        (line,) = rows(desk.database, schema.audit)
        assert (line.by, line.action, line.subject) == ("ann", "notices-retry", "reporter hook")


class TestTrial:
    def plan(self, folder: Path, **options: Any) -> Layout:
        fields = {"name": "hook", "driver": "dummy", "notices": ["quarantine"], **options}
        reporter = ReporterConfig.model_validate(fields)
        return layout(state_dir=folder).model_copy(update={"reporters": (reporter,)})

    def test_what_waits_is_tried_at_once_after_it_worked(self, desk, tmp_path):
        relay, told = desk.reporter()
        told.errors = [BARRED]
        desk.write()
        drain(relay)
        said = list(send_trial(self.plan(tmp_path), "hook", desk.clock))
        assert said == [
            "hook: told to the dummy",
            "what waits for it (1) is tried within 10 s",
        ]
        drain(relay)
        assert numbers(told) == [1]

    def test_a_failure_is_told_and_changes_nothing(self, desk, tmp_path):
        relay, told = desk.reporter()
        told.errors = [BARRED]
        desk.write()
        drain(relay)
        before = desk.row()
        with pytest.raises(ReporterError, match="told to be"):
            list(send_trial(self.plan(tmp_path, **{"fail-first": 1}), "hook", desk.clock))
        assert desk.row() == before

    def test_before_anything_was_run(self, tmp_path):
        said = list(send_trial(self.plan(tmp_path / "none"), "hook", FakeClock()))
        assert said == ["hook: told to the dummy"]
        assert not (tmp_path / "none").exists()

    def test_a_name_nobody_knows(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no reporter mail.*its reporters: hook"):
            list(send_trial(self.plan(tmp_path), "mail", FakeClock()))
