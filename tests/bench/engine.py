# SPDX-License-Identifier: Apache-2.0
"""The runs of the engine: dispatch, rate, recovery, a deep queue, memory and bytes a build.

Each is made on SQLite, where one process does everything, and on PostgreSQL, and returns plain
values; `python -m tests.bench --only dispatch,rate,recovery,deep,weight`.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.model.node import NodeState
from ci.store import queue, schema
from ci.store.database import Database
from tests.bench import yard
from tests.bench.meter import MIB, pss_bytes, tree
from tests.bench.yard import POSTGRESQL, SQLITE, Yard
from tests.chaos.crew import now_s

PUSHES, GAP_S = 60, 0.35
BUILDS = 240
LONG_S = 600
WEIGHT_S = 150.0
DEEP, SHALLOW, CLAIMS = 10_000, 100, 60
WORKER = "bench"
Values = dict[str, Any]


def processes(database: str, workers: int) -> dict[str, list[str]]:
    """One that does everything on SQLite; a listener and workers on PostgreSQL."""
    if database == SQLITE:
        return {"serve": ["serve"]}
    named = {"listen": ["listen"], **{f"work-{n + 1}": ["work"] for n in range(workers)}}
    return {name: [*words, "--name", name] for name, words in named.items()}


def _ms(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(1000 * statistics.median(ordered), 1),
        "p99": round(1000 * ordered[round(0.99 * (len(ordered) - 1))], 1),
        "max": round(1000 * ordered[-1], 1),
    }


def dispatch(directory: Path, database: str) -> Values:
    """Changes one by one at rest: queued, claimed, attempt begun. Milliseconds."""
    with ExitStack() as held:
        made = yard.make(
            directory, held, database=database, processes=processes(database, workers=1)
        )
        made.crew.start()
        made.await_listening()
        for number in range(PUSHES):
            made.author.push_change(f"Push {number}", {"a.txt": f"{number}\n"})
            time.sleep(GAP_S)
        made.wait(lambda: made.ended() >= PUSHES, 120, f"{PUSHES} builds")
        build, attempt = schema.build, schema.attempt
        found = made.rows(
            sa.select(build.c.queued_at, build.c.started_at, attempt.c.started_at)
            .join(attempt, attempt.c.build_id == build.c.id)
            .where(attempt.c.number == 1)
        )
    claimed = [(claim - queued).total_seconds() for queued, claim, _ in found]
    begun = [(begin - queued).total_seconds() for queued, _, begin in found]
    return {"count": len(found), "claimed": _ms(claimed), "begun": _ms(begun)}


def rate(directory: Path, database: str, workers: int) -> Values:
    """Builds that do nothing, all queued before: from the first claim to the last end."""
    with ExitStack() as held:
        made = yard.make(directory, held, database=database, processes=processes(database, workers))
        made.queue(BUILDS)
        made.crew.start()
        made.wait(lambda: made.ended() >= BUILDS, 240, f"{BUILDS} builds")
        build = schema.build
        times = sa.select(sa.func.min(build.c.started_at), sa.func.max(build.c.finished_at))
        first, last = made.rows(times)[0]
    took_s = (last - first).total_seconds()
    return {"count": BUILDS, "per_s": round(BUILDS / took_s, 1), "took_s": round(took_s, 1)}


def recovery(directory: Path, database: str, how: str) -> Values:
    """A process is killed in a suite: seconds from the kill until one begins anew.

    Args:
        directory: For everything.
        database: SQLITE or POSTGRESQL.
        how: `restart` starts it again at once; `other` leaves it to another worker.
    """
    with ExitStack() as held:
        made = yard.make(
            directory,
            held,
            database=database,
            processes=processes(database, workers=2 if how == "other" else 1),
            run=f"sleep {LONG_S}",
        )
        made.queue(1)
        made.crew.start()
        made.wait(lambda: bool(_begun(made)), 60, "the suite")
        first = _begun(made)[0]
        # Both must have told that they live, or the other one counts as never started.
        time.sleep(3.0)
        victim = next(m for m in made.crew.members if m.pid == first.pid)
        killed_s = now_s()
        victim.kill()
        if how == "restart":
            victim.start()
        made.wait(lambda: len(_begun(made)) > 1, 120, "the suite again")
        again = _begun(made)[1]
    return {"count": 1, "lease_s": yard.LEASE_S, "again_s": round(again.at_s - killed_s, 2)}


def _begun(made: Yard) -> list[Any]:
    return [entry for entry in made.entries() if entry.word == "begin"]


def deep(directory: Path, database: str) -> Values:
    """One claim with 100 and with 10,000 builds in line. Milliseconds."""
    found: Values = {"count": DEEP}
    for name, count in (("shallow", SHALLOW), ("deep", DEEP)):
        with ExitStack() as held:
            made = yard.make(directory / name, held, database=database, processes={"x": ["work"]})
            made.queue(1)
            _multiply(made.database, count)
            _add_nodes(made.database, CLAIMS * 2)
            found[name] = _ms([_claim_s(made.database) for _ in range(CLAIMS)])
    found["ratio"] = round(found["deep"]["p50"] / found["shallow"]["p50"], 2)
    return found


def _multiply(database: Database, count: int) -> None:
    """Queue the one build so many times."""
    sets, builds = schema.buildset, schema.build
    with database.write() as tx:
        one_set = dict(tx.execute(sa.select(sets)).mappings().one())
        one = dict(tx.execute(sa.select(builds)).mappings().one())
        tx.execute(
            sa.insert(sets),
            [{**one_set, "id": f"s{n}", "change_number": 10**6 + n} for n in range(count)],
        )
        tx.execute(
            sa.insert(builds),
            [
                {**one, "id": f"b{n}", "buildset_id": f"s{n}", "turn": one["turn"] + n + 1}
                for n in range(count)
            ],
        )


def _add_nodes(database: Database, count: int) -> None:
    rows = [
        {"name": f"n{n}", "label": "dummy", "provider": "dummy", "state": NodeState.GOOD.value}
        for n in range(count)
    ]
    with database.write() as tx:
        tx.execute(sa.insert(schema.node), rows)


def _claim_s(database: Database) -> float:
    began = time.perf_counter()
    with database.write() as tx:
        claim = queue.claim_next(tx, worker=WORKER, slots=CLAIMS * 2, at=datetime.now(UTC))
    assert claim is not None
    return time.perf_counter() - began


def weight(directory: Path, database: str) -> Values:
    """Memory of each process over as many builds as fit into some minutes, and bytes a build."""
    with ExitStack() as held:
        made = yard.make(
            directory, held, database=database, processes=processes(database, workers=2), slots=8
        )
        made.queue(BUILDS)
        made.crew.start()
        made.wait(lambda: made.ended() >= BUILDS // 2, 120, "the first builds")
        early, began, queued = _pss_mib(made), time.monotonic(), BUILDS
        first = made.ended()
        while time.monotonic() - began < WEIGHT_S:
            if queued - made.ended() < BUILDS // 2:
                made.queue(BUILDS)
                queued += BUILDS
            time.sleep(0.5)
        ended, late = made.ended(), _pss_mib(made)
        sizes = _sizes(made) if database == POSTGRESQL else {}
    grown = {
        name: round(1000 * (late[name] - early[name]) / max(1, ended - first), 2)
        for name in early
        if name in late
    }
    return {"count": ended, "early_mib": early, "late_mib": late, "mib_per_1000": grown, **sizes}


def _pss_mib(made: Yard) -> dict[str, float]:
    return {
        name: round(sum(map(pss_bytes, tree([pid]))) / MIB, 1) for name, pid in made.pids().items()
    }


def _sizes(made: Yard) -> Values:
    """Rows and bytes a build: of our tables, and of the engine's wherever they are."""
    sql = """
        SELECT n.nspname AS place, sum(pg_total_relation_size(c.oid)) AS bytes
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        GROUP BY n.nspname"""
    with made.database.read() as tx:
        by_place = {row.place: int(row.bytes) for row in tx.execute(sa.text(sql))}
        rows = {
            table.name: tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in schema.metadata.sorted_tables
        }
    ended = made.ended()
    return {
        "bytes_per_build": {place: round(size / ended) for place, size in by_place.items()},
        "rows_per_build": {
            name: round(count / ended, 2) for name, count in rows.items() if count > ended / 2
        },
    }


def runs(directory: Path) -> dict[str, list[tuple[str, Callable[[], Values]]]]:
    """By the name that is asked for, what is recorded under which name."""
    both = (SQLITE, POSTGRESQL)

    def at(*parts: object) -> Path:
        return directory / "-".join(map(str, parts))

    return {
        "dispatch": [(f"dispatch-{d}", partial(dispatch, at("dispatch", d), d)) for d in both],
        "rate": [
            (f"rate-{d}-{n}", partial(rate, at("rate", d, n), d, n))
            for d, n in ((SQLITE, 1), (POSTGRESQL, 1), (POSTGRESQL, 2), (POSTGRESQL, 4))
        ],
        "recovery": [
            (f"recovery-{d}-{how}", partial(recovery, at("again", d, how), d, how))
            for d, how in ((SQLITE, "restart"), (POSTGRESQL, "restart"), (POSTGRESQL, "other"))
        ],
        "deep": [(f"deep-{d}", partial(deep, at("deep", d), d)) for d in both],
        "weight": [(f"weight-{d}", partial(weight, at("weight", d), d)) for d in both],
    }
