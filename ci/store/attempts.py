# SPDX-License-Identifier: Apache-2.0
"""Writes of steps 4 to 7: attempts, their outcomes, and the judgement they lead to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci.errors import ClaimLost
from ci.layout import Job
from ci.model.build import AttemptKind, AttemptRecord, Claim, Phase
from ci.model.evidence import System
from ci.model.result import FailureClass, Judgement, Outcome, Result, Status
from ci.model.verdict_json import judgement_from_json, judgement_to_json
from ci.store import evidence, schema
from ci.store.builds import make_id
from ci.store.database import Database

BASELINE_AGE = timedelta(hours=24)
_CONFIRMED = (FailureClass.REGRESSION, FailureClass.NEW_FAILING, FailureClass.KNOWN)
_COUNTED = (Result.SUCCESS.value, Result.FAILURE.value)
INTERRUPTED = "the CI was stopped or killed while this ran; it is run again"
LATE = "what came in later does not count"


@dataclass(frozen=True, kw_only=True)
class BuildOrder:
    """One build with what its buildset says: all that a worker needs to run it."""

    build_id: str
    buildset_id: str
    job: Job
    state: str
    cancel_reason: str | None
    connection: str
    project: str
    branch: str
    change_number: int
    patchset: int
    revision: str
    ref: str
    pipeline: str
    requested_by: str = ""
    request: str = ""
    worker: str | None = None
    claim: int = 0


@dataclass(frozen=True, kw_only=True)
class Fence:
    """What must still be so for a worker to write anything of a build.

    Attributes:
        claim: The build, and which claim of it.
        worker: Process that made the claim.
        incarnation: Its present start: a frozen one that was started anew no longer counts.
    """

    claim: Claim
    worker: str
    incarnation: str


def guard(tx: sa.Connection, fence: Fence) -> None:
    """Let only the present holder of a build write; in the transaction of what is written.

    Raises:
        ClaimLost: The build is another's by now, or waits in the queue again.
    """
    build, process = schema.build, schema.process
    row = tx.execute(
        sa.select(build.c.worker, build.c.claim, process.c.incarnation)
        .join(process, process.c.name == build.c.worker, isouter=True)
        .where(build.c.id == fence.claim.build_id)
    ).first()
    if row is None or row.claim != fence.claim.number or row.worker != fence.worker:
        raise ClaimLost(
            f"build {fence.claim.build_id} is no longer this worker's: claim "
            f"{fence.claim.number} of {fence.worker} has ended",
            hint="look why this process stood still, or could not reach the database",
        )
    if row.incarnation not in {None, fence.incarnation}:
        raise ClaimLost(
            f"{fence.worker} was started anew while this still ran",
            hint="give each process a state-dir of its own",
        )


def load(database: Database, build_id: str) -> BuildOrder | None:
    """The order of a build, or None where there is no such build."""
    build, buildset = schema.build, schema.buildset
    with database.read() as tx:
        row = (
            tx.execute(
                sa.select(build, buildset)
                .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
                .join(buildset, buildset.c.id == build.c.buildset_id)
                .where(build.c.id == build_id)
            )
            .mappings()
            .first()
        )
    if row is None:
        return None
    return BuildOrder(
        build_id=build_id,
        buildset_id=row["ci_build_buildset_id"],
        job=Job.model_validate(row["ci_build_job"]),
        state=row["ci_build_state"],
        cancel_reason=row["ci_build_cancel_reason"],
        connection=row["ci_buildset_connection"],
        project=row["ci_buildset_project"],
        branch=row["ci_buildset_branch"],
        change_number=row["ci_buildset_change_number"],
        patchset=row["ci_buildset_patchset"],
        revision=row["ci_buildset_revision"],
        ref=row["ci_buildset_ref"],
        pipeline=row["ci_buildset_pipeline"],
        requested_by=row["ci_buildset_requested_by"],
        request=row["ci_buildset_request"],
        worker=row["ci_build_worker"],
        claim=row["ci_build_claim"],
    )


def begin(
    tx: sa.Connection,
    build_id: str,
    kind: AttemptKind,
    *,
    at: datetime,
    worker: str | None = None,
    claim: int = 0,
) -> str:
    """Start an attempt; one that a killed process left open is closed as interrupted first.

    Returns:
        The attempt's id.
    """
    table = schema.attempt
    close_open(tx, build_id, at=at)
    last = tx.execute(
        sa.select(sa.func.max(table.c.number)).where(table.c.build_id == build_id)
    ).scalar()
    number = (last or 0) + 1
    attempt_id = make_id("attempt", build_id, number)
    tx.execute(
        sa.insert(table).values(
            id=attempt_id,
            build_id=build_id,
            number=number,
            kind=kind.value,
            state="running",
            phase=Phase.MERGE.value,
            error="",
            hint="",
            worker=worker,
            claim=claim,
            grade="none",
            hypervisor="",
            facts={},
            interrupted=False,
            started_at=at,
        )
    )
    return attempt_id


def close_open(tx: sa.Connection, build_id: str, *, at: datetime) -> int:
    """Close what a process that is gone left open: interrupted, so nobody's fault.

    Returns:
        How many attempts that were.
    """
    table = schema.attempt
    done = tx.execute(
        sa.update(table)
        .where(table.c.build_id == build_id, table.c.state == "running")
        .values(
            state="done",
            phase=Phase.DONE.value,
            result=Result.LOST.value,
            error=INTERRUPTED,
            interrupted=True,
            finished_at=at,
        )
    )
    return int(done.rowcount)


def update(tx: sa.Connection, attempt_id: str, **values: Any) -> None:
    """Note where an attempt is and what is known of it; columns of `ci_attempt`."""
    tx.execute(sa.update(schema.attempt).where(schema.attempt.c.id == attempt_id).values(**values))


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended; `system` is the column of the matrix that it tested, if any."""

    result: Result
    error: str = ""
    hint: str = ""
    exit_status: int | None = None
    interrupted: bool = False
    dependency: bool = False
    outcomes: tuple[Outcome, ...] = ()
    system: System | None = None


