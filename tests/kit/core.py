# SPDX-License-Identifier: Apache-2.0
"""The core of the flow with fakes at its rim: layouts, events, rows and a scripted lab."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import sqlalchemy as sa

from ci.bell import Bell
from ci.cancel import CancelToken, Deadline
from ci.checkout import MergedTree
from ci.clock import FakeClock
from ci.collect import LogStore
from ci.depends import Found
from ci.errors import HypervouchError, ReviewServerError
from ci.gerrit.history import Reading, Standing
from ci.gerrit.rest import RestError
from ci.layout import Connection, Job, Layout, Pipeline, Project, ProviderConfig, Service
from ci.model.change import Change, Patchset
from ci.model.event import Account, Approval, BranchMoved, Event, EventKind
from ci.model.facts import ChangeFacts
from ci.model.node import Endpoint
from ci.model.stack import Dependency
from ci.planner import Planner
from ci.runners.base import Sink
from ci.runners.dummy import DummyRunner, DummySession
from ci.runners.stop import Grace, Tell, quiet
from ci.stacking import Place, Stacking
from ci.store import events, schema
from ci.store.builds import NewBuildset, add_buildset
from ci.store.database import FILE_NAME, Database
from ci.worker import Worker
from nodes.pool import NodePool
from nodes.providers.dummy import DummyOptions, DummyProvider

GERRIT = "review"
PROJECT = "acme/virt"
TIP = "7" * 40
OWN = frozenset({"acme-ci", "Acme CI"})


def connection(name: str = GERRIT) -> Connection:
    """A connection that nobody opens."""
    return Connection.model_validate(
        {
            "name": name,
            "server": "review.example.org",
            "user": "acme-ci",
            "key-file": "/k",
            "known-hosts": "/h",
            "url": "https://review.example.org",
            "password": {"from-env": "X"},
        }
    )


def job(name: str = "unit", label: str = "lab", **more: Any) -> Job:
    """A driver job whose results lie in r.xml."""
    fields = {"suite": "driver", "run": "true", "results": ["r.xml"], "node-label": label}
    return Job.model_validate({"name": name, **fields, **more})


def layout(*jobs: Job, state_dir: Path = Path("/s"), **pipeline: Any) -> Layout:
    """A layout with one pipeline `check` that runs all jobs for PROJECT."""
    jobs = jobs or (job(),)
    fields = {"name": "check", "connection": GERRIT, "policy": "vote", **pipeline}
    return Layout(
        service=Service(state_dir=state_dir, url="https://ci.example.org/"),
        connections=(connection(),),
        pipelines=(Pipeline.model_validate(fields),),
        jobs=jobs,
        projects=(
            Project.model_validate({"name": PROJECT, "check": {"jobs": [j.name for j in jobs]}}),
        ),
        providers=(ProviderConfig(name="lab", driver="dummy", label="lab"),),
    )


def change(number: int = 12, **more: Any) -> Change:
    """A change of PROJECT."""
    fields: dict[str, Any] = {"project": PROJECT, "branch": "main", "change_id": "I" + "a" * 40}
    return Change(number=number, **{**fields, "owner": "ann", **more})


def patchset(number: int = 1, *, of: int = 12, **more: Any) -> Patchset:
    """A patch set of a change; its revision is its number over and over."""
    return Patchset(
        number=number,
        revision=f"{number % 10}" * 40,
        ref=f"refs/changes/{of % 100:02d}/{of}/{number}",
        **more,
    )


def vote(label: str, value: int, by: str, **more: Any) -> Approval:
    """A vote of an account."""
    return Approval(label=label, value=value, by=Account(username=by, name=by.title()), **more)


def facts(*approvals: Approval, ps: int = 1, **more: Any) -> ChangeFacts:
    """Change 12 as the server knows it, with these votes on its current patch set."""
    known = {"uploader": "ann", "kind": more.pop("kind", "REWORK")}
    return ChangeFacts(
        change=change(**more),
        patchset=patchset(ps, **known),
        uploaded_at=FakeClock().now(),
        approvals=approvals,
    )


def event(
    clock: FakeClock, kind: EventKind = EventKind.PATCHSET_CREATED, *, ps: int = 1, **more: Any
) -> Event:
    """An event of change 12, or of `number`."""
    number = more.pop("number", 12)
    at: datetime = more.pop("at", clock.now())
    fields: dict[str, Any] = {
        "key": f"{kind.value}:{number}:{ps}:{at.timestamp()}",
        "connection": GERRIT,
        "change": change(number),
        "patchset": patchset(ps, of=number),
        "author": Account(username="ann", name="Ann"),
    }
    return Event(kind=kind, occurred_at=at, **{**fields, **more})


def comment(clock: FakeClock, text: str = "recheck", *, ps: int = 1, **more: Any) -> Event:
    """A comment on change 12."""
    return event(clock, EventKind.COMMENT_ADDED, ps=ps, texts=(text,), **more)


@cache
def _tables() -> bytes:
    """What `Database.create` makes of a SQLite file that is not there yet."""
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/{FILE_NAME}")
        database.create()
        database.close()  # the last connection leaves everything in the one file
        return Path(folder, FILE_NAME).read_bytes()


def database_in(folder: Path) -> Database:
    """A database with its tables, ready made: compiling their SQL takes longer than most tests."""
    database = Database.in_directory(folder)
    if database.file and not database.file.exists():
        database.file.write_bytes(_tables())
    else:
        database.create()
    return database


def rows(database: Database, table: sa.Table, **where: Any) -> list[sa.Row[Any]]:
    """Rows of a table whose columns have these values, in order of their first column."""
    query = sa.select(table).order_by(*table.primary_key.columns)
    for name, value in where.items():
        query = query.where(table.c[name] == value)
    with database.read() as tx:
        return list(tx.execute(query))


def queue_buildset(
    database: Database, *jobs: Job, at: datetime, number: int = 12, ps: int = 1
) -> list[str]:
    """Queue a buildset; returns the ids of its builds by job name."""
    with database.write() as tx:
        made = add_buildset(
            tx,
            NewBuildset(
                connection=GERRIT,
                change=change(number),
                patchset=patchset(ps, of=number),
                pipeline="check",
                jobs=jobs or (job(),),
                event_id=None,
                reason="a test",
            ),
            at=at,
        )
    assert made is not None
    found = rows(database, schema.build, buildset_id=made)
    return [row.id for row in sorted(found, key=lambda row: str(row.job_name))]


@dataclass
class FakeServer:
    """A review server that answers from a list, or raises what it is told to."""

    files: tuple[str, ...] = ()
    error: ReviewServerError | None = None
    asked: int = 0
    current: ChangeFacts | None = None
    facts_asked: int = 0

    def facts(self, project: str, number: int) -> ChangeFacts:
        """What it knows of a change, 404 where it knows nothing."""
        self.facts_asked += 1
        if self.error:
            raise self.error
        if self.current is None:
            raise RestError(404, f"no change {number}", hint="", retryable=False)
        return self.current

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        """The list."""
        self.asked += 1
        if self.error:
            raise self.error
        return self.files

    def own_names(self) -> frozenset[str]:
        """Our account's names."""
        return OWN


