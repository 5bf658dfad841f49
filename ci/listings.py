# SPDX-License-Identifier: Apache-2.0
"""What the listing verbs print: the same rows that the pages show."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from ci import settings
from ci.clock import SystemClock
from ci.errors import ConfigError
from ci.layout import Layout
from ci.log_mirror import Mirror
from ci.log_shelf import open_shelf
from ci.store import notices, pins, schema
from ci.store.database import Database
from ci.store.outbox import OPEN
from ci.store.reads import all_nodes, build_detail, builds_page
from ci.store.reads.records import (
    AttemptDetail,
    BuildDetail,
    BuildFilter,
    BuildRecord,
    NodeRecord,
)

FOLLOW_S = 0.3
PIPE_WIDTH = 240
HOURS_FROM = 120
ENDED = frozenset({"done", "canceled"})


def _layout(config: Path) -> Layout:
    return settings.load(config)


def open_database(config: Path) -> Database:
    """The database of an installation that has run at least once.

    Raises:
        ConfigError: The configuration is wrong, or nothing was ever run with it.
    """
    service = _layout(config).service
    if (database := Database.that_ran(service)) is None:
        where = service.database or service.state_dir
        raise ConfigError(f"nothing was ever run in {where}", hint="start it: `hypervouch serve`")
    return database


def print_json(value: object) -> None:
    """Print records as JSON."""
    click.echo(json.dumps(_plain(value), indent=1, default=str))


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below their headings; wide where nobody looks."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


def _when(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%SZ") if at else ""


def show_builds(config: Path, *, as_json: bool, limit: int, state: str | None) -> None:
    """Print builds, newest first."""
    page = builds_page(open_database(config), BuildFilter(state=state), limit=limit)
    now = SystemClock().now()
    if as_json:
        print_json(page.builds)
        return
    print_table(
        ("build", "change", "job", "state", "line", "result", "evidence", "queued", "why"),
        (
            (
                b.id,
                f"{b.change_number},{b.patchset}",
                b.job,
                b.state,
                place_words(b, now),
                b.result,
                b.grade,
                _when(b.queued_at),
                b.reason or b.waiting,
            )
            for b in page.builds
        ),
    )


def place_words(build: BuildRecord, now: datetime) -> str:
    """Where a waiting build stands in its line, and when it may start; empty for others."""
    if build.state != "queued" or build.position is None:
        return ""
    if build.eta_at is None:
        return f"{build.position}, start unknown"
    minutes = max(0, round((build.eta_at - now).total_seconds() / 60))
    start = f"in {minutes} min" if minutes < HOURS_FROM else f"in {minutes / 60:.0f} h"
    return f"{build.position}, {start} ({build.eta_at:%H:%MZ})"


def show_build(config: Path, build_id: str, *, as_json: bool) -> None:
    """Print one build."""
    detail = _detail(open_database(config), build_id)
    if as_json:
        print_json(detail)
        return
    build = detail.build
    click.echo(f"{build.result or build.state}: {build.reason or build.waiting}")
    if place := place_words(build, SystemClock().now()):
        click.echo(f"place in the line of {build.node_label}: {place}")
    click.echo(
        f"{build.job} on change {build.change_number},{build.patchset} of {build.project}: "
        f"{build.subject}"
    )
    for finding in detail.judgement.findings if detail.judgement else ():
        click.echo(f"  {finding.failure_class}: {finding.test_id}: {finding.reason}")
        click.echo(f"    {finding.message}")
    print_table(
        ("attempt", "kind", "result", "node", "evidence", "hypervisor", "error"),
        (
            (a.number, a.kind, a.result or a.phase, a.node, a.grade, a.hypervisor, a.error)
            for a in detail.attempts
        ),
    )


def _detail(database: Database, build_id: str) -> BuildDetail:
    detail = build_detail(database, build_id)
    if detail is None:
        raise ConfigError(f"there is no build {build_id}", hint="see `hypervouch builds`")
    return detail


def print_log(config: Path, build_id: str, *, follow: bool, number: int | None) -> None:
    """Print the log of an attempt, and with `follow` all that still comes."""
    service = _layout(config).service
    mirror = Mirror(service.state_dir / "logs", open_shelf(service), service.log_mirror_mib << 20)
    database = open_database(config)
    place = 0
    shown = ""
    while True:
        detail = _detail(database, build_id)
        attempt = _attempt(detail, number)
        if attempt:
            if attempt.id != shown:
                shown, place = attempt.id, 0
            mirror.console(build_id, attempt.id)
            file = mirror.spool / build_id / attempt.id / "console.log"
            place = _print_from(file, place)
        if not follow or detail.build.state in ENDED:
            if not place:
                _say_why_none(database, mirror, build_id)
            return
        time.sleep(FOLLOW_S)


def _say_why_none(database: Database, mirror: Mirror, build_id: str) -> None:
    """Say on the error stream why there is no log to print."""
    day, _ = pins.keeping(database, build_id)
    if day:
        click.echo(f"the logs of this build were removed on {day}, by retention", err=True)
    elif mirror.trouble:
        click.echo(f"the log cannot be fetched: {mirror.trouble}", err=True)
    else:
        click.echo("there is no log yet, or it is not published yet", err=True)


def show_pins(config: Path, *, as_json: bool) -> None:
    """Print pinned builds."""
    found = pins.pins(open_database(config))
    if as_json:
        print_json(found)
        return
    print_table(
        ("build", "since", "by", "why"),
        ((one.build_id, _when(one.at), one.by, one.why) for one in found),
    )


def _attempt(detail: BuildDetail, number: int | None) -> AttemptDetail | None:
    if number is None:
        return max(detail.attempts, key=lambda a: a.number, default=None)
    found = next((a for a in detail.attempts if a.number == number), None)
    if found is None:
        raise ConfigError(f"build {detail.build.id} has no attempt {number}")
    return found


def _print_from(file: Path, place: int) -> int:
    """Print what a log has gained since `place`, in bytes; returns where it ends now."""
    try:
        with file.open("rb") as log:
            log.seek(place)
            data = log.read()
    except FileNotFoundError:
        return place
    click.echo(data.decode("utf-8", "replace"), nl=False)
    return place + len(data)


def show_nodes(config: Path, *, as_json: bool) -> None:
    """Print nodes."""
    rows = all_nodes(open_database(config))
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    print_table(
        ("node", "label", "health", "use", "failed", "changes", "checked", "health job", "why"),
        (
            (
                n.name,
                n.label,
                n.state,
                _use(n),
                n.failures or "",
                len(n.blamed_by) or "",
                _when(n.checked_at),
                _age(n.health_at, now) + (f", failed {n.health_tries}" if n.health_tries else ""),
                n.reason,
            )
            for n in rows
        ),
    )


def _use(node: NodeRecord) -> str:
    if node.held_until is not None:
        return f"held until {node.held_until:%Y-%m-%d %H:%MZ} by {node.held_by}: {node.held_why}"
    armed = ", next failure is held" if node.held_for_s else ""
    return f"{node.build_id or node.use}{armed}"


def _age(at: datetime | None, now: datetime) -> str:
    if at is None:
        return ""
    minutes = max(0, round((now - at).total_seconds() / 60))
    return f"{minutes} min ago" if minutes < HOURS_FROM else f"{minutes / 60:.0f} h ago"


def show_outbox(config: Path, *, as_json: bool, everything: bool) -> None:
    """Print reviews that are owed or held back; with `everything`, the settled ones as well."""
    table = schema.outbox
    query = sa.select(table).order_by(table.c.id.desc()).limit(200)
    if not everything:
        query = query.where(table.c.state.in_(OPEN))
    with open_database(config).read() as tx:
        rows = [dict(row) for row in tx.execute(query).mappings()]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("id", "server", "change", "vote", "state", "by", "tries", "next try", "why"),
        (
            (
                r["id"],
                r["connection"],
                f"{r['change_number']},{r['patchset']}",
                f"{r['label']} {r['value']:+d}" if r["label"] else "comment",
                r["state"],
                r["transport"],
                r["tries"],
                _when(r["next_at"]) if r["state"] == "pending" else "",
                r["error"],
            )
            for r in rows
        ),
    )


def show_notices(config: Path, *, as_json: bool, everything: bool) -> None:
    """Print notices by reporter, with what stands in the way of each."""
    reporters = {r.name: r.notices for r in _layout(config).reporters}
    with open_database(config).read() as tx:
        lines = notices.listing(tx, reporters, everything=everything)
    if as_json:
        print_json(lines)
        return
    print_table(
        ("reporter", "notice", "state", "tries", "next try", "why", "about"),
        (
            (
                line.reporter,
                line.kind,
                line.state if line.configured else f"{line.state}, no such reporter any more",
                line.tries,
                _when(line.next_at),
                line.error,
                line.subject,
            )
            for line in lines
        ),
    )
