# SPDX-License-Identifier: Apache-2.0
"""Step 5 of 9, run. Before: lease. After: collect.

In: one attempt of a Build: which tree, which job, which nodes to avoid. Out: how it ended,
with its Outcomes. Phases in order: merge (controller), lease, setup (node made ready, trees
shipped), run, collect. Whatever happens, what was produced is collected, the remote process
groups are ended, the machine is thrown away, and only then is the lease given back.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

from ci import proc
from ci.backoff import Backoff
from ci.cancel import CancelToken, Deadline
from ci.checkout import Checkout
from ci.clock import Clock
from ci.collect import Collected, ConsoleLog, collect
from ci.errors import (
    BuildCanceled,
    ChangeError,
    CollectError,
    HarnessBroken,
    HypervouchError,
    LeaseLost,
    NodeError,
    NodeUnavailable,
    ReviewServerError,
    RunError,
    RunTimeout,
    StorageError,
)
from ci.jobs import trouble as suite_trouble
from ci.jobs.base import Plan, PlanStep, Where
from ci.jobs.table import suite_for
from ci.layout import Job
from ci.model.build import AttemptKind, Phase
from ci.model.node import Endpoint, Lease, Transport
from ci.model.result import Outcome, Result, Status
from ci.peers import PeerUnavailable, peers_env, start_peers
from ci.runners.base import Session
from ci.runners.stop import Grace
from ci.runners.table import runner_for
from ci.store.attempts import AttemptEnd, BuildOrder
from ci.teardown import Teardown
from ci.trees import Missing, Stack, Trees, archive_beside, assemble
from nodes.likeness import likeness
from nodes.pool import NodePool

EXIT_STATUS_TEST = "exit-status"
DEPENDS_DIR = "HYPERVOUCH_DEPENDS_DIR"

_RESULTS: tuple[tuple[type[HypervouchError], Result], ...] = (
    (ChangeError, Result.MERGE_CONFLICT),
    (BuildCanceled, Result.CANCELED),
    (LeaseLost, Result.LOST),
    (NodeError, Result.NODE_FAILURE),
    (RunTimeout, Result.TIMED_OUT),
    (RunError, Result.ERROR),
    (CollectError, Result.POST_FAILURE),
)


def result_of(error: HypervouchError) -> Result:
    """The word for an attempt that ended with an error; LOST where it is our own fault."""
    return next((word for kind, word in _RESULTS if isinstance(error, kind)), Result.LOST)


_Put = Callable[[str, Callable[[IO[bytes]], None]], None]


class Progress(Protocol):
    """Where an attempt writes down how far it is."""

    def __call__(self, **values: object) -> None:
        """Note columns of the attempt's row.

        Raises:
            ClaimLost: The build is another worker's by now.
        """
        ...


class Settle(Protocol):
    """Where an attempt writes down its outcomes, while it still holds its nodes."""

    def __call__(self, end: AttemptEnd, leases: Sequence[Lease]) -> None:
        """Close the attempt, if the claim and every lease still hold in that very transaction.

        Raises:
            LeaseLost: They do not: the outcomes were kept as evidence.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AttemptContext:
    """Everything one attempt needs.

    Attributes:
        attempt_id: Its id.
        kind: Why it runs.
        order: The build.
        checkout: Merges on the controller.
        stack_of: Gives what the change depends on.
        pool: Gives nodes.
        clock: Where time comes from.
        cancel: Ends it early.
        console: Its live log.
        directory: Its own directory in the log store.
        avoid: Nodes this build was on before.
        patience_s: Seconds to wait for another node before one of those is tried again.
        tip: Branch tip of the build's first check; repeats and baselines use the same one.
        like: Likeness of the node that the check ran on; its repeats and baselines need one.
        note: Writes progress down.
        settle: Writes the outcomes down.
        secrets: What may appear in no log or artifact.
        artifact_limit_bytes: What is brought home at most.
    """

    attempt_id: str
    kind: AttemptKind
    order: BuildOrder
    checkout: Checkout
    stack_of: Stack
    pool: NodePool
    clock: Clock
    cancel: CancelToken
    console: ConsoleLog
    directory: Path
    avoid: tuple[str, ...]
    patience_s: float
    tip: str | None
    like: str
    note: Progress
    settle: Settle
    secrets: tuple[str, ...]
    artifact_limit_bytes: int

    def tell(self, text: str) -> None:
        """A line of the log; a full disk is no reason to end anything by halves."""
        with suppress(StorageError):
            self.console.note(text)


