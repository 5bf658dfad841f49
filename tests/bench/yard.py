# SPDX-License-Identifier: Apache-2.0
"""Where the engine is measured: a sandbox, pretended nodes, a database, processes of ours.

Nothing is ever wrong there: what counts is how fast queued builds are claimed, begun and ended.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from ci.app import load_layout
from ci.layout import Layout
from ci.model.change import Change, Patchset
from ci.sandbox.author import Pusher
from ci.sandbox.real.site import free_port
from ci.store import schema
from ci.store.builds import NewBuildset, add_buildset
from ci.store.database import Database
from tests.chaos.crew import Crew, Member
from tests.chaos.journal import Entry, read
from tests.kit.installation import PASSWORD_VARIABLE, connection_to
from tests.kit.many_changes import seed_changes
from tests.kit.postgres import cluster
from tests.kit.sandbox_host import ADMIN_USER, SandboxHost

PROJECT = "bench-engine"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
LEASE_S = 10
POLL_S = 0.05
ROOM = 200
Values = dict[str, Any]


class NeverCame(Exception):
    """What a run waits for did not happen in time."""


@dataclass(frozen=True, kw_only=True)
class Yard:
    """One place for one run.

    Attributes:
        author: Pushes changes.
        host: The review server.
        crew: Processes of ours; not started.
        database: Ours, opened from here.
        layout: What they run.
        journal: Of the nodes.
        directory: Of everything.
    """

    author: Pusher
    host: SandboxHost
    crew: Crew
    database: Database
    layout: Layout
    journal: Path
    directory: Path

    def queue(self, count: int) -> None:
        """Queue so many builds of changes that nobody was told of."""
        numbers = seed_changes(
            self.host.sandbox, PROJECT, count, owner=ADMIN_USER, at=time.time(), commits=True
        )
        store, at = self.host.sandbox.store, datetime.now(UTC)
        for first in range(0, count, ROOM):
            with self.database.write() as tx:
                for number in numbers[first : first + ROOM]:
                    found = store.change(number)
                    assert found is not None
                    add_buildset(tx, _wanted(number, found.current.revision, self.layout), at=at)

    def rows(self, statement: sa.Select[Any]) -> Sequence[Any]:
        """What our tables say."""
        with self.database.read() as tx:
            return tx.execute(statement).all()

    def ended(self) -> int:
        """Builds that are done."""
        done = sa.select(sa.func.count()).where(schema.build.c.state == "done")
        return int(self.rows(done)[0][0])

    def entries(self) -> list[Entry]:
        """What happened on the nodes."""
        return read(self.journal.read_text().splitlines()) if self.journal.exists() else []

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something.

        Raises:
            NeverCame: It did not happen.
        """
        deadline = time.monotonic() + seconds
        while not until():
            self.crew.look()
            if time.monotonic() > deadline:
                logs = [m.log.read_text()[-800:] for m in self.crew.members if m.log.exists()]
                raise NeverCame(f"{what} within {seconds:g} s: {logs}")
            time.sleep(POLL_S)

    def await_listening(self) -> None:
        """Return once an event of ours can no longer be missed."""
        seen = sa.select(sa.func.count()).select_from(schema.watermark)
        self.wait(lambda: bool(self.rows(seen)[0][0]), 60, "the first catch-up")

    def pids(self) -> dict[str, int]:
        """The processes, by name."""
        return {m.name: m.pid for m in self.crew.members if m.pid}


def _wanted(number: int, revision: str, layout: Layout) -> NewBuildset:
    return NewBuildset(
        connection="gerrit",
        change=Change(
            project=PROJECT,
            branch="master",
            number=number,
            change_id=f"I{number:040x}",
            subject=f"Change {number}",
            owner=ADMIN_USER,
            url="",
        ),
        patchset=Patchset(
            number=1, revision=revision, ref=f"refs/changes/{number % 100:02d}/{number}/1"
        ),
        pipeline="check",
        jobs=layout.jobs,
        event_id=None,
        reason="measured",
    )


def make(
    directory: Path,
    held: ExitStack,
    *,
    database: str,
    processes: dict[str, list[str]],
    nodes: int = 16,
    slots: int = 4,
    run: str = "true",
) -> Yard:
    """Make everything; `held` takes it down again.

    Args:
        directory: For all of it; made.
        held: What has to be ended.
        database: SQLITE or POSTGRESQL.
        processes: Verb and options by name.
        nodes: Pretended machines.
        slots: Builds that one process may run at once.
        run: What the nodes are told to do.
    """
    directory.mkdir(parents=True, exist_ok=True)
    host = SandboxHost(directory / "review")
    host.start()
    held.callback(host.stop)
    host.create_project(PROJECT)
    url = ""
    if database == POSTGRESQL:
        url = held.enter_context(cluster(directory / "pg")).make_database("bench")
    items = _items(directory, host, url, nodes=nodes, slots=slots, run=run)
    members = [_member(directory, name, words, items, host) for name, words in processes.items()]
    crew = Crew(members)
    held.callback(crew.kill)
    opened = Database(url) if url else Database.in_directory(directory / "state")
    opened.create()
    held.callback(opened.close)
    return Yard(
        author=Pusher(host.admin, PROJECT, directory / "author"),
        host=host,
        crew=crew,
        database=opened,
        layout=load_layout(directory / f"{members[0].name}.yaml"),
        journal=directory / "journal.jsonl",
        directory=directory,
    )


def _member(
    directory: Path,
    name: str,
    words: Sequence[str],
    items: Sequence[dict[str, Any]],
    host: SandboxHost,
) -> Member:
    mine = {**items[0]["hypervouch"], "listen": f"127.0.0.1:{free_port()}"}
    config = directory / f"{name}.yaml"
    config.write_text(yaml.safe_dump([{"hypervouch": mine}, *items[1:]], sort_keys=False))
    return Member(
        name=name,
        command=[*words, "-c", str(config)],
        environment={**os.environ, PASSWORD_VARIABLE: host.ci.password},
        log=directory / f"{name}.log",
    )


def _items(
    directory: Path, host: SandboxHost, url: str, *, nodes: int, slots: int, run: str
) -> list[dict[str, Any]]:
    service: dict[str, Any] = {
        "state-dir": str(directory / "state"),
        "url": "http://127.0.0.1:9/",
        "lease-s": LEASE_S,
        "worker-slots": slots,
    }
    if url:
        service["database"] = url
    provider = {"name": "dummy", "driver": "dummy", "label": "dummy", "slots": nodes}
    shared = {"shared-dir": str(directory / "nodes"), "journal": str(directory / "journal.jsonl")}
    job = {"name": "suite", "suite": "shell", "run": run, "node-label": "dummy"}
    return [
        {"hypervouch": service},
        {"connection": connection_to(host.ci)},
        {"pipeline": {"name": "check", "connection": "gerrit", "policy": "silent"}},
        {"provider": {**provider, **shared}},
        {"job": job},
        {"project": {"name": PROJECT, "check": {"jobs": ["suite"]}}},
    ]
