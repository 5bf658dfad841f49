# SPDX-License-Identifier: Apache-2.0
"""What the vCenter simulator fakes: a newer one that closes a gap fails here.

The table is `GAPS` in `nodes/lab/vcenter.py`; docs/how-to/hypervisor-vcenter.md tells of it.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nodes.hypervisors.faults import CallerFault, NodeFault
from nodes.lab.vcenter import GAPS
from tests.kit.vcenter import Simulator, guest_spec, simulator

GUEST = "hv-gaps"


# The first test of a machine builds the simulator.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("vcenter")) as made:
        yield made


def _revert(hypervisor: Any, _link: Any, _place: Any, _machine: Any) -> bool:
    hypervisor.snapshot(GUEST, "before")
    hypervisor.resize(GUEST, memory_mib=512, cpus=2)
    hypervisor.revert(GUEST, "before")
    told = hypervisor.info(GUEST)
    return bool((told.memory_mib, told.cpus) == (512, 2))


def _evacuation(hypervisor: Any, link: Any, _place: Any, machine: Any) -> bool:
    host = link.props(machine, "runtime.host")["runtime.host"]
    link.run("enter maintenance", lambda: host.EnterMaintenanceMode_Task(30, None, None))
    try:
        stays = link.props(machine, "runtime.host")["runtime.host"] == host
        return stays and hypervisor.info(GUEST).state == "running"
    finally:
        link.run("leave maintenance", lambda: host.ExitMaintenanceMode_Task(30))


def _path(_hypervisor: Any, link: Any, place: Any, machine: Any) -> bool:
    from pyVmomi import vim  # noqa: PLC0415 - may be missing

    found = link.props(place.cluster, "datastore")["datastore"]
    other = next(one for one in found if one != place.datastore)
    spec = vim.vm.RelocateSpec(datastore=other)
    link.run("move its files", lambda: machine.RelocateVM_Task(spec))
    path = link.props(machine, "config.files.vmPathName")["config.files.vmPathName"]
    moved = link.props(machine, "datastore")["datastore"]
    return other in moved and path.startswith(f"[{place.datastore_name}]")


def _drs(_hypervisor: Any, link: Any, place: Any, _machine: Any) -> bool:
    with suppress(CallerFault, NodeFault):
        link.call("ask for recommendations", place.cluster.RefreshRecommendation)
        return False
    return True


def _screens(_hypervisor: Any, link: Any, _place: Any, machine: Any) -> bool:
    ticket = link.call("ask for a screen", lambda: machine.AcquireTicket("webmks"))
    with suppress(OSError), socket.create_connection((ticket.host, ticket.port), timeout=5):
        return False
    return True


FAKED: dict[str, Callable[[Any, Any, Any, Any], bool]] = {
    "revert": _revert,
    "evacuation": _evacuation,
    "path": _path,
    "drs": _drs,
    "screens": _screens,
}
"""Whether a gap is still there; given hypervisor, session, place and machine."""


def test_each_gap_of_the_table_is_looked_at() -> None:
    assert set(FAKED) == set(GAPS)


@pytest.mark.parametrize("gap", sorted(FAKED))
def test_the_simulator_still_fakes(vcenter: Simulator, tmp_path: Path, gap: str) -> None:
    from pyVmomi import vim  # noqa: PLC0415 - may be missing

    from nodes.hypervisors import vcenter_place  # noqa: PLC0415

    with vcenter.connected() as hypervisor, vcenter.link() as link:
        hypervisor.launch(guest_spec(GUEST, tmp_path))
        try:
            place = vcenter_place.find(link)
            found = link.content.searchIndex.FindChild(place.folder, GUEST)
            assert isinstance(found, vim.VirtualMachine)
            still = FAKED[gap](hypervisor, link, place, found)
        finally:
            hypervisor.cleanup()

    assert still, f"this simulator closes the gap {gap!r}: take it out of GAPS and of the document"
