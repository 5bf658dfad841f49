# SPDX-License-Identifier: Apache-2.0
"""Metrics: the documented list is the whole list, rules name what exists, labels stay bounded."""

import re
from pathlib import Path

import pytest
import yaml

from ci.board import HealthBoard
from ci.clock import FakeClock
from ci.errors import ReviewServerError
from ci.janitor import Janitor
from ci.metrics import Metrics
from ci.row_metrics import FAMILIES
from ci.telemetry import Telemetry
from tests.kit.core import database_in

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/reference/metrics.md").read_text()
RULES = ROOT / "config/prometheus/hypervouch.rules.yml"
NOT_LABELS = {"change", "branch", "build", "attempt", "project", "node", "author", "user"}


def all_families():
    return [*Metrics().families, *FAMILIES]


def test_the_document_lists_every_metric_and_no_other():
    row = re.compile(r"^\| `(hypervouch_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
    listed = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in row.findall(DOCUMENT)
    }
    assert listed == {(one.name, one.kind, one.labels) for one in all_families()}


def test_a_process_shows_what_it_documents(tmp_path):
    metrics = Metrics()
    board = HealthBoard(FakeClock(), name="ci1")
    metrics.of_process(board, tmp_path, leads=lambda: {"chores": True})
    shown = {family.name for family in metrics.registry.collect()}
    documented = {one.name.removesuffix("_total") for one in metrics.families}
    assert documented <= shown
    assert all(name.startswith("process_") for name in shown - documented)
    assert metrics.registry.get_sample_value("hypervouch_leader", {"lease": "chores"}) == 1
    assert metrics.registry.get_sample_value("hypervouch_disk_free_bytes") > 0
    board.close()


def test_no_label_can_grow_without_bound():
    assert not {label for one in all_families() for label in one.labels} & NOT_LABELS


def test_two_processes_in_one_interpreter_count_apart():
    first, second = Metrics(), Metrics()
    first.claims.labels("qemu").inc()
    assert second.registry.get_sample_value("hypervouch_claims_total", {"label": "qemu"}) is None


def test_a_loop_that_stands_still_is_seen(tmp_path):
    clock, metrics = FakeClock(), Metrics()
    board = HealthBoard(clock)
    metrics.of_process(board, tmp_path)
    board.pulse("relay gerrit")
    clock.advance(70)
    value = metrics.registry.get_sample_value(
        "hypervouch_loop_age_seconds", {"loop": "relay gerrit"}
    )
    board.close()
    assert value == 70


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_turns_of_a_chore_are_counted(outcome):
    def chore():
        if outcome == "failed":
            raise ReviewServerError("away")

    telemetry = Telemetry()
    Janitor(telemetry=telemetry)._run("probe", chore)
    sample = telemetry.metrics.registry.get_sample_value
    assert sample("hypervouch_chores_total", {"chore": "probe", "outcome": outcome}) == 1
    assert sample("hypervouch_chore_seconds_count", {"chore": "probe"}) == 1


def test_writes_are_timed_and_refusals_counted(tmp_path):
    database, metrics = database_in(tmp_path), Metrics()
    database.measure(metrics)
    with database.write():
        pass
    assert metrics.registry.get_sample_value("hypervouch_database_write_seconds_count") == 1
    database.close()


def rules():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from group["rules"]


def test_the_example_rules_name_only_metrics_that_exist():
    recorded = {one["record"] for one in rules() if "record" in one}
    suffixes = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    known = {one.name + end for one in all_families() for end in suffixes[one.kind]} | recorded
    named = {
        name for one in rules() for name in re.findall(r"[\w:]*hypervouch_\w+[\w:]*", one["expr"])
    }
    assert named
    assert named <= known


def test_an_alert_says_what_is_wrong_and_takes_the_max_of_what_all_tell():
    for one in rules():
        if "alert" in one:
            assert one["annotations"]["summary"].strip()
            assert one["labels"]["severity"] in {"page", "ticket"}
        for name in re.findall(r"hypervouch_installation_\w+", one["expr"]):
            before = one["expr"].split(name)[0]
            assert re.search(r"(max|min)( (by|without) \([^)]*\))?\s*\($", before), one


def test_a_number_out_of_range_is_no_priority_of_ours():
    from ci.store.reads.measures import _priority  # noqa: PLC0415 - beside what it tests

    assert [_priority(value) for value in (0, 1, 2, 9)] == ["asked", "pushed", "missed", "other"]
