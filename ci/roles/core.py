# SPDX-License-Identifier: Apache-2.0
"""What every role of one process shares: database, clock, secrets, bells, threads."""

import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ci import settings
from ci.bell import Bell
from ci.board import PULSE_S, HealthBoard
from ci.clock import Clock
from ci.election import Election
from ci.gerrit.facts import change_facts
from ci.gerrit.rest import GerritRest
from ci.layout import Connection, Layout
from ci.leadership import Leadership
from ci.log import get
from ci.log_keeping import LogKeeping
from ci.model.facts import ChangeFacts
from ci.planner import Planner
from ci.presence import Presence
from ci.roles import bells
from ci.roles.bells import Bells
from ci.store import notices
from ci.store.database import Database
from ci.store.sending import Sender
from ci.telemetry import Telemetry
from ci.tracing import Traces, open_traces
from ci.wake import Wake

MIB = 1 << 20
STOP_S = 20.0
DISTRIBUTION = "hypervouch"
LISTEN, WORK, RELAY, WEB = "listen", "work", "relay", "web"
ALL = (LISTEN, WORK, RELAY, WEB)


class Server:
    """What the planner asks one review server."""

    def __init__(self, rest: GerritRest, connection: Connection) -> None:
        self._rest, self._connection = rest, connection
        self._own: frozenset[str] = frozenset()

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        """Paths that a patch set changes."""
        return self._rest.changed_files(project, number, revision)

    def facts(self, project: str, number: int) -> ChangeFacts:
        """What the server says of a change now."""
        return change_facts(self._rest, project, number)

    def own_names(self) -> frozenset[str]:
        """The names under which our account appears there."""
        if not self._own:
            name = self._rest.account_self().name
            self._own = frozenset({self._connection.user, name} - {""})
        return self._own


class Core:
    """What the roles of one process are assembled from.

    Args:
        layout: What to do.
        clock: Where time comes from.
        database: Where the processes meet.
        home: Directory for what belongs to this process alone.
        roles: What this process does.
        name: Of this process; as kept in its home by default.

    Attributes:
        presence: This process as the others see it.
        election: Leases on what only one process may do.
        failure: Why this process has to end; empty while it need not.
        on_failure: Called when `failure` was set.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        *,
        database: Database,
        home: Path,
        roles: Sequence[str] = (),
        name: str = "",
    ) -> None:
        self.layout = layout
        self.clock = clock
        self.home = home
        service = layout.service
        self.database = database
        self.presence = Presence(
            database,
            clock,
            home,
            roles=roles,
            version=version(DISTRIBUTION),
            slots=service.worker_slots if WORK in roles else 0,
            term_s=service.lease_s,
            name=name,
            on_replaced=self._replaced,
        )
        self.board = HealthBoard(clock, name=self.presence.name, roles=roles)
        self.election = Election(
            database, clock, self.presence, term_s=service.leader_term_s, board=self.board
        )
        self.failure = ""
        self.on_failure: Callable[[], None] = lambda: None
        self.telemetry = Telemetry(traces=_traces(layout, self.board))
        self._threads = Threads(clock, self.board)
        self.bells = Bells(layout)
        self.keeping = LogKeeping(
            layout,
            clock,
            self.database,
            process=lambda: self.board.name,
            caches=[home / "git"],
            on_notice=self.bells.ring_owed,
        )
        self.logs = self.keeping.logs
        self._wake = Wake(database, on_ring=self.bells.heard, on_gap=self.bells.heard_all)
        self.passwords = {c.name: settings.resolve_secret(c.password) for c in layout.connections}
        self.rests = {c.name: GerritRest(c, self.passwords[c.name]) for c in layout.connections}
        self.servers = {c.name: Server(self.rests[c.name], c) for c in layout.connections}
        self.cancel_here: Callable[[Sequence[str], str], None] = lambda _ids, _why: None
        """Stops running builds of this process at once; set by the role that runs them."""
        self._log = get("serve")

    def start(self) -> None:
        """Make what every role needs.

        Raises:
            ConfigError: The operator has to mend something first.
            StorageError: The disk does not take the first write.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.keeping.start()
        self.presence.hold()
        self.database.create()
        self.presence.register()
        self._threads.spawn("presence", self.presence.run)
        self._threads.spawn("presence-watch", self.presence.watch)
        with self.database.write() as tx:
            for reporter in self.layout.reporters:  # before the first notice can be written
                notices.register(tx, reporter.name, at=self.clock.now())
        if self.database.shared:
            self.bells.tell = self._wake.tell
            self._threads.spawn("wake-listen", self._wake.listen)
            self._threads.spawn("wake-tell", self._wake.run)

    def stop(self) -> None:
        """Give everything back; the roles have ended before."""
        self.election.stop()
        self._wake.stop()
        self.presence.stop()
        self._threads.join()
        for rest in self.rests.values():
            rest.close()
        self.database.close()

    def cancel(self, build_ids: Sequence[str], reason: str) -> None:
        """Stop running builds of this process at once; others read it from the database."""
        self.cancel_here(build_ids, reason)

    @property
    def name(self) -> str:
        """Of this process; stays over restarts."""
        return self.presence.name

    def sender(self, leadership: Leadership) -> Sender:
        """Who takes owed rows in hand, under one leadership."""
        who = self.presence
        return Sender(name=who.name, incarnation=who.incarnation, token=leadership.token)

    def _replaced(self) -> None:
        """Another process has this one's name: end, whatever is in hand is fenced."""
        self.failure = f"another process runs under the name {self.presence.name}"
        self.on_failure()

    def make_planner(self, *, only: str = "", skip: Sequence[str] = ()) -> Planner:
        """A planner of one connection's events, or of those that no connection stands for."""
        return Planner(
            self.database,
            self.clock,
            lambda: self.layout,
            self.servers,
            bell=self.bells[bells.planned(only)] if only else Bell(),
            on_queued=lambda: self.bells.ring(bells.QUEUED),
            on_cancel=self.cancel,
            only=only,
            skip=skip,
            telemetry=self.telemetry,
        )


