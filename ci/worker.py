# SPDX-License-Identifier: Apache-2.0
"""Steps 4 to 7 of 9, driven here: lease, run, collect, judge. Before: build. After: vote.

In: a Build that the dispatcher started. Out: its attempts with their evidence, a Judgement,
and, with the last build of a Buildset, the Verdict and the Outbox row in one transaction.
These are the two durable steps of the engine's workflow: each may be run again after a
crash, and a repeat of what is done changes nothing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from ci import judge, observed
from ci.attempt import AttemptContext, result_of, run_attempt
from ci.attempt_rows import AttemptRows, Myself, Running, Stopping, unheard
from ci.cancel import CancelToken, WatchedToken
from ci.checkout import Checkout
from ci.clock import Clock
from ci.collect import ConsoleLog, LogStore
from ci.errors import (
    BuildCanceled,
    ClaimLost,
    DependencyError,
    HypervouchBug,
    HypervouchError,
    LeaseLost,
    StorageError,
)
from ci.layout import Layout
from ci.log import get
from ci.model.build import AttemptKind, AttemptRecord
from ci.model.result import FailureClass, Judgement, Result
from ci.model.verdict_json import verdict_to_json
from ci.notice_texts import verdict_notices
from ci.retry import Quota
from ci.review import compose_review
from ci.stacking import Stacking
from ci.store import attempts, leases, notices, outbox
from ci.store.attempts import AttemptEnd, BuildOrder, Fence
from ci.store.database import Database
from ci.store.moment import moment
from ci.telemetry import Telemetry
from nodes.pool import NodePool

MIB = 1 << 20


class Worker:
    """Runs builds; the engine calls it from its own threads.

    Args:
        database: Where everything is written down.
        clock: Where time comes from.
        me: This process.
        layout: Gives the current layout.
        checkouts: By connection, who merges.
        stacking: Who knows what changes depend on.
        pool: Gives nodes.
        logs: Where live logs and artifacts go.
        secrets: What may appear in none of them.
        on_verdict: Called when a review is owed.
        on_free: Called when a build ended.
        telemetry: Where attempts are counted and traced.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        me: Myself,
        layout: Callable[[], Layout],
        checkouts: Mapping[str, Checkout],
        stacking: Stacking,
        pool: NodePool,
        logs: LogStore,
        secrets: Sequence[str],
        on_verdict: Callable[[], None],
        on_free: Callable[[], None],
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self._database = database
        self._clock = clock
        self._me = me
        self._layout = layout
        self._checkouts = checkouts
        self._stacking = stacking
        self._pool = pool
        self._logs = logs
        self._secrets = tuple(secrets)
        self._on_verdict = on_verdict
        self._on_free = on_free
        self._running: dict[str, CancelToken] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._log = get("run")
        self._rows = AttemptRows(database, clock, me, stop=self._stop)

    def attempt(self, build_id: str, claim: int, kind: str) -> str:
        """Run one attempt; returns the kind of the next one, or nothing.

        Raises:
            Stopping: This process goes down.
        """
        fence = self._rows.fence(build_id, claim)
        order = self._rows.order(fence)
        if order is None or order.state in {"done", "canceled"}:
            return ""
        wanted = self._rows.patiently(lambda: self._next(order, default=AttemptKind(kind)))
        if isinstance(wanted, Judgement):
            return ""
        try:
            self._one(order, fence, wanted)
        except ClaimLost as error:
            self._rows.superseded(fence, error.message)
            self._on_free()
            return ""
        following = self._rows.patiently(lambda: self._next(order, default=wanted))
        return "" if isinstance(following, Judgement) else following.value

    def report(self, build_id: str, claim: int) -> None:
        """Judge a build; with the last one of its buildset, give the verdict."""
        fence = self._rows.fence(build_id, claim)
        order = self._rows.order(fence)
        if order is None:
            return
        began = self._clock.now()
        try:
            owed = self._rows.patiently(lambda: self._report(order, fence))
        except ClaimLost as error:
            self._rows.superseded(fence, error.message)
            return
        observed.judged(
            self._telemetry,
            self._database,
            order,
            began=began,
            at=self._clock.now(),
            owed=owed,
        )
        if owed:
            self._on_verdict()
        self._on_free()

    def cancel(self, build_ids: Sequence[str], reason: str) -> None:
        """Stop running builds at once; the database says the same for other processes."""
        with self._lock:
            tokens = [self._running[i] for i in build_ids if i in self._running]
        for token in tokens:
            token.cancel(BuildCanceled(reason))

    def fence(self) -> None:
        """End every attempt without a result: others may take this process for dead by now."""
        with self._lock:
            tokens = list(self._running.values())
        for token in tokens:
            token.cancel(unheard())

    def stop(self) -> None:
        """End every attempt without a result; they are run again after the next start."""
        self._stop.set()
        with self._lock:
            tokens = list(self._running.values())
        for token in tokens:
            token.cancel(HypervouchBug("this CI is being stopped"))

    def busy(self) -> int:
        """Attempts running in this process."""
        with self._lock:
            return len(self._running)

    def _one(self, order: BuildOrder, fence: Fence, kind: AttemptKind) -> None:
        """Begin an attempt, run it, write down how it ended.

        Raises:
            ClaimLost: The build is another worker's by now; what was found is kept as evidence.
        """
        attempt_id = self._rows.patiently(lambda: self._begin(fence, kind))
        running = Running(
            attempt_id=attempt_id,
            kind=kind,
            order=order,
            fence=fence,
            cancel=WatchedToken(lambda: self._wish(order), self._clock),
        )
        with observed.attempt(self._telemetry, self._clock, order, kind, attempt_id) as seen:
            end = self._in_hand(running)
            self._rows.finish(running, end)
            seen.result = end.result
            self._log.info(
                "attempt ended",
                action="attempt",
                job=order.job.name,
                kind=kind.value,
                node=seen.node,
                result=end.result.value,
                reason=end.error,
            )

    def _in_hand(self, running: Running) -> AttemptEnd:
        """Run an attempt where `cancel`, `fence` and `stop` find it."""
        with self._lock:
            self._running[running.order.build_id] = running.cancel
        try:
            if self._stop.is_set():  # `stop` did not see this attempt
                raise Stopping
            end = self._run(running)
        finally:
            with self._lock:
                self._running.pop(running.order.build_id, None)
        if self._stop.is_set():
            raise Stopping
        return end

    def _begin(self, fence: Fence, kind: AttemptKind) -> str:
        self._logs.require_room()
        return self._rows.begin(fence, kind)

    def _wish(self, order: BuildOrder) -> HypervouchError | None:
        """What another process wrote down, that this build is to end; or that we are cut off."""
        if self._me.fenced:
            return unheard()
        try:
            with self._database.read() as tx:
                reason = leases.cancel_reason(tx, order.build_id)
        except StorageError:
            return None  # the next look may see it
        return BuildCanceled(reason) if reason else None

    def _run(self, running: Running) -> AttemptEnd:
        """An attempt inside its log; every error becomes the way it ended."""
        order = running.order
        if order.cancel_reason:
            running.cancel.cancel(BuildCanceled(order.cancel_reason))
        try:
            with self._logs.open_console(
                order.build_id, running.attempt_id, self._secrets
            ) as console:
                return self._logged(running, console)
        except HypervouchError as error:
            if isinstance(error, LeaseLost):
                self._telemetry.metrics.leases_lost.inc()
            return _end_of(error)
        except Exception as error:  # noqa: BLE001 - the loop edge: a bug costs one attempt
            self._log.exception("a bug in this program", action="bug", build=order.build_id)
            return _end_of(HypervouchBug(f"{type(error).__name__}: {error}"))

    def _logged(self, running: Running, console: ConsoleLog) -> AttemptEnd:
        try:
            return run_attempt(self._context(running, console))
        except HypervouchError as error:
            console.note(f"{result_of(error).value}: {error}")
            raise

    def _context(self, running: Running, console: ConsoleLog) -> AttemptContext:
        order, kind, cancel = running.order, running.kind, running.cancel
        done = self._records(order)
        first = next((a for a in done if a.kind is AttemptKind.CHECK and a.finished_tests), None)
        return AttemptContext(
            attempt_id=running.attempt_id,
            kind=kind,
            order=order,
            checkout=self._checkouts[order.connection],
            stack_of=lambda message: self._stacking.of(order, message, cancel.check),
            pool=self._pool,
            clock=self._clock,
            cancel=cancel,
            console=console,
            directory=self._logs.attempt_dir(order.build_id, running.attempt_id),
            avoid=attempts.nodes_tried(done),
            patience_s=_patience_s(done),
            tip=first.tip if first and kind is not AttemptKind.CHECK else None,
            like=first.likeness if first and kind is not AttemptKind.CHECK else "",
            note=lambda **values: self._rows.note(running, **values),
            settle=lambda end, held: self._rows.settle(running, end, held),
            secrets=self._secrets,
            artifact_limit_bytes=self._layout().service.log_limit_mib * MIB,
        )

    def _records(self, order: BuildOrder) -> tuple[AttemptRecord, ...]:
        with self._database.read() as tx:
            return attempts.records(tx, order.build_id)

    def _next(self, order: BuildOrder, default: AttemptKind) -> AttemptKind | Judgement:
        """What the judge wants next; `default` before the first attempt."""
        done = self._records(order)
        if not done:
            return default
        return self._judge(order, done)

    def _judge(self, order: BuildOrder, done: Sequence[AttemptRecord]) -> AttemptKind | Judgement:
        check = next((a for a in done if a.kind is AttemptKind.CHECK and a.finished_tests), None)
        earlier: tuple[AttemptRecord, ...] = ()
        base = judge.TIP
        if check and check.result is Result.FAILURE:
            with self._database.read() as tx:
                earlier = attempts.baselines(tx, order, check=check, at=self._clock.now())
                base = judge.STACKED if attempts.is_stacked(tx, order.buildset_id) else base
        rules = judge.BuildRules(
            quota=Quota.of(order.job),
            known_failure_vote=self._layout().pipeline(order.pipeline).known_failure_vote,
            base=base,
        )
        return judge.next_step(done, earlier, rules)

    def _report(self, order: BuildOrder, fence: Fence) -> bool:
        """Write judgement, verdict and owed review; True when a review is owed."""
        found = self._judge(order, self._records(order))
        if not isinstance(found, Judgement):
            found = Judgement(
                result=Result.ERROR,
                failure_class=FailureClass.INFRA,
                vote=0,
                reason="this build needed more attempts than there may be",
            )
        with self._database.write() as tx:
            attempts.guard(tx, fence)
            reason = leases.cancel_reason(tx, order.build_id)
            if reason and found.failure_class is not FailureClass.CANCELED:
                found = judge.canceled(reason)  # it came too late to end any attempt
            attempts.finish_build(tx, order.build_id, found, at=self._clock.now())
            return self._verdict(tx, order)

    def _verdict(self, tx: sa.Connection, order: BuildOrder) -> bool:
        done = attempts.judged(tx, order.buildset_id)
        if done is None:
            return False
        pipeline = self._layout().effective(order.pipeline, order.project)
        words = [
            judge.BuildWord(job=b.job_name, judgement=b.judgement, voting=b.voting) for b in done
        ]
        found = judge.verdict(words, pipeline)
        attempts.finish_buildset(
            tx, order.buildset_id, verdict_to_json(found), at=self._clock.now()
        )
        at, url = moment(tx, self._clock), self._layout().service.url  # the relay's clock too
        for notice in verdict_notices(order, done, found, url=url, at=at):
            notices.add(tx, notice)
        if not found.report:
            return False
        composed = compose_review(order, done, found, pipeline, url=url, at=at)
        if composed.notice is not None:
            notices.add(tx, composed.notice)
        outbox.add(
            tx,
            buildset_id=order.buildset_id,
            connection=order.connection,
            review=composed.review,
            at=at,
            held=found.held,
        )
        return True


def _patience_s(done: Sequence[AttemptRecord]) -> float:
    """How long a build waits before it goes back to a node that failed it: 30, 90, 270 s.

    A lab machine that reboots must not use up a build's tries in a second.
    """
    failures = sum(1 for a in done if a.result is Result.NODE_FAILURE)
    return min(270.0, 10.0 * 3.0**failures) if failures else 0.0


def _end_of(error: HypervouchError) -> AttemptEnd:
    return AttemptEnd(
        result=result_of(error),
        error=error.message,
        hint=error.hint,
        interrupted=isinstance(error, StorageError),  # a full disk is no node's fault
        dependency=isinstance(error, DependencyError),
    )