def run_attempt(context: AttemptContext) -> AttemptEnd:
    """Run one attempt to its end.

    Raises:
        HypervouchError: It ended without outcomes that count; `result_of` has the word.
    """
    trees = _merge(context)
    context.note(
        phase=Phase.LEASE.value,
        tip=trees.main.tip,
        tree=trees.tree,
        base_tree=trees.base_tree,
    )
    leases = context.pool.acquire(
        context.order.job.needs,
        holder=context.attempt_id,
        avoid=context.avoid,
        patience_s=context.patience_s,
        cancel=context.cancel,
        like=context.like,
    )
    undo = Teardown(
        context.pool,
        context.clock,
        context.console,
        seconds=context.order.job.teardown_timeout_s,
    )
    with ExitStack() as keeping:
        for lease in leases:
            keeping.enter_context(context.pool.kept(lease, context.order.build_id, context.cancel))
        try:
            return _leased(context, trees, leases, undo)
        finally:
            undo.run(leases[::-1])


def _leased(
    context: AttemptContext, trees: Trees, leases: Sequence[Lease], undo: Teardown
) -> AttemptEnd:
    """What happens under the leases, up to the outcomes and what they say of the nodes."""
    suite = _Suite()
    try:
        _tell_nodes(context, leases)
        end = _on_node(context, trees, leases, undo, suite)
        context.settle(end, leases)
    except HypervouchError as error:
        undo.failed = not isinstance(error, BuildCanceled | LeaseLost)
        if isinstance(error, NodeUnavailable):
            _blame(context, error, leases[0].node, tested=suite.began)
        raise
    undo.failed = end.result is not Result.SUCCESS
    with _settled(context):
        for lease in leases:
            context.pool.note_success(lease.node)
    return end


@dataclass
class _Suite:
    """Whether the suite has begun: from then on the change has a say in what happens."""

    began: bool = False


def _blame(context: AttemptContext, error: NodeUnavailable, first: str, *, tested: bool) -> None:
    order = context.order
    context.pool.note_failure(
        error.node if isinstance(error, PeerUnavailable) else first,
        error.message,
        change=f"{order.connection}:{order.change_number}",
        tested=tested,
    )


def _tell_nodes(context: AttemptContext, leases: Sequence[Lease]) -> None:
    first, *others = leases
    if context.avoid:
        context.console.note(f"this build was before on {', '.join(context.avoid)}")
    for lease in leases:
        context.console.note(f"node {lease.node}, lease {lease.token}")
    context.note(
        phase=Phase.SETUP.value,
        node=first.node,
        token=first.token,
        peers=[{"node": lease.node, "token": lease.token} for lease in others],
        leased_at=context.clock.now(),
    )


@contextmanager
def _settled(context: AttemptContext) -> Iterator[None]:
    """What is left to say of the node: if the database is away, it stays unsaid."""
    try:
        yield
    except StorageError as error:
        context.console.note(f"the node's health could not be noted: {error.message}")


def _still_ours(context: AttemptContext, lease: Lease) -> None:
    """Whether the node is this attempt's to touch."""
    if not context.pool.holds(lease):
        raise LeaseLost(
            f"lease {lease.token} on {lease.node} ran out under this attempt",
            hint="raise lease-s, or look why this machine stood still",
        )