def finish(tx: sa.Connection, attempt_id: str, end: AttemptEnd, *, at: datetime) -> bool:
    """Close an attempt with its outcomes; False for one that is closed already."""
    table = schema.attempt
    done = tx.execute(
        sa.update(table)
        .where(table.c.id == attempt_id, table.c.state == "running")
        .values(
            state="done",
            phase=Phase.DONE.value,
            result=end.result.value,
            error=end.error,
            hint=end.hint,
            exit_status=end.exit_status,
            interrupted=end.interrupted,
            dependency=end.dependency,
            finished_at=at,
        )
    )
    if not done.rowcount:
        return False
    _add_outcomes(tx, attempt_id, end.outcomes)
    if end.result.value in _COUNTED:
        evidence.file(tx, attempt_id, end.system, end.outcomes, at=at)
    return True


def keep_evidence(
    tx: sa.Connection, attempt_id: str, end: AttemptEnd, why: str, *, at: datetime
) -> None:
    """Write down what a worker found under a claim that was no longer its own.

    It is shown, and never judged: the attempt is LOST. One that was settled keeps its end, and
    evidence is kept once.
    """
    table = schema.attempt
    row = tx.execute(
        sa.select(table.c.state, table.c.result, table.c.error, table.c.finished_at).where(
            table.c.id == attempt_id
        )
    ).first()
    if row is None or LATE in row.error:
        return
    if row.state == "done" and row.result != Result.LOST.value:
        return
    found = f"{end.result.value}, {len(end.outcomes)} tests" if end.outcomes else end.result.value
    update(
        tx,
        attempt_id,
        state="done",
        phase=Phase.DONE.value,
        result=Result.LOST.value,
        interrupted=True,
        error=f"{row.error or why}; {LATE}: {found}",
        finished_at=row.finished_at or at,
    )
    _add_outcomes(tx, attempt_id, end.outcomes)


