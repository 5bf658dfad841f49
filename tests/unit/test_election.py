# SPDX-License-Identifier: Apache-2.0
"""Who leads: at most one at any moment, by clocks that no one has to agree on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from ci.clock import FakeClock
from ci.election import Candidate, Election
from ci.errors import StorageError
from ci.leadership import Leadership
from ci.store import leaders
from ci.store.database import Database
from tests.kit.core import database_in

TERM_S = 15.0


class Shared(Database):
    """SQLite that stands for a database of many processes."""

    shared = True  # type: ignore[assignment]


@dataclass
class Work:
    """What a leader runs, for tests."""

    token: int
    holds: Leadership
    running: bool = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False


@dataclass(frozen=True)
class Me:
    name: str
    incarnation: str


@dataclass
class Process:
    """One process that stands for one lease; its threads are turned by hand."""

    election: Election
    candidate: Candidate
    made: list[Work] = field(default_factory=list)

    @property
    def works(self) -> bool:
        """Whether what it leads runs."""
        return any(one.running for one in self.made)

    def turn(self) -> None:
        """One turn of the thread that asks the database, and one of the thread that leads."""
        self.election.turn()
        self.candidate.step()


class Site:
    """Processes on one database and one clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        database_in(folder).close()
        self.database = Shared(f"sqlite:///{folder / 'hypervouch.db'}")
        self.database._reading = {}  # what only PostgreSQL knows

    def process(self, name: str, incarnation: str = "1") -> Process:
        """A process that wants to lead."""
        me = Me(name, incarnation)
        election = Election(self.database, self.clock, me, term_s=TERM_S)
        made: list[Work] = []

        def make(won: Leadership) -> Work:
            made.append(Work(won.token, won))
            return made[-1]

        return Process(election, election.stand("relay:gerrit", make), made)

    def row(self) -> leaders.Lead:
        """The lease as it stands."""
        with self.database.read() as tx:
            return leaders.listing(tx)["relay:gerrit"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.database.close()


def test_one_of_two_leads(site: Site):
    one, two = site.process("a"), site.process("b")
    for _ in range(10):
        one.turn()
        two.turn()
        assert (one.works, two.works) == (True, False)
        site.clock.advance(TERM_S / 4)
    assert site.row().token == 1


def test_a_dead_leader_is_followed_after_its_term(site: Site):
    one, two = site.process("a"), site.process("b")
    one.turn()
    for _ in range(int(TERM_S) - 1):
        site.clock.advance(1)
        two.turn()
        assert not two.works
    site.clock.advance(1)
    two.turn()
    assert two.works
    assert two.made[0].token == 2


def test_its_own_next_life_leads_at_once(site: Site):
    site.process("a", "1").turn()
    again = site.process("a", "2")
    again.turn()
    assert again.works
    assert (site.row().incarnation, site.row().token) == ("2", 2)


def test_a_leader_without_its_database_steps_down_before_anybody_follows(site: Site, monkeypatch):
    one, two = site.process("a"), site.process("b")
    one.turn()
    monkeypatch.setattr(one.election, "_database", Away())
    stepped_down_s = None
    for second in range(1, 30):
        site.clock.advance(1)
        with pytest.raises(StorageError):
            one.election.turn()
        one.candidate.step()
        two.turn()
        assert not (one.works and two.works)
        if stepped_down_s is None and not one.works:
            stepped_down_s = second
        if two.works:
            break
    assert stepped_down_s == pytest.approx(TERM_S * 2 / 3, abs=1)
    assert second == TERM_S


def test_one_that_stood_still_sees_it_in_its_first_step(site: Site):
    one, two = site.process("a"), site.process("b")
    one.turn()
    held = one.made[0].holds
    site.clock.advance(TERM_S)
    two.turn()
    assert two.works
    assert not held.holds, "what it runs asks this right before it acts"
    one.candidate.step()
    assert not one.works
    one.election.turn()
    one.candidate.step()
    assert not one.works


def test_a_short_absence_of_the_database_changes_no_leader(site: Site, monkeypatch):
    one, two = site.process("a"), site.process("b")
    one.turn()
    with monkeypatch.context() as away:
        away.setattr(one.election, "_database", Away())
        site.clock.advance(TERM_S / 2)
        with pytest.raises(StorageError):
            one.election.turn()
    one.turn()
    two.turn()
    assert (one.works, two.works, site.row().token) == (True, False, 1)


def test_after_a_long_one_it_leads_anew_under_a_new_token(site: Site):
    one = site.process("a")
    one.turn()
    site.clock.advance(TERM_S * 0.9)
    one.candidate.step()
    assert not one.works
    one.turn()
    assert one.works
    assert [work.token for work in one.made] == [1, 2]


def test_who_resigns_is_followed_at_once(site: Site):
    one, two = site.process("a"), site.process("b")
    one.turn()
    held = one.made[0].holds
    one.election.resign()
    one.candidate.step()
    assert not one.works
    assert not held.holds
    one.turn()
    two.turn()
    assert (one.works, two.works) == (False, True)


def test_a_token_is_the_newest_until_somebody_else_wins(site: Site):
    one, two = site.process("a"), site.process("b")
    one.turn()
    site.clock.advance(TERM_S)
    two.turn()
    with site.database.read() as tx:
        assert not leaders.is_newest(tx, "relay:gerrit", 1)
        assert leaders.is_newest(tx, "relay:gerrit", 2)
        assert leaders.is_newest(tx, "relay:gerrit", 0), "the only process there can be"


def test_a_lost_renewal_race_ends_the_leadership(site: Site):
    one = site.process("a")
    one.turn()
    with site.database.write() as tx:
        later = site.clock.now() + timedelta(seconds=TERM_S)
        leaders.take(
            tx,
            "relay:gerrit",
            holder="b",
            incarnation="1",
            now=later,
            term=timedelta(seconds=TERM_S),
        )
    site.clock.advance(TERM_S / 3)
    one.turn()
    assert not one.works


def test_the_only_process_leads_without_a_lease(tmp_path: Path):
    database = database_in(tmp_path)
    election = Election(database, FakeClock(), Me("a", "1"), term_s=TERM_S)
    made: list[Work] = []

    def make(won: Leadership) -> Work:
        made.append(Work(won.token, won))
        return made[-1]

    candidate = election.stand("chores", make)
    candidate.elect(Leadership.sole("chores"))
    candidate.step()
    assert made[0].running
    assert made[0].holds.holds
    election.resign()
    candidate.step()
    assert not made[0].running
    database.close()


class Away:
    """A database that is away."""

    shared = True

    def read(self) -> None:
        raise StorageError("away", retryable=True)

    write = read
