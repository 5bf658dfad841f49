# SPDX-License-Identifier: Apache-2.0
"""Rows and log files for page tests, written in few words; `stories.py` tells a whole lab."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.model.result import Judgement, Outcome
from ci.store import schema
from ci.store.builds import make_id
from ci.store.database import Database

NOW = datetime(2026, 11, 22, 17, 41, tzinfo=UTC)
GERRIT = "review"
FACTS = {
    "kernel": "6.1.0-28-amd64",
    "qemu": "7.2.15",
    "accel": "tcg",
    "machine": "q35",
    "python": "3.11.2",
}


def ago(seconds: float) -> datetime:
    """`seconds` before NOW."""
    return NOW - timedelta(seconds=seconds)


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """A Judgement as its column holds it."""
    value: dict[str, Any] = json.loads(json.dumps(asdict(judgement)))
    return value


class Rows:
    """Writes rows in few words; every method has defaults that make sense together."""

    def __init__(self, database: Database, logs_dir: Path) -> None:
        self.database = database
        self.logs_dir = logs_dir

    def insert(self, table: sa.Table, rows: dict[str, Any] | Sequence[dict[str, Any]]) -> None:
        """Insert one row or many in a transaction of their own."""
        with self.database.write() as tx:
            tx.execute(sa.insert(table), rows)

    def change(self, number: int, subject: str, *, patchset: int = 1, **other: Any) -> None:
        """A change; see the columns of `ci_change` for `other`."""
        values = {
            "connection": GERRIT,
            "number": number,
            "project": "acme/virt-driver",
            "branch": "master",
            "change_id": "I" + hashlib.sha256(str(number).encode()).hexdigest()[:40],
            "subject": subject,
            "owner": "mira",
            "url": f"https://review.example.org/c/acme/virt-driver/+/{number}",
            "status": "NEW",
            "patchset": patchset,
            "updated_at": ago(60),
        }
        self.insert(schema.change, values | other)

    def event(self, number: int, patchset: int | None, decision: str | None, **other: Any) -> None:
        """A stored event and what it led to."""
        at: datetime = other.pop("at", ago(600))
        kind = other.pop("kind", "patchset-created")
        values = {
            "connection": GERRIT,
            "key": f"{kind}:{number}:{patchset}:{at.timestamp()}",
            "kind": kind,
            "project": "acme/virt-driver",
            "change_number": number,
            "patchset": patchset,
            "payload": {"author": {"username": other.pop("author", "mira")}},
            "source": "stream",
            "occurred_at": at,
            "received_at": at + timedelta(seconds=0.3),
            "processed_at": at + timedelta(seconds=0.4) if decision is not None else None,
            "decision": decision,
        }
        self.insert(schema.event, values | other)

    def buildset(self, change: int, patchset: int = 1, *, at: datetime, **other: Any) -> str:
        """A buildset; its id."""
        recheck = other.get("recheck", 0)
        values = {
            "id": make_id("buildset", change, patchset, recheck),
            "connection": GERRIT,
            "project": "acme/virt-driver",
            "branch": "master",
            "change_number": change,
            "patchset": patchset,
            "revision": hashlib.sha256(f"{change},{patchset}".encode()).hexdigest()[:40],
            "ref": f"refs/changes/{change % 100:02d}/{change}/{patchset}",
            "pipeline": "check",
            "recheck": 0,
            "event_id": None,
            "reason": "patchset-created by mira",
            "state": "done",
            "verdict": None,
            "created_at": at,
            "finished_at": None,
        }
        values |= other
        self.insert(schema.buildset, values)
        return str(values["id"])

    def build(self, buildset_id: str, job: str = "functional-qemu", **other: Any) -> str:
        """A build; its id. `judgement` may be a Judgement."""
        judgement = other.pop("judgement", None)
        values: dict[str, Any] = {
            "id": make_id("build", buildset_id, job),
            "buildset_id": buildset_id,
            "job_name": job,
            "job": {"name": job, "suite": "driver"},
            "node_label": "qemu-tcg",
            "voting": True,
            "state": "done",
            "waiting": "",
            "cancel_reason": None,
            "result": judgement.result.value if judgement else None,
            "failure_class": judgement.failure_class.value if judgement else None,
            "reason": judgement.reason if judgement else "",
            "judgement": judgement_json(judgement) if judgement else None,
            "queued_at": ago(900),
            "started_at": None,
            "finished_at": None,
        }
        values |= other
        self.insert(schema.build, values)
        return str(values["id"])

    def attempt(
        self, build_id: str, number: int = 1, *, began: datetime, took_s: float = 160, **other: Any
    ) -> str:
        """An attempt; its id."""
        values: dict[str, Any] = {
            "id": make_id("attempt", build_id, number),
            "build_id": build_id,
            "number": number,
            "kind": "check",
            "state": "done",
            "phase": "done",
            "result": "SUCCESS",
            "error": "",
            "hint": "",
            "node": "qemu-1",
            "token": 41 + number,
            "grade": "nested",
            "hypervisor": "qemu:///system",
            "facts": FACTS,
            "tip": "9b1c4f0a6de27f3b5a8c1d2e3f405162738495a6",
            "tree": "4e5d6c7b8a99a8b7c6d5e4f30123456789abcdef",
            "exit_status": 0,
            "started_at": began,
            "leased_at": began + timedelta(seconds=took_s * 0.05),
            "suite_started_at": began + timedelta(seconds=took_s * 0.3),
            "finished_at": began + timedelta(seconds=took_s),
        }
        values |= other
        self.insert(schema.attempt, values)
        return str(values["id"])

    def outcomes(self, attempt_id: str, outcomes: Iterable[Outcome]) -> None:
        """What the tests of an attempt gave, in run order."""
        rows = [
            {"attempt_id": attempt_id, **asdict(item), "status": item.status.value}
            for item in outcomes
        ]
        self.insert(schema.outcome, rows)

    def vote(self, buildset_id: str, value: int | None, state: str, **other: Any) -> None:
        """What is owed for a buildset."""
        with self.database.read() as tx:
            about = tx.execute(
                sa.select(schema.buildset).where(schema.buildset.c.id == buildset_id)
            ).one()
        values = {
            "buildset_id": buildset_id,
            "connection": GERRIT,
            "project": about.project,
            "change_number": about.change_number,
            "patchset": about.patchset,
            "revision": about.revision,
            "tag": "autogenerated:hypervouch:check",
            "marker": str(about.id),
            "message": "Build finished (check pipeline).",
            "label": "Verified" if value else None,
            "value": value or None,
            "state": state,
            "tries": 1,
            "next_at": about.finished_at or NOW,
            "error": "",
            "created_at": about.finished_at or NOW,
            "settled_at": None if state == "pending" else about.finished_at,
        }
        self.insert(schema.outbox, values | other)

    def node(self, name: str, state: str = "Good", **other: Any) -> None:
        """A slot."""
        values = {
            "name": name,
            "label": "qemu-tcg",
            "provider": "local-qemu",
            "state": state,
            "reason": "",
            "failures": 0,
            "checked_at": ago(95),
            "token": 44,
            "holder": None,
            "leased_at": None,
            "expires_at": None,
        }
        self.insert(schema.node, values | other)

    def attempt_dir(self, build_id: str, attempt_id: str) -> Path:
        """Where an attempt keeps its files; made on demand."""
        folder = self.logs_dir / build_id / attempt_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def console(
        self, build_id: str, attempt_id: str, lines: Iterable[str | bytes], *, began: datetime
    ) -> Path:
        """A console log, one line every 0.4 s from `began` on."""
        path = self.attempt_dir(build_id, attempt_id) / "console.log"
        with path.open("wb") as log:
            for index, line in enumerate(lines):
                at = began + timedelta(seconds=0.4 * index)
                stamp = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
                raw = line.encode() if isinstance(line, str) else line
                log.write(stamp.encode() + b" | " + raw + b"\n")
        return path

    def artifacts(self, build_id: str, attempt_id: str, files: dict[str, bytes]) -> None:
        """Artifacts with the manifest that names them."""
        folder = self.attempt_dir(build_id, attempt_id)
        manifest = []
        for name, content in files.items():
            path = folder / "logs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            manifest.append({"path": f"logs/{name}", "size_bytes": len(content), "sha256": digest})
        (folder / "manifest.json").write_text(json.dumps({"files": manifest}))


def many_builds(database: Database, count: int) -> None:
    """`count` finished builds with an attempt each, one a minute, over 20 changes a project."""
    changes, sets, builds, attempts = [], [], [], []
    for index in range(count):
        at = ago(60 * (count - index))
        number = 10_000 + index
        passed = index % 5 != 0
        common = {"connection": GERRIT, "project": f"acme/driver-{index % 4}", "branch": "master"}
        changes.append(
            common
            | {
                "number": number,
                "change_id": f"I{index:040x}",
                "subject": f"Teach the driver trick number {index}",
                "owner": "mira",
                "url": f"https://review.example.org/{number}",
                "status": "NEW",
                "patchset": 1,
                "updated_at": at,
            }
        )
        sets.append(
            common
            | {
                "id": f"s{index:011x}",
                "change_number": number,
                "patchset": 1,
                "revision": f"{index:040x}",
                "ref": f"refs/changes/{number % 100:02d}/{number}/1",
                "pipeline": "check",
                "recheck": 0,
                "reason": "patchset-created",
                "state": "done",
                "created_at": at,
            }
        )
        builds.append(
            {
                "id": f"b{index:011x}",
                "buildset_id": f"s{index:011x}",
                "job_name": f"functional-{index % 3}",
                "job": {},
                "node_label": "qemu-tcg",
                "voting": True,
                "state": "done",
                "result": "SUCCESS" if passed else "FAILURE",
                "failure_class": "pass" if passed else "regression",
                "reason": "all 11 tests passed" if passed else "this patch breaks 1 test",
                "queued_at": at,
                "started_at": at,
                "finished_at": at + timedelta(seconds=171),
            }
        )
        attempts.append(
            {
                "id": f"a{index:011x}",
                "build_id": f"b{index:011x}",
                "number": 1,
                "kind": "check",
                "state": "done",
                "phase": "done",
                "result": "SUCCESS" if passed else "FAILURE",
                "node": "qemu-1",
                "grade": "nested",
                "hypervisor": "qemu:///system",
                "started_at": at,
            }
        )
    with database.write() as tx:
        for table, values in (
            (schema.change, changes),
            (schema.buildset, sets),
            (schema.build, builds),
            (schema.attempt, attempts),
        ):
            tx.execute(sa.insert(table), values)
