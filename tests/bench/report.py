# SPDX-License-Identifier: Apache-2.0
"""Results as JSON lines, and their medians as a Markdown table beside the targets."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# What each fault run counts over rounds; every bench patch is good.
_TALLY = ("changes", "voted", "lost", "doubled", "negative")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        run: Name of the run.
        title: What is measured, with its unit.
        path: Where the value stands in a result.
        target: The most it may be for us; None: only told.
        beside: Where in our own result the value stands that it is compared with, where that
            is not the null CI's.
    """

    run: str
    title: str
    path: tuple[str, ...]
    target: float | None = None
    beside: tuple[str, ...] = ()


FIGURES = (
    Figure(run="seq", title="one no-op patch, p50 s", path=("latency", "p50"), target=0.21),
    Figure(run="seq", title="... p95 s", path=("latency", "p95"), target=0.40),
    Figure(
        run="burst",
        title="burst of 50, last vote after last push, s",
        path=("after_last_push_s",),
        target=4.0,
    ),
    Figure(run="burst", title="... p50 s", path=("latency", "p50")),
    Figure(run="burst", title="... p95 s", path=("latency", "p95")),
    Figure(run="burst", title="... pushes took, s", path=("pushes_s",)),
    Figure(run="burst", title="... CPU ms a vote", path=("used", "cpu_ms_per_vote"), target=60),
    Figure(run="burst", title="... peak PSS MiB", path=("used", "peak_pss_mib"), target=200),
    Figure(run="big", title="burst of 200, p50 s", path=("latency", "p50"), target=12),
    Figure(run="big", title="... max s", path=("latency", "max"), target=20),
    Figure(run="idle", title="idle, PSS MiB", path=("used", "peak_pss_mib"), target=150),
    Figure(run="idle", title="... CPU percent", path=("used", "cpu_percent")),
    Figure(run="log", title="20 MB log, p50 s", path=("latency", "p50"), target=0.4),
    Figure(
        run="sleep",
        title="`sleep 1`, burst of 20, 4 at once, last vote after last push, s",
        path=("after_last_push_s",),
    ),
    Figure(
        run="pages", title="newest 50 of 10,000 builds, HTML p50 ms", path=("html", "p50"), target=8
    ),
    Figure(run="pages", title="... JSON p50 ms", path=("json", "p50")),
    Figure(run="intake", title="events stored a second, 500 at once", path=("together", "per_s")),
    Figure(run="intake", title="... CPU us an event", path=("together", "cpu_us")),
    Figure(run="intake", title="... one at a time, a second", path=("alone", "per_s")),
    Figure(run="intake", title="... CPU us an event", path=("alone", "cpu_us")),
    Figure(run="intake", title="... only parsed, a second", path=("parse", "per_s")),
    Figure(run="intake", title="... CPU us an event", path=("parse", "cpu_us")),
    Figure(
        run="replay",
        title="replay, RSS MiB, last third of the events beside the first",
        path=("last_third_mib",),
        beside=("first_third_mib",),
    ),
    Figure(run="replay", title="... most", path=("max_mib",)),
    Figure(
        run="catch-up",
        title="1,000 missed patch sets, start to all stored, beside the search alone, s",
        path=("stored_s",),
        beside=("search_s",),
    ),
    Figure(run="catch-up", title="... to all planned, s", path=("planned_s",)),
    Figure(run="catch-up", title="... peak RSS MiB", path=("peak_rss_mib",)),
    *(
        Figure(
            run="dead-other",
            title=f"event to owed review, the other Gerrit {how}, {which} s",
            path=(how, which),
            beside=("alone", which),
        )
        for how in ("refuses", "silent")
        for which in ("p50", "p99")
    ),
    *(
        Figure(run=f"dispatch-{database}", title=f"{title}, {database}, {which} ms", path=path)
        for database in ("sqlite", "postgresql")
        for which in ("p50", "p99")
        for title, path in (
            ("patch set at rest, queued to claimed", ("claimed", which)),
            ("... queued to attempt begun", ("begun", which)),
        )
    ),
    *(
        Figure(run=f"rate-{name}", title=f"no-op builds a second, {title}", path=("per_s",))
        for name, title in (
            ("sqlite-1", "SQLite, `serve`"),
            ("postgresql-1", "PostgreSQL, 1 worker"),
            ("postgresql-2", "2 workers"),
            ("postgresql-4", "4 workers"),
        )
    ),
    *(
        Figure(run=f"recovery-{name}", title=title, path=("again_s",))
        for name, title in (
            ("sqlite-restart", "`serve` killed and started, suite begins anew, s"),
            ("postgresql-restart", "worker killed and started, suite begins anew, s"),
            ("postgresql-other", "worker killed, another begins the suite, lease of 10 s, s"),
        )
    ),
    *(
        Figure(
            run=f"deep-{database}",
            title=f"one claim with 10,000 in line beside 100, {database}, {which} ms",
            path=("deep", which),
            beside=("shallow", which),
        )
        for database in ("sqlite", "postgresql")
        for which in ("p50", "p99")
    ),
    Figure(run="handout-cold", title="QEMU node, cold boot, p50 s", path=("latency", "p50")),
    Figure(run="handout-cold", title="... max s", path=("latency", "max")),
    Figure(run="handout-restored", title="QEMU node from RAM, p50 s", path=("latency", "p50")),
    Figure(run="handout-restored", title="... max s", path=("latency", "max")),
    Figure(run="hand-out-local", title="`local` node, handed out, p50 s", path=("latency", "p50")),
    Figure(run="hand-out-local", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-static",
        title="`static` node (only looked for), handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-static", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-qemu-cold",
        title="QEMU node booted cold, handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-qemu-cold", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-qemu-ram",
        title="QEMU node from RAM, handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-qemu-ram", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-qemu-warm",
        title="QEMU node that stood by, handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-qemu-warm", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-libvirt",
        title="libvirt domain reverted, handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-libvirt", title="... p95 s", path=("latency", "p95")),
    Figure(
        run="hand-out-container",
        title="Docker container, handed out, p50 s",
        path=("latency", "p50"),
    ),
    Figure(run="hand-out-container", title="... p95 s", path=("latency", "p95")),
    Figure(run="leaks-qemu", title="qemu: left by killed builds", path=("left_by_kills",)),
    Figure(
        run="leaks-qemu",
        title="... after the second clean",
        path=("left_after_second_clean",),
        target=0,
    ),
    Figure(
        run="leaks-container", title="container: left by killed builds", path=("left_by_kills",)
    ),
    Figure(
        run="leaks-container",
        title="... after the second clean",
        path=("left_after_second_clean",),
        target=0,
    ),
    Figure(run="leaks-libvirt", title="libvirt: left by killed builds", path=("left_by_kills",)),
    Figure(
        run="leaks-libvirt",
        title="... after the second clean",
        path=("left_after_second_clean",),
        target=0,
    ),
    Figure(
        run="overhead",
        title="pause by our libvirt adapter, p50 s",
        path=("pause", "ours", "p50"),
        beside=("pause", "virsh", "p50"),
    ),
    Figure(
        run="overhead",
        title="unpause by our libvirt adapter, p50 s",
        path=("unpause", "ours", "p50"),
        beside=("unpause", "virsh", "p50"),
    ),
    Figure(
        run="overhead",
        title="info by our libvirt adapter, p50 s",
        path=("info", "ours", "p50"),
        beside=("info", "virsh", "p50"),
    ),
    Figure(
        run="overhead",
        title="power off by our libvirt adapter, p50 s",
        path=("power off", "ours", "p50"),
        beside=("power off", "virsh", "p50"),
    ),
    Figure(
        run="overhead",
        title="start by our libvirt adapter, p50 s",
        path=("start", "ours", "p50"),
        beside=("start", "virsh", "p50"),
    ),
    *(
        Figure(
            run=f"api-{system}",
            title=f"{name} by our adapter of {system}, p50 ms",
            path=(name, "ours", "p50"),
            beside=(name, "bare", "p50"),
        )
        for system in ("vcenter", "xenserver", "hyperv", "ironic")
        for name in (
            *("launch", "info", "inventory", "status"),
            *("snapshot", "power off", "start", "delete"),
        )
    ),
    *(
        Figure(
            run=f"api-inventory-{system}",
            title=f"2,000 machines of {system}, {title}",
            path=("ours", key),
            beside=("bare", key),
        )
        for system in ("vcenter", "xenserver", "hyperv")
        for key, title in (("p50_ms", "p50 ms"), ("peak_mib", "peak RSS MiB"))
    ),
    *(
        Figure(run=f"api-suite-{system}", title=f"compute suite on {system}, {title}", path=(key,))
        for system in ("vcenter", "xenserver", "hyperv", "ironic")
        for key, title in (("seconds", "s"), ("peak_rss_mib", "peak RSS MiB"))
    ),
)
FAULTS = {
    "missed": "CI down 30 s, changes meanwhile",
    "restart": "CI killed in a burst",
    "gerrit-restart": "Gerrit killed in a burst",
}


