# SPDX-License-Identifier: Apache-2.0
"""Step 8 of 9, beside the vote. Before: judge. After: page.

In: Notices, each written in one transaction with its cause. Out: the same at every receiver
that the configuration names. Each reporter has a loop and rows of its own: one that is away
stops nobody else, and the flow never waits for any. Delivery is at least once and in the
order of the notices, so the oldest one that is owed holds up those behind it: until it is
delivered, or until the receiver has refused it for good.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta

import sqlalchemy as sa

from ci.backoff import Backoff
from ci.bell import Bell
from ci.board import turn
from ci.clock import Clock
from ci.errors import ConfigError, HypervouchError, NoticeRefused, ReporterError, StorageError
from ci.layout import Layout, ReporterConfig
from ci.leadership import Leadership
from ci.log import get
from ci.notice_texts import trial_notice
from ci.reporters.notifier import Notifier
from ci.reporters.table import driver
from ci.store import leaders, notices
from ci.store.database import Database
from ci.store.moment import moment
from ci.store.notices import Waiting
from ci.store.sending import Sender
from ci.telemetry import Telemetry

LOOK_S = 10.0  # the bell rings for most notices; this finds the rest
DISK_S = 5.0
MOST_PAUSE_S = 3600.0
SENDING_S = 120.0
"""For so long deliveries that were taken in hand are nobody else's."""
DELIVER_S = 60.0
"""A delivery is begun only when it is ours for so long still."""
REFUSALS = 5  # of one notice alone, until it is dropped
_Write = Callable[[sa.Connection], None]


