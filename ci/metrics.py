# SPDX-License-Identifier: Apache-2.0
"""What this process counts and times for Prometheus; see docs/reference/metrics.md.

These are of one process: sum them over processes. Facts of the database, which every process
would tell alike, are read by ci/row_metrics.py. No label takes a value from outside: connections,
labels, reporters and chores are those of the configuration, never a change, a branch or a person.
"""

import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ci.board import HealthBoard

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MINUTES = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
WAITS = (0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)


class Family(NamedTuple):
    """A metric as it is documented.

    Attributes:
        name: As Prometheus stores it.
        kind: counter, gauge or histogram.
        text: What it means, one sentence.
        labels: Names of its labels.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()

    def gauge(self) -> GaugeMetricFamily:
        """An empty family, to be filled when Prometheus asks."""
        return GaugeMetricFamily(self.name, self.text, labels=self.labels)


OF_PROCESS = (
    Family(
        "hypervouch_build_info",
        "gauge",
        "Always 1; its labels say what runs.",
        ("version", "python", "roles"),
    ),
    Family(
        "hypervouch_loop_age_seconds",
        "gauge",
        "Seconds since a long-running loop turned.",
        ("loop",),
    ),
    Family(
        "hypervouch_leader",
        "gauge",
        "1 while this process does what only one may do, such as `listen:gerrit`; else 0.",
        ("lease",),
    ),
    Family("hypervouch_disk_free_bytes", "gauge", "Room left on the disk of state-dir."),
    Family("hypervouch_disk_size_bytes", "gauge", "Size of the disk of state-dir."),
)


class Metrics:
    """The instruments of one process, in a registry of their own. Thread-safe.

    Attributes:
        registry: What `/metrics` shows.
        families: What this class measures, without what the library tells of the process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.families: list[Family] = list(OF_PROCESS)
        self._listening()
        self._working()
        self._telling()
        self._keeping()

    def of_process(
        self,
        board: HealthBoard,
        state_dir: Path,
        *,
        leads: Callable[[], Mapping[str, bool]] = dict,
    ) -> None:
        """Tell of the process itself as well: its build, its memory, its loops, its disk.

        Args:
            board: Its loops.
            state_dir: Whose disk is measured.
            leads: For each lease that it wants, whether it leads.
        """
        ProcessCollector(registry=self.registry)
        self.registry.register(_OwnState(board, state_dir, leads))

    def _listening(self) -> None:
        self.lines = self._counter(
            "hypervouch_stream_lines",
            "Lines that the event stream brought.",
            "connection",
        )
        self.events = self._counter(
            "hypervouch_events",
            "Events by what became of them: stored, known (stored before), unknown (of a type"
            " nobody acts on), malformed, ignored (our own comments, projects nobody watches).",
            "connection",
            "outcome",
        )
        self.silence = self._gauge(
            "hypervouch_stream_silence_seconds",
            "Seconds since the last line of the event stream, or since it was opened.",
            "connection",
        )
        self.connected = self._gauge(
            "hypervouch_stream_connected",
            "1 while this process has the event stream open.",
            "connection",
        )
        self.catch_ups = self._counter(
            "hypervouch_catch_ups",
            "Catch-ups by outcome: done, failed.",
            "connection",
            "outcome",
        )
        self.caught_up = self._counter(
            "hypervouch_catch_up_events",
            "Events that a catch-up found and the stream had not told.",
            "connection",
        )
        self.catch_up_seconds = self._histogram(
            "hypervouch_catch_up_seconds",
            "Seconds that a catch-up took.",
            "connection",
            buckets=MINUTES,
        )

    def _working(self) -> None:
        self.claims = self._counter(
            "hypervouch_claims",
            "Builds that this process claimed.",
            "label",
        )
        self.dispatch_seconds = self._histogram(
            "hypervouch_dispatch_seconds",
            "Seconds from queued to claimed.",
            "label",
            buckets=WAITS,
        )
        self.attempts = self._counter(
            "hypervouch_attempts",
            "Attempts that ended, by kind (check, repeat, baseline) and result.",
            "label",
            "kind",
            "result",
        )
        self.attempt_seconds = self._histogram(
            "hypervouch_attempt_seconds",
            "Seconds that an attempt took, the wait for its node included.",
            "label",
            buckets=MINUTES,
        )
        self.running = self._gauge(
            "hypervouch_attempts_running",
            "Attempts that run in this process.",
        )
        self.leases_held = self._gauge(
            "hypervouch_leases_held",
            "Leases that this process keeps alive.",
        )
        self.leases_lost = self._counter(
            "hypervouch_leases_lost",
            "Leases that ended under their attempt.",
        )

    def _telling(self) -> None:
        self.reviews = self._counter(
            "hypervouch_reviews",
            "Tries to give a review, by transport (rest, ssh, none) and outcome: delivered,"
            " already-there, stale, gone, refused, away (the server), failed.",
            "connection",
            "transport",
            "outcome",
        )
        self.review_seconds = self._histogram(
            "hypervouch_review_seconds",
            "Seconds that one try to give a review took.",
            "connection",
            buckets=SECONDS,
        )
        self.notices = self._counter(
            "hypervouch_notices",
            "Tries to give notices to a reporter, by outcome: delivered, failed.",
            "reporter",
            "outcome",
        )

    def _keeping(self) -> None:
        self.chores = self._counter(
            "hypervouch_chores",
            "Turns of a chore by outcome: done, failed.",
            "chore",
            "outcome",
        )
        self.chore_seconds = self._histogram(
            "hypervouch_chore_seconds",
            "Seconds that a turn of a chore took.",
            "chore",
            buckets=SECONDS,
        )
        self.log_bytes = self._gauge(
            "hypervouch_log_bytes", "What logs and artifacts fill here, measured every 5 minutes."
        )
        self.write_seconds = self._histogram(
            "hypervouch_database_write_seconds",
            "Seconds of a write transaction, the wait for its turn included.",
            buckets=SECONDS,
        )
        self.refusals = self._counter(
            "hypervouch_database_refusals",
            "Reads and writes that the database refused.",
            "what",
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.families.append(Family(name + "_total", "counter", text, labels))
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.families.append(Family(name, "gauge", text, labels))
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        self.families.append(Family(name, "histogram", text, labels))
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    @contextmanager
    def catch_up(self, connection: str) -> Iterator[None]:
        """Count and time a catch-up; an error passes through."""
        with _timed(self.catch_ups, self.catch_up_seconds, connection):
            yield

    @contextmanager
    def chore(self, name: str) -> Iterator[None]:
        """Count and time a turn of a chore; an error passes through."""
        with _timed(self.chores, self.chore_seconds, name):
            yield


@contextmanager
def _timed(turns: Counter, seconds: Histogram, name: str) -> Iterator[None]:
    """Count one turn by name and outcome, and time it; an error passes through."""
    began = perf_counter()
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        turns.labels(name, outcome).inc()
        seconds.labels(name).observe(perf_counter() - began)


class _OwnState(Collector):
    """What is looked up when somebody asks: version, loops, disk."""

    def __init__(
        self, board: HealthBoard, state_dir: Path, leads: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._board = board
        self._state_dir = state_dir
        self._leads = leads

    def describe(self) -> Iterator[Metric]:
        """Names only; looks nothing up."""
        return iter(_own_families())

    def collect(self) -> Iterator[Metric]:
        """The families with their values."""
        build, loops, leader, free, size = _own_families()
        build.add_metric(
            [version("hypervouch"), platform.python_version(), ",".join(self._board.roles)], 1
        )
        for pulse in self._board.pulses():
            loops.add_metric([pulse.name], pulse.age_s)
        for lease, held in self._leads().items():
            leader.add_metric([lease], 1 if held else 0)
        usage = _disk(self._state_dir)
        if usage is not None:
            free.add_metric([], usage[0])
            size.add_metric([], usage[1])
        yield from (build, loops, leader, free, size)


def _own_families() -> tuple[GaugeMetricFamily, ...]:
    return tuple(family.gauge() for family in OF_PROCESS)


def _disk(place: Path) -> tuple[int, int] | None:
    """(free, size) in bytes; None where the disk does not say."""
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    return usage.free, usage.total


def silence_of(metrics: Metrics, connection: str, silent_s: Callable[[], float]) -> None:
    """Let a connection's silence be measured when somebody asks."""
    metrics.silence.labels(connection).set_function(silent_s)
