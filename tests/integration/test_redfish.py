# SPDX-License-Identifier: Apache-2.0
"""The Redfish adapter against sushy-tools: a machine of QEMU that boots, resets and stops."""

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ci import proc
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import GuestImage, GuestSpec, GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.lab import redfish as lab
from tests.kit.bare_metal import SAYS, Served, boot_image, media, redfish

sushy = pytest.importorskip("sushy")
# The first test of a machine may build what it needs.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
GUEST = "hv-metal"
BOOT_S = 150.0


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with redfish() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[GuestImage, str]]:
    made = boot_image(tmp_path)
    with media(tmp_path) as url:
        yield made, url


def _connected(served: Served, options: str = "", **changes: object):
    from nodes.hypervisors.redfish import connect  # noqa: PLC0415 - sushy may be missing

    return closing(connect(served.url + options, replace(served.access, **changes)))


def _wait(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOOT_S
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_machine_boots_a_medium_that_its_controller_fetched(served, image):
    iso, url = image
    line = lab.line(served.host)
    said = line.read_bytes().count(SAYS) if line.exists() else 0

    def has_booted(times: int) -> bool:
        return line.exists() and line.read_bytes().count(SAYS) == said + times

    with _connected(served, f"?images={url}") as metal:
        try:
            assert (metal.system().key, metal.system().grade) == ("redfish", Grade.NESTED)
            assert metal.status().memory_mib == lab.MEMORY_MIB
            assert not metal.inventory().guests
            metal.launch(GuestSpec(name=GUEST, image=iso))
            _wait(lambda: has_booted(1))
            assert metal.inventory().guests == {GUEST: GuestState.RUNNING}
            with pytest.raises(TransientFault, match="taken"):
                metal.launch(GuestSpec(name="hv-other", image=iso))
            with pytest.raises(CallerFault, match="no guest"):
                metal.power_off("hv-other")
            metal.reboot(GUEST, hard=True)
            _wait(lambda: has_booted(2))
            for _ in range(2):
                metal.power_off(GUEST)
                assert metal.info(GUEST).state is GuestState.SHUTOFF
            metal.start(GUEST)
            _wait(lambda: has_booted(3))
        finally:
            metal.cleanup()
        assert not metal.inventory().guests
        assert metal.cleanup() == ()
    with _connected(served) as metal:
        told = metal._link.told()
    assert told["PowerState"] == "Off"
    assert told["Boot"]["BootSourceOverrideTarget"] == "Hdd"


def test_a_system_that_does_not_listen_is_not_shut_down(served):
    with _connected(served, timeout_s=3.0) as metal:
        try:
            metal.launch(GuestSpec(name=GUEST, image=GuestImage()))
            with pytest.raises(TransientFault, match="still On"):
                metal.shutdown(GUEST)
        finally:
            metal.cleanup()


def test_who_died_left_a_note_that_the_next_one_finds(served):
    with _connected(served) as metal:
        metal.launch(GuestSpec(name=GUEST, image=GuestImage()))
    with _connected(served) as metal:
        assert metal.inventory().guests == {GUEST: GuestState.RUNNING}
        assert metal.cleanup() == (GUEST,)


def test_a_machine_that_others_run_is_left_alone(served):
    below = lab.libvirt(served.host)
    proc.run(["virsh", "-q", "-c", below.uri(), "start", lab.MACHINE], timeout_s=60)
    try:
        with _connected(served) as metal:
            with pytest.raises(TransientFault, match="nobody here"):
                metal.launch(GuestSpec(name=GUEST, image=GuestImage()))
            assert metal.cleanup() == ()
            assert metal.inventory().guests == {lab.MACHINE: GuestState.RUNNING}
    finally:
        proc.run(["virsh", "-q", "-c", below.uri(), "destroy", lab.MACHINE], timeout_s=60)


def test_a_medium_that_is_not_there_is_told_and_the_machine_given_back(served, image):
    iso, url = image
    gone = replace(iso, disk=iso.disk.with_name("gone.iso"))
    with _connected(served, f"?images={url}") as metal:
        with pytest.raises((CallerFault, TransientFault), match=r"gone\.iso"):
            metal.launch(GuestSpec(name=GUEST, image=gone))
        assert not metal.inventory().guests


def test_a_stranger_is_refused(served):
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(served.host.ca_file.read_text())).hexdigest()
    with _connected(served, ca_file=None, certificate=digest) as pinned:
        assert pinned.status().hostname == lab.MACHINE
    for changes, words in (
        ({"password": "wrong"}, "401"),
        ({"ca_file": None}, "certificate"),
        ({"ca_file": None, "certificate": "0" * 64}, "certificate"),
    ):
        with pytest.raises(NodeFault, match=words):
            _connected(served, **changes)
    port = served.url.partition("/redfish/")[0].rpartition(":")[2]
    with pytest.raises(TransientFault, match="log in"):
        _connected(replace(served, url=served.url.replace(port, "1", 1)))


def test_it_has_no_console_and_no_rescue(served):
    with _connected(served) as metal:
        for call, row in (
            (lambda: metal.console(GUEST), Feature.CONSOLE_SERIAL_INTERACTIVE),
            (lambda: metal.rescue(GUEST, GuestImage()), Feature.RESCUE),
            (lambda: metal.pause(GUEST), Feature.PAUSE),
        ):
            with pytest.raises(Unsupported) as told:
                call()
            assert told.value.feature is row
            assert row in metal.missing
