# SPDX-License-Identifier: Apache-2.0
"""The role listen: for each connection a listener and its planner, where this process leads."""

from collections.abc import Callable, Sequence
from functools import partial

from ci.gerrit.reconcile import Reconciler
from ci.gerrit.stream import EventStream
from ci.janitor import Janitor
from ci.layout import Connection, Layout, TriggerKind, VotePolicy
from ci.leadership import Leadership
from ci.listener import Listener, Stream
from ci.model.event import EventKind
from ci.roles import bells
from ci.roles.core import Core, Threads

LISTEN = "listen:"
LOOK_EVERY_S = 10
ASKING_S = 300.0
"""What a planner may wait for a silent server in one turn."""
STARTED_BY = {
    EventKind.PATCHSET_CREATED: TriggerKind.PATCHSET_CREATED,
    EventKind.COMMENT_ADDED: TriggerKind.RECHECK,
}


def reporting(layout: Layout, connection: Connection) -> dict[str, dict[EventKind, frozenset[str]]]:
    """By project that some pipeline of a connection watches, who reports after which event."""
    found = {}
    for project in layout.projects:
        used = [layout.pipeline(name) for name in project.pipelines]
        mine = [one.name for one in used if one.connection == connection.name]
        if mine:
            telling = [
                one
                for one in (layout.effective(name, project.name) for name in mine)
                if one.policy is not VotePolicy.SILENT
            ]
            found[project.name] = {
                kind: frozenset(one.name for one in telling if trigger in one.trigger)
                for kind, trigger in STARTED_BY.items()
            }
    return found


class Listening:
    """The listener and the planner of one connection. `start` and `stop` once each.

    Args:
        core: What it shares with the other roles.
        connection: Which server.
    """

    def __init__(self, core: Core, connection: Connection) -> None:
        self._connection = connection
        self._threads = Threads(core.clock, core.board)
        self._janitor = Janitor(threads=2, telemetry=core.telemetry, board=core.board)
        self._planner = core.make_planner(only=connection.name)
        self._listener = _listener(core, connection)

    def start(self) -> None:
        """Listen and plan, each in a thread; returns at once."""
        name, listener = self._connection.name, self._listener
        self._threads.spawn(f"planner-{name}", self._planner.run, limit_s=ASKING_S)
        self._threads.spawn(f"listener-{name}", listener.run)
        every_s = self._connection.catch_up_every_s
        self._janitor.every(every_s, f"catch-up {name}", listener.catch_up)
        self._janitor.every(LOOK_EVERY_S, f"silence {name}", listener.check_silence)
        self._janitor.start()

    def standing(self) -> str:
        """That all events are here up to now.

        Raises:
            ReviewServerError: They are not, and why.
        """
        return self._listener.standing()

    def stop(self) -> None:
        """End both, after the event in hand."""
        self._listener.stop()
        self._planner.stop()
        self._janitor.stop()
        self._threads.join()


def _listener(core: Core, connection: Connection) -> Listener:
    def open_stream(
        on_lines: Callable[[Sequence[bytes]], None], on_up: Callable[[], None]
    ) -> Stream:
        return EventStream(connection, on_lines, on_up)

    owed = reporting(core.layout, connection)
    return Listener(
        connection.name,
        core.database,
        core.clock,
        open_stream,
        Reconciler(core.rests[connection.name], owed, core.clock),
        own_username=connection.user,
        on_stored=lambda: core.bells.ring(bells.planned(connection.name)),
        owed=owed,
        silence_s=connection.silence_s,
        telemetry=core.telemetry,
    )


class ListenRole:
    """Listens to every connection, wherever this process leads.

    Args:
        core: What it shares with the other roles.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._made: dict[str, Listening] = {}
        for connection in core.layout.connections:
            name = connection.name
            core.election.stand(f"{LISTEN}{name}", self._of(connection))
            core.board.check(f"stream {name}", partial(self._standing, name))

    def stop(self) -> None:
        """End, after the events in hand."""
        self._core.election.resign(LISTEN)

    def _of(self, connection: Connection) -> Callable[[Leadership], Listening]:
        def make(_: Leadership) -> Listening:
            self._made[connection.name] = Listening(self._core, connection)
            return self._made[connection.name]

        return make

    def _standing(self, connection: str) -> str:
        if not self._core.election.leads()[f"{LISTEN}{connection}"]:
            return "standby: another process listens, or is being elected"
        return self._made[connection].standing()