def _merge(context: AttemptContext) -> Trees:
    """What to test, merged without running any of it.

    While Gerrit is away it waits without end. What Gerrit does not have although it answers
    is given up after a while: a ref that was deleted never comes back.
    """
    backoff, missing = Backoff(first_s=1.0), Missing(context.clock)
    while True:
        context.cancel.check()
        try:
            with proc.interruptible(context.cancel.check):
                trees = _trees(context)
        except ReviewServerError as error:
            if not error.retryable:
                raise
            missing.note(error, context.order)
            pause_s = backoff.next_s()
            context.console.note(f"{error}; next try in {pause_s:.0f} s")
            context.cancel.wait(pause_s)
        else:
            _tell(context, trees)
            return trees


def _trees(context: AttemptContext) -> Trees:
    return assemble(
        context.checkout,
        context.order,
        context.stack_of,
        tip=context.tip,
        baseline=context.kind is AttemptKind.BASELINE,
    )


def _tell(context: AttemptContext, trees: Trees) -> None:
    order, main = context.order, trees.main
    what = (
        f"branch {order.branch} at {main.tip}"
        if context.kind is AttemptKind.BASELINE
        else f"change {order.change_number},{order.patchset} ({order.revision}) merged "
        f"onto {order.branch} at {main.tip}"
    )
    context.console.note(f"{context.kind.value}: {what}, tree {main.tree}")
    for one in trees.stack:
        beside = f", beside the checkout, onto {one.branch} at {one.tip}" if one.tip else ""
        context.console.note(
            f"with change {one.number},{one.patchset} ({one.revision}) of {one.project}{beside}"
        )


def _on_node(
    context: AttemptContext,
    trees: Trees,
    leases: Sequence[Lease],
    undo: Teardown,
    suite: _Suite,
) -> AttemptEnd:
    """Setup, run and collect on the first of the leased nodes."""
    job, lease = context.order.job, leases[0]
    setup = Deadline("setup", job.setup_timeout_s, context.clock, cancel=context.cancel)
    endpoint = context.pool.start(lease)
    peers = start_peers(context.pool, leases[1:], job.peers)
    context.cancel.check()  # a machine's start is bounded, and not to be interrupted
    _check_trust(context, endpoint)
    _describe(context, endpoint)
    session = runner_for(endpoint.transport).connect(
        endpoint, setup, grace=_grace(job), tell=context.tell
    )
    undo.add(lease.node, session)

    def put(directory: str, write: Callable[[IO[bytes]], None]) -> None:
        with TemporaryFile() as tar, proc.interruptible(context.cancel.check):
            write(tar)
            tar.seek(0)
            # It ends what an earlier holder left there: only the present holder may.
            context.cancel.check()
            _still_ours(context, lease)
            session.put_tree(tar, directory, setup)

    plan = suite_for(job.suite).plan(job, endpoint, context.directory)
    plan = _ship(context, trees, plan, put)
    plan = replace(plan, env={**plan.env, **peers_env(peers)})
    context.note(
        phase=Phase.RUN.value,
        suite_started_at=context.clock.now(),
        grade=endpoint.grade.value,
        hypervisor=endpoint.hypervisor,
        facts=dict(endpoint.facts),
        likeness=likeness(endpoint.grade, endpoint.hypervisor, endpoint.facts),
    )
    suite.began = True
    return _run_and_collect(context, session, plan)


def _grace(job: Job) -> Grace:
    return Grace(interrupt_s=job.interrupt_s, terminate_s=job.terminate_s, kill_s=job.kill_s)


def _ship(context: AttemptContext, trees: Trees, plan: Plan, put: _Put) -> Plan:
    """Put the trees onto the node; the plan then says where those beside the checkout are."""
    put(plan.checkout, lambda tar: context.checkout.archive(trees.main, tar))
    if not trees.beside:
        return plan
    beside = f"{plan.checkout}-depends"
    put(beside, lambda tar: archive_beside(context.checkout, trees, tar))
    return replace(plan, env={**plan.env, DEPENDS_DIR: beside})


def _check_trust(context: AttemptContext, endpoint: Endpoint) -> None:
    if endpoint.transport is Transport.LOCAL and not context.order.job.trusted:
        raise HarnessBroken(  # the job is wrong, not the node
            f"job {context.order.job.name} is not trusted and may not run on this machine itself",
            hint="give it a node of its own, or set trusted: true",
        )


