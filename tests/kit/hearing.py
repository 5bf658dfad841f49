# SPDX-License-Identifier: Apache-2.0
"""A stream in a thread of its own, on whichever server, and what it has told so far."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ci.errors import HypervouchError
from ci.gerrit.parse import parse_line
from ci.gerrit.rest import GerritRest
from ci.gerrit.stream import EventStream
from ci.layout import Connection, SecretRef
from ci.model.event import BranchMoved, Event
from ci.sandbox.account import ReviewServer

PATIENCE_S = 30.0


def settings(account: ReviewServer, **changed: Any) -> Connection:
    """A connection as this account."""
    values: dict[str, Any] = {
        "name": "review",
        "server": account.host,
        "port": account.ssh_port,
        "user": account.user,
        "key_file": account.key_file,
        "known_hosts": account.known_hosts,
        "url": account.url,
        "password": SecretRef(from_env="NOWHERE"),
    }
    return Connection(**(values | changed))


def rest_of(server: ReviewServer) -> GerritRest:
    """A REST client as this account."""
    return GerritRest(settings(server), server.password)


@dataclass
class Heard:
    """What a stream in a thread of its own has told so far."""

    stream: EventStream
    lines: list[bytes] = field(default_factory=list)
    connected: list[int] = field(default_factory=list)
    error: HypervouchError | None = None
    thread: threading.Thread | None = None

    def told(self) -> list[Event | BranchMoved]:
        """Everything that counts, in order."""
        read = [parse_line(line, "review") for line in list(self.lines)]
        return [one for one in read if isinstance(one, Event | BranchMoved)]

    def events(self, project: str) -> list[Event]:
        """The events of one project, in order."""
        return [
            one for one in self.told() if isinstance(one, Event) and one.change.project == project
        ]


@contextmanager
def listening(
    connection: Connection,
    *,
    work: Callable[[bytes], None] = lambda _: None,
    on_connected: Callable[[], None] = lambda: None,
) -> Iterator[Heard]:
    """A stream that has connected; stopped at the end."""

    def take(lines: Sequence[bytes]) -> None:
        for one in lines:
            work(one)
            heard.lines.append(one)

    def connected() -> None:
        heard.connected.append(len(heard.lines))
        on_connected()

    def run() -> None:
        try:
            heard.stream.run_once()
        except HypervouchError as error:
            heard.error = error

    heard = Heard(EventStream(connection, take, connected))
    thread = heard.thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: heard.connected or heard.error)
        yield heard
    finally:
        heard.stream.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that must happen soon."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
