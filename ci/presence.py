# SPDX-License-Identifier: Apache-2.0
"""This process in the installation: its name, its heartbeat, and when it must keep still.

The name stays with the state directory, the incarnation is new at each start. A process that
could not say for two thirds of its term that it lives fences itself: others will soon take
over what it does. It goes on when the database answers again and its row is still its own.
"""

import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from ci.board import turn
from ci.clock import Clock
from ci.errors import ConfigError, StorageError
from ci.hold import exclusive
from ci.log import get
from ci.store import processes
from ci.store.database import Database
from ci.store.moment import moment

NAME_FILE = "process-name"
LOCK_FILE = "process.lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Presence:
    """One process as the others see it. Thread-safe.

    Lifecycle: `hold` (file lock), `register` (row), then `run` and `watch` as the bodies of
    one thread each, `stop` at the end.

    Args:
        database: Where the row is.
        clock: Where time comes from; its `monotonic_s` counts suspended time.
        state_dir: Where the name is kept.
        roles: What this process does: listen, work, relay, web.
        version: Of this program.
        slots: Builds it runs at once; 0 without the role work.
        term_s: Seconds after the last beat when others take it for dead.
        name: What it shall be called; kept in `state_dir`. Empty: as kept, or made up once.
        on_fenced: Called once each time no beat succeeded for two thirds of the term.
        on_replaced: Called once when another incarnation has the name: this process must end.

    Raises:
        ConfigError: The name cannot be used, or the state directory not be written.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        state_dir: Path,
        *,
        roles: Sequence[str],
        version: str,
        slots: int = 0,
        term_s: float = 60.0,
        name: str = "",
        on_fenced: Callable[[], None] = lambda: None,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = process_name(state_dir, name)
        self.incarnation = secrets.token_hex(8)
        self.term_s = term_s
        self.beat_s = term_s / 3
        self.on_fenced = on_fenced
        self.on_replaced = on_replaced
        self._database = database
        self._clock = clock
        self._state_dir = state_dir
        self._roles = tuple(roles)
        self._version = version
        self._slots = slots
        self._host = socket.gethostname()
        self._lock: IO[str] | None = None
        self._beaten_s: float | None = None  # when the last beat that succeeded began
        self._state = processes.RUNNING
        self._replaced = False
        self._told = False
        self._telling = threading.Lock()
        self._stop = threading.Event()
        self._log = get("process")

    @property
    def state(self) -> str:
        """running, draining or stopped, as of the last beat."""
        return self._state

    @property
    def draining(self) -> bool:
        """Whether it shall take no more builds."""
        return self._state != processes.RUNNING

    @property
    def replaced(self) -> bool:
        """Whether another incarnation has its name: for good."""
        return self._replaced

    @property
    def fenced(self) -> bool:
        """Whether it must keep still: nobody heard of it for two thirds of its term.

        Computed from the clock, so that a process that was frozen sees it in its first step.
        """
        if self._replaced:
            return True
        if self._beaten_s is None:
            return False  # never registered: nobody else has the name
        return self._clock.monotonic_s() - self._beaten_s > self.term_s * 2 / 3

    def hold(self) -> None:
        """Make this the one process of its state directory, until `stop`.

        Raises:
            ConfigError: Another process runs there.
        """
        self._lock = exclusive(self._state_dir / LOCK_FILE)

    def register(self) -> None:
        """Write the row. A predecessor's is taken over, unless it proves to be alive.

        Raises:
            ConfigError: A process of this name lives elsewhere: the state directory was copied.
            StorageError: The database does not take it.
        """
        self._outlive_predecessor()
        began = self._clock.monotonic_s()
        self._write_row()
        self._beaten_s = began
        self._state = processes.RUNNING
        self._log.info(
            "process registered", action="register", process=self.name, roles=list(self._roles)
        )

    def beat(self) -> bool:
        """Say once that this process lives; False when another incarnation has its name.

        Raises:
            StorageError: The database is away.
        """
        began = self._clock.monotonic_s()
        with self._database.write() as tx:
            at = moment(tx, self._clock)
            mine = processes.beat(tx, self.name, self.incarnation, at=at)
            row = processes.find(tx, self.name)
        if row is None:  # the database was restored from a copy: be there again
            self._write_row()
            mine = True
        if not mine:
            self._replaced = True
            return False
        self._state = row.state if row else processes.RUNNING
        self._beaten_s = began
        return True

    def run(self) -> None:
        """Beat at a third of the term until `stop`; the body of one thread."""
        while not self._stop.wait(self._pause_s()):
            turn()
            try:
                if not self.beat():
                    self._end()
                    return
            except StorageError as error:
                self._log.error("heartbeat waits", action="wait", reason=str(error))

    def watch(self) -> None:
        """Notice that beats fail, or that this process stood still; the body of one thread.

        Apart from `run`, whose call to the database may itself take long.
        """
        while not self._stop.wait(min(1.0, self.beat_s / 4)):
            turn()
            self.look()

    def look(self) -> None:
        """One turn of `watch`."""
        with self._telling:
            fenced, told = self.fenced, self._told
            self._told = fenced
        if fenced and not told:
            self._log.error(
                "no heartbeat could be written: this process keeps still",
                action="fence",
                process=self.name,
                after_s=round(self.term_s * 2 / 3, 1),
            )
            self.on_fenced()
        elif told and not fenced:
            self._log.info("heartbeats are written again", action="unfence", process=self.name)

    def stop(self) -> None:
        """End both threads, and tell the others that this process is gone. Repeatable."""
        self._stop.set()
        if self._beaten_s is not None and not self._replaced:
            with suppress(StorageError), self._database.write() as tx:
                processes.set_state(tx, self.name, processes.STOPPED, incarnation=self.incarnation)
        if self._lock:
            self._lock.close()
            self._lock = None

    def _write_row(self) -> None:
        with self._database.write() as tx:
            processes.register(
                tx,
                name=self.name,
                incarnation=self.incarnation,
                roles=self._roles,
                host=self._host,
                pid=os.getpid(),
                version=self._version,
                slots=self._slots,
                at=moment(tx, self._clock),
            )

    def _pause_s(self) -> float:
        """Until the next beat; a failed one is repeated sooner."""
        if self._beaten_s is None:
            return self.beat_s
        late_s = self._clock.monotonic_s() - self._beaten_s
        return max(self.beat_s - late_s, self.beat_s / 10)

    def _end(self) -> None:
        self._log.error(
            "another process registered this name: this one ends",
            action="replaced",
            process=self.name,
            hint="a state-dir was copied or started twice; give each process one of its own",
        )
        self.look()
        self.on_replaced()

    def _outlive_predecessor(self) -> None:
        """Wait for as long as the row may belong to a process that lives; a term at most."""
        first, may_live = self._predecessor()
        until_s = self._clock.monotonic_s() + self.term_s
        row = first
        while first and row and may_live and self._clock.monotonic_s() < until_s:
            self._clock.sleep(min(1.0, self.term_s / 10))
            row, may_live = self._predecessor()
            if row and may_live and row.beat_at != first.beat_at:
                raise ConfigError(
                    f"a process named {self.name} runs on {row.host} (pid {row.pid})",
                    hint=f"its {NAME_FILE} was copied: delete that file here, or give --name",
                )

    def _predecessor(self) -> tuple[processes.Process | None, bool]:
        """Who has the name, and whether that process may live."""
        with self._database.read() as tx:
            row = processes.find(tx, self.name)
            now = moment(tx, self._clock)
        if row is None or row.state == processes.STOPPED:
            return row, False
        if now - row.beat_at > timedelta(seconds=self.term_s):
            return row, False
        return row, row.host != self._host or (row.pid != os.getpid() and _runs(row.pid))


def process_name(state_dir: Path, wanted: str = "") -> str:
    """The name that a state directory gives its process; made once, or set to `wanted`.

    Raises:
        ConfigError: It cannot be used, or the directory not be written.
    """
    path = state_dir / NAME_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        if wanted:
            _check_name(wanted, "--name")
            if not path.exists() or path.read_text().strip() != wanted:
                _put(path, wanted, anew=True)
            return wanted
        if not path.exists():
            _put(path, _made_up(), anew=False)
        kept = path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"state-dir {state_dir} cannot be used: {error.strerror}",
            hint="name a directory that this user may write",
        ) from error
    return _check_name(kept, str(path))


def _made_up() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname()).strip(".-")[:80] or "host"
    return f"{host}-{secrets.token_hex(3)}"


def _check_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} cannot be the name of a process",
            hint="use letters, digits, dots, dashes and underscores, at most 100",
        )
    return name


def _put(path: Path, name: str, *, anew: bool) -> None:
    """Write the name in one piece; one that somebody else just made stays unless `anew`."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    part.write_text(f"{name}\n")
    if anew:
        part.replace(path)
        return
    with suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _runs(pid: int) -> bool:
    """Whether a process of this machine has that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
