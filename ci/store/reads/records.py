# SPDX-License-Identifier: Apache-2.0
"""The records that pages show and their JSON twins print: field names here are a promise.

All times are aware UTC. Subjects, test ids, messages and details are hostile text.
"""

from dataclasses import dataclass, field
from datetime import datetime

from ci.model.result import Judgement, Verdict
from ci.model.stack import Dependency
from ci.store.reads.review_records import PatchsetVote


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """One build with the change it tests and where it ran last.

    Attributes:
        state: `queued`, `running`, `done` or `canceled`.
        waiting: Why it does not run yet; empty otherwise.
        position: Its place in the line of its node label, from 1; None far behind or elsewhere.
        eta_at: When it will start, by what such builds took before; None where not known.
        cancel_reason: Set when it was asked to stop.
        recheck: 0 for the patch set's own run, then 1, 2, ...
        attempts: How many times it was tried on a node.
        attempt_kind: `check`, `repeat` or `baseline`: what the last attempt is for.
        phase: Phase of the last attempt.
        node: Node of the last attempt that had one.
        grade: How real the hypervisor behind the evidence is; `none` before a lease.
        hypervisor: URL of the hypervisor under test, as the node sees it.
    """

    id: str
    buildset_id: str
    connection: str
    project: str
    branch: str
    change_number: int
    patchset: int
    subject: str
    owner: str
    pipeline: str
    recheck: int
    job: str
    node_label: str
    voting: bool
    state: str
    waiting: str
    cancel_reason: str | None
    result: str | None
    failure_class: str | None
    reason: str
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int | None = None
    eta_at: datetime | None = None
    attempts: int = 0
    attempt_kind: str = ""
    phase: str = ""
    node: str = ""
    grade: str = "none"
    hypervisor: str = ""


