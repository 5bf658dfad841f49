# SPDX-License-Identifier: Apache-2.0
"""Network cards come to running guests and go from them."""

import pytest

from ci.jobs.compute.bench import Bench, Guest, wait_until
from ci.model.feature import Feature
from nodes.hypervisors.base import Nic


@pytest.mark.feature(Feature.ATTACH_INTERFACE)
def test_attach(bench: Bench, guest: Guest) -> None:
    """The guest has one card more, with the hardware address that was asked for."""
    nic = Nic(mac=bench.mac())
    before = guest.macs()
    bench.hypervisor.attach_interface(guest.name, nic)
    wait_until(lambda: nic.mac in guest.macs(), bench.boot_s, "the guest does not see the card")
    assert guest.macs() == before | {nic.mac}
    bench.hypervisor.detach_interface(guest.name, nic)


@pytest.mark.feature(Feature.DETACH_INTERFACE)
def test_detach(bench: Bench, guest: Guest) -> None:
    """It is gone from the guest at once; the others stay."""
    before = guest.macs()
    nic = bench.with_card(guest)
    bench.hypervisor.detach_interface(guest.name, nic)
    assert guest.macs() == before
