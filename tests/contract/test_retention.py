# SPDX-License-Identifier: Apache-2.0
"""What retention removes and what it must leave, on SQLite and PostgreSQL."""

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.disk_guard import DiskGuard
from ci.layout import Retention as Tiers
from ci.model.result import FailureClass, Judgement, Result
from ci.retention import Retention
from ci.store import notices, pins, retention, schema
from ci.store.actions import RequestRefused
from ci.store.database import Database
from tests.kit.rows import NOW, Rows, ago

DAY = 86_400.0


class Lab:
    """Builds of any age with files, and a chore to run on them."""

    def __init__(self, database: Database, folder: Path, full: list[int] | None = None) -> None:
        self.database, self.spool = database, folder / "logs"
        self.rows = Rows(database, self.spool)
        self.clock = FakeClock(NOW)
        self.numbers = 0
        self.layout = SimpleNamespace(
            service=SimpleNamespace(retention=Tiers()), reporters=[SimpleNamespace(name="mail")]
        )
        used = full if full is not None else [10]
        guard = DiskGuard(
            folder,
            self.clock,
            high_percent=90,
            usage=lambda _: SimpleNamespace(used=used[0], free=100 - used[0]),
        )
        self.chore = Retention(
            database, self.clock, lambda: self.layout, spool=self.spool, guard=guard, pause_s=0
        )

    def build(self, days: float, result: str = "SUCCESS", *, status: str = "MERGED", **more) -> str:
        """A build with one attempt, one outcome and a log that ended so many days ago."""
        self.numbers += 1
        at = ago(days * DAY)
        self.rows.change(self.numbers, "a change", status=status)
        buildset = self.rows.buildset(self.numbers, at=at, finished_at=at, **more.pop("set", {}))
        judgement = more.pop("judgement", None)
        if judgement is None:
            more["result"] = result
        build = self.rows.build(
            buildset, more.pop("job", "unit"), finished_at=at, judgement=judgement, **more
        )
        attempt = self.rows.attempt(build, began=at)
        self.rows.insert(
            schema.outcome,
            {
                "attempt_id": attempt,
                "test_id": "t",
                "status": "pass",
                "duration_s": 1,
                "message": "",
                "details": "",
            },
        )
        self.rows.console(build, attempt, ["hello"], began=at)
        return build

    def newest(self) -> str:
        """A fresh pass, so that older ones are no evidence."""
        return self.build(0.1)

    def logs(self, build: str) -> str:
        return pins.keeping(self.database, build)[0]

    def has_files(self, build: str) -> bool:
        return (self.spool / build).is_dir()

    def count(self, table: sa.Table) -> int:
        with self.database.read() as tx:
            return tx.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0


@pytest.fixture
def lab(database: Database, tmp_path: Path) -> Lab:
    return Lab(database, tmp_path)


def test_logs_go_at_their_time_and_those_of_failures_later(lab: Lab):
    young, old = lab.build(29.9), lab.build(30.1)
    failed, canceled = lab.build(89, "FAILURE"), lab.build(31, "CANCELED")
    old_failed, running = lab.build(91, "ERROR"), lab.build(400, state="running")
    lab.newest()
    assert lab.chore.run()["logs"] == 3
    assert [lab.logs(one) for one in (old, canceled, old_failed)] == ["2026-11-22"] * 3
    assert not any(lab.has_files(one) for one in (old, canceled, old_failed))
    assert [lab.logs(one) for one in (young, failed, running)] == [""] * 3
    assert all(lab.has_files(one) for one in (young, failed, running))


def test_pinned_builds_and_evidence_stay_whole(lab: Lab):
    only_pass = lab.build(800, job="rare")
    pinned, base = lab.build(801), lab.build(200)
    lab.build(802)
    judgement = Judgement(
        result=Result.FAILURE,
        failure_class=FailureClass.REGRESSION,
        vote=-1,
        reason="",
        attempts_compared=(attempt_of(lab, base),),
    )
    lab.build(10, judgement=judgement)
    lab.newest()
    pins.pin(lab.database, pinned, by="ann", why="the crash of May", at=NOW)
    found = lab.chore.run()
    assert (found["logs"], found["results"], found["rows"]) == (1, 1, 1)
    assert all(lab.has_files(one) for one in (only_pass, pinned, base))
    pins.unpin(lab.database, pinned, by="ann", at=NOW)
    assert lab.chore.run()["rows"] == 1
    assert not lab.has_files(pinned)


def attempt_of(lab: Lab, build: str) -> str:
    table = schema.attempt
    with lab.database.read() as tx:
        return tx.execute(sa.select(table.c.id).where(table.c.build_id == build)).scalar_one()


def test_results_go_before_rows_and_rows_only_when_nothing_is_owed(lab: Lab):
    results, rows, owed = lab.build(366), lab.build(731), lab.build(732)
    again = lab.build(733, status="NEW")
    lab.newest()
    with lab.database.read() as tx:
        sets = dict(tx.execute(sa.select(schema.build.c.id, schema.build.c.buildset_id)).all())
    lab.rows.vote(sets[owed], 1, "pending")
    lab.rows.vote(sets[rows], 1, "delivered")
    found = lab.chore.run()
    assert (found["results"], found["rows"]) == (4, 1)
    with lab.database.read() as tx:
        left = set(tx.execute(sa.select(schema.build.c.id)).scalars())
    assert {results, owed, again} <= left
    assert rows not in left
    assert (lab.count(schema.outcome), lab.count(schema.attempt)) == (1, 1)
    assert lab.count(schema.outbox) == 1