@dataclass(frozen=True, kw_only=True)
class BuildFilter:
    """Which builds are wanted; None means any."""

    project: str | None = None
    job: str | None = None
    label: str | None = None
    result: str | None = None
    state: str | None = None
    change: int | None = None
    connection: str | None = None

    @property
    def active(self) -> bool:
        """Whether it excludes anything."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True, kw_only=True)
class BuildsPage:
    """Builds, newest first.

    Attributes:
        next: Cursor of the following, older page; None at the end.
    """

    builds: tuple[BuildRecord, ...]
    filter: BuildFilter
    next: str | None


@dataclass(frozen=True, kw_only=True)
class FilterChoices:
    """Values that occur, for the filter form."""

    projects: tuple[str, ...]
    jobs: tuple[str, ...]
    labels: tuple[str, ...]
    connections: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VoteRecord:
    """What is owed or was told to the review server about a buildset.

    Attributes:
        state: `pending`, `held`, `delivered` or `dropped`.
        label: Vote label, or None for a comment without a vote.
        value: Value of the label, or None.
        note: The last error, or why it was dropped.
    """

    state: str
    label: str | None
    value: int | None
    tries: int
    note: str
    next_at: datetime
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class BuildsetRecord:
    """One vote's worth of work, with its builds in the order of their jobs.

    Attributes:
        requested_by: Who asked for it, where a comment or an operator did; hostile text.
        request: The reason they gave; hostile text.
        made_up: Whether its event had been missed and was found later.
        depends: Patch sets stacked below it by `Depends-On:`, lowest first.
    """

    id: str
    connection: str
    project: str
    branch: str
    change_number: int
    patchset: int
    subject: str
    owner: str
    revision: str
    ref: str
    pipeline: str
    recheck: int
    reason: str
    state: str
    verdict: Verdict | None
    vote: VoteRecord | None
    builds: tuple[BuildRecord, ...]
    created_at: datetime
    finished_at: datetime | None
    requested_by: str = ""
    request: str = ""
    made_up: bool = False
    depends: tuple[Dependency, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutcomeRecord:
    """One test of one attempt; `details` is kept for bad ones only.

    Attributes:
        feature: The row of Nova's matrix that it tries, or nothing.
    """

    test_id: str
    status: str
    duration_s: float
    message: str
    details: str
    feature: str = ""


@dataclass(frozen=True, kw_only=True)
class OutcomeCounts:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """All tests that have an outcome."""
        return self.passed + self.failed + self.errors + self.skipped


@dataclass(frozen=True, kw_only=True)
class LeftRecord:
    """One thing that a build left on a node.

    Attributes:
        kind: `guest`, `volume`, `network`, `snapshot`, `file`, `socket` or `process`.
        name: Of the thing; hostile text.
        fate: `removed`, `noted` (in nobody's way) or `stays` (the node is out of work for it).
        build_id: Whose.
        at: When that build's attempt ended.
    """

    node: str
    kind: str
    name: str
    fate: str
    build_id: str = ""
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptDetail:
    """One go of a build on one node.

    Attributes:
        kind: `check`, `repeat` or `baseline`.
        tip: Branch tip that the patch set was merged onto.
        tree: Git tree that was tested.
        outcomes: Failing first, then skipped, then passed; each in run order.
        likeness: What its node has in common with those it may be compared with.
        left_behind: What it left on its nodes.
    """

    id: str
    build_id: str
    number: int
    kind: str
    state: str
    phase: str
    result: str | None
    error: str
    hint: str
    node: str | None
    grade: str
    hypervisor: str
    facts: dict[str, str]
    tip: str | None
    tree: str | None
    exit_status: int | None
    started_at: datetime
    leased_at: datetime | None
    suite_started_at: datetime | None
    finished_at: datetime | None
    counts: OutcomeCounts
    outcomes: tuple[OutcomeRecord, ...]
    likeness: str = ""
    left_behind: tuple[LeftRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BuildDetail:
    """Everything about one build.

    Attributes:
        attempts: Oldest first.
        borrowed: Attempts of other builds that the judgement rests on (their baselines).
        siblings: The other builds of the same buildset.
        change_url: Gerrit's page of the change; from an event, so hostile.
        change_status: `NEW`, `MERGED` or `ABANDONED`; empty when unknown.
        newest_patchset: Newest patch set seen of the change.
    """

    build: BuildRecord
    buildset: BuildsetRecord
    attempts: tuple[AttemptDetail, ...]
    borrowed: tuple[AttemptDetail, ...]
    judgement: Judgement | None
    siblings: tuple[BuildRecord, ...]
    change_url: str
    change_status: str
    newest_patchset: int


@dataclass(frozen=True, kw_only=True)
class BuildPulse:
    """The little that a live page asks for again and again.

    Attributes:
        attempt_id: The newest attempt, or None before the first.
        mark: Changes whenever something visible on the build's page does.
        finished: Whether nothing more will come.
    """

    build_id: str
    state: str
    result: str | None
    phase: str
    attempt_id: str | None
    mark: str
    finished: bool


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """One stored event and what it led to.

    Attributes:
        decision: Why it did or did not start something; None until it is planned.
        author: Username of who caused it; hostile text, may be empty.
    """

    id: int
    connection: str
    project: str
    change_number: int
    patchset: int | None
    kind: str
    source: str
    author: str
    decision: str | None
    occurred_at: datetime
    received_at: datetime
    processed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class PatchsetRecord:
    """One patch set of a change: its buildsets newest first, its events oldest first.

    Attributes:
        votes: Ours newest first, then other CIs', then people's.
        waits: Why a pipeline has not started yet and may later, one sentence each.
    """

    number: int
    buildsets: tuple[BuildsetRecord, ...]
    events: tuple[EventRecord, ...]
    votes: tuple[PatchsetVote, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FeatureCounts:
    """What the last run of a build showed of the matrix's features; no evidence until it merges.

    Attributes:
        tried: Features that any test of it names.
        works: Those of which a test passed and none failed.
        fails: Those of which a test failed; the rest could not be tried or are not supported.
    """

    build_id: str
    tried: int
    works: int
    fails: int


@dataclass(frozen=True, kw_only=True)
class ChangeDetail:
    """One change with all that we did about it, newest patch set first.

    Attributes:
        elsewhere: Other connections that know a change of the same number.
        events: Events that belong to no patch set.
        topic: As the newest event told it; hostile text, may be empty.
        hashtags: Likewise.
        wip: Work in progress, likewise.
        seen_here: Change numbers of the stacks that have a page here.
        features: Of the builds whose suite tries features, in no order.
    """

    connection: str
    number: int
    project: str
    branch: str
    change_id: str
    subject: str
    owner: str
    url: str
    status: str
    newest_patchset: int
    updated_at: datetime
    patchsets: tuple[PatchsetRecord, ...]
    events: tuple[EventRecord, ...]
    elsewhere: tuple[str, ...]
    topic: str = ""
    hashtags: tuple[str, ...] = ()
    wip: bool = False
    seen_here: tuple[int, ...] = ()
    features: tuple[FeatureCounts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """One slot: its health and who holds it.

    Attributes:
        failures: Builds in a row that ended as the node's fault.
        token: Fencing token of the newest lease.
        attempt_id: The attempt that holds it, or None when it is free.
        tags: What jobs may require.
        worker: The one process that reaches it; None: any.
        use: `held`, `leased` or `free`.
        blamed_by: Different changes that it failed since a build last came to its end there.
        facts: What it said of itself at its last hand-out; the processor's flags are left out.
        health_at: When its last health job ended.
        health_tries: Health jobs that failed in a row.
        held_until: Until when somebody keeps it as it is.
        held_for_s: Its next failing build leaves it held for so long; 0: it does not.
        left_behind: What newer builds left there, newest first.
    """

    name: str
    label: str
    provider: str
    state: str
    reason: str
    failures: int
    checked_at: datetime | None
    token: int
    leased_at: datetime | None
    expires_at: datetime | None
    attempt_id: str | None
    build_id: str | None
    job: str | None
    change_number: int | None
    patchset: int | None
    grade: str
    connection: str | None = None
    tags: tuple[str, ...] = ()
    worker: str | None = None
    use: str = "free"
    blamed_by: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    health_at: datetime | None = None
    health_tries: int = 0
    held_until: datetime | None = None
    held_for_s: int = 0
    held_by: str = ""
    held_why: str = ""
    left_behind: tuple[LeftRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PauseRecord:
    """Where nothing new starts, by an operator's word.

    Attributes:
        kind: `pipeline`, `label` or `node`.
        until: When it ends by itself; None: when somebody resumes it.
    """

    kind: str
    name: str
    by: str
    why: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, kw_only=True)
class ConnectionRecord:
    """What a connection to a review server is doing.

    Attributes:
        state: `connecting`, `connected` or `away`.
        malformed: Lines that could not be read.
        unknown: Events of types nobody acts on.
        read_up_to: Its watermark.
        last_event_at: When the stream last brought an event; None where that is long ago.
        missed_open: Runs of missed events that are open now.
        missed_waiting: Missed events that wait for their turn.
        undelivered: Reviews that are owed to it, the held ones included.
    """

    name: str
    state: str
    message: str
    since: datetime
    malformed: int
    unknown: int
    read_up_to: datetime | None
    last_event_at: datetime | None = None
    missed_open: int = 0
    missed_waiting: int = 0
    undelivered: int = 0


@dataclass(frozen=True, kw_only=True)
class OutboxSummary:
    """Reviews and notices that are owed and not yet delivered.

    Attributes:
        held: Reviews with a negative vote that wait for an operator.
        notices: Notices that a reporter has not taken yet.
    """

    pending: int = 0
    oldest_at: datetime | None = None
    last_error: str = ""
    held: int = 0
    notices: int = 0


@dataclass(frozen=True, kw_only=True)
class StatusOverview:
    """The state of this installation in one record.

    Attributes:
        queued: Waiting builds, the next one first.
        queued_total: How many wait, also those not listed.
        recent: Newest buildsets.
        events: Newest events, with what they led to.
        events_unplanned: Stored events that nobody has acted on yet.
        pauses: Where nothing new starts; some may be over by now.
    """

    connections: tuple[ConnectionRecord, ...]
    running: tuple[BuildRecord, ...]
    queued: tuple[BuildRecord, ...]
    queued_total: int
    nodes: tuple[NodeRecord, ...]
    recent: tuple[BuildsetRecord, ...]
    events: tuple[EventRecord, ...]
    events_unplanned: int
    outbox: OutboxSummary = field(default_factory=OutboxSummary)
    pauses: tuple[PauseRecord, ...] = ()
