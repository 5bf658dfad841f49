# SPDX-License-Identifier: Apache-2.0
"""This process in the installation: its name, its heartbeat, and when it keeps still."""

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.errors import ConfigError, StorageError
from ci.presence import NAME_FILE, Presence, process_name
from ci.store import processes, schema
from ci.store.database import Database
from tests.kit.core import database_in, rows

TERM_S = 60.0


class Desk:
    """One database and the processes on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.database = folder, FakeClock(), database_in(folder)
        self.fenced: list[str] = []
        self.replaced: list[str] = []

    def process(self, home: str = "a", **more: Any) -> Presence:
        made = Presence(
            self.database,
            self.clock,
            self.folder / home,
            roles=("work",),
            version="1",
            slots=2,
            term_s=TERM_S,
            **more,
        )
        made.on_fenced = lambda: self.fenced.append(made.name)
        made.on_replaced = lambda: self.replaced.append(made.name)
        return made

    def row(self, name: str) -> Any:
        return rows(self.database, schema.process, name=name)[0]

    def change(self, **values: Any) -> None:
        with self.database.write() as tx:
            tx.execute(sa.update(schema.process).values(**values))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class TestName:
    def test_it_is_made_once_and_kept(self, tmp_path):
        name = process_name(tmp_path / "a")
        assert process_name(tmp_path / "a") == name
        assert process_name(tmp_path / "b") != name
        assert [p.name for p in (tmp_path / "a").iterdir()] == [NAME_FILE]

    def test_a_given_one_is_kept_instead(self, tmp_path):
        process_name(tmp_path)
        assert process_name(tmp_path, "lab-2") == "lab-2"
        assert process_name(tmp_path) == "lab-2"

    @pytest.mark.parametrize("bad", ["", " ", "a b", "-x", "a\nb", "x" * 101, "ä"])
    def test_what_cannot_be_a_name_is_refused(self, tmp_path, bad):
        (tmp_path / NAME_FILE).write_text(f"{bad}\n")
        with pytest.raises(ConfigError, match="cannot be the name"):
            process_name(tmp_path)

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="cannot be used"):
            process_name(tmp_path / "file" / "below")


class TestLock:
    def test_one_process_a_directory(self, desk):
        first, second = desk.process(), desk.process()
        first.hold()
        with pytest.raises(ConfigError, match="already runs on"):
            second.hold()
        first.stop()
        second.hold()
        second.stop()


class TestRegister:
    def test_it_says_who_it_is(self, desk):
        made = desk.process(name="lab-1")
        made.register()
        row = desk.row("lab-1")
        assert (row.incarnation, row.roles, row.slots) == (made.incarnation, ["work"], 2)
        assert (row.pid, row.state, row.beat_at) == (os.getpid(), "running", desk.clock.now())

    def test_a_restart_takes_over_at_once(self, desk):
        desk.process().register()
        again = desk.process()
        before = desk.clock.monotonic_s()
        again.register()
        assert desk.clock.monotonic_s() == before
        assert desk.row(again.name).incarnation == again.incarnation

    def test_a_stopped_or_silent_one_elsewhere_is_taken_over_at_once(self, desk):
        desk.process().register()
        desk.change(host="elsewhere", state="stopped")
        desk.process().register()
        desk.change(host="elsewhere")
        desk.clock.advance(TERM_S + 1)
        before = desk.clock.monotonic_s()
        desk.process().register()
        assert desk.clock.monotonic_s() == before

    def test_one_elsewhere_that_falls_silent_is_waited_for(self, desk):
        desk.process().register()
        desk.change(host="elsewhere")
        desk.process().register()
        assert TERM_S <= desk.clock.monotonic_s() <= TERM_S + 2

    def test_one_elsewhere_that_goes_on_is_left_alone(self, desk, monkeypatch):
        other = desk.process()
        other.register()
        desk.change(host="elsewhere")
        sleep = desk.clock.sleep

        def nap(seconds: float) -> None:
            sleep(seconds)
            other.beat()

        monkeypatch.setattr(desk.clock, "sleep", nap)
        with pytest.raises(ConfigError, match=r"runs on elsewhere \(pid \d+\)"):
            desk.process().register()
        assert other.beat()


class TestBeat:
    def test_it_moves_the_row(self, desk):
        made = desk.process()
        made.register()
        desk.clock.advance(20)
        assert made.beat()
        assert desk.row(made.name).beat_at == desk.clock.now()

    def test_another_incarnation_ends_it_for_good(self, desk):
        old, new = desk.process(), desk.process()
        old.register()
        new.register()
        assert not old.beat()
        assert old.replaced
        assert old.fenced
        assert new.beat()
        old.stop()
        assert desk.row(new.name).state == "running"

    def test_the_thread_ends_with_one_clear_word(self, desk, monkeypatch):
        old = desk.process()
        old.register()
        desk.process().register()
        monkeypatch.setattr(old._stop, "wait", lambda _: False)
        old.run()
        assert desk.replaced == [old.name]

    def test_a_row_that_is_gone_is_made_again(self, desk):
        made = desk.process()
        made.register()
        with desk.database.write() as tx:
            tx.execute(sa.delete(schema.process))
        assert made.beat()
        assert desk.row(made.name).incarnation == made.incarnation

    def test_draining_is_heard_of(self, desk):
        made = desk.process(name="lab-1")
        made.register()
        assert not made.draining
        with desk.database.write() as tx:
            assert processes.drain(tx) == ("lab-1",)
        made.beat()
        assert made.draining
        made.stop()
        assert desk.row("lab-1").state == "stopped"


class TestFence:
    def away(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: Database) -> None:
            raise StorageError("away", retryable=True)

        monkeypatch.setattr(Database, "write", refuse)

    def test_silence_for_two_thirds_of_the_term_fences_once_until_it_is_over(
        self, desk, monkeypatch
    ):
        made = desk.process()
        made.register()
        self.away(desk, monkeypatch)
        desk.clock.advance(TERM_S * 2 / 3)
        made.look()
        assert not made.fenced
        desk.clock.advance(0.1)
        for _ in range(3):
            made.look()
        assert made.fenced
        assert desk.fenced == [made.name]
        monkeypatch.undo()
        assert made.beat()
        made.look()
        assert not made.fenced
        self.away(desk, monkeypatch)
        desk.clock.advance(TERM_S)
        made.look()
        assert len(desk.fenced) == 2

    def test_a_frozen_process_is_fenced_before_any_thread_of_it_looks(self, desk):
        made = desk.process()
        made.register()
        desk.clock.advance(TERM_S)
        assert made.fenced

    def test_a_slow_beat_counts_from_its_begin(self, desk, monkeypatch):
        made = desk.process()
        made.register()
        real = processes.beat

        def slow(*args: Any, **kwargs: Any) -> bool:
            desk.clock.advance(50)
            return real(*args, **kwargs)

        monkeypatch.setattr(processes, "beat", slow)
        assert made.beat()
        assert made.fenced

    def test_who_never_registered_is_not_fenced(self, desk):
        made = desk.process()
        desk.clock.advance(1000)
        assert not made.fenced


class TestDrain:
    def test_unknown_names_change_nothing(self, desk):
        desk.process(name="lab-1").register()
        with pytest.raises(ConfigError, match="no running process is called lab-9") as refused:
            processes.ask_to_drain(desk.database, ["lab-1", "lab-9"], by="ann", at=desk.clock.now())
        assert refused.value.hint == "use one of lab-1"
        assert desk.row("lab-1").state == "running"

    def test_it_stands_in_the_audit_log(self, desk):
        desk.process(name="lab-1").register()
        at = desk.clock.now()
        assert processes.ask_to_drain(desk.database, None, by="ann", at=at) == ("lab-1",)
        (line,) = rows(desk.database, schema.audit)
        assert (line.by, line.action, line.subject) == ("ann", "drain", "process lab-1")
