# SPDX-License-Identifier: Apache-2.0
"""What a host says of itself."""

import ipaddress

import pytest

from ci.jobs.compute.bench import Bench
from ci.model.feature import Feature
from nodes.hypervisors.base import HostStatus

pytestmark = pytest.mark.told


def _status(bench: Bench, key: Feature) -> HostStatus:
    """What the host says, unless its adapter declares that it cannot know that."""
    if key in bench.hypervisor.missing:
        bench.hypervisor.cannot(key)
    return bench.hypervisor.status()


@pytest.mark.feature(Feature.GET_HOST_INFO)
def test_host_info(bench: Bench) -> None:
    """Name, memory and processors."""
    status = bench.hypervisor.status()
    assert status.hostname
    assert status.memory_mib > 0
    assert status.cpus > 0


@pytest.mark.feature(Feature.GET_HOST_UPTIME)
def test_host_uptime(bench: Bench) -> None:
    """It goes on."""
    first = _status(bench, Feature.GET_HOST_UPTIME).uptime_s
    assert 0 < first <= bench.hypervisor.status().uptime_s


@pytest.mark.feature(Feature.GET_HOST_IP)
def test_host_address(bench: Bench) -> None:
    """An address, not a name."""
    ipaddress.ip_address(_status(bench, Feature.GET_HOST_IP).address)


@pytest.mark.feature(Feature.REPORT_CPU_TRAITS)
def test_cpu_traits(bench: Bench) -> None:
    """At least one, in lower case."""
    traits = _status(bench, Feature.REPORT_CPU_TRAITS).cpu_traits
    assert traits
    assert all(trait == trait.lower() for trait in traits)


@pytest.mark.feature(Feature.MAINTENANCE_MODE)
def test_maintenance(bench: Bench) -> None:
    """It goes there and comes back."""
    bench.hypervisor.maintenance(on=True)
    bench.hypervisor.maintenance(on=False)
