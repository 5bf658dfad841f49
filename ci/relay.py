# SPDX-License-Identifier: Apache-2.0
"""Step 8 of 9, vote. Before: judge. After: page.

In: Outbox rows, each written in one transaction with its Verdict. Out: a review on Gerrit.
Delivery is at least once and every reporter reads back before it posts, so what appears is
exactly one. A dead server stops only its own rows: each connection has a relay of its own.
A row that fails alone waits alone; while the whole server is away, one row at a time is
tried, and the others wait for it.
"""

import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci import observed
from ci.backoff import Backoff
from ci.bell import Bell
from ci.board import turn
from ci.clock import Clock
from ci.errors import HypervouchError, ReviewServerError, StorageError
from ci.leadership import Leadership
from ci.log import get
from ci.model.review import Review
from ci.reporters.base import Delivery, NoLongerOurs, Outcome, Reporter, ServerAway
from ci.store import leaders, outbox, outbox_notices
from ci.store.database import Database
from ci.store.moment import moment
from ci.store.sending import Sender
from ci.telemetry import Telemetry

PARALLEL = 4
REFUSED_S = 300.0  # a missing right is mended by people
GONE_S = 86_400.0  # a change that is made private may come back
UNDELIVERED_S = 900.0
AWAY_S = 120.0
"""A server that does not answer for so long: this process is not ready."""
SWEEP_S = 15.0
POLL_S = 1.0
SENDING_S = 60.0
"""For so long a row that was taken in hand is nobody else's."""
POST_S = 30.0
"""A post is begun only when its row is ours for so long still."""
_STATES = {
    Delivery.DELIVERED: "delivered",
    Delivery.ALREADY_THERE: "delivered",
    Delivery.STALE: "dropped",
}


class _Health:
    """Whether a server is away, and when one row may try it again. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pauses = Backoff(first_s=1.0)
        self._away = False
        self._away_since_s = 0.0
        self._until_s = 0.0

    def room(self, busy: int) -> int:
        """How many more rows may be tried now.

        Args:
            busy: How many are being tried.
        """
        with self._lock:
            if not self._away:
                return max(0, PARALLEL - busy)
            waited = self._clock.monotonic_s() >= self._until_s
            return 1 if waited and not busy else 0

    @property
    def away_s(self) -> float:
        """For how long it has not answered; 0 where it did."""
        with self._lock:
            return self._clock.monotonic_s() - self._away_since_s if self._away else 0.0

    def well(self) -> None:
        """The server answered."""
        with self._lock:
            self._away = False
            self._pauses.reset()

    def ill(self, least_s: float) -> float:
        """It did not; returns for how many seconds nobody tries.

        Several rows that were on their way together count as one failure.
        """
        with self._lock:
            now_s = self._clock.monotonic_s()
            if not self._away:
                self._away_since_s = now_s
            if not self._away or now_s >= self._until_s:
                self._until_s = now_s + self._pauses.next_s()
            self._away = True
            self._until_s = max(self._until_s, now_s + least_s)
            return self._until_s - now_s


class _Hold:
    """For how long a row is ours, by our own clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.until_s = 0.0

    @property
    def left_s(self) -> float:
        return self.until_s - self._clock.monotonic_s()