class NoticeRelay:
    """Delivers notices to one reporter; the body of one thread.

    Args:
        config: Its name, and the kinds it wants.
        database: Where notices are.
        clock: Where time comes from.
        notifier: How to tell.
        bell: Rung when a notice was written.
        sender: Who takes deliveries in hand; this object alone by default.
        leadership: Under which it delivers; that of the only process by default.
        telemetry: Where tries are counted.
    """

    def __init__(
        self,
        config: ReporterConfig,
        database: Database,
        clock: Clock,
        notifier: Notifier,
        *,
        bell: Bell,
        sender: Sender | None = None,
        leadership: Leadership | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._name = config.name
        self._tries = (telemetry or Telemetry()).metrics.notices
        self._kinds = frozenset(config.notices)
        self._database = database
        self._clock = clock
        self._notifier = notifier
        self._bell = bell
        self._sender = sender or Sender(name="", incarnation=secrets.token_hex(8))
        self._leadership = leadership or Leadership.sole(f"notify:{self._name}")
        self._stop = threading.Event()
        self._unwritten: list[_Write] = []
        self._away = Backoff(first_s=1.0, factor=2.0, most_s=300.0)
        # A wrong password is mended by people, and tried often it locks the account.
        self._barred = Backoff(first_s=300.0, factor=2.0, most_s=MOST_PAUSE_S)
        self._poison = Backoff(first_s=5.0, factor=2.0, most_s=60.0)
        self._suspect = 0  # delivery that was refused alone, and how often
        self._refusals = 0
        self._one_by_one = False
        self._log = get("notify").bind(reporter=self._name)

    def register(self) -> None:
        """Let the reporter see every notice from now on, and none from before its first start."""
        with self._database.write() as tx:
            notices.register(tx, self._name, at=self._clock.now())

    def run(self) -> None:
        """Deliver notices as they come, until `stop`."""
        while not self._stop.is_set():
            turn()
            try:
                pause_s = self.deliver_due()
            except StorageError as error:
                self._log.error("notices wait", action="wait", reason=str(error))
                self._stop.wait(DISK_S)
            else:
                self._bell.wait(pause_s)
        self._notifier.close()

    def stop(self) -> None:
        """End `run` after the call in hand."""
        self._stop.set()
        self._bell.ring()

    def deliver_due(self) -> float:
        """Take up new notices and try what is due.

        Returns:
            Seconds after which it is worth calling again; 0 while there is more.

        Raises:
            StorageError: What became of the last try is written down by the next call first.
        """
        self._write()
        self._take_up()
        with self._database.read() as tx:
            owed = notices.waiting(tx, self._name, limit=self._notifier.most)
            now = moment(tx, self._clock)
        if not owed:
            self._one_by_one = False
            return LOOK_S
        pause_s = (owed[0].next_at - now).total_seconds()
        # A pause beyond the longest comes of a clock that was set back.
        if 0 < pause_s <= MOST_PAUSE_S:
            return min(pause_s, LOOK_S)
        chosen = owed[:1] if self._one_by_one else owed
        if not self._take(chosen):
            return LOOK_S
        self._try(chosen)
        self._write()
        return 0.0

    def _take(self, owed: Sequence[Waiting]) -> bool:
        """Take deliveries in hand; False where they are not ours to make.

        What is left is a process that stands still between this answer and the receiver's,
        for longer than a delivery may take: the notice's identity tells the receiver.
        """
        began_s = self._clock.monotonic_s()
        with self._database.write() as tx:
            if not leaders.is_newest(tx, self._leadership.name, self._leadership.token):
                return False
            now = moment(tx, self._clock)
            until = now + timedelta(seconds=SENDING_S)
            ids = [one.id for one in owed]
            taken = notices.take(tx, ids, sender=self._sender, now=now, until=until)
        left_s = began_s + SENDING_S - self._clock.monotonic_s()
        return taken and self._leadership.holds and left_s > DELIVER_S

    def _take_up(self) -> None:
        with self._database.read() as tx:
            if not notices.behind(tx, self._name):
                return
        with self._database.write() as tx:
            notices.take_up(tx, self._name, self._kinds, at=moment(tx, self._clock))

    def _try(self, owed: Sequence[Waiting]) -> None:
        """Deliver these notices, or put them off with the reason."""
        told = [one.notice for one in owed]
        outcome = "failed"
        try:
            said = self._notifier.deliver(told)
        except NoticeRefused as error:
            self._answered()
            self._refused(owed, str(error))
        except HypervouchError as error:
            self._put_off(owed, str(error), self._pause_s(error))
        except Exception as error:  # noqa: BLE001 - the loop edge: a bug costs one notice at most
            self._log.exception("a bug in this program or in a driver", action="bug")
            self._refused(owed, f"a bug: {type(error).__name__}: {error}")
        else:
            outcome = "delivered"
            self._answered()
            self._settle(owed, "delivered", said)
        finally:
            self._tries.labels(self._name, outcome).inc(len(told))

    def _answered(self) -> None:
        """The receiver works and knows us."""
        self._away.reset()
        self._barred.reset()

    def _pause_s(self, error: HypervouchError) -> float:
        if not error.retryable:
            return self._barred.next_s()
        asked_s = error.pause_s if isinstance(error, ReporterError) else 0.0
        return min(max(self._away.next_s(), asked_s), MOST_PAUSE_S)

    def _refused(self, owed: Sequence[Waiting], reason: str) -> None:
        """Find the one that is refused; after some tries alone it is dropped."""
        if len(owed) > 1:
            self._one_by_one = True
            self._put_off(owed, reason, 0.0)
            return
        if owed[0].id != self._suspect:
            self._suspect, self._refusals = owed[0].id, 0
            self._poison.reset()
        self._refusals += 1
        if self._refusals < REFUSALS:
            self._put_off(owed, reason, self._poison.next_s())
        else:
            self._one_by_one, self._suspect = False, 0
            self._settle(owed, "dropped", f"refused {REFUSALS} times: {reason}")

    def _settle(self, owed: Sequence[Waiting], state: str, note: str) -> None:
        ids, at = [one.id for one in owed], self._clock.now()
        self._unwritten.append(lambda tx: notices.settle(tx, ids, state=state, note=note, at=at))
        log = self._log.info if state == "delivered" else self._log.error
        log("notices settled", action=state, count=len(ids), note=note)

    def _put_off(self, owed: Sequence[Waiting], reason: str, pause_s: float) -> None:
        ids, sender = [one.id for one in owed], self._sender

        def write(tx: sa.Connection) -> None:
            next_at = moment(tx, self._clock) + timedelta(seconds=pause_s)
            notices.postpone(tx, ids, sender=sender, error=reason, next_at=next_at)

        self._unwritten.append(write)
        self._log.warning(
            "notices put off",
            action="retry",
            count=len(ids),
            tries=owed[0].tries + 1,
            pause_s=round(pause_s),
            reason=reason,
        )

    def _write(self) -> None:
        """Write down what became of the last try: with a full disk it is kept, not repeated."""
        while self._unwritten:
            with self._database.write() as tx:
                self._unwritten[0](tx)
            del self._unwritten[0]


def send_trial(layout: Layout, name: str, clock: Clock) -> Iterator[str]:
    """Send a reporter one test notice; then what waits for it need not wait any longer.

    Yields:
        What happened, one line each.

    Raises:
        ConfigError: There is no such reporter, or its secret is missing.
        ReporterError: It was not delivered.
    """
    config = next((one for one in layout.reporters if one.name == name), None)
    if config is None:
        known = ", ".join(one.name for one in layout.reporters) or "none"
        raise ConfigError(
            f"the configuration has no reporter {name}", hint=f"its reporters: {known}"
        )
    chosen = driver(config.driver)
    notifier = chosen(chosen.Options.model_validate(config.options))
    notice = trial_notice(name, config.notices[0], url=layout.service.url, at=clock.now())
    try:
        said = notifier.deliver([notice])
    finally:
        notifier.close()
    yield f"{name}: {said}"
    if (database := Database.that_ran(layout.service)) is not None:
        with closing(database), database.write() as tx:
            count = notices.hurry(tx, name, at=clock.now())
        if count:
            yield f"what waits for it ({count}) is tried within {LOOK_S:.0f} s"
