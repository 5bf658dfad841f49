# SPDX-License-Identifier: Apache-2.0
"""XenServer's adapter, through the vendor's SDK over TLS, on a pool that is modelled by us.

No guest runs there: what is asked is what the pool says. Faults are in test_xenserver_faults.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from nodes.hypervisors.base import (
    PREFIX,
    GuestImage,
    GuestSpec,
    GuestState,
    Nic,
    Rule,
)
from nodes.hypervisors.faults import CallerFault, Unsupported
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")

from nodes.hypervisors import xenserver_claim as claim  # noqa: E402
from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from tests.kit import xapi  # noqa: E402

NAME, VOLUME, MAC = f"{PREFIX}xs", f"{PREFIX}xs-v", "52:54:00:aa:00:01"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[xapi.XapiPool]:
    with xapi.pool(tmp_path_factory.mktemp("xapi")) as made:
        yield made


@pytest.fixture
def one(pool: xapi.XapiPool) -> Iterator[XenServerHypervisor]:
    with pool.opened() as made:
        before = made.inventory()
        yield made
        made.cleanup()
        assert made.inventory() == before


@pytest.fixture
def two(pool: xapi.XapiPool) -> Iterator[XenServerHypervisor]:
    with pool.opened("host=xs2") as made:
        yield made
        made.cleanup()


@pytest.fixture
def image(tmp_path: Path) -> GuestImage:
    return xapi.image(tmp_path)


@pytest.fixture
def guest(one: XenServerHypervisor, image: GuestImage) -> str:
    one.launch(GuestSpec(name=NAME, image=image, nics=(Nic(mac=MAC),)))
    return NAME


class TestFacts:
    def test_says_what_it_is(self, one: XenServerHypervisor):
        assert "stand-in" in one.system().versions["product"]

    @pytest.mark.parametrize("options", ["host=nobody", "sr=nowhere", "network=none"])
    def test_what_the_url_names_has_to_be_there(self, pool: xapi.XapiPool, options: str):
        with pytest.raises(CallerFault, match="the pool has 0"), pool.opened(options):
            pass


class TestLife:
    def test_the_image_arrives_byte_by_byte(
        self, one: XenServerHypervisor, guest: str, image: GuestImage
    ):
        assert image.disk is not None
        told = xapi.root_bytes(one, guest, 1 << 20)
        assert told == image.disk.read_bytes()[: 1 << 20]

    def test_firmware_is_what_the_image_says(self, one: XenServerHypervisor, image: GuestImage):
        told = replace(image, properties={"hw_firmware_type": "uefi"})
        one.launch(GuestSpec(name=NAME, image=told))
        record = one._link.record("VM", one._guest(NAME))
        assert record["HVM_boot_params"]["firmware"] == "uefi"
        assert record["platform"]["secureboot"] == "false"

    def test_a_config_drive_is_a_disk_that_is_only_read(
        self, one: XenServerHypervisor, image: GuestImage
    ):
        one.launch(GuestSpec(name=NAME, image=image, config_drive={"a": b"b"}))
        links = one._link.record("VM", one._guest(NAME))["VBDs"]
        assert [one._link.record("VBD", link)["mode"] for link in links] == ["RW", "RO"]


class TestDevices:
    def test_an_empty_volume_is_read(self, one: XenServerHypervisor):
        assert one.volume_bytes(one.create_volume(VOLUME, 8), 3) == b"\0\0\0"

    def test_cards_have_no_rules(self, one: XenServerHypervisor, guest: str):
        with pytest.raises(Unsupported):
            one.attach_interface(guest, Nic(mac=MAC, rules=(Rule(protocol="icmp"),)))

    def test_a_guest_has_so_many_cards_and_no_more(self, one: XenServerHypervisor, guest: str):
        for at in range(2, 8):
            one.attach_interface(guest, Nic(mac=f"52:54:00:aa:00:{at:02x}"))
        with pytest.raises(CallerFault, match="no more"):
            one.attach_interface(guest, Nic(mac="52:54:00:aa:00:ff"))


class TestChanges:
    def test_a_snapshot_brings_the_disk_back_and_leaves_volumes_alone(
        self, one: XenServerHypervisor, guest: str, tmp_path: Path
    ):
        volume = one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        one.snapshot(guest, "before")
        assert f"{guest}/before" in one.inventory().snapshots
        one.rebuild(guest, xapi.image(tmp_path, b"second"))
        assert xapi.root_bytes(one, guest, 6) == b"second"
        one.revert(guest, "before")
        assert xapi.root_bytes(one, guest, 6) == b"first\0"
        assert one.info(guest).state is GuestState.RUNNING
        assert one.info(guest).volumes == {VOLUME}
        with pytest.raises(CallerFault, match="no snapshot"):
            one.revert(guest, "nothing")
        one.delete(guest)
        assert not one._disks.left()
        assert {told["is_a_snapshot"] for told in one._link.records("VDI").values()} == {False}

    def test_a_rescued_guest_leaves_nothing(
        self, one: XenServerHypervisor, guest: str, tmp_path: Path
    ):
        before = set(one._link.records("VDI"))
        one.rescue(guest, xapi.image(tmp_path, b"rescue"))
        assert xapi.root_bytes(one, guest, 6) == b"rescue"
        one.delete(guest)
        assert set(one._link.records("VDI")) < before


class TestHosts:
    def test_a_guest_moves_with_its_home(
        self, one: XenServerHypervisor, two: XenServerHypervisor, guest: str
    ):
        one.live_migrate(guest, two)
        assert guest not in one.inventory().guests
        assert two.inventory().guests[guest] is GuestState.RUNNING
        two.power_off(guest)
        assert guest not in one.inventory().guests
        with pytest.raises(CallerFault, match="the host that"):
            two.live_migrate(guest, two)
        with pytest.raises(Unsupported):
            two.live_migrate(guest, one, block=True)

    @pytest.mark.parametrize("host", ["live", "dead"])
    def test_evacuate(
        self, one: XenServerHypervisor, two: XenServerHypervisor, guest: str, host: str
    ):
        metrics, live = one._link.record("host", one.member)["metrics"], {"live": True}
        one._link.call("kill the host", "host_metrics.set_live", metrics, host in live)
        try:
            one.evacuate(guest, two)
        finally:
            one._link.call("wake the host", "host_metrics.set_live", metrics, live["live"])
        assert two.inventory().guests[guest] is GuestState.RUNNING

    def test_maintenance_moves_guests(
        self, one: XenServerHypervisor, two: XenServerHypervisor, guest: str, image: GuestImage
    ):
        one.maintenance(on=True)
        try:
            assert two.inventory().guests[guest] is GuestState.RUNNING
            with pytest.raises(Exception, match="HOST_DISABLED"):
                one.launch(GuestSpec(name=f"{NAME}-b", image=image))
        finally:
            one.maintenance(on=False)
        one.launch(GuestSpec(name=f"{NAME}-b", image=image))
        two.delete(guest)

    def test_maintenance_that_is_refused_leaves_the_host_as_it_was(
        self, pool: xapi.XapiPool, one: XenServerHypervisor
    ):
        pool.fail("host.evacuate", error=["NO_HOSTS_AVAILABLE"])
        with pytest.raises(Exception, match="NO_HOSTS_AVAILABLE"):
            one.maintenance(on=True)
        assert one._link.record("host", one.member)["enabled"]


class TestOthers:
    def test_cleanup_takes_what_has_mark_and_prefix(self, one: XenServerHypervisor, guest: str):
        marked = _machine(one, "theirs-but-marked", hypervouch="hypervouch")
        assert one.cleanup() == (guest,)
        assert "theirs-but-marked" in one.inventory().guests
        one._link.call("tidy", "VM.destroy", marked)

    def test_cleanup_leaves_somebodys_machine_of_the_same_name(
        self, one: XenServerHypervisor, guest: str
    ):
        theirs = _machine(one, guest)
        assert one.cleanup() == (guest,)
        assert list(one._all(guest)) == [theirs]
        one._link.call("tidy", "VM.destroy", theirs)

    def test_a_claim_that_a_killed_launch_left_is_cleaned(self, one: XenServerHypervisor):
        begun = claim.held(one._link, NAME, one._disks.member)
        begun.__enter__()
        keys = [told["other_config"] for told in one._link.records("pool").values()]
        assert any(claim.LAUNCH in key for key in keys[0])
        one.cleanup()
        assert not any(told["other_config"] for told in one._link.records("pool").values())

    def test_two_of_one_name_are_both_listed(self, one: XenServerHypervisor):
        refs = [_machine(one, "twin") for _ in range(2)]
        assert len([name for name in one.inventory().guests if name.startswith("twin")]) == 2
        for ref in refs:
            one._link.call("tidy", "VM.destroy", ref)

    def test_a_guest_that_was_made_twice_is_deleted_whole(
        self, one: XenServerHypervisor, guest: str
    ):
        _machine(one, guest, hypervouch="hypervouch")
        one.delete(guest)
        assert not one._all(guest)

    def test_disks_that_a_killed_launch_left_are_cleaned(self, one: XenServerHypervisor):
        one._disks.make(f"{NAME} root", 1 << 20, own=True)
        assert one._disks.left()
        one._disks.make(f"{NAME} root", 1 << 20, own=True)  # of the same name
        one.cleanup()
        assert not one._disks.left()

    def test_cleanup_leaves_what_another_member_of_the_pool_makes(
        self, one: XenServerHypervisor, two: XenServerHypervisor
    ):
        """The pool's storage is one, and both may be nodes of ours: it may be in mid-launch."""
        volume = two.create_volume(f"{NAME}-v", 8)
        begun = two._disks.make(f"{NAME} root", 1 << 20, own=True)
        assert volume.name in one.inventory().volumes
        assert one.cleanup() == ()
        assert (two._disks.left(), two.inventory().volumes) == (
            {begun: f"{NAME} root"},
            {volume.name},
        )
        assert two.cleanup() == (volume.name,)
        assert not two._disks.left()


def _machine(one: XenServerHypervisor, name: str, **marks: str) -> str:
    record = {"name_label": name, "VCPUs_max": "1", "VCPUs_at_startup": "1", "other_config": marks}
    return str(one._link.call("make theirs", "VM.create", record))


def test_two_threads_at_once(pool: xapi.XapiPool, one: XenServerHypervisor, image: GuestImage):
    names = [f"{NAME}-{at}" for at in range(4)]
    trouble: list[BaseException] = []

    def work(name: str) -> None:
        try:
            one.launch(GuestSpec(name=name, image=image))
            one.reboot(name)
            one.info(name)
        except BaseException as error:  # noqa: BLE001 - told below
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not trouble
    assert set(names) <= set(one.inventory().guests)