def _traces(layout: Layout, board: HealthBoard) -> Traces:
    """Where traces go by the configuration; nowhere without.

    Raises:
        ConfigError: What they need is not installed, or a secret is missing.
    """
    wanted = layout.service.traces
    if wanted is None:
        return Traces()
    return open_traces(
        wanted.endpoint,
        process=lambda: board.name,
        service_name=wanted.service_name,
        headers={name: settings.resolve_secret(ref) for name, ref in wanted.headers.items()},
    )


class Threads:
    """The long-running threads of one role, started and joined together.

    Args:
        clock: Measures how long a stop may take.
        board: Shows which of them still turn.
    """

    def __init__(self, clock: Clock, board: HealthBoard) -> None:
        self._clock = clock
        self._board = board
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._log = get("serve")

    def spawn(self, name: str, body: Callable[[], Any], *, limit_s: float | None = PULSE_S) -> None:
        """Start a thread; a bug in its body is told, and the body begins again.

        Args:
            name: The loop, as operators know it.
            body: Touches its pulse at each turn, by `ci.board.turn`.
            limit_s: Seconds that a turn may take; None for what is no loop.
        """
        thread = threading.Thread(
            target=self._guarded, args=(name, body, limit_s), name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """From now on a body that returns or fails is not begun again."""
        self._ended.set()

    def join(self, seconds: float = STOP_S) -> bool:
        """Wait for all of them, so long at most; whether all have ended."""
        self.end()
        deadline = self._clock.monotonic_s() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.monotonic_s()))
        return not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, name: str, body: Callable[[], Any], limit_s: float | None) -> None:
        """The loop edge of each long-running thread: a bug is told, and the thread goes on."""
        while not self._ended.is_set():
            try:
                if limit_s is None:
                    body()
                else:
                    with self._board.beating(name, limit_s=limit_s):
                        body()
            except Exception:  # noqa: BLE001 - told with its traceback, and tried again
                self._log.exception("a bug in this program", action=name)
                self._ended.wait(2.0)
            else:
                return
