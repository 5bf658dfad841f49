# SPDX-License-Identifier: Apache-2.0
"""The lab on this machine: private libvirt hosts, and a nested node that is taken up and down."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ci import proc
from ci.model.node import Endpoint
from nodes.lab.libvirt_host import LibvirtHost
from nodes.lab.nested import NestedNode
from nodes.lab.personas import persona
from nodes.login import log_in
from tests.kit.nested_nodes import BOOT_S, running

pytestmark = [pytest.mark.integration]


def test_a_host_is_found_again_and_started_once(libvirt: LibvirtHost):
    again = LibvirtHost(libvirt.folder, libvirt.name)
    assert again.is_running()
    record = (libvirt.folder / "host.json").read_text()
    again.start()
    assert (libvirt.folder / "host.json").read_text() == record


def test_two_hosts_are_two_to_libvirt(libvirt_pair: tuple[LibvirtHost, LibvirtHost]):
    import libvirt as library  # noqa: PLC0415 - the fixture has seen that it is here

    told, guests = set(), []
    for host in libvirt_pair:
        link = library.open(host.uri())
        told.add((link.getHostname(), link.getCapabilities().split("<uuid>")[1][:36]))
        guests.append({one.UUIDString() for one in link.listAllDomains()})
        link.close()
    assert not guests[0] & guests[1]
    assert len(told) == len({name for name, _ in told}) == len({uuid for _, uuid in told}) == 2


def test_lxc_and_qemu_are_both_there(libvirt: LibvirtHost):
    for driver in ("qemu", "lxc"):
        said = proc.run(["virsh", "-c", libvirt.uri(driver), "uri"]).text
        assert said.startswith(f"{driver}:///system")


def test_a_daemon_that_was_killed_is_started_anew(libvirt: LibvirtHost):
    pid, born = json.loads((libvirt.folder / "host.json").read_text())["daemons"]["libvirtd"]
    os.kill(pid, signal.SIGKILL)
    for _ in proc.wait_until(time.monotonic() + 30):
        if not proc.is_running(pid, born):
            break
    assert not libvirt.is_running()
    libvirt.start()
    assert libvirt.is_running()
    proc.run(["virsh", "-c", libvirt.uri(), "version"])


def _says(end: Endpoint, *words: str) -> str:
    client = log_in(end, 60.0)
    try:
        _, out, _ = client.exec_command(" ".join(words), timeout=60)
        return out.read().decode()
    finally:
        client.close()


@pytest.mark.timeout(1500)
def test_a_nested_node_is_another_one_each_time(tmp_path: Path):
    ask = "cat /proc/sys/kernel/random/boot_id; date +%s; cat /etc/machine-id"
    with running("plain") as end:
        assert end.known_hosts is not None
        one, key = _says(end, ask).split(), end.known_hosts.read_text().split()[2]
    node = NestedNode(tmp_path, persona("plain"))
    try:
        end = node.start(BOOT_S)
        assert end.known_hosts is not None
        other = _says(end, ask).split()
        assert abs(int(other[1]) - time.time()) < 60
        assert one[0] != other[0]
        assert one[2] != other[2]
        assert end.known_hosts.read_text().split()[2] != key
        found = NestedNode(tmp_path, persona("plain"))
        assert found.endpoint() == end
        assert found.start(BOOT_S) == end
        record = found.record()
        assert record is not None
        found.stop()
        assert not proc.is_running(record.pid, record.born)
        assert not node.is_running()
        found.stop()
    finally:
        node.stop()
