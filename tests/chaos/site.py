# SPDX-License-Identifier: Apache-2.0
"""The place of one run: a review server behind fronts, our processes, their disk and nodes."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci.sandbox.author import Pusher
from ci.sandbox.real.server import RealGerrit
from ci.sandbox.real.site import free_port
from nodes.pretended import Machine
from tests.chaos.crew import Crew, Member
from tests.chaos.store import Hurt, Looker, SqliteFile
from tests.chaos.verdict import Told
from tests.kit.faulty_http import Fronted, Rule, fronted
from tests.kit.installation import PASSWORD_VARIABLE, connection_to
from tests.kit.sandbox_host import SandboxHost

PROJECT = "chaos"
NODES = 4
LEASE_S = 8
DISK_MIB = 192
CHUNK = 1 << 20
BASE_SUITE = "sleep 0.1\nwrite-junit junit.xml pass=3\n"
SQLITE, POSTGRESQL = "sqlite", "postgresql"


def suite(*, broken: bool, seconds: float, tag: str) -> str:
    """The suite of a patch, for a dummy node to follow."""
    cases = "pass=2 fail=test_pass_3" if broken else "pass=3"
    ending = "exit 1\n" if broken else ""
    return f"echo {tag}\nsleep {seconds}\nwrite-junit junit.xml {cases}\n{ending}"


class Disk:
    """A small disk of its own where root may mount one; else it cannot be filled.

    Args:
        path: Where; made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.small = False
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(path)]
            self.small = subprocess.run(mount, check=False, capture_output=True).returncode == 0

    @property
    def _hog(self) -> Path:
        return self.path / "hog"

    def fill(self) -> None:
        """Leave no byte."""
        if not self.small:
            return
        with suppress(OSError), self._hog.open("wb", buffering=0) as hog:
            while True:
                hog.write(b"\0" * CHUNK)

    def free(self) -> None:
        """Give the space back; repeatable."""
        self._hog.unlink(missing_ok=True)

    def close(self) -> None:
        """Take it away, with all that is on it."""
        if self.small:
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything that a run needs.

    Attributes:
        author: Pushes and comments; sees the server without the fronts.
        ci_user: Our account's name.
        fronts: Between us and the server.
        crew: Our processes.
        database: Can be hurt.
        looker: Reads it.
        disk: Of our state.
        machines: The nodes.
        journal: What they wrote.
    """

    author: Pusher
    ci_user: str
    fronts: Fronted
    crew: Crew
    database: Hurt
    looker: Looker
    disk: Disk
    machines: tuple[Machine, ...]
    journal: Path

    def told(self, number: int) -> Told:
        """What the server itself has of a change; `author` sees it without the fronts."""
        path = f"/changes/{PROJECT}~{number}/detail?o=CURRENT_REVISION"
        detail = self.author.server.rest("GET", path)
        votes = detail["labels"].get("Verified", {}).get("all", [])
        mine = [one.get("value", 0) for one in votes if one["username"] == self.ci_user]
        current = detail["revisions"][detail["current_revision"]]["_number"]
        return Told(
            patchset=current,
            vote=mine[0] if mine else 0,
            comments=tuple(
                one["_revision_number"]
                for one in detail["messages"]
                if one.get("author", {}).get("username") == self.ci_user
            ),
        )

    def heal(self) -> None:
        """End every fault."""
        self.disk.free()
        self.database.heal()
        self.fronts.http.clear()
        self.server_back()
        self.fronts.ssh.thaw()
        self.crew.heal()

    def server_away(self) -> None:
        """The review server refuses us."""
        self.fronts.http.down()
        self.fronts.ssh.down()

    def server_back(self) -> None:
        """It takes connections again."""
        self.fronts.http.up()
        self.fronts.ssh.up()

    def server_errors(self, count: int) -> None:
        """REST answers so often with an error."""
        self.fronts.http.add(Rule(path=r"/changes/|/projects/", status=503, count=count))

    def lose_replies(self, count: int) -> None:
        """So many reviews arrive, and we are not told."""
        self.fronts.http.add(Rule(method="POST", path=r"/review$", drop_reply=True, count=count))


def commands(database: str, workers: int) -> dict[str, list[str]]:
    """Which processes there are, by name, with their verb and options."""
    if database == SQLITE:
        return {"serve": ["serve"]}
    found = {"serve-1": ["serve"], "serve-2": ["serve"]}
    for number in range(workers - len(found)):
        found[f"work-{number + 1}"] = ["work"]
    return {name: [*words, "--name", name] for name, words in found.items()}


def build(
    directory: Path, held: ExitStack, *, database: str, review: str, workers: int = 3
) -> Site:
    """Make everything; nothing of ours runs yet. `held` takes it down again."""
    directory.mkdir(parents=True, exist_ok=True)
    host = RealGerrit(directory / "gerrit") if review == "gerrit" else SandboxHost(directory / "r")
    host.start()
    held.callback(host.stop)
    if isinstance(host, RealGerrit):
        host.seed()
    host.create_project(PROJECT)
    author = Pusher(host.admin, PROJECT, directory / "author")
    author.push_branch({"suite.txt": BASE_SUITE, "docs/a.md": "A\n"})
    fronts = held.enter_context(fronted(host.ci, directory))
    disk = Disk(directory / "disk")
    held.callback(disk.close)
    hurt = _database(directory, disk.path / "state", held, database)
    journal, shared = directory / "journal.jsonl", directory / "nodes"
    items = _items(directory, fronts, disk.path / "state", hurt)
    crew = Crew(
        [
            _member(directory, name, words, items, host.ci.password)
            for name, words in commands(database, workers).items()
        ]
    )
    held.callback(crew.kill)
    return Site(
        author=author,
        ci_user=host.ci.user,
        fronts=fronts,
        crew=crew,
        database=hurt,
        looker=Looker(hurt.url),
        disk=disk,
        machines=tuple(
            Machine(folder=shared / f"dummy-{n + 1}", journal=journal) for n in range(NODES)
        ),
        journal=journal,
    )


def _database(directory: Path, state: Path, held: ExitStack, kind: str) -> Hurt:
    if kind == SQLITE:
        return SqliteFile(state / "hypervouch.db")
    from tests.chaos.postgres import PostgresServer  # noqa: PLC0415 - needs PostgreSQL's programs

    return PostgresServer(directory / "pg", held)


def _member(
    directory: Path, name: str, words: Sequence[str], items: list[dict[str, Any]], password: str
) -> Member:
    port = free_port()
    mine = {**items[0]["hypervouch"], "listen": f"127.0.0.1:{port}"}
    config = directory / f"{name}.yaml"
    config.write_text(yaml.safe_dump([{"hypervouch": mine}, *items[1:]], sort_keys=False))
    return Member(
        name=name,
        command=[*words, "-c", str(config)],
        environment={**os.environ, PASSWORD_VARIABLE: password},
        log=directory / f"{name}.log",
    )


def _items(directory: Path, fronts: Fronted, state: Path, hurt: Hurt) -> list[dict[str, Any]]:
    service: dict[str, Any] = {
        "state-dir": str(state),
        "url": "http://127.0.0.1:9/",
        "lease-s": LEASE_S,
        "free-disk-mib": 4,
    }
    if hurt.configured:
        service["database"] = hurt.configured
    quick = {"keepalive-s": 3, "silence-s": 4, "catch-up-every-s": 15}
    dummy = {"name": "dummy", "driver": "dummy", "label": "dummy", "slots": NODES}
    shared = {"shared-dir": str(directory / "nodes"), "journal": str(directory / "journal.jsonl")}
    job = {
        "name": "suite",
        "suite": "driver",
        "run": "follow suite.txt",
        "results": ["junit.xml"],
        "node-label": "dummy",
        "node-attempts": 10,
        "irrelevant-files": ["docs/"],
    }
    return [
        {"hypervouch": service},
        {"connection": {**connection_to(fronts.server), **quick}},
        {
            "pipeline": {
                "name": "check",
                "connection": "gerrit",
                "policy": "vote",
                # One account pushes and rechecks everything.
                "recheck-limit": {"count": 10_000, "per-s": 3600},
            }
        },
        {"provider": {**dummy, **shared}},
        {"job": job},
        {"project": {"name": PROJECT, "check": {"jobs": ["suite"]}}},
    ]
