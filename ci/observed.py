# SPDX-License-Identifier: Apache-2.0
"""How the pieces of a build's way become metrics and spans; the flow says each in one line.

The trace of a buildset: `event` and `plan` by the planner, `queue` and `attempt` with its phases
and `judge` by the worker, `post` by the relay; the last of them tells the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from structlog.contextvars import bound_contextvars

from ci.clock import Clock
from ci.errors import StorageError
from ci.model.build import AttemptKind, Phase
from ci.model.event import Event
from ci.store import schema
from ci.store.attempts import BuildOrder
from ci.store.database import Database
from ci.telemetry import Telemetry
from ci.tracing import ROOT, Traces, span_key

if TYPE_CHECKING:
    from ci.model.result import Result


class Observed:
    """An attempt while it runs: when each of its phases began."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began_s = clock.monotonic_s()
        self.began = clock.now()
        self.phases: list[tuple[str, datetime]] = [(Phase.MERGE.value, self.began)]
        self.result: Result | None = None
        self.node = ""

    def phase(self, name: str) -> None:
        """From now on it is in this phase."""
        if name != self.phases[-1][0]:
            self.phases.append((name, self._clock.now()))


_MINE: ContextVar[Observed | None] = ContextVar("observed", default=None)


def noted(values: dict[str, object]) -> None:
    """What the attempt of this thread wrote down of its progress: its phase, its node."""
    observed = _MINE.get()
    if observed is None:
        return
    if isinstance(phase := values.get("phase"), str):
        observed.phase(phase)
    if isinstance(node := values.get("node"), str):
        observed.node = node


@contextmanager
def attempt(
    telemetry: Telemetry, clock: Clock, order: BuildOrder, kind: AttemptKind, attempt_id: str
) -> Iterator[Observed]:
    """Observe an attempt: every log line of the block names it, and its end is counted.

    The block sets `result`; one without a result is run again and not counted.
    """
    observed = Observed(clock)
    metrics = telemetry.metrics
    token = _MINE.set(observed)
    metrics.running.inc()
    try:
        with bound_contextvars(
            build=order.build_id,
            attempt=attempt_id,
            claim=order.claim,
            change=order.change_number,
            patchset=order.patchset,
            connection=order.connection,
        ):
            yield observed
    finally:
        metrics.running.dec()
        _MINE.reset(token)
        if observed.result is not None:
            label = order.job.node_label
            metrics.attempts.labels(label, kind.value, observed.result.value).inc()
            metrics.attempt_seconds.labels(label).observe(clock.monotonic_s() - observed.began_s)
            _tell_attempt(
                telemetry.traces,
                order,
                observed,
                kind=kind,
                attempt_id=attempt_id,
                end=clock.now(),
            )


def planned(
    traces: Traces, event: Event, buildset_ids: list[str], *, began: datetime, at: datetime
) -> None:
    """An event was planned, and these buildsets came of it."""
    for buildset_id in buildset_ids if traces.on else ():
        traces.span(
            buildset_id,
            "event",
            start=min(event.occurred_at, began),
            end=began,
            connection=event.connection,
            kind=event.kind.value,
            source=event.source,
        )
        traces.span(
            buildset_id,
            "plan",
            start=began,
            end=at,
            connection=event.connection,
            project=event.change.project,
            change=event.change.number,
            patchset=event.patchset.number if event.patchset else None,
        )


def judged(
    telemetry: Telemetry,
    database: Database,
    order: BuildOrder,
    *,
    began: datetime,
    at: datetime,
    owed: bool,
) -> None:
    """A build was judged; where no review is owed, the buildset may have ended with it."""
    traces = telemetry.traces
    if not traces.on:
        return
    traces.span(
        order.buildset_id,
        "judge",
        key=order.build_id,
        start=began,
        end=at,
        build=order.build_id,
        job=order.job.name,
    )
    if not owed:
        _tell_whole(traces, database, order.buildset_id, at)


def posted(
    traces: Traces,
    database: Database,
    buildset_id: str,
    *,
    began: datetime,
    at: datetime,
    outcome: str,
    transport: str,
) -> None:
    """A server was given a review, or refused it: so far the whole has come."""
    if not traces.on:
        return
    traces.span(buildset_id, "post", start=began, end=at, outcome=outcome, transport=transport)
    _tell_whole(traces, database, buildset_id, at)


def _tell_attempt(
    traces: Traces,
    order: BuildOrder,
    observed: Observed,
    *,
    kind: AttemptKind,
    attempt_id: str,
    end: datetime,
) -> None:
    if not traces.on:
        return
    traces.span(
        order.buildset_id,
        "attempt",
        key=attempt_id,
        start=observed.began,
        end=end,
        build=order.build_id,
        attempt=attempt_id,
        claim=order.claim,
        worker=order.worker,
        job=order.job.name,
        label=order.job.node_label,
        kind=kind.value,
        node=observed.node or None,
        result=observed.result.value if observed.result else None,
    )
    ends = [at for _, at in observed.phases[1:]] + [end]
    for (phase, start), stop in zip(observed.phases, ends, strict=True):
        if phase != Phase.DONE.value:
            traces.span(
                order.buildset_id,
                phase,
                key=attempt_id,
                parent=span_key("attempt", attempt_id),
                start=start,
                end=stop,
                attempt=attempt_id,
            )


def claimed(telemetry: Telemetry, database: Database, build_id: str, *, at: datetime) -> None:
    """A build was claimed: how long it had waited, by its label."""
    build = schema.build
    wanted = sa.select(build.c.buildset_id, build.c.node_label, build.c.queued_at, build.c.claim)
    try:
        with database.read() as tx:
            row = tx.execute(wanted.where(build.c.id == build_id)).first()
    except StorageError:
        return  # it runs all the same
    if row is None:
        return
    metrics = telemetry.metrics
    metrics.claims.labels(row.node_label).inc()
    waited_s = max(0.0, (at - row.queued_at).total_seconds())
    metrics.dispatch_seconds.labels(row.node_label).observe(waited_s)
    telemetry.traces.span(
        row.buildset_id,
        "queue",
        key=f"{build_id}.{row.claim}",
        start=row.queued_at,
        end=at,
        build=build_id,
        claim=row.claim,
        label=row.node_label,
    )


def _tell_whole(traces: Traces, database: Database, buildset_id: str, at: datetime) -> None:
    """The root of a trace, once its buildset is done."""
    buildset, event = schema.buildset, schema.event
    wanted = (
        sa.select(buildset, event.c.occurred_at)
        .select_from(buildset.outerjoin(event, event.c.id == buildset.c.event_id))
        .where(buildset.c.id == buildset_id, buildset.c.state == "done")
    )
    try:
        with database.read() as tx:
            row = tx.execute(wanted).first()
    except StorageError:
        return  # a trace without its root is shown all the same
    if row is None:
        return
    traces.span(
        buildset_id,
        ROOT,
        start=min(row.occurred_at or row.created_at, row.created_at),
        end=at,
        connection=row.connection,
        project=row.project,
        change=row.change_number,
        patchset=row.patchset,
        pipeline=row.pipeline,
        recheck=row.recheck,
    )