def _add_outcomes(tx: sa.Connection, attempt_id: str, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        tx.execute(
            sa.insert(schema.outcome),
            [
                {
                    "attempt_id": attempt_id,
                    "test_id": o.test_id[:500],
                    "status": o.status.value,
                    "duration_s": o.duration_s,
                    "message": o.message,
                    "details": o.details,
                    "feature": o.feature,
                }
                for o in outcomes
            ],
        )


def records(tx: sa.Connection, build_id: str) -> tuple[AttemptRecord, ...]:
    """The finished attempts of a build, oldest first."""
    table = schema.attempt
    rows = tx.execute(
        sa.select(table)
        .where(table.c.build_id == build_id, table.c.state == "done")
        .order_by(table.c.number)
    ).all()
    return _with_outcomes(tx, rows)


def baselines(
    tx: sa.Connection, order: BuildOrder, *, check: AttemptRecord, at: datetime, limit: int = 5
) -> tuple[AttemptRecord, ...]:
    """What other builds found of the very trees that a check's baseline tests, newest first.

    It does not matter why they were tested: the check of a change that was merged since tells
    what the branch does now. The job must be the same in all it says, on the same kind of node
    with the same hypervisor: another command runs other tests. A check with failing tests
    counts only when they failed again: a test that fails now and then proves nothing. What is
    older than BASELINE_AGE does not count, for labs change without their version being told.
    """
    table, build, buildset = schema.attempt, schema.build, schema.buildset
    confirmed = sa.or_(
        table.c.kind == AttemptKind.BASELINE.value,
        sa.and_(
            table.c.kind == AttemptKind.CHECK.value,
            sa.or_(
                table.c.result == Result.SUCCESS.value,
                build.c.failure_class.in_([one.value for one in _CONFIRMED]),
            ),
        ),
    )
    rows = tx.execute(
        sa.select(table, build.c.job.label("job"))
        .join(build, build.c.id == table.c.build_id)
        .join(buildset, buildset.c.id == build.c.buildset_id)
        .where(
            confirmed,
            build.c.id != order.build_id,
            table.c.result.in_(_COUNTED),
            table.c.tree == check.base_tree,
            table.c.grade == check.grade,
            table.c.hypervisor == check.hypervisor,
            table.c.likeness == check.likeness,
            table.c.finished_at >= at - BASELINE_AGE,
            build.c.job_name == order.job.name,
            build.c.node_label == order.job.node_label,
            buildset.c.connection == order.connection,
            buildset.c.project == order.project,
            buildset.c.branch == order.branch,
        )
        .order_by(table.c.started_at.desc())
        .limit(limit)
    ).all()
    mine = order.job.model_dump(mode="json", by_alias=True)
    return _with_outcomes(tx, [row for row in rows if row.job == mine])


def is_stacked(tx: sa.Connection, buildset_id: str) -> bool:
    """Whether a buildset's change is tested on top of others."""
    table = schema.buildset
    return bool(tx.execute(sa.select(table.c.depends).where(table.c.id == buildset_id)).scalar())


def _with_outcomes(tx: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[AttemptRecord, ...]:
    if not rows:
        return ()
    table = schema.outcome
    found: dict[str, list[Outcome]] = {row.id: [] for row in rows}
    counted = [row.id for row in rows if row.result in _COUNTED]  # of others it is evidence only
    for row in tx.execute(
        sa.select(table).where(table.c.attempt_id.in_(counted)).order_by(table.c.id)
    ):
        found[row.attempt_id].append(
            Outcome(
                test_id=row.test_id,
                status=Status(row.status),
                duration_s=row.duration_s,
                message=row.message,
                feature=row.feature,
            )
        )
    return tuple(
        AttemptRecord(
            attempt_id=row.id,
            kind=AttemptKind(row.kind),
            result=Result(row.result),
            node=row.node or "",
            outcomes=tuple(found[row.id]),
            error=row.error,
            hint=row.hint,
            tip=row.tip or "",
            tree=row.tree or "",
            base_tree=row.base_tree or "",
            dependency=row.dependency,
            interrupted=row.interrupted,
            grade=row.grade,
            hypervisor=row.hypervisor,
            began=row.suite_started_at is not None,
            peers=tuple(peer["node"] for peer in row.peers or ()),
            likeness=row.likeness,
        )
        for row in rows
    )


def finish_build(tx: sa.Connection, build_id: str, judgement: Judgement, *, at: datetime) -> None:
    """Write a build's judgement; a build that is done stays as it is."""
    build = schema.build
    canceled = judgement.result is Result.CANCELED
    close_open(tx, build_id, at=at)  # of a build that was given up because it kills its worker
    tx.execute(
        sa.update(build)
        .where(build.c.id == build_id, build.c.state.in_(("queued", "running")))
        .values(
            state="canceled" if canceled else "done",
            result=judgement.result.value,
            failure_class=judgement.failure_class.value,
            reason=judgement.reason,
            judgement=judgement_to_json(judgement),
            finished_at=at,
        )
    )


@dataclass(frozen=True, kw_only=True)
class JudgedBuild:
    """One finished build of a buildset."""

    build_id: str
    job_name: str
    voting: bool
    judgement: Judgement
    duration_s: float
    grade: str
    hypervisor: str


def judged(tx: sa.Connection, buildset_id: str) -> tuple[JudgedBuild, ...] | None:
    """Every build of a buildset once all are judged, by job name; None while one is not.

    A buildset that is no longer open (done already, or cancelled) gives None as well: it
    gets no second verdict.
    """
    build, buildset = schema.build, schema.buildset
    state = tx.execute(sa.select(buildset.c.state).where(buildset.c.id == buildset_id)).scalar()
    if state not in {"queued", "running"}:
        return None
    rows = tx.execute(
        sa.select(build).where(build.c.buildset_id == buildset_id).order_by(build.c.job_name)
    ).all()
    if any(row.judgement is None for row in rows):
        return None
    behind = _evidence(tx, [row.id for row in rows])
    return tuple(_judged(row, behind.get(row.id, ("none", ""))) for row in rows)


def _evidence(tx: sa.Connection, build_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Grade and hypervisor of the newest finished check of each build."""
    table = schema.attempt
    rows = tx.execute(
        sa.select(table.c.build_id, table.c.grade, table.c.hypervisor)
        .where(
            table.c.build_id.in_(build_ids),
            table.c.kind == AttemptKind.CHECK.value,
            table.c.result.in_(_COUNTED),
        )
        .order_by(table.c.number)
    )
    return {row.build_id: (row.grade, row.hypervisor) for row in rows}


def _judged(row: sa.Row[Any], evidence: tuple[str, str]) -> JudgedBuild:
    started = row.started_at or row.finished_at
    return JudgedBuild(
        build_id=row.id,
        job_name=row.job_name,
        voting=row.voting,
        judgement=judgement_from_json(row.judgement),
        duration_s=(row.finished_at - started).total_seconds(),
        grade=evidence[0],
        hypervisor=evidence[1],
    )


def finish_buildset(
    tx: sa.Connection, buildset_id: str, verdict: dict[str, Any], *, at: datetime
) -> None:
    """Write a buildset's verdict, in the transaction that owes its review."""
    table = schema.buildset
    tx.execute(
        sa.update(table)
        .where(table.c.id == buildset_id)
        .values(state="done", verdict=verdict, finished_at=at)
    )


def nodes_tried(attempts: Iterable[AttemptRecord]) -> tuple[str, ...]:
    """Nodes that earlier attempts used; the next one goes elsewhere if it can.

    One that we interrupted ourselves says nothing of its nodes.
    """
    used = [node for a in attempts if not a.interrupted for node in (a.node, *a.peers)]
    return tuple({node: None for node in used if node})