@dataclass
class Planning:
    """A planner with what it told others."""

    database: Database
    clock: FakeClock
    planner: Planner
    server: FakeServer
    queued: list[None] = field(default_factory=list)
    canceled: list[tuple[tuple[str, ...], str]] = field(default_factory=list)


def planning(folder: Path, plan: Layout | None = None) -> Planning:
    """A planner on an empty database."""
    database, clock, server = database_in(folder), FakeClock(), FakeServer()
    queued: list[None] = []
    canceled: list[tuple[tuple[str, ...], str]] = []
    wanted = plan or layout()
    planner = Planner(
        database,
        clock,
        lambda: wanted,
        {GERRIT: server},
        bell=Bell(),
        on_queued=lambda: queued.append(None),
        on_cancel=lambda ids, reason: canceled.append((tuple(ids), reason)),
    )
    return Planning(database, clock, planner, server, queued, canceled)


def take(made: Planning, one: Event) -> str | None:
    """Store an event, plan it, and return what was said of it; None while it waits."""
    events.store(made.database, one, received_at=made.clock.now(), move_watermark=True)
    made.planner.plan_pending()
    said: str | None = rows(made.database, schema.event, key=one.key)[0].decision
    return said


def finish(made: Planning, patchset_number: int, state: str = "done") -> None:
    """Give the buildsets of a patch set another state."""
    with made.database.write() as tx:
        mine = schema.buildset.c.patchset == patchset_number
        tx.execute(sa.update(schema.buildset).where(mine).values(state=state))


def run(made: Planning) -> None:
    """Let every queued build run."""
    with made.database.write() as tx:
        queued = schema.build.c.state == "queued"
        tx.execute(sa.update(schema.build).where(queued).values(state="running"))


