# SPDX-License-Identifier: Apache-2.0
"""Whether one dead Gerrit makes another one's patches wait.

Three installations take turns on the same changes' server: one with this connection alone,
one whose second server refuses connections, one whose second server accepts them and never
says a word. The second server told a few patch sets before it died; whether they start
anything depends on the changed files, which only it knows. Measured is the time from an
event's arrival until its review is owed, which that second server has no part in.
"""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ci.gerrit.parse import parse_line
from ci.model.event import Event, EventKind
from ci.sandbox.account import ReviewServer
from ci.sandbox.real.site import free_port
from ci.store import events
from ci.store.database import Database
from tests.bench import facts, stored
from tests.bench.changes import Changes
from tests.bench.ours import Ours
from tests.bench.runs import Field
from tests.bench.stream import Stream

PARTS, CHANGES_EACH = 3, 10
EVERY_S = 1.0
WAIT_S = 180.0
TOLD = 5
DEAD = "dead"
VARIANTS = ("alone", "refuses", "silent")
HOST = "127.0.0.1"
Values = dict[str, Any]


def beside_dead(server: ReviewServer, changes: Changes, stream: Stream, directory: Path) -> Values:
    """Interleaved parts of all three; by its name what each came to."""
    took: dict[str, list[float]] = {name: [] for name in VARIANTS}
    late = dict.fromkeys(VARIANTS, 0)
    with ExitStack() as held:
        ports = {"refuses": free_port(), "silent": held.enter_context(_silent_port())}
        contenders = {
            name: Ours(server, directory / name, further=_second(server, ports.get(name)))
            for name in VARIANTS
        }
        for name in VARIANTS[1:]:
            _tell(contenders[name].state_dir)
        for _ in range(PARTS):
            for name, contender in contenders.items():
                field = Field(contender=contender, changes=changes, stream=stream)
                found = _part(field, contender)
                took[name] += found
                late[name] += CHANGES_EACH - len(found)
    return {
        "count": PARTS * CHANGES_EACH,
        **{name: {**quantiles(took[name]), "not_owed": late[name]} for name in VARIANTS},
    }


def quantiles(took_s: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and the longest, in seconds; nothing of nothing."""
    if not took_s:
        return {}
    ordered = sorted(took_s)
    p50, p99 = (ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(ordered[-1], 3)}


def _part(field: Field, contender: Ours) -> list[float]:
    """Some changes, one a second whatever becomes of them; seconds until each was owed."""
    contender.start()
    try:
        field.warm_up()
        numbers = []
        for _ in range(CHANGES_EACH):
            began = time.monotonic()
            numbers.append(field.changes.post(field.project()))
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
        deadline = time.monotonic() + WAIT_S
        found = stored.to_outbox_s(contender.state_dir, numbers)
        while len(found) < len(numbers) and time.monotonic() < deadline:
            time.sleep(0.2)
            found = stored.to_outbox_s(contender.state_dir, numbers)
    finally:
        contender.stop()
    return list(found.values())


def _second(server: ReviewServer, port: int | None) -> list[dict[str, Any]]:
    """Configuration of a second connection, whose server is at that port; none without."""
    if port is None:
        return []
    connection = Ours.connection(
        replace(server, host=HOST, ssh_port=port, url=f"http://{HOST}:{port}")
    )
    job = {"name": "dead", "suite": "shell", "run": "true", "node-label": "bench", "trusted": True}
    return [
        {"connection": {**connection, "name": DEAD}},
        {"pipeline": {"name": "check_dead", "connection": DEAD, "policy": "vote"}},
        {"job": {**job, "files": ["^src/"]}},
        {"project": {"name": facts.PROJECT, "check_dead": {"jobs": ["dead"]}}},
    ]


def _tell(state_dir: Path) -> None:
    """Store what the second server told before it died."""
    database = Database.in_directory(state_dir)
    database.create()
    told = (parse_line(line, DEAD) for line in facts.all_new(1_000))
    uploads = (
        one for one in told if isinstance(one, Event) and one.kind is EventKind.PATCHSET_CREATED
    )
    now = datetime.now(UTC)
    events.store_all(database, list(islice(uploads, TOLD)), received_at=now, move_watermark=True)
    database.close()


@contextmanager
def _silent_port() -> Iterator[int]:
    """A port that takes connections, keeps them, and never says anything."""
    kept: list[socket.socket] = []
    with socket.create_server((HOST, 0), backlog=64) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    kept.append(listening.accept()[0])

        threading.Thread(target=accept, name="silent", daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for one in kept:
                one.close()
