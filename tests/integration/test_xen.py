# SPDX-License-Identifier: Apache-2.0
"""Real Xen in a nested node: its own toolstack, and libvirt on top of it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ci.model.node import Endpoint
from ci.model.result import Grade
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.faults import CallerFault, NodeFault
from nodes.hypervisors.table import connect
from nodes.lab.personas import persona
from tests.kit.guests import round_with_a_guest
from tests.kit.nested_nodes import chosen

pytestmark = [pytest.mark.integration]
CALL_S = 300.0


def access(node: Endpoint, work: Path) -> Access:
    return Access(
        work=work,
        grade=Grade.NESTED,
        key_file=node.key_file,
        known_hosts=node.known_hosts,
        timeout_s=CALL_S,
    )


@pytest.fixture(scope="module")
def xl(xen_node: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    hypervisor = connect(xen_node.hypervisor, access(xen_node, tmp_path_factory.mktemp("xl")))
    try:
        yield hypervisor
    finally:
        hypervisor.cleanup()
        hypervisor.close()


def test_a_guest_of_xl_keeps_its_memory_and_leaves_nothing(xl: Hypervisor):
    round_with_a_guest(xl)


def test_libvirt_drives_the_same_xen(xen_node: Endpoint, tmp_path: Path):
    chosen("xen")
    _, url = persona("xen").hypervisors(xen_node.host, xen_node.port)
    with closing(connect(url, access(xen_node, tmp_path))) as libvirt:
        system = libvirt.system()
        assert (system.key, system.grade) == ("libvirt-xen", Grade.NESTED)
        assert {"libvirt", "xen"} <= set(system.versions)
        try:
            round_with_a_guest(libvirt)
        finally:
            libvirt.cleanup()


def test_the_host_tells_what_it_is(xl: Hypervisor):
    system = xl.system()
    assert (system.key, system.grade) == ("xen-xl", Grade.NESTED)
    assert system.versions["xen"].startswith("4.")
    status = xl.status()
    assert status.hostname == "xen-node"
    assert status.cpus >= 1
    assert status.memory_mib > 1000
    assert "br0" in xl.inventory().networks


def test_what_is_not_there_is_the_callers_fault(xl: Hypervisor):
    with pytest.raises(CallerFault, match="hv-nobody"):
        xl.info("hv-nobody")
    with pytest.raises(CallerFault, match="no name of ours"):
        xl.delete("Domain-0")
    xl.delete("hv-nobody")


def test_a_volume_is_a_file_of_dom0(xl: Hypervisor):
    volume = xl.create_volume("hv-vol", 8)
    try:
        with pytest.raises(CallerFault, match="already"):
            xl.create_volume("hv-vol", 8)
        assert "hv-vol" in xl.inventory().volumes
        assert xl.volume_bytes(volume, 4) == bytes(4)
    finally:
        xl.delete_volume(volume)
        xl.delete_volume(volume)
    assert "hv-vol" not in xl.inventory().volumes


def test_another_host_key_is_refused(xen_node: Endpoint, tmp_path: Path):
    wrong = tmp_path / "known_hosts"
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIGJhZGJhZGJhZGJhZGJhZGJhZGJhZGJhZGJhZGJhZGJh"
    wrong.write_text(f"[127.0.0.1]:{xen_node.port} ssh-ed25519 {key}\n")
    with pytest.raises(NodeFault):
        connect(
            xen_node.hypervisor,
            Access(work=tmp_path, key_file=xen_node.key_file, known_hosts=wrong),
        )
