# SPDX-License-Identifier: Apache-2.0
"""The port to DBOS, which makes a running build durable; nothing else imports it.

Our own rows are the queue: a build waits in `ci_build`, and `submit` starts it here once
the dispatcher has room for it. From then on DBOS remembers which steps are done, so a
process that is killed goes on where it was. The skeleton of the workflow is small and its
version pinned: everything that changes lives inside the steps.

One process per database may run an Engine on SQLite; a file lock refuses the second.
"""

import fcntl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, ClassVar, Protocol

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from ci.errors import ConfigError, HypervouchBug

APPLICATION = "hypervouch"
APPLICATION_VERSION = "1"  # raised only when the skeleton below changes, after a drain
EXECUTOR = "embedded"
FIRST_STEP = "check"
STEP_LIMIT = 100
BROKEN_S = 60.0


class Steps(Protocol):
    """What a build's steps do; each may be run again after a crash."""

    def attempt(self, build_id: str, kind: str) -> str:
        """Run one attempt of a build; returns the kind of the next one, or nothing."""
        ...

    def report(self, build_id: str) -> None:
        """Judge a build, and its buildset when it was the last one."""
        ...


class _Bound:
    """The steps of this process: DBOS registers functions, not objects.

    `broken` are builds whose workflow ended here by an error, and when: if the engine's own
    disk is full it cannot even write that down, and its record says for ever that they run.
    """

    steps: Steps | None = None
    broken: ClassVar[dict[str, float]] = {}

    @classmethod
    def get(cls) -> Steps:
        if cls.steps is None:
            raise HypervouchBug("the engine runs a build before it was started")
        return cls.steps


@DBOS.step(name="attempt")
def _attempt(build_id: str, kind: str) -> str:
    return _Bound.get().attempt(build_id, kind)


@DBOS.step(name="report")
def _report(build_id: str) -> None:
    _Bound.get().report(build_id)


@DBOS.workflow(name="build", max_recovery_attempts=1_000_000)
def _build(build_id: str) -> None:
    kind = FIRST_STEP
    try:
        for _ in range(STEP_LIMIT):
            kind = _attempt(build_id, kind)
            if not kind:
                break
        _report(build_id)
    except BaseException:
        _Bound.broken[build_id] = time.monotonic()
        raise


class Engine:
    """Runs builds durably in this process.

    Lifecycle: `hold`, `start` once, then `submit` as often as wanted, `stop` at the end. What was
    running when the process died is taken up again by `start`.

    Args:
        state_dir: Where `engine.db` and its lock live.
        slots: Builds that may run at once.
    """

    def __init__(self, state_dir: Path, *, slots: int) -> None:
        self._path = state_dir / "engine.db"
        self._slots = slots
        self._lock: IO[str] | None = None

    def hold(self) -> None:
        """Make this the one process that runs builds here, until `stop`.

        Raises:
            ConfigError: Another process runs builds on this state directory.
        """
        self._lock = self._exclusive()

    def start(self, steps: Steps) -> None:
        """Launch, and take up what an earlier process left; `hold` comes first."""
        if self._lock is None:
            raise HypervouchBug("the engine was started without holding its state directory")
        self._use_wal()
        _Bound.steps = steps
        _Bound.broken.clear()
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": f"sqlite:///{self._path}",
            "executor_id": EXECUTOR,
            "application_version": APPLICATION_VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            # As many again may wait for a review server that is away.
            "max_executor_threads": 2 * self._slots + 4,
            "notification_listener_polling_interval_sec": 2.0,  # `stop` waits for its turn
            "scheduler_polling_interval_sec": 300.0,
        }
        DBOS(config=config)
        DBOS.listen_queues([])
        DBOS.launch()

    def _exclusive(self) -> IO[str]:
        path = self._path.with_suffix(".lock")
        handle = path.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            handle.close()
            raise ConfigError(
                f"another hypervouch already runs builds on {path.parent}",
                hint="stop it first, or give this one a state-dir of its own",
            ) from busy
        return handle

    def _use_wal(self) -> None:
        """The engine's library leaves the journal mode alone; WAL sticks to the file."""
        database = sa.create_engine(f"sqlite:///{self._path}")
        with database.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        database.dispose()

    def submit(self, build_id: str) -> None:
        """Start a build; one that was started before is left alone."""
        with SetWorkflowID(build_id):
            DBOS.start_workflow(_build, build_id)

    def unknown(self, build_ids: Iterable[str]) -> tuple[str, ...]:
        """Those builds that no unfinished workflow stands behind."""
        ids = list(build_ids)
        if not ids:
            return ()
        live = DBOS.list_workflows(
            workflow_ids=ids, status=["PENDING", "ENQUEUED"], load_input=False, load_output=False
        )
        running = {status.workflow_id for status in live}
        # Younger ones may still be about to write down how they ended.
        old = time.monotonic() - BROKEN_S
        running -= {build_id for build_id, at in dict(_Bound.broken).items() if at < old}
        return tuple(i for i in ids if i not in running)

    def forget(self, build_ids: Iterable[str]) -> None:
        """Delete the records of builds, so that `submit` runs them anew."""
        ids = list(build_ids)
        if ids:
            DBOS.delete_workflows(ids)
            for build_id in ids:
                _Bound.broken.pop(build_id, None)

    def finished(self, limit: int = 500) -> tuple[str, ...]:
        """Builds whose record is only history by now; retention forgets them."""
        done = DBOS.list_workflows(
            status=["SUCCESS", "ERROR", "CANCELLED"],
            limit=limit,
            load_input=False,
            load_output=False,
        )
        return tuple(status.workflow_id for status in done)

    def stop(self, *, wait_s: int = 0) -> None:
        """Stop taking steps; running ones are recovered by the next `start`."""
        DBOS.destroy(workflow_completion_timeout_sec=wait_s)
        _Bound.steps = None
        if self._lock:
            self._lock.close()
            self._lock = None
