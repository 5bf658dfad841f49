# SPDX-License-Identifier: Apache-2.0
"""Guests move between two hosts, alive or after a host's death."""

import pytest

from ci.jobs.compute.bench import Bench, Guest, not_tried
from ci.jobs.compute.notes import Notes
from ci.jobs.compute.plugin import feature_of
from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState, Hypervisor


@pytest.fixture
def second(bench: Bench, request: pytest.FixtureRequest) -> Hypervisor:
    """The other host, unless there can be none."""
    bench.need(feature_of(request.node))
    if bench.second is None:
        not_tried("needs a second host")
    return bench.second


def _is_on(host: Hypervisor, guest: Guest) -> bool:
    return host.inventory().guests.get(guest.name) is GuestState.RUNNING


@pytest.mark.feature(Feature.LIVE_MIGRATE)
def test_live_migrate(bench: Bench) -> None:
    """The guest runs on there: the same boot, the next count, gone from here."""
    bench.need(Feature.LIVE_MIGRATE)
    second = bench.second
    if second is None and bench.hypervisor.migrates_within:
        second = bench.hypervisor
    if second is None:
        not_tried("needs a second host")
    _migrate(bench, second, block=False)


@pytest.mark.feature(Feature.LIVE_MIGRATE)
def test_block_migrate(bench: Bench) -> None:
    """The same to a host that shares no disks with ours: they are copied along."""
    bench.need(Feature.LIVE_MIGRATE)
    if bench.apart is None:
        not_tried("needs a second host")
    _migrate(bench, bench.apart, block=True)


def _migrate(bench: Bench, second: Hypervisor, *, block: bool) -> None:
    guest = bench.launch()
    count, boot_id = guest.count()
    guest.let_go()
    bench.hypervisor.live_migrate(guest.name, second, block=block)
    guest.moved(second)
    assert _is_on(second, guest)
    assert second is bench.hypervisor or not _is_on(bench.hypervisor, guest)
    assert guest.count() == (count + 1, boot_id)


@pytest.mark.feature(Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION)
def test_abort(bench: Bench, second: Hypervisor) -> None:
    """A migration that is aborted leaves the guest where it was, running."""
    guest = bench.launch()
    count, boot_id = guest.count()
    bench.hypervisor.begin_live_migration(guest.name, second)
    bench.hypervisor.abort_live_migration(guest.name)
    assert _is_on(bench.hypervisor, guest)
    assert not _is_on(second, guest)
    assert guest.count() == (count + 1, boot_id)


@pytest.mark.feature(Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE)
def test_force(bench: Bench, second: Hypervisor) -> None:
    """A slow migration that is forced ends on the other host, with its memory."""
    guest = bench.launch()
    count, boot_id = guest.count()
    guest.let_go()
    bench.hypervisor.begin_live_migration(guest.name, second)
    bench.hypervisor.force_live_migration(guest.name)
    guest.moved(second)
    assert _is_on(second, guest)
    assert guest.count() == (count + 1, boot_id)


@pytest.mark.feature(Feature.EVACUATE)
def test_evacuate(bench: Bench, second: Hypervisor) -> None:
    """A guest of a dead host boots on the other one with what it had on disk."""
    guest = bench.launch()
    notes, old = Notes(bench, guest), guest.boot_id()
    notes.write("carried over")
    guest.let_go()
    bench.hypervisor.evacuate(guest.name, second)
    guest.moved(second)
    guest.booted_after(old)
    assert notes.read() == "carried over"