class FakeCheckout:
    """Merges nothing: each tree holds one file, the command that its attempt shall run.

    Args:
        patched: Commands of the patch's attempts, in order; the last one stays.
        tip: Command of the branch tip.
        errors: Raised by the first merges, one each.
    """

    def __init__(self, patched: Sequence[str], tip: str, errors: Sequence[Exception] = ()) -> None:
        self._patched = list(patched)
        self._tip = tip
        self._errors = list(errors)
        self._scripts: dict[str, str] = {}
        self.before_merge: Callable[[], None] = lambda: None
        self.text = "A change"

    def newest(self, project: str, branch: str, ref: str, revision: str) -> str:
        """The one tip there is."""
        return TIP

    def message(self, project: str, ref: str, revision: str) -> str:
        """The commit message of every patch set."""
        return self.text

    def merge(
        self,
        project: str,
        branch: str,
        ref: str,
        revision: str,
        *,
        tip: str | None = None,
        stack: Sequence[Dependency] = (),
    ) -> MergedTree:
        """The patch's next command."""
        self.before_merge()
        if self._errors:
            raise self._errors.pop(0)
        script = self._patched.pop(0) if len(self._patched) > 1 else self._patched[0]
        return self._tree(script, revision, stack)

    def base(
        self, project: str, branch: str, tip: str, stack: Sequence[Dependency] = ()
    ) -> MergedTree:
        """The branch tip's command."""
        assert tip == TIP
        return self._tree(self._tip, tip, stack)

    def branch_tip(self, project: str, branch: str) -> MergedTree:
        """The tip of another project."""
        return self._tree(self._tip, TIP, ())

    def archive(self, merged: MergedTree, to: IO[bytes], *, below: str = "") -> None:
        """A tar of the one file."""
        content = self._scripts[merged.tree].encode()
        with tarfile.open(fileobj=to, mode="w") as tar:
            entry = tarfile.TarInfo(f"{below}/script" if below else "script")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    def _tree(self, script: str, revision: str, stack: Sequence[Dependency]) -> MergedTree:
        below = [one.revision for one in stack]
        base = tree = _name(TIP, self._tip, *below)
        if revision != TIP:
            tree = _name(revision, script, *below)
        self._scripts[tree] = script
        return MergedTree(
            tip=TIP, revision=revision, tree=tree, base_tree=base, git_dir=Path("/nowhere")
        )


def _name(*parts: str) -> str:
    """What git would call it: the same for the same content, also after a restart."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


class FakeLookup:
    """A review server's changes by number; an error among them is raised once."""

    def __init__(self) -> None:
        self.changes: dict[int, Found] = {}
        self.known: dict[int, ChangeFacts] = {}
        self.errors: list[HypervouchError] = []
        self.asked: list[int] = []

    def by_number(self, number: int, project: str) -> Found | None:
        """The change of that number."""
        self.asked.append(number)
        if self.errors:
            raise self.errors.pop(0)
        return self.changes.get(number)

    def by_change_id(self, change_id: str) -> Sequence[Found]:
        """None: these tests write numbers."""
        return ()

    def facts(self, project: str, number: int) -> ChangeFacts | None:
        """What is known of that change."""
        return self.known.get(number)


def found(number: int, *, status: str = "NEW", message: str = "", **more: Any) -> Found:
    """A change that another one may depend on, at its first patch set."""
    fields = {"project": PROJECT, "branch": "main", **more}
    revision = f"{number:040x}"
    ref = f"refs/changes/{number % 100:02d}/{number}/1"
    patchset = Dependency(number=number, patchset=1, revision=revision, ref=ref, **fields)
    return Found(patchset=patchset, status=status, message=message)


