# SPDX-License-Identifier: Apache-2.0
"""Docker and Podman for real: what the contract does not ask, and engines that go away."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState, Hypervisor, Nic
from nodes.hypervisors.container_engine import peer
from nodes.hypervisors.faults import CallerFault, TransientFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from tests.kit import containers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
NAME = "hv-box"
BOOT_S = 60.0
CARD, LATER = Nic(mac="52:54:00:13:00:01"), Nic(mac="52:54:00:13:00:02")


@pytest.fixture(params=["docker", "podman"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hypervisor]:
    path = request.getfixturevalue(f"{request.param}_socket")
    with closing(connect(f"{request.param}://{path}", access(tmp_path))) as made:
        before = made.inventory()
        try:
            yield made
        finally:
            made.cleanup()
        assert made.inventory() == before


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


def access(work: Path, timeout_s: float = 120.0) -> Access:
    return Access(work=work, grade=Grade.BARE, timeout_s=timeout_s)


def ask(box: Hypervisor, *commands: str) -> list[str]:
    """What a guest's commands print; it is waited for."""
    with closing(GuestAgent(box.console(NAME), NAME)) as agent:
        agent.ready(BOOT_S)
        return [str(agent.ask(f"exec {command}")["out"]) for command in commands]


def macs(box: Hypervisor) -> set[str]:
    with closing(GuestAgent(box.console(NAME), NAME)) as agent:
        agent.ready(BOOT_S)
        return {nic["mac"] for nic in agent.ask("nics")["nics"].values()}


def test_files_limits_and_file_systems(box: Hypervisor, image: GuestImage) -> None:
    box.launch(GuestSpec(name=NAME, image=image, nics=(CARD,), files={"/etc/own": b"own"}))
    assert ask(box, "cat /etc/own", "echo one >/etc/mark", "nproc") == ["own", "", "1"]
    box.snapshot(NAME, "first")
    assert f"{NAME}:first" in box.inventory().snapshots
    ask(box, "echo two >/etc/mark")
    box.reboot(NAME)
    assert ask(box, "cat /etc/mark") == ["two"]
    box.revert(NAME, "first")
    assert ask(box, "cat /etc/mark") == ["one"]
    assert macs(box) == {CARD.mac}
    box.resize(NAME, memory_mib=256, cpus=min(2, os.cpu_count() or 1))
    assert box.info(NAME).memory_mib == 256
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    assert ask(box, limit)[0].split() == [str(256 << 20)]
    assert ask(box, "cat /etc/mark") == ["one"]
    box.rebuild(NAME, image)
    assert ask(box, "cat /etc/mark 2>/dev/null") == [""]
    with pytest.raises(CallerFault, match="no snapshot"):
        box.revert(NAME, "never")


def test_a_card_comes_and_goes_or_it_is_said_why_not(box: Hypervisor, image: GuestImage) -> None:
    box.launch(GuestSpec(name=NAME, image=image))
    assert macs(box) == set()
    try:
        box.attach_interface(NAME, LATER)
    except Unsupported as error:
        said = error
    else:
        assert macs(box) == {LATER.mac}
        box.detach_interface(NAME, LATER)
        assert macs(box) == set()
        return
    assert said.feature is Feature.ATTACH_INTERFACE
    assert "address of its own" in said.reason
    assert macs(box) == set()


def test_a_guest_that_floods_costs_a_mebibyte_or_two(box: Hypervisor, image: GuestImage) -> None:
    box.launch(GuestSpec(name=NAME, image=image))
    with closing(GuestAgent(box.console(NAME), NAME)) as agent:
        agent.ready(BOOT_S)
        assert agent.ask("flood 40000", BOOT_S)["ok"]
    assert len(box.console_log(NAME, 4 << 20)) < 3 << 20
    assert len(box.console_log(NAME, 100)) == 100


def test_shutdown_asks_and_never_kills(box: Hypervisor, image: GuestImage, tmp_path: Path) -> None:
    box.launch(GuestSpec(name=NAME, image=image))
    ask(box, "true")
    box.shutdown(NAME)
    assert box.info(NAME).state is GuestState.SHUTOFF
    assert b"power-button" in box.console_log(NAME)
    with pytest.raises(CallerFault):
        box.shutdown(NAME)
    with pytest.raises(CallerFault):
        box.console(NAME)


