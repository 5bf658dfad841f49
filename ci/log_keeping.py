# SPDX-License-Identifier: Apache-2.0
"""What one process has for its logs: store, shelf, mirror, publisher, disk guard, retention."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ci.clock import Clock
from ci.collect import LogStore
from ci.disk_guard import DiskGuard
from ci.errors import StorageError
from ci.layout import Layout
from ci.log import get
from ci.log_mirror import Mirror
from ci.log_publish import Publisher
from ci.log_shelf import open_shelf
from ci.model.notice import Notice, NoticeKind
from ci.retention import Retention
from ci.store import notices
from ci.store.database import Database

MIB = 1 << 20
TIDY_EVERY_S = 300
FREE_EVERY_S = 60
RETENTION_EVERY_S = 3600


class LogKeeping:
    """Everything about logs of one process, made from the configuration.

    Args:
        layout: What the configuration says.
        clock: Where time comes from.
        database: Where rows are.
        process: Name of this process, for notices.
        caches: Directories besides the logs that count for `disk-budget-mib`.
        on_notice: Called when a notice was written.

    Attributes:
        shelf: Where all processes read logs; None where that is the spool.
        logs: Where attempts write.
        mirror: What readers ask before they read.
        publisher: Copies attempts to the shelf; None without one.
        guard: Whether there is room for new builds.
        retention: Removes what is past its time.

    Raises:
        ConfigError: A secret of the log store is missing, or what it needs is not installed.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        database: Database,
        *,
        process: Callable[[], str] = lambda: "",
        caches: Sequence[Path] = (),
        on_notice: Callable[[], None] = lambda: None,
    ) -> None:
        service = layout.service
        spool = service.state_dir / "logs"
        self._clock, self._database = clock, database
        self._process, self._on_notice = process, on_notice
        self._url = service.url
        self._log = get("logs")
        self.shelf = open_shelf(service)
        self.publisher = Publisher(spool, self.shelf, clock) if self.shelf else None
        self.mirror = Mirror(spool, self.shelf, service.log_mirror_mib * MIB, clock)
        self.logs = LogStore(
            spool,
            limit_bytes=service.log_limit_mib * MIB,
            free_bytes=service.free_disk_mib * MIB,
            publisher=self.publisher,
        )
        self.guard = DiskGuard(
            service.state_dir,
            clock,
            high_percent=service.disk_high_water_percent,
            free_bytes=service.free_disk_mib * MIB,
            budget_bytes=service.disk_budget_mib * MIB if service.disk_budget_mib else None,
            folders=(spool, *caches),
            on_episode=self._tell,
        )
        self.retention = Retention(
            database,
            clock,
            lambda: layout,
            spool=spool,
            shelf=self.shelf,
            guard=self.guard,
        )

    def start(self) -> None:
        """Try the log store; one that is merely away is waited for by who needs it.

        Raises:
            ConfigError: It refuses us, or it does not exist.
        """
        if self.shelf is None:
            return
        try:
            self.shelf.probe()
        except StorageError as error:
            self._log.warning("log store is away", action="start", reason=str(error))

    def bodies(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Names and bodies of the threads that a process which runs builds has."""
        if self.publisher is None:
            return ()
        return (("log-live", self.publisher.run_live), ("log-publish", self.publisher.run))

    def chores(self) -> tuple[tuple[int, str, Callable[[], object]], ...]:
        """Seconds, name and body of the chores of every process that has logs."""
        return (
            (FREE_EVERY_S, "free early", self.retention.free_early),
            (TIDY_EVERY_S, "mirror", self.mirror.tidy),
            (RETENTION_EVERY_S, "logs without rows", self.retention.sweep),
        )

    def stop(self) -> None:
        """End the threads; what is not published yet is so after the next start."""
        if self.publisher is not None:
            self.publisher.stop()

    def _tell(self, reason: str) -> None:
        """Write the notice of one episode."""
        at, name = self._clock.now(), self._process() or "this CI"
        self._log.error("no new builds are started", action="disk", reason=reason)
        notice = Notice(
            kind=NoticeKind.DISK,
            key=f"{NoticeKind.DISK.value}:{self._process()}:{at.isoformat(timespec='seconds')}",
            subject=f"{name} starts no new builds: {reason}",
            text=(
                f"{name} starts no new builds: {reason}.\n\nWhat runs goes on. Make room, or let "
                "retention remove more: docs/how-to/keep-logs-and-disk.md."
            ),
            url=self._url,
            facts={"process": self._process(), "reason": reason},
            occurred_at=at,
        )
        try:
            with self._database.write() as tx:
                notices.add(tx, notice)
        except StorageError as error:
            self._log.error("a notice is lost", action="disk", reason=str(error))
            return
        self._on_notice()