class Relay:
    """Delivers what is owed to one connection; the body of one thread.

    Args:
        connection: Its name.
        database: Where the outbox is.
        clock: Where time comes from.
        reporter: How to tell.
        bell: Rung when a row was written.
        undelivered_after_s: When a review that cannot be given becomes a notice.
        sender: Who takes rows in hand; this object alone by default.
        leadership: Under which it sends; that of the only process by default.
        telemetry: Where tries are counted.
    """

    def __init__(
        self,
        connection: str,
        database: Database,
        clock: Clock,
        reporter: Reporter,
        *,
        bell: Bell,
        undelivered_after_s: float = UNDELIVERED_S,
        sender: Sender | None = None,
        leadership: Leadership | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._connection = connection
        self._database = database
        self._clock = clock
        self._reporter = reporter
        self._bell = bell
        self._undelivered_after = timedelta(seconds=undelivered_after_s)
        self._stop = threading.Event()
        self._health = _Health(clock)
        self._busy: dict[int, Future[None]] = {}
        self._swept_s: float | None = None
        self._sender = sender or Sender(name="", incarnation=secrets.token_hex(8))
        self._leadership = leadership or Leadership.sole(f"relay:{connection}")
        self._doubted: set[int] = set()
        self._metrics = self._telemetry.metrics
        self._log = get("vote").bind(connection=connection)

    def run(self) -> None:
        """Deliver rows as they come, until `stop`."""
        with ThreadPoolExecutor(PARALLEL, f"relay-{self._connection}") as threads:
            while not self._stop.is_set():
                turn()
                try:
                    self.start_due(threads)
                    self.tell_overdue()
                except StorageError as error:
                    self._log.error("delivery waits", action="wait", reason=str(error))
                    self._stop.wait(2.0)
                    continue
                self._bell.wait(POLL_S)

    def stop(self) -> None:
        """End `run` after the rows in hand."""
        self._stop.set()
        self._bell.ring()

    def deliver_due(self, threads: ThreadPoolExecutor) -> int:
        """Start what is due, and wait for it; returns how many rows were tried."""
        started = self.start_due(threads)
        wait(started)
        self._reap()
        return len(started)

    def start_due(self, threads: ThreadPoolExecutor) -> list[Future[None]]:
        """Try the oldest row of each change whose time has come, as many as there is room for."""
        self._reap()
        room = self._health.room(len(self._busy))
        if not room:
            return []
        with self._database.read() as tx:
            rows = outbox.due(
                tx,
                connection=self._connection,
                now=moment(tx, self._clock),
                sender=self._sender,
                busy=self._busy,
                limit=room,
            )
        for row in rows:
            self._busy[row.change_number] = threads.submit(self._deliver, row)
        started = [self._busy[row.change_number] for row in rows]
        for one in started:
            one.add_done_callback(lambda _: self._bell.ring())
        return started

    def tell_overdue(self) -> None:
        """Tell operators of what is owed for too long, now and then."""
        now_s = self._clock.monotonic_s()
        if self._swept_s is not None and now_s - self._swept_s < SWEEP_S:
            return
        self._swept_s = now_s
        with self._database.write() as tx:
            now = moment(tx, self._clock)
            outbox_notices.tell_overdue(
                tx, self._connection, before=now - self._undelivered_after, at=now
            )

    def _reap(self) -> None:
        """Take leave of rows that were tried.

        Raises:
            StorageError: What became of one could not be written: it stands as it was, and its
                reporter will find what it posted.
        """
        for number in [number for number, one in self._busy.items() if one.done()]:
            self._busy.pop(number).result()

    def _deliver(self, row: sa.Row[Any]) -> None:
        """Deliver one row, or put it off."""
        hold, began = _Hold(self._clock), self._clock.now()
        if not self._take(row, hold):
            return
        review = _review(row)
        try:
            if row.sender not in {None, str(self._sender)} and row.id not in self._doubted:
                self._doubted.add(row.id)
                self._reporter.doubt(review)
            with self._metrics.review_seconds.labels(self._connection).time():
                outcome = self._reporter.deliver(review, lambda: self._permit(row, hold))
        except NoLongerOurs as error:
            self._log.warning("review left to another process", action="leave", reason=str(error))
            return
        except ServerAway as error:
            self._count("away")
            pause_s = max(self._health.ill(error.pause_s), _pause_s(row.tries))
            self._postpone(row, str(error), pause_s)
            return
        except ReviewServerError as error:
            self._health.well()
            self._count("failed")
            self._postpone(row, str(error), _pause_s(row.tries))
            return
        except HypervouchError as error:
            self._count("failed")
            self._postpone(row, str(error), REFUSED_S)
            return
        except Exception as error:  # noqa: BLE001 - the loop edge: a bug costs time, never a vote
            self._count("failed")
            self._log.exception("a bug in this program", action="bug", change=row.change_number)
            self._postpone(row, f"a bug: {type(error).__name__}: {error}", REFUSED_S)
            return
        self._health.well()
        self._count(outcome.delivery.value, outcome.transport)
        self._conclude(row, outcome)
        self._trace(row, outcome, began)

    def _take(self, row: sa.Row[Any], hold: "_Hold") -> bool:
        """Take a row in hand, or keep it for longer; False where it is not ours to send."""
        began_s = self._clock.monotonic_s()
        if not self._leadership.holds:
            return False
        with self._database.write() as tx:
            if not leaders.is_newest(tx, self._leadership.name, self._leadership.token):
                return False
            now = moment(tx, self._clock)
            until = now + timedelta(seconds=SENDING_S)
            taken = outbox.take(tx, row.id, sender=self._sender, now=now, until=until)
        hold.until_s = began_s + SENDING_S
        return taken

    def _permit(self, row: sa.Row[Any], hold: "_Hold") -> None:
        """Whether a post may begin: we lead, and nobody else has the row before it has ended.

        Asked right before the request. What is left is a process that stands still between
        this answer and the request, for longer than `POST_S`.

        Raises:
            NoLongerOurs: It may not.
        """
        if hold.left_s < POST_S and not self._take(row, hold):
            raise NoLongerOurs(f"the review of {row.change_number},{row.patchset} was taken over")
        if not self._leadership.holds:
            raise NoLongerOurs(f"{self._leadership.name} has another leader by now")

    def standing(self) -> str:
        """That its server takes what is owed, as far as is known.

        Raises:
            ReviewServerError: It is away for long.
        """
        away_s = self._health.away_s
        if away_s > AWAY_S:
            raise ReviewServerError(f"the server has not answered for {away_s:.0f} s")
        return f"the server is away for {away_s:.0f} s" if away_s else "no try failed"

    def _trace(self, row: sa.Row[Any], outcome: Outcome, began: datetime) -> None:
        observed.posted(
            self._telemetry.traces,
            self._database,
            row.buildset_id,
            began=began,
            at=self._clock.now(),
            outcome=outcome.delivery.value,
            transport=outcome.transport,
        )

    def _count(self, outcome: str, transport: str = "") -> None:
        self._metrics.reviews.labels(self._connection, transport or "none", outcome).inc()

    def _conclude(self, row: sa.Row[Any], outcome: Outcome) -> None:
        if outcome.delivery is Delivery.REFUSED:
            self._postpone(row, outcome.note, REFUSED_S, tell=True)
        elif outcome.delivery is Delivery.GONE and not self._is_deleted(row):
            self._postpone(row, outcome.note, REFUSED_S)
        else:
            self._settle(row, _STATES.get(outcome.delivery, "dropped"), outcome)

    def _is_deleted(self, row: sa.Row[Any]) -> bool:
        """Whether a change that is not to be seen will not come back."""
        if self._clock.now() - row.created_at > timedelta(seconds=GONE_S):
            return True
        with self._database.read() as tx:
            return outbox.was_deleted(tx, self._connection, row.change_number)

    def _settle(self, row: sa.Row[Any], state: str, outcome: Outcome) -> None:
        with self._database.write() as tx:
            outbox.settle(
                tx,
                row.id,
                state=state,
                note=outcome.note,
                at=self._clock.now(),
                transport=outcome.transport if state == "delivered" else "",
            )
        self._log.info(
            "review settled",
            action=state,
            change=row.change_number,
            patchset=row.patchset,
            label=row.label,
            value=row.value,
            transport=outcome.transport,
            note=outcome.note,
        )

    def _postpone(
        self, row: sa.Row[Any], reason: str, pause_s: float, *, tell: bool = False
    ) -> None:
        """Owe it still; what was refused waits for somebody to mend a right."""
        with self._database.write() as tx:
            now = moment(tx, self._clock)
            next_at = now + timedelta(seconds=pause_s)
            kept = outbox.postpone(tx, row.id, sender=self._sender, error=reason, next_at=next_at)
            if tell and kept:
                outbox_notices.undelivered(tx, row, error=reason, at=now)
        self._log.warning(
            "review put off",
            action="retry",
            change=row.change_number,
            tries=row.tries + 1,
            reason=reason,
        )


def _review(row: sa.Row[Any]) -> Review:
    return Review(
        project=row.project,
        change_number=row.change_number,
        patchset=row.patchset,
        revision=row.revision,
        tag=row.tag,
        marker=row.marker,
        message=row.message,
        label=row.label,
        value=row.value or 0,
        comment_when_stale=row.stale == "comment",
    )


def _pause_s(tries: int) -> float:
    """How long a row waits that failed alone so many times before."""
    pauses = Backoff(first_s=1.0)
    for _ in range(min(tries, 20)):
        pauses.next_s()
    return pauses.next_s()
