# SPDX-License-Identifier: Apache-2.0
"""The port to DBOS, which makes a running build durable; nothing else imports it.

Our own rows are the queue: a build waits in `ci_build`, a worker claims it, and `submit` starts
it here. From then on DBOS remembers which steps are done, so a process that is killed goes on
where it was. The workflow's id is the claim's, build and number: who claims a build anew begins
a record of its own. The skeleton of the workflow is small and its version pinned: everything
that changes lives inside the steps.

On SQLite one process per database may run an Engine; a file lock refuses the second. On
PostgreSQL each process is an application of its own to DBOS, so that none takes up what
another one left: that is the reaper's to decide (ci/reaper.py).
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Protocol, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from dbos import error as dbos_error

from ci.errors import HypervouchBug, StorageError
from ci.hold import exclusive
from ci.model.build import Claim

APPLICATION = "hypervouch"
APPLICATION_VERSION = "2"  # raised only when the skeleton below changes, after a drain
FIRST_STEP = "check"
STEP_LIMIT = 100
BROKEN_S = 60.0
POOL_SIZE = 6
_UNFINISHED = ["PENDING", "ENQUEUED"]
_FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
T = TypeVar("T")


class Steps(Protocol):
    """What a build's steps do; each may be run again after a crash."""

    def attempt(self, build_id: str, claim: int, kind: str) -> str:
        """Run one attempt of a build; returns the kind of the next one, or nothing."""
        ...

    def report(self, build_id: str, claim: int) -> None:
        """Judge a build, and its buildset when it was the last one."""
        ...


class _Bound:
    """The steps of this process: DBOS registers functions, not objects.

    `broken` are claims whose workflow ended here by an error, and when: if the engine's own
    disk is full it cannot even write that down, and its record says for ever that they run.
    """

    steps: Steps | None = None
    broken: ClassVar[dict[Claim, float]] = {}

    @classmethod
    def get(cls) -> Steps:
        if cls.steps is None:
            raise HypervouchBug("the engine runs a build before it was started")
        return cls.steps


@DBOS.step(name="attempt")
def _attempt(build_id: str, claim: int, kind: str) -> str:
    return _Bound.get().attempt(build_id, claim, kind)


@DBOS.step(name="report")
def _report(build_id: str, claim: int) -> None:
    _Bound.get().report(build_id, claim)


@DBOS.workflow(name="build", max_recovery_attempts=1_000_000)
def _build(build_id: str, claim: int) -> None:
    kind = FIRST_STEP
    try:
        for _ in range(STEP_LIMIT):
            kind = _attempt(build_id, claim, kind)
            if not kind:
                break
        _report(build_id, claim)
    except BaseException:
        _Bound.broken[Claim(build_id, claim)] = time.monotonic()
        raise


