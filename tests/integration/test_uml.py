# SPDX-License-Identifier: Apache-2.0
"""User Mode Linux for real: what the contract does not ask, and what its owner's death leaves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState, Nic
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.uml import UmlHypervisor, connect
from nodes.hypervisors.uml_guest import running
from nodes.images.tiny import tiny
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
NAME = "hv-uml"
BOOT_S = 150.0
META = b'{"uuid": "of-uml"}'
OWNER = """
import sys
from pathlib import Path
from nodes.hypervisors.base import Access, GuestSpec
from nodes.hypervisors.uml import connect
from nodes.images.tiny import tiny
connect("uml:///", Access(work=Path(sys.argv[1]))).launch(GuestSpec(name="hv-uml", image=tiny()))
print("launched", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[UmlHypervisor]:
    found = shutil.which("linux.uml")
    require("uml", present=found is not None, why="apt-get install user-mode-linux")
    require("uml", present=os.geteuid() == 0, why="needs root for network cards")
    made = connect("uml:///", Access(work=tmp_path, grade=Grade.BARE))
    try:
        yield made
    finally:
        made.cleanup()


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


def agent_of(place: UmlHypervisor) -> GuestAgent:
    return GuestAgent(place.console(NAME), NAME, reopen=lambda: place.console(NAME))


def test_devices_come_and_go_and_outlive_a_boot(place: UmlHypervisor, image: GuestImage) -> None:
    card, later = Nic(mac="52:54:00:12:00:01"), Nic(mac="52:54:00:12:00:02")
    place.launch(
        GuestSpec(
            name=NAME,
            image=image,
            nics=(card,),
            files={"/etc/injected": b"by the host"},
            config_drive={"openstack/latest/meta_data.json": META},
            memory_file=True,
        )
    )
    volume = place.create_volume("hv-uml-v", 16)
    with closing(agent_of(place)) as agent:
        born = agent.ready(BOOT_S)["boot_id"]
        assert agent.ask("exec cat /etc/injected")["out"] == "by the host"
        assert json.loads(agent.ask("configdrive")["meta"]) == json.loads(META)

        place.attach_volume(NAME, volume)
        [device] = _with_serial(agent, volume.name)
        assert agent.ask(f"write {device} from-inside")["ok"]
        assert place.volume_bytes(volume, 11) == b"from-inside"
        place.attach_interface(NAME, later)
        assert _macs(agent) == {card.mac, later.mac}
        place.detach_interface(NAME, later)
        assert _macs(agent) == {card.mac}
        with pytest.raises(CallerFault):
            place.attach_volume(NAME, volume)
        with pytest.raises(Unsupported):
            place.extend_volume(NAME, volume, 32)

        place.reboot(NAME)
        assert agent.ready(BOOT_S)["boot_id"] != born
        assert _with_serial(agent, volume.name)
        place.detach_volume(NAME, volume)
        assert not _with_serial(agent, volume.name)


def test_a_guest_ends_itself_and_boots_other_images(
    place: UmlHypervisor, image: GuestImage
) -> None:
    place.launch(GuestSpec(name=NAME, image=image, files={"/etc/own": b"own"}))
    with closing(agent_of(place)) as agent:
        agent.ready(BOOT_S)
        place.rescue(NAME, image)
        agent.ready(BOOT_S)
        assert agent.ask("exec cat /etc/own")["rc"] != 0
        place.unrescue(NAME)
        agent.ready(BOOT_S)
        assert agent.ask("exec cat /etc/own")["out"] == "own"
        with pytest.raises(Unsupported):
            place.resize(NAME, memory_mib=256, cpus=2)
        place.resize(NAME, memory_mib=256, cpus=1)
        agent.ready(BOOT_S)
        assert int(agent.ask("mem")["mem_kb"]) > 200 << 10
    place.shutdown(NAME)
    assert place.info(NAME).state is GuestState.SHUTOFF
    with pytest.raises(CallerFault, match="does not run"):
        place.pause(NAME)


def test_who_comes_after_a_killed_owner_finds_and_removes_all(
    place: UmlHypervisor, image: GuestImage, tmp_path: Path
) -> None:
    del image  # built by now: the owner finds it
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"launched\n"
        owner.kill()
    assert place.inventory().guests == {NAME: GuestState.RUNNING}
    with closing(agent_of(place)) as agent:
        assert agent.ready(BOOT_S)
    # Even its folder may be gone: the process tells whose it is.
    folder = tmp_path / "uml" / NAME
    shutil.rmtree(folder)
    assert place.inventory().guests == {NAME: GuestState.RUNNING}
    assert place.cleanup() == (NAME,)
    assert folder.resolve() not in running("linux.uml")
    assert place.inventory().guests == {}


def test_a_guest_that_floods_costs_two_logs(
    place: UmlHypervisor, image: GuestImage, tmp_path: Path
) -> None:
    place.launch(GuestSpec(name=NAME, image=image))
    with closing(agent_of(place)) as agent:
        agent.ready(BOOT_S)
        assert agent.ask("flood 25000", BOOT_S)["ok"]
    logs = [path.stat().st_size for path in (tmp_path / "uml" / NAME).glob("console.log*")]
    assert sum(logs) < 3 << 20
    assert len(place.console_log(NAME, 1000)) == 1000


def test_an_image_that_cannot_boot_leaves_nothing(place: UmlHypervisor, tmp_path: Path) -> None:
    empty = tmp_path / "empty.initrd"
    empty.write_bytes(b"070701" + b"0" * 506)
    with pytest.raises((NodeFault, CallerFault)):
        place.launch(GuestSpec(name=NAME, image=GuestImage(initrd=empty), memory_mib=32))
    assert place.inventory().guests == {}


def test_what_one_processor_cannot_give(place: UmlHypervisor, image: GuestImage) -> None:
    with pytest.raises(CallerFault, match="one processor"):
        place.launch(GuestSpec(name=NAME, image=image, cpus=2))
    with pytest.raises(Unsupported) as caught:
        place.launch(GuestSpec(name=NAME, image=image, graphics="vnc"))
    assert caught.value.feature is Feature.CONSOLE_VNC
    assert place.inventory().guests == {}


def _with_serial(agent: GuestAgent, serial: str) -> list[str]:
    disks = agent.ask("disks")["disks"]
    return [name for name, disk in disks.items() if disk["serial"] == serial]


def _macs(agent: GuestAgent) -> set[str]:
    return {nic["mac"] for nic in agent.ask("nics")["nics"].values()}