def append(path: Path, row: Row) -> None:
    """Add one result."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def load(path: Path) -> list[Row]:
    """All results of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def broken(rows: Iterable[Row]) -> list[str]:
    """Runs that lost or doubled a vote, or gave a wrong one; one sentence each."""
    found = []
    for row in rows:
        for part in ("tally", "probes"):
            tally = row.get(part, {})
            bad = {name: tally[name] for name in _TALLY[2:] if tally.get(name)}
            if bad:
                said = ", ".join(f"{count} {name}" for name, count in bad.items())
                found.append(f"{row['ci']} {row['run']} ({part}): {said} of {tally['changes']}")
        for part, value in row.items():
            if isinstance(value, dict) and value.get("not_owed"):
                found.append(f"{row['ci']} {row['run']} ({part}): {value['not_owed']} never owed")
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The whole report: figures, faults, and how busy the machine was."""
    parts = [_figures(rows), _faults(rows), _machine(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(rows: Sequence[Row]) -> str:
    lines = [
        "| measured | floor | ours | ratio | target | rounds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for figure in FIGURES:
        ours = _values(rows, figure.run, "ours", figure.path)
        of = "ours" if figure.beside else "null"
        floor = _values(rows, figure.run, of, figure.beside or figure.path)
        if floor or ours:
            lines.append(_line(figure, floor, ours))
    return "\n".join(lines) if len(lines) > 2 else ""


def _line(figure: Figure, floor: Sequence[float], ours: Sequence[float]) -> str:
    low = statistics.median(floor) if floor else None
    mine = statistics.median(ours) if ours else None
    ratio = f"{mine / low:.1f}" if mine is not None and low and low > 0 else ""
    target = ""
    if figure.target is not None:
        missed = mine is not None and mine > figure.target
        target = f"{_number(figure.target)}" + (" **missed**" if missed else "")
    cells = (figure.title, _number(low), _number(mine), ratio, target)
    return f"| {' | '.join(cells)} | {max(len(floor), len(ours))} |"


def _values(rows: Sequence[Row], run: str, ci: str, path: Sequence[str]) -> list[float]:
    found = []
    for row in rows:
        if (row["run"], row["ci"]) != (run, ci):
            continue
        value: Any = row
        for key in path:
            value = (value or {}).get(key)
        if value is not None:
            found.append(value)
    return found


def _faults(rows: Sequence[Row]) -> str:
    lines = []
    for name, title in FAULTS.items():
        for row in rows:
            if row["run"] == name:
                tally, probes = row["tally"], row["probes"]
                lines.append(
                    f"- {row['ci']}, {title}: {tally['voted']} of {tally['changes']} voted, "
                    f"{tally['doubled']} twice, {tally['negative']} wrong; new changes meanwhile "
                    f"{probes['voted']} of {probes['changes']}; first new vote "
                    f"{row['first_new_vote_s']} s after the start, all after {row['all_voted_s']} s"
                )
    return "\n".join(lines)


def _machine(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    loads = sorted(row["load"] for row in rows)
    calibrations = sorted(row["calibration_ms"] for row in rows)
    return (
        f"Load average {loads[0]} to {loads[-1]} (ours included); a fixed loop took "
        f"{calibrations[0]} to {calibrations[-1]} ms, median {statistics.median(calibrations):g}."
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