class Engine:
    """Runs builds durably in this process.

    Lifecycle: `hold`, `start` once, then `submit` as often as wanted, `stop` at the end. What was
    running when the process died is taken up again by `start` under the same executor's name.

    Args:
        state_dir: Where the lock lives, and `engine.db` on SQLite.
        slots: Builds that may run at once.
        executor: Name of this process, the same after a restart.
        url: The installation's PostgreSQL, password included; empty: SQLite.
    """

    def __init__(self, state_dir: Path, *, slots: int, executor: str, url: str = "") -> None:
        self._path = state_dir / "engine.db"
        self._slots = slots
        self._executor = executor
        self._shared = bool(url)
        self._url = _engine_url(state_dir, url)
        self._lock: IO[str] | None = None

    def hold(self) -> None:
        """Make this the one process that runs builds here, until `stop`.

        Raises:
            ConfigError: Another process runs builds on this state directory.
        """
        self._lock = exclusive(self._path.with_suffix(".lock"))

    def start(self, steps: Steps) -> None:
        """Launch, and take up what an earlier process left; `hold` comes first.

        Raises:
            StorageError: The engine's database cannot be used.
        """
        if self._lock is None:
            raise HypervouchBug("the engine was started without holding its state directory")
        if not self._shared:
            self._use_wal()
        _Bound.steps = steps
        _Bound.broken.clear()
        config: DBOSConfig = {
            "name": _application(self._executor),
            "system_database_url": self._url,
            "executor_id": self._executor,
            "application_version": _version(self._executor),
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            # As many again may wait for a review server that is away.
            "max_executor_threads": 2 * self._slots + 4,
            "sys_db_pool_size": POOL_SIZE,
            "use_listen_notify": False,  # it is for messages between workflows: there are none
            # A thread that finds nothing at each turn, and for whose turn `stop` waits.
            "notification_listener_polling_interval_sec": 0.2,
            "scheduler_polling_interval_sec": 300.0,
        }

        def launch() -> None:
            DBOS(config=config)
            DBOS.listen_queues([])
            DBOS.launch()

        _asked(launch)

    def _use_wal(self) -> None:
        """The engine's library leaves the journal mode alone; WAL sticks to the file."""
        database = sa.create_engine(self._url)

        def switch() -> None:
            with database.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

        try:
            _asked(switch)
        finally:
            database.dispose()

    def submit(self, claim: Claim) -> None:
        """Start a claimed build; a claim that was started before is left alone.

        While the database is away it waits.

        Raises:
            StorageError: The engine's database does not take it.
        """
        with SetWorkflowID(workflow_id(claim)):
            _asked(lambda: DBOS.start_workflow(_build, claim.build_id, claim.number))

    def unknown(self, claims: Iterable[Claim]) -> tuple[Claim, ...]:
        """Those claims that no unfinished workflow of this process and version stands behind."""
        wanted = list(claims)
        if not wanted:
            return ()
        live = _asked(
            lambda: DBOS.list_workflows(
                workflow_ids=[workflow_id(one) for one in wanted],
                status=_UNFINISHED,
                executor_id=self._executor,
                app_version=_version(self._executor),
                load_input=False,
                load_output=False,
            )
        )
        running = {status.workflow_id for status in live}
        # Younger ones may still be about to write down how they ended.
        old = time.monotonic() - BROKEN_S
        broken = {one for one, at in dict(_Bound.broken).items() if at < old}
        return tuple(c for c in wanted if c in broken or workflow_id(c) not in running)

    def forget(self, claims: Iterable[Claim]) -> None:
        """Delete the records of claims, so that `submit` runs them anew."""
        given = list(claims)
        if given:
            _asked(lambda: DBOS.delete_workflows([workflow_id(one) for one in given]))
            for one in given:
                _Bound.broken.pop(one, None)

    def finished(self, limit: int = 500) -> tuple[Claim, ...]:
        """Claims of this process whose record is only history by now; retention forgets them."""
        done = _asked(
            lambda: DBOS.list_workflows(
                status=_FINISHED,
                executor_id=self._executor,
                limit=limit,
                load_input=False,
                load_output=False,
            )
        )
        return tuple(claim_of(status.workflow_id) for status in done)

    def stop(self, *, wait_s: int = 0) -> None:
        """Stop taking steps; running ones are recovered by the next `start`."""
        DBOS.destroy(workflow_completion_timeout_sec=wait_s)
        _Bound.steps = None
        if self._lock:
            self._lock.close()
            self._lock = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the engine keeps of one claim.

    Attributes:
        workflow: Its id there.
        claim: Build and number.
        executor: Process that runs it.
        finished: Whether it ended; else it runs, or its process died.
        current: Whether this version of the program could go on with it.
    """

    workflow: str
    claim: Claim
    executor: str
    finished: bool
    current: bool


class EngineRecords:
    """The records of every process, seen from outside: for the reaper, wherever it runs.

    Args:
        state_dir: Where `engine.db` is on SQLite.
        url: The installation's PostgreSQL, password included; empty: SQLite.
    """

    def __init__(self, state_dir: Path, *, url: str = "") -> None:
        self._url = _engine_url(state_dir, url)

    def of(self, executors: Iterable[str] | None = None, *, limit: int = 1000) -> list[Record]:
        """Records of these processes, or of all, oldest first.

        Raises:
            StorageError: The engine's database cannot be read.
        """
        names = None if executors is None else list(executors)
        if names is not None and not names:
            return []
        found = self._with(
            lambda client: client.list_workflows(
                executor_id=names, limit=limit, load_input=False, load_output=False
            )
        )
        return [
            Record(
                workflow=one.workflow_id,
                claim=claim_of(one.workflow_id),
                executor=one.executor_id or "",
                finished=one.status not in _UNFINISHED,
                current=one.app_version == _version(one.executor_id or ""),
            )
            for one in found
        ]

    def delete(self, records: Iterable[Record]) -> None:
        """Drop records of claims that nobody goes on with. Repeatable."""
        ids = [one.workflow for one in records]
        if ids:
            self._with(lambda client: client.delete_workflows(ids))

    def _with(self, work: Callable[[DBOSClient], T]) -> T:
        client = _asked(
            lambda: DBOSClient(
                system_database_url=self._url,
                serializer=DBOSPortableJSONSerializer(),
                retry_connection_errors=False,  # the next turn tries again
                system_database_pool_size=2,
            )
        )
        try:
            return _asked(lambda: work(client))
        finally:
            client.destroy()


def workflow_id(claim: Claim) -> str:
    """The id of a claim's workflow."""
    return f"{claim.build_id}.{claim.number}"


def claim_of(workflow: str) -> Claim:
    """The claim of a workflow; number 0 for an id of an older version, which had none."""
    build_id, dot, number = workflow.rpartition(".")
    return Claim(build_id, int(number)) if dot and number.isdigit() else Claim(workflow, 0)


def _application(executor: str) -> str:
    """A name as DBOS wants it, one for each process: it recovers and dequeues by application."""
    return f"{APPLICATION}-{hashlib.sha256(executor.encode()).hexdigest()[:16]}"


def _version(executor: str) -> str:
    """The skeleton's version; DBOS wants another name of it in each application."""
    return f"{APPLICATION_VERSION}.{_application(executor)}"


def _engine_url(state_dir: Path, url: str) -> str:
    if not url:
        return f"sqlite:///{state_dir / 'engine.db'}"
    parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def _asked(work: Callable[[], T]) -> T:
    """What DBOS says; its database's troubles as errors of ours."""
    try:
        return work()
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, dbos_error.DBOSException, OSError) as error:
        cause = getattr(error, "orig", None) or error
        first = (str(cause).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"the engine's database cannot be used: {first}",
            hint="look at the disk's free space, or whether PostgreSQL runs and lets us in",
            retryable=True,
        ) from error