class ScriptedSession(DummySession):
    """Runs the command that came with the tree, whatever the job says."""

    def run(
        self,
        command: str,
        *,
        directory: str,
        env: Mapping[str, str],
        sink: Sink,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> int:
        """Run the tree's own command."""
        script = self._files[f"{directory}/script"].decode()
        return super().run(
            script, directory=directory, env=env, sink=sink, deadline=deadline, cancel=cancel
        )


class ScriptedRunner(DummyRunner):
    """Opens scripted sessions."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = quiet,
    ) -> DummySession:
        """A session; `dummy: refuse` among the facts refuses it."""
        super().connect(endpoint, deadline)
        return ScriptedSession(full=False, grace=grace, tell=tell)


@dataclass
class Me:
    """A process as a worker sees itself."""

    name: str = "here"
    incarnation: str = "first"
    fenced: bool = False


@dataclass
class Lab:
    """A worker with two dummy nodes and a scripted checkout."""

    database: Database
    clock: FakeClock
    worker: Worker
    pool: NodePool
    provider: DummyProvider
    checkout: FakeCheckout
    lookup: FakeLookup
    verdicts: list[None] = field(default_factory=list)
    me: Me = field(default_factory=Me)

    def claim(self, build_id: str) -> int:
        """Claim a build for this worker as the dispatcher does; returns the claim."""
        number: int = self.build(build_id).claim + 1
        with self.database.write() as tx:
            tx.execute(
                sa.update(schema.build)
                .where(schema.build.c.id == build_id)
                .values(
                    state="running",
                    worker=self.me.name,
                    claim=number,
                    started_at=self.clock.now(),
                )
            )
        return number

    def attempt(self, build_id: str, kind: str = "check") -> str:
        """One step of a build under its present claim; claimed first where nobody has."""
        number = self.build(build_id).claim or self.claim(build_id)
        return self.worker.attempt(build_id, number, kind)

    def report(self, build_id: str) -> None:
        """The last step of a build under its present claim."""
        self.worker.report(build_id, self.build(build_id).claim)

    def drive(self, build_id: str, *, most: int = 40) -> None:
        """What the engine does with a build: attempts until none is wanted, then the report."""
        claim, kind = self.claim(build_id), "check"
        for _ in range(most):
            kind = self.worker.attempt(build_id, claim, kind)
            if not kind:
                break
        self.worker.report(build_id, claim)

    def kinds(self, build_id: str) -> list[tuple[str, str]]:
        """(kind, result) of the attempts of a build, in order."""
        found = rows(self.database, schema.attempt, build_id=build_id)
        return [(r.kind, r.result) for r in sorted(found, key=lambda r: int(r.number))]

    def build(self, build_id: str) -> sa.Row[Any]:
        """A build's row."""
        return rows(self.database, schema.build, id=build_id)[0]


def lab(
    folder: Path,
    checkout: FakeCheckout,
    *,
    plan: Layout | None = None,
    preflight: Callable[[Endpoint], dict[str, str]] = lambda _: {},
    slots: int = 2,
    **options: Any,
) -> Lab:
    """A worker with dummy nodes; `ci.attempt.runner_for` has to give a ScriptedRunner."""
    database, clock = database_in(folder), FakeClock()
    wanted = plan or layout(state_dir=folder)
    provider = DummyProvider(DummyOptions(name="lab", slots=slots, **options), folder / "nodes")
    me = Me()
    pool = NodePool(database, clock, {"lab": (provider,)}, preflight, term_s=60, worker=me.name)
    pool.register()
    verdicts: list[None] = []
    lookup = FakeLookup()
    place = Place(
        server=lookup,
        checkout=checkout,  # type: ignore[arg-type]
        bases=("https://review.example.org/",),
    )
    worker = Worker(
        database,
        clock,
        me=me,
        layout=lambda: wanted,
        checkouts={GERRIT: checkout},  # type: ignore[dict-item]
        stacking=Stacking(database, lambda: wanted, {GERRIT: place}),
        pool=pool,
        logs=LogStore(folder / "logs", limit_bytes=1 << 20, free_bytes=1),
        secrets=["s3cret"],
        on_verdict=lambda: verdicts.append(None),
        on_free=lambda: None,
    )
    return Lab(database, clock, worker, pool, provider, checkout, lookup, verdicts, me)


class FakeHistory:
    """What a server tells on request."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.errors: list[HypervouchError] = []
        self.asked_since: list[datetime] = []
        self.answered: dict[str, frozenset[str]] = {}
        self.standing: tuple[Standing, ...] = ()
        self.branches: tuple[BranchMoved, ...] = ()
        self.provisional = False
        self.reconnects = 0
        self.while_asked: Callable[[], None] = lambda: None

    def server_time(self) -> datetime:
        """The fake clock's."""
        if self.errors:
            raise self.errors.pop(0)
        return self._clock.now()

    def reconnected(self) -> None:
        """The stream was opened anew."""
        self.reconnects += 1

    def read(self, since: datetime) -> Reading:
        """Its events since then and two minutes before, and what else the test put in."""
        if self.errors:
            raise self.errors.pop(0)
        until = self._clock.now()
        self.asked_since.append(since)
        self.while_asked()
        begin = since - timedelta(seconds=120)
        return Reading(
            until=None if self.provisional else until,
            events=tuple(
                replace(one, source="catch-up") for one in self.events if one.occurred_at >= begin
            ),
            answered=self.answered,
            standing=self.standing,
            branches=self.branches,
        )
