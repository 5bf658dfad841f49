# SPDX-License-Identifier: Apache-2.0
"""Facts of the database for Prometheus, read when it asks and kept for a few seconds.

Every process of the installation tells the same of these: never sum them over processes, take
the `max`. Their names begin with `hypervouch_installation_`. Labels that the configuration does
not know are counted together as `other`, so that no history of names grows in Prometheus.
"""

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from ci.clock import Clock
from ci.errors import StorageError
from ci.metrics import Family
from ci.model.build import Priority
from ci.model.node import NodeState
from ci.store.database import Database
from ci.store.reads.measures import Measures, measure

FRESH_S = 5.0
OTHER = "other"
STATES = ("connecting", "connected", "away")
PREFIX = "hypervouch_installation_"
_FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "readable": ("1 while this process can read the database; else the others are missing.", ()),
    "events_waiting": ("Events that are stored and not planned yet.", ("connection",)),
    "builds_queued": ("Builds that wait for a worker and a node.", ("label", "priority")),
    "builds_running": ("Builds that run.", ("label",)),
    "oldest_wait_seconds": ("How long the oldest queued build waits.", ("label",)),
    "nodes": ("Nodes by state, such as Good or Bad.", ("label", "state")),
    "leases": ("Nodes that are leased.", ("label",)),
    "reviews_open": ("Reviews that are pending or held.", ("connection", "state")),
    "oldest_review_seconds": (
        "How long the oldest pending review is owed.",
        ("connection",),
    ),
    "notices_pending": ("Notices that a reporter was not given yet.", ("reporter",)),
    "connection_state": (
        "1 for the state that a connection is in: connecting, connected, away.",
        ("connection", "state"),
    ),
    "processes": (
        "Processes that are not stopped, by role; one with several roles counts in each.",
        ("role",),
    ),
    "beat_age_seconds": (
        "Seconds since a process was last heard of; only those that are not stopped.",
        ("process",),
    ),
}
FAMILIES = tuple(
    Family(PREFIX + name, "gauge", text, labels) for name, (text, labels) in _FAMILIES.items()
)
ROLES = ("listen", "work", "relay", "web")


@dataclass(frozen=True, kw_only=True)
class Known:
    """The names that the configuration gives, and so the values that labels may take.

    Attributes:
        connections: Of review servers.
        labels: Of nodes.
        reporters: Of notices.
    """

    connections: Collection[str]
    labels: Collection[str]
    reporters: Collection[str]


class RowMetrics(Collector):
    """Reads the figures when Prometheus asks. Thread-safe.

    Args:
        database: Read only.
        clock: Where time comes from.
        known: What labels may say.
    """

    def __init__(self, database: Database, clock: Clock, known: Known) -> None:
        self._database = database
        self._clock = clock
        self._known = known
        self._lock = threading.Lock()
        self._kept: Measures | None = None
        self._read_s: float | None = None

    def describe(self) -> Iterator[Metric]:
        """Names only; reads nothing."""
        yield from _empty().values()

    def collect(self) -> Iterator[Metric]:
        """The families with their values."""
        found = self._look()
        families = _empty()
        families["readable"].add_metric((), 1 if found else 0)
        if found is None:
            yield families["readable"]
            return
        self._count(families, found)
        self._time(families, found)
        self._name(families, found)
        yield from families.values()

    def _look(self) -> Measures | None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._read_s is None or now_s - self._read_s >= FRESH_S:
                try:
                    with self._database.read() as tx:
                        self._kept = measure(tx)
                except (StorageError, SQLAlchemyError):  # a table that is missing: not upgraded
                    self._kept = None
                self._read_s = self._clock.monotonic_s()
            return self._kept

    def _count(self, families: dict[str, GaugeMetricFamily], found: Measures) -> None:
        known = self._known
        priorities = [(one.name.lower(),) for one in Priority]
        states = [(state.value,) for state in NodeState]
        labels, connections = _ones(known.labels), _ones(known.connections)
        _fill(families["events_waiting"], found.events, connections)
        _fill(families["builds_queued"], found.queued, _pairs(labels, priorities))
        _fill(families["builds_running"], found.running, labels)
        _fill(families["nodes"], found.nodes, _pairs(labels, states))
        _fill(families["leases"], found.leases, labels)
        held = _pairs(connections, [("pending",), ("held",)])
        _fill(families["reviews_open"], found.reviews, held)
        _fill(families["notices_pending"], found.notices, _ones(known.reporters))
        roles = Counter[tuple[str, ...]]((role,) for one in found.processes for role in one.roles)
        _fill(families["processes"], dict(roles), _ones(ROLES))

    def _time(self, families: dict[str, GaugeMetricFamily], found: Measures) -> None:
        now = self._clock.now()
        for family, oldest, names in (
            ("oldest_wait_seconds", found.queued_since, self._known.labels),
            ("oldest_review_seconds", found.owed_since, self._known.connections),
        ):
            ages = dict.fromkeys(names, 0.0)
            for (name,), since in oldest.items():
                name = name if name in names else OTHER  # noqa: PLW2901
                ages[name] = max(ages.get(name, 0.0), _age_s(since, now))
            for name, age_s in ages.items():
                families[family].add_metric((name,), age_s)
        for one in found.processes:
            families["beat_age_seconds"].add_metric((one.name,), _age_s(one.beat_at, now))

    def _name(self, families: dict[str, GaugeMetricFamily], found: Measures) -> None:
        for name in self._known.connections:
            for state in STATES:
                here = found.connections.get(name) == state
                families["connection_state"].add_metric((name, state), 1 if here else 0)


def _empty() -> dict[str, GaugeMetricFamily]:
    return {family.name.removeprefix(PREFIX): family.gauge() for family in FAMILIES}


def _ones(names: Collection[str]) -> list[tuple[str, ...]]:
    return [(name,) for name in names]


def _pairs(
    firsts: Collection[tuple[str, ...]], seconds: Collection[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    return [(*first, *second) for first in firsts for second in seconds]


def _fill(
    family: GaugeMetricFamily,
    counted: Mapping[tuple[str, ...], int],
    expected: Collection[tuple[str, ...]],
) -> None:
    """One sample for each expected key, 0 where nothing was counted; the rest is `other`."""
    width = len(next(iter(expected), ()))
    values = dict.fromkeys(expected, 0)
    other = (OTHER,) * width
    for key, count in counted.items():
        if key in values:
            values[key] += count
        elif width:
            values[other] = values.get(other, 0) + count
    for key, count in values.items():
        family.add_metric(key, count)


def _age_s(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
