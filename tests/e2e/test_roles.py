# SPDX-License-Identifier: Apache-2.0
"""Roles as processes of their own on one PostgreSQL: whichever dies, one vote a patch set."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ci.sandbox.author import PushedChange, Pusher
from ci.store import leaders
from ci.store.database import Database
from tests.kit.installation import GOOD, SUITE, Cluster
from tests.kit.postgres import Postgres, PostgresMissing, cluster, program
from tests.kit.require import require
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SLOW = GOOD + "watch sleep 4\n"
AWAY_S = 15.0
STOP_S = 15.0
SOON_S = 5.0
LISTEN, RELAY = "listen:gerrit", "relay:gerrit"
CREW = {
    "web-1": "web",
    "listen-1": "listen",
    "listen-2": "listen",
    "relay-1": "relay",
    "relay-2": "relay",
    "work-1": "work",
    "work-2": "work",
}
"""Which role each process has."""


class Stage:
    """An installation of several processes, and an author who pushes to its project."""

    def __init__(self, host: SandboxHost, server: Postgres, directory: Path) -> None:
        self.server = server
        self.url = server.make_database("roles")
        project = "roles"
        host.create_project(project)
        self.author = Pusher(host.admin, project, directory / "author")
        self.author.push_branch({"suite.py": SUITE, "cases.txt": GOOD})
        self.ci = Cluster(host.ci, directory / "ci", project, database=self.url)

    def push(self, cases: str = GOOD, subject: str = "Change the cases") -> PushedChange:
        """A change that makes the suite run these cases."""
        files = {"cases.txt": f"{cases}tag-{time.time_ns()} pass\n"}
        return self.author.push_change(subject, files)

    def comments(self, change: PushedChange) -> int:
        """How often we have spoken on a change."""
        return len(self.ci.site.said(self.author, change).comments)

    def voted_once(self, changes: Sequence[PushedChange], *, seconds: float = 60) -> None:
        """Wait for the last vote; then none has one too few, too many, or a wrong one."""
        self.ci.wait(lambda: all(map(self.comments, changes)), seconds, "the last vote")
        time.sleep(1.5)
        said = {one.number: self.ci.site.said(self.author, one) for one in changes}
        wrong = {n: s for n, s in said.items() if (s.vote, len(s.comments)) != (1, 1)}
        assert not wrong

    def running(self, change: PushedChange) -> str:
        """Name of the process that runs the suite of a change."""
        found: list[str] = []

        def look() -> bool:
            running = [b for b in self.ci.site.builds(change) if b["phase"] == "run"]
            found.extend(str(one["node"]).rpartition("@")[2] for one in running if one["node"])
            return bool(found)

        self.ci.wait(look, 40, "the suite to run")
        return found[0]

    def leader(self, lease: str) -> str:
        """Name of the process that holds a lease; empty for none."""
        database = Database(self.url)
        with database.read() as tx:
            found = leaders.listing(tx).get(lease)
        database.close()
        return found.holder if found else ""

    def led_by_another(self, lease: str, than: str, *, seconds: float) -> None:
        """Wait until somebody else leads."""
        what = f"{lease} to be led by another than {than}"
        self.ci.wait(lambda: self.leader(lease) not in {"", than}, seconds, what)

    def complete(self) -> None:
        """Start what a test before this one has ended."""
        gone = [name for name in CREW if not self.ci.alive(name)]
        if gone:
            with ThreadPoolExecutor(len(gone)) as threads:
                list(threads.map(self.ci.start, [CREW[name] for name in gone], gone))
        self.ci.wait(self.ci.connected, 60, "the stream to stand")


@pytest.fixture(scope="module")
def whole(sandbox_host: SandboxHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("roles")
    try:
        program("initdb")
    except PostgresMissing as missing:
        require("postgresql", present=False, why=str(missing))
    with cluster(directory / "postgresql") as server:
        stage = Stage(sandbox_host, server, directory)
        try:
            yield stage
        finally:
            stage.ci.end()


@pytest.fixture
def stage(whole: Stage) -> Stage:
    """All processes of the crew, alive."""
    whole.complete()
    return whole


def test_each_role_in_a_process_of_its_own(stage: Stage):
    changes = [stage.push(subject=f"Roles {n}") for n in range(6)]
    stage.voted_once(changes)
    leader = stage.leader(LISTEN)
    began = time.monotonic()
    assert stage.ci.stop(leader) == 0, stage.ci.log(leader)[-2000:]
    assert time.monotonic() - began < STOP_S
    stage.led_by_another(LISTEN, leader, seconds=SOON_S)
    for name in ("work-1", stage.leader(RELAY)):
        began = time.monotonic()
        assert stage.ci.stop(name) == 0, stage.ci.log(name)[-2000:]
        assert time.monotonic() - began < STOP_S


def test_a_killed_listener_is_followed_and_misses_nothing(stage: Stage):
    leader = stage.leader(LISTEN)
    stage.ci.kill(leader)
    missed = [stage.push(subject=f"While nobody listens {n}") for n in range(3)]
    stage.voted_once(missed, seconds=60)
    assert stage.leader(LISTEN) not in {"", leader}


def test_a_killed_relay_is_followed(stage: Stage):
    change = stage.push(SLOW, "While nobody delivers")
    stage.running(change)
    stage.ci.kill(stage.leader(RELAY))
    stage.voted_once([change], seconds=60)


def test_a_worker_killed_in_mid_build_or_frozen_past_its_term(stage: Stage):
    change = stage.push(SLOW, "Its worker dies")
    stage.ci.kill(stage.running(change))
    stage.voted_once([change], seconds=60)
    stage.complete()
    change = stage.push(SLOW, "Its worker stands still")
    frozen = stage.running(change)
    stage.ci.freeze(frozen)
    try:
        stage.voted_once([change], seconds=60)
    finally:
        stage.ci.thaw(frozen)
    after = stage.push(subject="After the thaw")
    stage.voted_once([change, after])


def test_the_database_is_away_for_a_while(stage: Stage):
    changes = [stage.push(SLOW, f"Cut {n}") for n in range(3)]
    stage.running(changes[0])
    stage.server.stop("immediate")
    changes.append(stage.push(subject="While the database is away"))
    time.sleep(AWAY_S)
    stage.server.start()
    stage.voted_once(changes, seconds=90)
    assert [name for name in CREW if not stage.ci.alive(name)] == []
