# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench`: interleaved rounds of all contenders on one real Gerrit.

One CI runs at a time. Each result is appended to a file of JSON lines with the load average
and the time of a fixed loop; the medians are printed as Markdown. The exit status is 1 when a
run lost or doubled a vote, or gave a wrong one, and 2 when this machine lacks something.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ci.log import configure
from ci.sandbox.real.jars import GerritMissing
from ci.sandbox.real.server import RealGerrit
from tests.bench import (
    api_hypervisors,
    dead_other,
    engine,
    handout,
    hypervisors,
    intake,
    missed,
    pages,
    replay,
    report,
)
from tests.bench.changes import Changes
from tests.bench.contender import Contender, account, projects
from tests.bench.faults import FAULTS
from tests.bench.floor import Floor
from tests.bench.meter import calibrate
from tests.bench.ours import Ours
from tests.bench.runs import RUNS, Field
from tests.bench.stream import Stream

CONTENDERS: dict[str, type[Floor] | type[Ours]] = {"null": Floor, "ours": Ours}
ENGINE = ("dispatch", "rate", "recovery", "deep", "weight")
NODES = (*hypervisors.RUNS, *api_hypervisors.RUNS)  # only when they are asked for: they take long
ALONE = ("handout", "pages", "intake", "replay", *ENGINE, *NODES)  # they need no Gerrit
OWN = ("catch-up", "dead-other")  # they start contenders of their own
QUICK = ("seq", "burst")
USUAL = ("seq", "burst", "idle", "log", "sleep", *FAULTS, *OWN)
USUAL += tuple(name for name in ALONE if name not in NODES)
SENTINEL = "bench-sentinel"
STREAM_S = 60.0


