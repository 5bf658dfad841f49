# SPDX-License-Identifier: Apache-2.0
"""Volumes on an iSCSI target of ours, which the hypervisor logs in to for a running guest."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.jobs.compute.bench import Bench, Guest, disk_of, find_disk, not_tried
from ci.jobs.compute.target import Target, running_target
from ci.model.feature import Feature
from nodes.hypervisors.base import Volume
from nodes.hypervisors.faults import CallerFault, TransientFault

_TEXT = "written over the network"


@pytest.fixture(scope="module")
def target(bench: Bench) -> Iterator[Target]:
    """A target on this machine's loopback; none is started where no guest would use it."""
    if not bench.asks_guests:
        yield Target(Path(), 0, 0)
        return
    with running_target() as made:
        yield made


@pytest.mark.feature(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
def test_iscsi(bench: Bench, guest: Guest, target: Target) -> None:
    """What the guest writes stands on the target, and can be read after a second login."""
    bench.need(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
    volume = target.volume(bench.name("v"))
    _proves(bench, guest, target, volume)


@pytest.mark.feature(Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP)
def test_chap(bench: Bench, guest: Guest, target: Target) -> None:
    """The target lets nobody in with a wrong secret, and is as good as any with the right one."""
    bench.need(Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP)
    volume = target.volume(bench.name("v"), user="guest", secret="open-sesame-12")  # noqa: S106
    wrong = dataclasses.replace(volume, secret="close-sesame-1")  # noqa: S106 - of the test
    with pytest.raises(CallerFault):
        _attach(bench, guest, wrong)
    assert find_disk(guest, volume) is None
    _proves(bench, guest, target, volume)


def _attach(bench: Bench, guest: Guest, volume: Volume) -> None:
    """Leaves the test where the hypervisor's host does not reach ours."""
    try:
        bench.hypervisor.attach_volume(guest.name, volume)
    except TransientFault as error:
        not_tried(f"the host does not reach the target: {error.message}")


def _proves(bench: Bench, guest: Guest, target: Target, volume: Volume) -> None:
    _attach(bench, guest, volume)
    guest.write(disk_of(guest, volume, bench.boot_s), _TEXT)
    bench.hypervisor.detach_volume(guest.name, volume)
    assert find_disk(guest, volume) is None
    assert target.content(volume, len(_TEXT)) == _TEXT.encode()
    _attach(bench, guest, volume)
    assert guest.read(disk_of(guest, volume, bench.boot_s), len(_TEXT)) == _TEXT
    bench.hypervisor.detach_volume(guest.name, volume)
