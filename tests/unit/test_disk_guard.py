# SPDX-License-Identifier: Apache-2.0
"""Above high water no new build; below low water on again; one notice an episode."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.disk_guard import MIB, DiskGuard
from ci.layout import Retention
from ci.log_keeping import LogKeeping
from ci.store import processes, schema
from ci.waiting import Explainer
from tests.kit.core import database_in, layout
from tests.kit.rows import NOW, Rows


class Disk:
    """A disk of 1000 MiB that is as full as a test says."""

    def __init__(self, folder: Path, **options) -> None:
        self.used, self.told, self.clock = 100, [], FakeClock()
        self.guard = DiskGuard(
            folder,
            self.clock,
            high_percent=90,
            on_episode=self.told.append,
            usage=lambda _: SimpleNamespace(used=self.used * MIB, free=(1000 - self.used) * MIB),
            **options,
        )

    def at(self, used: int) -> str:
        self.used = used
        self.clock.advance(60)
        return self.guard.reason()


def test_it_stops_at_high_water_and_goes_on_below_low_water(tmp_path: Path):
    disk = Disk(tmp_path)
    assert disk.at(899) == ""
    assert "90 % full; new builds start below 85 %" in disk.at(900)
    assert disk.at(860)
    assert disk.at(849) == ""
    assert disk.at(899) == ""
    assert disk.at(950)
    assert len(disk.told) == 2


def test_one_look_serves_all_who_ask(tmp_path: Path):
    disk = Disk(tmp_path)
    disk.at(100)
    disk.used = 950
    assert disk.guard.reason() == ""
    assert "95 % full" in disk.guard.again()


def test_free_disk_mib_counts_as_well(tmp_path: Path):
    disk = Disk(tmp_path, free_bytes=300 * MIB)
    assert "250 MiB free and needs 300" in disk.at(750)
    assert disk.at(690) != ""
    assert disk.at(600) == ""


def test_a_budget_counts_logs_and_caches(tmp_path: Path):
    logs, git = tmp_path / "logs", tmp_path / "git"
    for folder in (logs, git):
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * MIB)
    (logs / "out").symlink_to("/")
    disk = Disk(tmp_path, budget_bytes=2 * MIB, folders=(logs, git, tmp_path / "none"))
    assert "fill 2 MiB of the 2 they may" in disk.at(100)
    (git / "file").unlink()
    assert disk.at(100) == ""


def test_a_disk_that_cannot_be_looked_at_takes_nothing_new(tmp_path: Path):
    guard = DiskGuard(tmp_path / "gone", FakeClock(), high_percent=90)
    assert "cannot be looked at" in guard.reason()


def test_operators_are_told_once_an_episode(tmp_path: Path):
    database = database_in(tmp_path)
    rung = []
    keeping = LogKeeping(
        layout(state_dir=tmp_path),
        FakeClock(),
        database,
        process=lambda: "worker-1",
        on_notice=lambda: rung.append(1),
    )
    keeping.guard._usage = lambda _: SimpleNamespace(used=99, free=1)
    assert keeping.guard.reason()
    assert keeping.guard.again()
    with database.read() as tx:
        found = tx.execute(sa.select(schema.notice.c.kind, schema.notice.c.subject)).all()
    assert [one.kind for one in found] == ["disk"]
    assert "worker-1 starts no new builds: the disk is 99 % full" in found[0].subject
    assert rung == [1]
    keeping.start()
    assert keeping.bodies() == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"logs-days": 29}, "at least 30 days"),
        ({"failed-logs-days": 31, "logs-days": 40}, "failed-logs-days is less than logs-days"),
        ({"results-days": 60}, "results-days is less than failed-logs-days"),
        ({"rows-days": 100, "results-days": 365}, "rows-days is less than results-days"),
        ({"events-days": 1}, "greater than or equal to 7"),
    ],
)
def test_tiers_that_cannot_be(keys, said):
    with pytest.raises(ValueError, match=said):
        Retention.model_validate(keys)


def test_queued_builds_say_that_no_disk_has_room(tmp_path: Path):
    database, clock = database_in(tmp_path), FakeClock(NOW)
    rows = Rows(database, tmp_path / "logs")
    rows.change(1, "a change")
    build = rows.build(rows.buildset(1, at=NOW, state="queued"), state="queued")
    options = {"roles": ["work"], "host": "h", "pid": 1, "version": "1", "slots": 2, "at": NOW}
    with database.write() as tx:
        processes.register(tx, name="w1", incarnation="i1", **options)
        processes.set_room(tx, "w1", "an older one", 0)
        assert processes.full(tx, since=NOW) == ()
        processes.set_room(tx, "w1", "i1", 0)

    def full(tx: sa.Connection) -> tuple[str, ...]:
        return processes.full(tx, since=NOW)

    def working(tx: sa.Connection) -> dict[str, int]:
        return processes.working(tx, since=NOW)

    Explainer(database, clock, None, working, full).explain()
    with database.read() as tx:
        waiting = tx.execute(
            sa.select(schema.build.c.waiting).where(schema.build.c.id == build)
        ).scalar()
    assert waiting == "no disk has room: w1 starts no new builds"