def _describe(context: AttemptContext, endpoint: Endpoint) -> None:
    short = {name: value for name, value in endpoint.facts.items() if name != "cpu-flags"}
    facts = ", ".join(f"{name} {value}" for name, value in sorted(short.items()))
    context.console.note(
        f"hypervisor {endpoint.hypervisor or 'none'}, evidence {endpoint.grade.value}"
        + (f"; {facts}" if facts else "")
    )


def _run_and_collect(context: AttemptContext, session: Session, plan: Plan) -> AttemptEnd:
    """The steps, and then what they left, whether or not they came to their end."""
    status = 0
    trouble: HypervouchError | None = None
    try:
        status = _steps(context, session, plan)
    except RunTimeout as error:
        trouble = error
    # Before the results: a suite that lost its hypervisor has tests that failed of it.
    trouble = suite_trouble.told(plan.trouble) or trouble
    context.note(phase=Phase.COLLECT.value)
    try:
        found = collect(
            session,
            plan,
            context.directory,
            context.artifact_limit_bytes,
            secrets=context.secrets,
            deadline=Deadline(
                "collect",
                context.order.job.collect_timeout_s,
                context.clock,
                cancel=context.cancel,
            ),
        )
    except CollectError as error:
        context.cancel.check()
        if trouble is None:
            raise
        context.console.note(f"nothing could be brought home: {error}")
        found = Collected()
    for problem in found.problems:
        context.console.note(problem)
    if trouble:
        context.console.note(str(trouble))
        raise trouble
    return _end(context, plan, status, found)


def _steps(context: AttemptContext, session: Session, plan: Plan) -> int:
    """Run the steps in order; returns the exit status of the last one that ran."""
    status = 0
    for step in plan.steps:
        status = _step(context, session, plan, step)
        context.console.note(f"{step.phase} ended with status {status}")
        if status and step.phase == "setup":
            raise HarnessBroken(
                f"the set-up command ended with status {status}: no test ran",
                hint="see the log; the command stands in the job's configuration",
            )
    return status


def _step(context: AttemptContext, session: Session, plan: Plan, step: PlanStep) -> int:
    context.console.note(f"{step.phase}: {step.command}")
    deadline = Deadline(step.phase, step.timeout_s, context.clock)

    def run(on: Session, directory: str) -> int:
        return on.run(
            step.command,
            directory=directory,
            env=plan.env,
            sink=context.console.write,
            deadline=deadline,
            cancel=context.cancel,
        )

    if step.where is Where.NODE:
        return run(session, plan.checkout)
    local = Endpoint(transport=Transport.LOCAL, workdir=str(context.directory))
    here = runner_for(Transport.LOCAL).connect(
        local, deadline, grace=_grace(context.order.job), tell=context.tell
    )
    try:
        return run(here, str(context.directory))
    finally:
        here.kill()
        here.close()


def _end(context: AttemptContext, plan: Plan, status: int, found: Collected) -> AttemptEnd:
    """What the exit status and the outcomes say together."""
    outcomes = found.outcomes
    if not plan.has_results:
        outcomes = (
            Outcome(
                test_id=EXIT_STATUS_TEST,
                status=Status.FAIL if status else Status.PASS,
                message=f"the command ended with status {status}" if status else "",
            ),
        )
    bad = any(o.status.bad for o in outcomes)
    if not outcomes or not any(o.status is not Status.SKIP for o in outcomes):
        raise HarnessBroken(
            f"the suite ran no test (exit status {status})",
            hint="see the log; the job's results globs may not fit",
        )
    if status and not bad:
        raise HarnessBroken(
            f"every test that reported passed, but the command ended with status {status}",
            hint="see the end of the log",
        )
    passed = sum(1 for o in outcomes if o.status is Status.PASS)
    context.console.note(f"{passed} of {len(outcomes)} tests passed")
    return AttemptEnd(
        result=Result.FAILURE if bad else Result.SUCCESS,
        exit_status=status,
        outcomes=outcomes,
        system=found.system,
    )