class Bench:
    """Runs what was asked for and keeps the results.

    Args:
        out: File of JSON lines.
        directory: For everything that is thrown away afterwards.
    """

    def __init__(self, out: Path, directory: Path) -> None:
        self._out = out
        self._directory = directory
        self.rows: list[report.Row] = []

    def record(self, ci: str, run: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure once; an exception leaves no row."""
        _say(f"{ci} {run} ...")
        row = {
            "ci": ci,
            "run": run,
            "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "load": round(os.getloadavg()[0], 1),
            "calibration_ms": calibrate(),
        }
        row |= measure()
        row["calibration_after_ms"] = calibrate()
        report.append(self._out, row)
        self.rows.append(row)
        _say(f"{ci} {run}: {_gist(row)}")

    def alone(self, asked: argparse.Namespace) -> None:
        """What needs no Gerrit."""
        names = asked.only
        self._intake(asked)
        for asked_for, made in engine.runs(self._directory / "engine").items():
            for name, measure in made if asked_for in names else ():
                self.record("ours", name, measure)
        if "pages" in names:
            self.record("ours", "pages", lambda: pages.newest_builds(self._directory / "pages"))
        if "handout" in names and (lack := handout.missing()):
            _say(f"hand-outs are not measured: {lack}")
        elif "handout" in names:
            for snapshot, name in ((False, "handout-cold"), (True, "handout-restored")):
                self.record("ours", name, partial(self._hand_outs, snapshot=snapshot))
        for name, measure in hypervisors.runs(self._directory / "hosts", tuple(names)):
            self.record("ours", name, measure)
        for name, measure in api_hypervisors.runs(self._directory / "apis", tuple(names)):
            self.record("ours", name, measure)

    def _intake(self, asked: argparse.Namespace) -> None:
        for turn in range(asked.rounds if "intake" in asked.only else 0):
            at = self._directory / f"intake-{turn}"
            self.record("null", "intake", partial(intake.floor, at / "null"))
            self.record("ours", "intake", partial(intake.ours, at / "ours"))
        if "replay" in asked.only:
            at = self._directory / "replay"
            self.record("ours", "replay", partial(replay.memory, at, events=asked.events))

    def _hand_outs(self, *, snapshot: bool) -> dict[str, Any]:
        return handout.hand_outs(self._directory / "nodes", snapshot=snapshot)

    def rounds(self, gerrit: RealGerrit, asked: argparse.Namespace) -> None:
        """Interleaved rounds, then the faults once."""
        stream = Stream(gerrit.admin)
        changes = Changes(gerrit.admin, self._directory / "clones")
        stream.start()
        try:
            _await_stream(stream, changes)
            contenders = [self._contender(gerrit, name) for name in asked.ci]
            fields = [Field(contender=c, changes=changes, stream=stream) for c in contenders]
            for _ in range(asked.rounds):
                for field in fields:
                    self._round(field, [name for name in RUNS if name in asked.only])
            if "ours" in asked.ci:
                self._own(gerrit, changes, stream, asked.only)
            for field in fields:
                if field.contender.durable or asked.ci == [field.contender.name]:
                    self._faults(field, gerrit, [name for name in FAULTS if name in asked.only])
        finally:
            stream.stop()

    def _own(
        self, gerrit: RealGerrit, changes: Changes, stream: Stream, names: Sequence[str]
    ) -> None:
        server = gerrit.connection(account(Ours.name))
        if "catch-up" in names:
            at = self._directory / "catch-up"
            self.record("ours", "catch-up", partial(missed.catch_up, server, changes, at))
        if "dead-other" in names:
            at = self._directory / "dead-other"
            run = partial(dead_other.beside_dead, server, changes, stream, at)
            self.record("ours", "dead-other", run)

    def _contender(self, gerrit: RealGerrit, name: str) -> Contender:
        gerrit.seed(ci_user=account(name), full_name=f"{name} CI", projects=list(projects(name)))
        directory = self._directory / name
        return CONTENDERS[name](gerrit.connection(account(name)), directory)

    def _round(self, field: Field, names: Sequence[str]) -> None:
        if not names:
            return
        field.contender.start()
        try:
            for name in names:
                self.record(field.contender.name, name, partial(RUNS[name], field))
        finally:
            field.contender.stop()

    def _faults(self, field: Field, gerrit: RealGerrit, names: Sequence[str]) -> None:
        for name in names:
            field.contender.start()
            try:
                self.record(field.contender.name, name, partial(FAULTS[name], field, gerrit))
            finally:
                field.contender.stop()


def _await_stream(stream: Stream, changes: Changes) -> None:
    """Return once an event of ours has come through."""
    deadline = time.monotonic() + STREAM_S
    while time.monotonic() < deadline:
        number = changes.post(SENTINEL)
        if stream.wait(partial(stream.created.__contains__, number), 2.0):
            return
    raise RuntimeError("no events come from Gerrit's stream")


def _gist(row: report.Row) -> str:
    """A result in a few words, for who waits at the terminal."""
    shown = {
        key: value
        for key, value in row.items()
        if key not in {"ci", "run", "at", "calibration_after_ms", "count"}
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = [word for word in text.split(",") if word]
        if wrong := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: use {', '.join(known)}")
        return words

    return parse


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = [*RUNS, *FAULTS, *OWN, *ALONE]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round of seq and burst")
    parser.add_argument("--only", type=_words(known), default=None, help=",".join(known))
    parser.add_argument("--ci", type=_words(list(CONTENDERS)), default=list(CONTENDERS))
    parser.add_argument(
        "--events", type=int, default=replay.EVENTS, help="of replay; default %(default)s"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.jsonl"))
    parser.add_argument("--site", type=Path, help="keep Gerrit's site here, for a quicker start")
    parser.add_argument("--keep", type=Path, help="keep logs and state in this directory")
    parser.add_argument("--report", type=Path, help="only print the table of such a file")
    asked = parser.parse_args(arguments)
    if asked.report and not asked.report.is_file():
        parser.error(f"--report {asked.report}: no such file; give one that --out wrote")
    if asked.only is None:
        asked.only = list(QUICK if asked.quick else USUAL)
    if asked.quick:
        asked.rounds = 1
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, say whether every vote was right."""
    asked = _parse(arguments)
    if asked.report:
        sys.stdout.write(report.markdown(report.load(asked.report)))
        return 0
    configure(level="WARNING")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what was started is ended
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        directory = asked.keep or Path(held.enter_context(TemporaryDirectory(prefix="bench-")))
        bench = Bench(asked.out, directory)
        try:
            _measure(bench, asked, asked.site or directory / "gerrit")
        except GerritMissing as missing:
            _say(f"no real Gerrit: {missing}")
            return 2
        finally:
            sys.stdout.write(report.markdown(bench.rows))
    found = report.broken(bench.rows)
    for line in found:
        _say(f"BROKEN: {line}")
    return 1 if found else 0


def _measure(bench: Bench, asked: argparse.Namespace, site: Path) -> None:
    if not set(asked.only) <= set(ALONE):
        gerrit = RealGerrit(site)
        gerrit.start()
        try:
            gerrit.seed(projects=[SENTINEL, missed.PROJECT])
            bench.rounds(gerrit, asked)
        finally:
            gerrit.stop()
    bench.alone(asked)


if __name__ == "__main__":
    sys.exit(main())