def test_what_is_asked_wrongly(box: Hypervisor, image: GuestImage, tmp_path: Path) -> None:
    wrong = tmp_path / "root.tar"
    wrong.write_bytes(b"no tar file")
    for bad in (GuestImage(root=wrong), GuestImage(), GuestImage(root=image.root, disk=wrong)):
        with pytest.raises(CallerFault):
            box.launch(GuestSpec(name=NAME, image=bad))
    with pytest.raises(CallerFault, match="processors"):
        box.launch(GuestSpec(name=NAME, image=image, cpus=4096))
    with pytest.raises(Unsupported):
        box.launch(GuestSpec(name=NAME, image=image, config_drive={"a": b""}))
    assert NAME not in box.inventory().guests


class TestEngines:
    def test_no_socket(self, tmp_path: Path) -> None:
        with pytest.raises(TransientFault, match="no docker listens") as caught:
            connect(f"docker://{tmp_path}/sock", access(tmp_path))
        assert caught.value.hint

    def test_a_socket_that_says_nothing(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "sock"))
            listener.listen()
            with pytest.raises(TransientFault, match="does not answer"):
                connect(f"docker://{tmp_path}/sock", access(tmp_path, timeout_s=1.0))

    def test_the_other_engines_socket(self, docker_socket: Path, tmp_path: Path) -> None:
        with pytest.raises(CallerFault, match="is not podman"):
            connect(f"podman://{docker_socket}", access(tmp_path))

    # The docker library forgets a socket that was refused; when it is collected is chance.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_an_engine_that_dies_and_comes_back(self, tmp_path: Path, image: GuestImage) -> None:
        """Its containers are found again by the one that comes after it."""
        with containers.home_of("docker") as home:
            url = f"docker://{home}/sock"
            with (
                containers.started("docker", home),
                closing(connect(url, access(tmp_path))) as made,
            ):
                made.launch(GuestSpec(name=NAME, image=image))
                os.kill(peer(home / "sock"), signal.SIGKILL)
                deadline = time.monotonic() + BOOT_S
                assert any(not peer(home / "sock") for _ in proc.wait_until(deadline))
                for call in (lambda: made.info(NAME), made.inventory):
                    with pytest.raises(NodeUnavailable):
                        call()
            with (
                containers.started("docker", home),
                closing(connect(url, access(tmp_path))) as made,
            ):
                assert NAME in made.inventory().guests
                assert made.cleanup() == (NAME,)
                assert NAME not in made.inventory().guests


def test_only_what_is_marked_is_cleaned(box: Hypervisor, image: GuestImage) -> None:
    """Somebody else's container has our prefix; one of an older version has its image's name."""
    box.launch(GuestSpec(name=NAME, image=image))
    client = box._client  # type: ignore[attr-defined]
    own = client.containers.get(NAME).image.id
    client.images.get(own).tag("theirs", "1")
    client.images.get(own).tag("hv-old", "base")
    for name, of in (("hv-theirs", "theirs:1"), ("hv-old", "hv-old:base")):
        client.containers.create(of, command=["/sbin/init"], name=name)
    try:
        with pytest.raises(CallerFault, match="not ours"):
            box.delete("hv-theirs")
        cleaned = box.cleanup()
        assert NAME in cleaned
        assert "hv-theirs" not in cleaned
        assert "hv-theirs" in box.inventory().guests
        assert NAME not in box.inventory().guests
    finally:
        for name in ("hv-theirs", "hv-old"):
            with suppress(Exception):
                client.containers.get(name).remove(force=True)
        client.images.remove("theirs:1", force=True)


def test_of_two_launches_of_a_name_one_wins(
    box: Hypervisor, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, check = threading.Barrier(2), type(box)._check  # type: ignore[attr-defined]

    def met(self: Hypervisor, spec: GuestSpec) -> None:
        check(self, spec)
        both.wait(60)

    def launched(_turn: int) -> CallerFault | None:
        try:
            box.launch(GuestSpec(name=NAME, image=image))
        except CallerFault as error:
            return error
        return None

    monkeypatch.setattr(type(box), "_check", met)
    with ThreadPoolExecutor(2) as pool:
        (lost,) = [error for error in pool.map(launched, range(2)) if error is not None]
    assert "already" in lost.message
    assert box.info(NAME).state is GuestState.RUNNING
