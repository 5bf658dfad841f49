# SPDX-License-Identifier: Apache-2.0
"""The chore `retention`: what builds left goes when its time is over, or earlier on a full disk.

Of logs, first the row says that they are gone, then the files go; of rows, children go before
parents, a bounded chunk a transaction, with a pause for other writers between two. So a crash at
any point leaves nothing wrong: at worst files that no row speaks for, which `sweep` finds.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ci.clock import Clock
from ci.disk_guard import DiskGuard
from ci.layout import Layout
from ci.layout_retention import FLOOR_DAYS
from ci.log import get
from ci.log_publish import forget_local
from ci.log_shelf import Shelf
from ci.store import retention
from ci.store.database import Database

PAUSE_S = 0.05
"""Between two transactions, so that those who wait to write come first."""
LONGEST = 10_000
"""Looks for more of one tier in one run."""


class Retention:
    """Removes what is past its time. `run` is for one process of all, `sweep` for each.

    Args:
        database: Where the rows are.
        clock: Where time comes from.
        layout: Gives the current layout.
        spool: The local directory of logs.
        shelf: Where logs are kept for all, or None.
        guard: Says whether this process's disk is too full.
        pause_s: Between two transactions.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        layout: Callable[[], Layout],
        *,
        spool: Path,
        shelf: Shelf | None = None,
        guard: DiskGuard | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._layout = layout
        self._spool = spool
        self._shelf = shelf
        self._guard = guard
        self._pause_s = pause_s
        self._log = get("retention")

    def run(self) -> dict[str, int]:
        """Remove what is past its time, tier by tier.

        Returns:
            How many of what: `logs`, `results`, `rows`, `events`, `notices`.

        Raises:
            StorageError: The database or the log store refused; the rest goes next time.
        """
        tiers = self._layout().service.retention
        ago = self._ago
        keep = self._evidence()
        cut = retention.LogCutOff(passed=ago(tiers.logs_days), failed=ago(tiers.failed_logs_days))
        reporters = [one.name for one in self._layout().reporters]
        done = {
            "logs": self._drop(self._logs(cut, keep), self._drop_files),
            "results": self._drop(retention.results(ago(tiers.results_days), keep)),
            "rows": self._drop(retention.rows(ago(tiers.rows_days), keep)),
            "events": self._drop(retention.events(ago(tiers.events_days))),
            "notices": self._drop(retention.told(ago(tiers.notices_days), reporters)),
        }
        if any(done.values()):
            self._log.info("removed what was past its time", action="retention", **done)
        self._sweep_shelf()
        return done

    def free_early(self) -> int:
        """On a full disk, remove the oldest logs that are past the floor; returns how many builds.

        Pinned builds and evidence stay, and nothing goes that is younger than `FLOOR_DAYS`.
        """
        if self._guard is None or not self._guard.reason():
            return 0
        floor = self._ago(FLOOR_DAYS)
        cut = retention.LogCutOff(passed=floor, failed=floor)
        count = self._drop(
            self._logs(cut, self._evidence()),
            self._drop_files,
            enough=lambda: not (self._guard and self._guard.again()),
        )
        if count:
            self._log.warning(
                "logs removed early: the disk is full", action="retention", logs=count
            )
        return count

    def sweep(self) -> int:
        """Remove folders of this process that no row speaks for; returns how many.

        A folder whose build is unknown goes only when it is older than the floor: the database
        may be an older backup.
        """
        names = (path.name for path in self._spool.glob("*") if path.is_dir())
        count = 0
        for name in self._orphans(names, self._touched):
            forget_local(self._spool, name)
            count += 1
        return count

    def _sweep_shelf(self) -> None:
        if self._shelf is None:
            return
        shelf = self._shelf
        for name in self._orphans(shelf.builds(), lambda one: _kept_at(shelf, one)):
            shelf.remove(name)

    def _orphans(
        self, names: Iterable[str], touched: Callable[[str], datetime | None]
    ) -> Iterable[str]:
        """Builds whose files are to go, by their rows or for want of one."""
        with self._database.read() as tx:
            gone, unknown = retention.without_logs(tx, names)
        yield from sorted(gone)
        floor = self._ago(FLOOR_DAYS)
        for name in sorted(unknown):
            at = touched(name)
            if at is not None and at < floor:
                yield name

    def _touched(self, name: str) -> datetime | None:
        folder = self._spool / name
        try:
            times = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
        except OSError:
            return None
        return datetime.fromtimestamp(max(times), UTC)

    def _logs(self, cut: retention.LogCutOff, keep: frozenset[str]) -> retention.Tier:
        return retention.logs(cut, keep, day=self._clock.now().date().isoformat())

    def _drop_files(self, build_ids: list[str]) -> None:
        for build_id in build_ids:
            forget_local(self._spool, build_id)
            if self._shelf is not None:
                self._shelf.remove(build_id)

    def _drop(
        self,
        tier: retention.Tier,
        after: Callable[[list[str]], None] = lambda _: None,
        *,
        enough: Callable[[], bool] = lambda: False,
    ) -> int:
        """Remove a tier chunk by chunk, until nothing is left or it is enough; returns how many.

        Args:
            tier: What.
            after: Done with each chunk once it is committed.
            enough: Asked after each chunk.
        """
        count = 0
        for _ in range(LONGEST):
            with self._database.read() as tx:
                found = tier.find(tx)
            before = count
            for start in range(0, len(found), retention.CHUNK):
                with self._database.write() as tx:
                    gone = tier.drop(tx, found[start : start + retention.CHUNK])
                after(gone)
                count += len(gone)
                if enough():
                    return count
                self._clock.sleep(self._pause_s)
            if count == before:
                break
        return count

    def _evidence(self) -> frozenset[str]:
        since = self._ago(self._layout().service.retention.failed_logs_days)
        with self._database.read() as tx:
            return retention.evidence(tx, since=since)

    def _ago(self, days: int) -> datetime:
        return self._clock.now() - timedelta(days=days)


def _kept_at(shelf: Shelf, build_id: str) -> datetime | None:
    """When the newest attempt of a build was published; None where that cannot be told."""
    found = [
        shelf.kept_at(f"{build_id}/{attempt}/published.json") for attempt in shelf.below(build_id)
    ]
    known = [at for at in found if at is not None]
    return max(known) if known and len(known) == len(found) else None
