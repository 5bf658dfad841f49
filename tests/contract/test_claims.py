# SPDX-License-Identifier: Apache-2.0
"""Workers claim builds for themselves, on either database: each build once, within every limit."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.model.build import Claim, Priority
from ci.scheduling import Closed, Needs
from ci.store import builds, leases, pauses, queue, schema, turns
from ci.store.builds import NewBuildset
from ci.store.database import Database
from ci.store.leases import Asker
from ci.store.pauses import Pause, PauseKind
from tests.kit.core import GERRIT, change, job, patchset, rows

CLOCK = FakeClock()


def node(database: Database, name: str, label: str = "lab", **fields) -> None:
    with database.write() as tx:
        leases.register(tx, name=name, label=label, provider="p", **fields)


def enqueue(database: Database, number: int, *jobs, project: str = "", **fields) -> list[str]:
    """Queue the builds of a change; returns their ids by job name."""
    about = change(number, **({"project": project} if project else {}))
    with database.write() as tx:
        made = builds.add_buildset(
            tx,
            NewBuildset(
                connection=GERRIT,
                change=about,
                patchset=patchset(1, of=number),
                pipeline="check",
                jobs=jobs or (job("j", "lab"),),
                event_id=None,
                reason="a test",
                **fields,
            ),
            at=CLOCK.now(),
        )
    found = rows(database, schema.build, buildset_id=made)
    return [row.id for row in sorted(found, key=lambda row: row.job_name)]


def claim(database: Database, worker: str = "w1", slots: int = 50, **more) -> str | None:
    with database.write() as tx:
        found = queue.claim_next(tx, worker=worker, slots=slots, at=CLOCK.now(), **more)
    return found and found.build_id


def hold(database: Database, name: str) -> None:
    """Somebody holds a node."""
    asker = Asker(holder="x", worker="w9", now=CLOCK.now(), term=timedelta(hours=1))
    with database.write() as tx:
        assert leases.take_one(tx, name, asker)


def end(database: Database, build_id: str) -> None:
    with database.write() as tx:
        mine = schema.build.c.id == build_id
        tx.execute(sa.update(schema.build).where(mine).values(state="done"))


class TestOrder:
    def test_a_person_goes_first_and_what_was_missed_last(self, database):
        node(database, "lab-1")
        (missed,) = enqueue(database, 1, made_up=True)
        (pushed,) = enqueue(database, 2)
        (asked,) = enqueue(database, 3, requested_by="ann")
        order = []
        for _ in range(3):
            order.append(claim(database))
            end(database, order[-1])
        assert order == [asked, pushed, missed]

    def test_projects_take_turns(self, database):
        node(database, "lab-1")
        big = [enqueue(database, n, project="big")[0] for n in range(5)]
        small = enqueue(database, 50, project="small")[0]
        order = []
        for _ in range(3):
            order.append(claim(database))
            end(database, order[-1])
        assert small in order[:2]
        assert [one for one in order if one != small] == big[:2]

    def test_a_label_that_lags_is_not_starved_by_another(self, database):
        """With one slot, two lines that are both full take turns."""
        for label in ("lab", "xen"):
            node(database, f"{label}-1", label)
        for n in range(4):
            CLOCK.advance(1)
            enqueue(database, n, job("j", "lab"))
            enqueue(database, 10 + n, job("j", "xen"))
        labels = []
        for _ in range(4):
            found = claim(database, slots=1)
            labels.append(rows(database, schema.build, id=found)[0].node_label)
            end(database, found)
        assert Counter(labels) == {"lab": 2, "xen": 2}

    def test_what_was_put_back_goes_before_all(self, database):
        node(database, "lab-1")
        lost = enqueue(database, 1, made_up=True)[0]
        assert claim(database) == lost
        enqueue(database, 2, requested_by="ann")
        with database.write() as tx:
            assert not queue.put_back(tx, lost, 7)
            assert queue.put_back(tx, lost, 1)
            assert queue.running(tx, "w1") == ()
        assert claim(database, "w2") == lost
        (row,) = rows(database, schema.build, id=lost)
        assert (row.worker, row.claim, row.state) == ("w2", 2, "running")
        with database.read() as tx:
            assert queue.running(tx, "w2") == (Claim(lost, 2),)

    def test_cancelled_builds_do_not_count_against_their_project(self, database):
        node(database, "lab-1")
        for n in range(20):
            enqueue(database, n, project="big")
        with database.write() as tx:
            for n in range(20):
                builds.cancel_builds(
                    tx, connection=GERRIT, change_number=n, reason="x", at=CLOCK.now()
                )
        for n in range(20, 23):
            enqueue(database, n, project="big")
        enqueue(database, 50, project="small")
        queued = rows(database, schema.build, state="queued")
        assert sorted(row.turn for row in queued) == [1, 1, 2, 3]

    def test_a_gap_in_the_middle_is_closed_and_nobody_moves_back(self, database):
        for n in range(4):
            enqueue(database, n, project="big")
        with database.write() as tx:
            turns.started(tx, label="lab", priority=Priority.PUSHED, turn=1)
            for n in (1, 2):
                builds.cancel_builds(
                    tx, connection=GERRIT, change_number=n, reason="x", at=CLOCK.now()
                )
        queued = rows(database, schema.build, state="queued")
        assert sorted(row.turn for row in queued) == [1, 2]
        (more,) = enqueue(database, 9, project="big")
        assert rows(database, schema.build, id=more)[0].turn == 3


class TestRoom:
    def test_nothing_where_no_node_is_free(self, database):
        node(database, "lab-1")
        enqueue(database, 1)
        hold(database, "lab-1")
        assert claim(database) is None
        CLOCK.advance(3601)
        assert claim(database)

    def test_slots(self, database):
        node(database, "lab-1")
        node(database, "lab-2")
        for n in range(2):
            enqueue(database, n)
        assert claim(database, slots=1)
        assert claim(database, slots=1) is None
        assert claim(database, "w2", slots=1)

    def test_nodes_of_another_machine(self, database):
        node(database, "lab-1", worker="w2")
        enqueue(database, 1)
        assert claim(database) is None
        assert claim(database, "w2")

    def test_a_thousand_that_cannot_start_hide_none_that_can(self, database):
        node(database, "lab-1")
        for n in range(60):
            enqueue(database, n, job("big", "lab", requires=["big"]))
        (small,) = enqueue(database, 100)
        assert claim(database) == small

    def test_limits_and_pauses(self, database):
        for n in (1, 2):
            node(database, f"lab-{n}")
            enqueue(database, n)
        assert claim(database, limits={"lab": 1})
        assert claim(database, limits={"lab": 1}) is None
        assert claim(database, closed=Closed(labels={"lab": "in maintenance"})) is None
        for kind, name in (("label", "lab"), ("pipeline", "check"), ("node", "lab-1")):
            new = Pause(
                kind=PauseKind(kind),
                name=name,
                by="ann",
                why="new dom0",
                since=CLOCK.now(),
                until=CLOCK.now() + timedelta(hours=1),
            )
            with database.write() as tx:
                pauses.pause(tx, new)
            assert claim(database) is None if kind != "node" else True
            with database.write() as tx:
                assert pauses.resume(tx, kind=PauseKind(kind), name=name, by="ann", at=CLOCK.now())
                assert not pauses.resume(
                    tx, kind=PauseKind(kind), name=name, by="ann", at=CLOCK.now()
                )
        assert [row.action for row in rows(database, schema.audit)] == ["pause", "resume"] * 3
        assert claim(database)

    def test_a_pause_ends_by_itself(self, database):
        node(database, "lab-1")
        enqueue(database, 1)
        new = Pause(
            kind=PauseKind.NODE,
            name="lab-1",
            by="ann",
            why="new disk",
            since=CLOCK.now(),
            until=CLOCK.now() + timedelta(minutes=5),
        )
        with database.write() as tx:
            pauses.pause(tx, new)
        assert claim(database) is None
        CLOCK.advance(301)
        assert claim(database)

    def test_a_set_is_taken_whole(self, database):
        for n in (1, 2, 3):
            node(database, f"lab-{n}")
        hold(database, "lab-3")
        needs = Needs(label="lab", peers=("lab", "lab"))
        asker = Asker(holder="a", worker="w1", now=CLOCK.now(), term=timedelta(minutes=1))
        with database.write() as tx:
            assert leases.take(tx, needs, asker) == ()
            taken = leases.take(tx, Needs(label="lab", peers=("lab",)), asker)
        assert {lease.node for lease in taken} == {"lab-1", "lab-2"}
        held = {row.name: row.holder_worker for row in rows(database, schema.node)}
        assert held == {"lab-1": "w1", "lab-2": "w1", "lab-3": "w9"}
        with database.write() as tx:
            assert leases.release_all(tx, "w1") == 2


class Rush:
    """Workers that claim and end builds until none is left."""

    def __init__(self, database: Database, limits: dict[str, int]) -> None:
        self.database, self.limits = database, limits
        self.most: Counter[str] = Counter()
        self.claimed: list[str] = []
        self.trouble: list[Exception] = []
        self._lock = threading.Lock()

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._guarded, args=(f"w{n}",)) for n in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)

    def _guarded(self, worker: str) -> None:
        try:
            self._work(worker)
        except Exception as error:  # noqa: BLE001 - told by the test itself
            self.trouble.append(error)

    def _work(self, worker: str) -> None:
        mine: list[str] = []
        while mine or rows(self.database, schema.build, state="queued"):
            with self.database.write() as tx:
                found = queue.claim_next(
                    tx, worker=worker, slots=3, at=CLOCK.now(), limits=self.limits
                )
                used = _used(tx)
            with self._lock:
                self.most |= used
                self.claimed.extend([found.build_id] if found else [])
            if found:
                mine.append(found.build_id)
            elif mine:
                end(self.database, mine.pop(0))


@pytest.mark.timeout(60)
def test_four_workers_claim_everything_once(database):
    limits, total = {"lab": 3, "xen": 2}, 80
    for label in limits:
        for n in range(6):
            node(database, f"{label}-{n}", label)
    for n in range(total):
        label = ("lab", "xen")[n % 2]
        enqueue(database, n, job("j", label, peers=["xen"] if n % 10 == 0 else []))
    rush = Rush(database, limits)
    rush.run(workers=4)
    assert not rush.trouble
    assert len(set(rush.claimed)) == len(rush.claimed) == total
    assert dict(rush.most) == limits


def _used(tx: sa.Connection) -> Counter[str]:
    build = schema.build
    running = tx.execute(
        sa.select(build.c.node_label, build.c.wants).where(build.c.state == "running")
    ).all()
    return Counter(label for row in running for label in (row.node_label, *row.wants))
