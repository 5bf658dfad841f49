# SPDX-License-Identifier: Apache-2.0
"""What every process tells alike of the installation, on both kinds of database."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from ci.clock import FakeClock
from ci.row_metrics import Known, RowMetrics
from ci.store import processes, schema
from tests.kit.rows import NOW
from tests.kit.stories import fill

PREFIX = "hypervouch_installation_"


@pytest.fixture
def told(database, tmp_path):
    fill(database, tmp_path / "logs")
    with database.write() as tx:
        for name, late_s in (("ci1", 5), ("ci2", 400)):
            processes.register(
                tx,
                name=name,
                incarnation="1",
                roles=["work", "relay"] if name == "ci1" else ["web"],
                host="h",
                pid=1,
                version="1",
                slots=4,
                at=NOW - timedelta(seconds=late_s),
            )
    return database


def registry_of(database, clock, labels=("qemu", "xen")):
    made = CollectorRegistry()
    known = Known(connections=["review"], labels=labels, reporters=["mail"])
    made.register(RowMetrics(database, clock, known))
    return made


def sample(registry, name, **labels):
    return registry.get_sample_value(PREFIX + name, labels)


def test_figures_of_open_work_are_read_from_the_rows(told):
    registry = registry_of(told, FakeClock(NOW))
    with told.read() as tx:
        labels = tx.execute(
            sa.select(schema.build.c.node_label).where(schema.build.c.state == "running")
        ).scalars()
        running = list(labels)
    assert sample(registry, "readable") == 1
    assert sum(
        sample(registry, "builds_running", label=label) or 0 for label in ("qemu", "xen", "other")
    ) == len(running)
    assert sample(registry, "nodes", label="xen", state="Maintenance") == 1
    assert sample(registry, "processes", role="work") == 1
    assert sample(registry, "beat_age_seconds", process="ci2") == 400
    assert sample(registry, "notices_pending", reporter="mail") == 0
    assert sample(registry, "connection_state", connection="review", state="away") in {0, 1}


def test_every_process_tells_the_same(told):
    clock = FakeClock(NOW)
    first, second = registry_of(told, clock), registry_of(told, clock)

    def told_by(registry):
        samples = [one for family in registry.collect() for one in family.samples]
        return sorted((one.name, sorted(one.labels.items()), one.value) for one in samples)

    assert told_by(first) == told_by(second)


def test_a_label_that_left_the_configuration_is_counted_as_other(told):
    registry = registry_of(told, FakeClock(NOW), labels=("new",))
    labels = {
        sample.labels["label"]
        for family in registry.collect()
        for sample in family.samples
        if "label" in sample.labels
    }
    assert labels == {"new", "other"}


def test_the_database_is_not_asked_for_every_scrape(told):
    asked, clock = [], FakeClock(NOW)
    sa.event.listen(told.engine, "before_cursor_execute", lambda *_: asked.append(1))
    registry = registry_of(told, clock)
    list(registry.collect())
    once = len(asked)
    list(registry.collect())
    assert len(asked) == once
    assert once < 20
    clock.advance(6)
    list(registry.collect())
    assert len(asked) > once


def test_a_database_that_cannot_be_read_leaves_the_figures_out(told):
    registry = registry_of(told, FakeClock(NOW))
    with told.write() as tx:
        tx.execute(sa.text("DROP TABLE ci_delivery"))
    assert sample(registry, "readable") == 0
    assert sample(registry, "builds_running", label="qemu") is None