def test_events_go_but_what_an_open_change_needs(lab: Lab):
    old = ago(100 * DAY)
    lab.rows.change(71, "open")
    lab.rows.change(72, "merged", status="MERGED")
    for number, kind in ((71, "patchset-created"), (71, "comment-added"), (71, "vote"), (72, "x")):
        lab.rows.event(number, 1, "nothing", kind=kind, at=old)
    lab.rows.event(72, 1, None, kind="unplanned", at=old)
    lab.rows.event(72, 1, "nothing", kind="newest", at=old)
    with lab.database.write() as tx:
        named = tx.execute(sa.select(schema.event.c.id).where(schema.event.c.kind == "x")).scalar()
        before = tx.execute(sa.select(sa.func.max(schema.event.c.id))).scalar()
    lab.rows.buildset(72, at=old, finished_at=old, event_id=named)
    lab.newest()
    assert lab.chore.run()["events"] == 2
    with lab.database.read() as tx:
        kinds = list(
            tx.execute(sa.select(schema.event.c.kind).order_by(schema.event.c.id)).scalars()
        )
        assert tx.execute(sa.select(sa.func.max(schema.event.c.id))).scalar() == before
    assert kinds == ["patchset-created", "vote", "unplanned", "newest"]


def test_notices_go_unless_a_reporter_is_owed_them(lab: Lab):
    with lab.database.write() as tx:
        notices.register(tx, "mail", at=NOW)
    for number in range(5):
        old = {"occurred_at": ago(100 * DAY), "subject": "", "text": "", "url": "", "facts": {}}
        lab.rows.insert(schema.notice, {"kind": "verdict", "key": f"k{number}", **old})
    assert lab.chore.run()["notices"] == 0  # nobody has looked yet
    with lab.database.write() as tx:
        notices.take_up(tx, "mail", [], at=NOW)
        first = tx.execute(sa.select(sa.func.min(schema.notice.c.id))).scalar()
        owed = {"notice_id": first, "reporter": "mail", "tries": 0, "next_at": NOW}
        tx.execute(sa.insert(schema.delivery).values(state="pending", **owed))
    assert lab.chore.run()["notices"] == 3  # neither the owed one nor the newest
    assert lab.count(schema.notice) == 2


def test_a_full_disk_frees_the_oldest_past_the_floor_and_no_younger(
    database: Database, tmp_path: Path
):
    used = [95]
    lab = Lab(database, tmp_path, used)
    failed = [lab.build(31 + days, "FAILURE") for days in range(3)]
    young = lab.build(29, "FAILURE")
    assert lab.chore.free_early() == 3
    assert not any(lab.has_files(one) for one in failed)
    assert lab.has_files(young)
    used[0] = 20
    lab.build(40, "FAILURE")
    lab.clock.advance(5)
    assert lab.chore.free_early() == 0


def test_a_crash_between_row_and_files_is_mended(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    old = lab.build(40)
    lab.newest()
    monkeypatch.setattr("ci.retention.forget_local", crash)
    with pytest.raises(KeyboardInterrupt):
        lab.chore.run()
    monkeypatch.undo()
    assert lab.logs(old)
    assert lab.has_files(old)
    assert lab.chore.sweep() == 1
    assert not lab.has_files(old)


def crash(*_arguments: object) -> None:
    raise KeyboardInterrupt


def test_files_of_unknown_builds_go_only_after_the_floor(lab: Lab):
    stray = lab.spool / "b404" / "a1"
    stray.mkdir(parents=True)
    os.utime(stray, (NOW.timestamp(),) * 2)
    os.utime(stray.parent, (NOW.timestamp(),) * 2)
    assert lab.chore.sweep() == 0
    lab.clock.advance(31 * DAY)
    assert lab.chore.sweep() == 1


def test_a_chunk_is_bounded_and_looks_at_pins_again(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    builds = [lab.build(50 - number) for number in range(7)]
    lab.newest()
    sizes = []
    real = retention.Tier.drop

    def drop(self, tx, some):
        gone = real(self, tx, some)
        sizes.append(len(gone))
        if len(sizes) == 1:
            values = {"by": "ann", "why": "meanwhile", "at": NOW}
            tx.execute(sa.insert(schema.pin).values(build_id=builds[6], **values))
        return gone

    monkeypatch.setattr(retention, "CHUNK", 3)
    monkeypatch.setattr(retention.Tier, "drop", drop)
    assert lab.chore.run()["logs"] == 6
    assert sizes == [3, 3, 0]
    assert lab.has_files(builds[6])


def test_a_pin_needs_a_build_and_a_reason(lab: Lab):
    build = lab.newest()
    with pytest.raises(RequestRefused, match="reason"):
        pins.pin(lab.database, build, by="ann", why=" ", at=NOW)
    with pytest.raises(RequestRefused, match="no build"):
        pins.pin(lab.database, "b404", by="ann", why="x", at=NOW)
    with pytest.raises(RequestRefused, match="not pinned"):
        pins.unpin(lab.database, build, by="ann", at=NOW)
    pins.pin(lab.database, build, by="ann", why="first", at=NOW)
    pins.pin(lab.database, build, by="bob", why="second", at=NOW + timedelta(1))
    assert [(one.by, one.why) for one in pins.pins(lab.database)] == [("bob", "second")]
    assert lab.count(schema.audit) == 2
