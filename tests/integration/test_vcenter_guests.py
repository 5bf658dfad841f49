# SPDX-License-Identifier: Apache-2.0
"""A guest that boots behind the vCenter simulator, asked by its own agent through our adapter.

Opt-in by HYPERVOUCH_VCENTER_GUESTS=1: under emulation it takes two minutes. The guest is real, the
hypervisor under it is QEMU and not ESXi.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci import proc
from nodes.hypervisors.base import GuestImage, GuestSpec, GuestState, Nic
from nodes.hypervisors.faults import TransientFault
from nodes.hypervisors.guest import GuestAgent
from nodes.images.bootable import bootable
from nodes.images.tiny import tiny
from tests.kit.require import require
from tests.kit.vcenter import simulator

GUEST, MAC, OTHER_MAC = "hv-guest", "52:54:00:aa:bb:01", "52:54:00:aa:bb:02"
BOOT_S, SEEN_S = 400.0, 90.0
MIB_SECTORS = 2048

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("HYPERVOUCH_VCENTER_GUESTS"), reason="HYPERVOUCH_VCENTER_GUESTS is unset"
    ),
]


@pytest.fixture
def image() -> GuestImage:
    found = shutil.which("qemu-system-x86_64") and Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists()
    require("vcenter", present=bool(found), why="apt-get install qemu-system-x86 ovmf")
    return bootable(tiny())


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Any]:
    options = ["-machines=0", f"-guests={tmp_path / 'guests'}"]
    with simulator(tmp_path, options) as made, made.connected(timeout_s=120.0) as connected:
        yield connected
        connected.cleanup()


def test_a_guest_is_asked(hypervisor: Any, image: GuestImage) -> None:
    meta = {"openstack/latest/meta_data.json": b"{}"}
    spec = GuestSpec(
        name=GUEST, image=image, memory_mib=256, nics=(Nic(mac=MAC),), config_drive=meta
    )
    hypervisor.launch(spec)
    line = hypervisor.console(GUEST)
    try:
        agent = GuestAgent(line, GUEST)
        first = agent.ready(BOOT_S)
        assert first["uefi"]
        assert "meta_data.json" in agent.ask("configdrive")["files"]
        log = hypervisor.console_log(GUEST)
        assert b"Linux version" in log
        assert b'"event": "boot"' in log
        _hot_plug(hypervisor, agent)
        _power(hypervisor, agent, first["boot_id"])
    finally:
        line.close()

    hypervisor.shutdown(GUEST)
    assert hypervisor.info(GUEST).state is GuestState.SHUTOFF
    hypervisor.start(GUEST)
    hypervisor.power_off(GUEST)
    hypervisor.delete(GUEST)
    assert hypervisor.inventory().guests == {}


def _hot_plug(hypervisor: Any, agent: GuestAgent) -> None:
    volume = hypervisor.create_volume("hv-volume", 64)
    hypervisor.attach_volume(GUEST, volume)
    _until(lambda: 64 * MIB_SECTORS in _sizes(agent))
    volume = hypervisor.extend_volume(GUEST, volume, 96)
    _until(lambda: 96 * MIB_SECTORS in _sizes(agent))
    hypervisor.detach_volume(GUEST, volume)
    assert 96 * MIB_SECTORS not in _sizes(agent)

    hypervisor.attach_interface(GUEST, Nic(mac=OTHER_MAC))
    _until(lambda: OTHER_MAC in _macs(agent))
    hypervisor.detach_interface(GUEST, Nic(mac=OTHER_MAC))
    assert _macs(agent) == {MAC}


def _power(hypervisor: Any, agent: GuestAgent, boot_id: str) -> None:
    hypervisor.suspend(GUEST)
    with pytest.raises(TransientFault):
        agent.ask("info", 8)
    hypervisor.resume(GUEST)
    assert agent.ask("info")["boot_id"] == boot_id
    hypervisor.reboot(GUEST, hard=True)
    assert agent.ready(BOOT_S)["boot_id"] != boot_id


def test_a_snapshot_brings_back_what_the_disk_held(hypervisor: Any, image: GuestImage) -> None:
    hypervisor.launch(GuestSpec(name=GUEST, image=image, memory_mib=256))
    with _asked(hypervisor) as agent:
        agent.ask("write vda before")
        hypervisor.snapshot(GUEST, "first")
        agent.ask("write vda after!")
        assert agent.ask("read vda 6")["data"] == "after!"
    hypervisor.revert(GUEST, "first")
    with _asked(hypervisor) as agent:
        assert agent.ask("read vda 6")["data"] == "before"
    assert hypervisor.info(GUEST).state is GuestState.RUNNING


@contextmanager
def _asked(hypervisor: Any) -> Iterator[GuestAgent]:
    line = hypervisor.console(GUEST)
    try:
        agent = GuestAgent(line, GUEST)
        agent.ready(BOOT_S)
        yield agent
    finally:
        line.close()


def _sizes(agent: GuestAgent) -> set[int]:
    return {one["sectors"] for one in agent.ask("disks")["disks"].values()}


def _macs(agent: GuestAgent) -> set[str]:
    return {one["mac"] for one in agent.ask("nics")["nics"].values()}


def _until(seen: Callable[[], bool]) -> None:
    for _ in proc.wait_until(time.monotonic() + SEEN_S, every_s=1.0):
        if seen():
            return
    raise AssertionError("the guest does not see it")
