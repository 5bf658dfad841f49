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

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import (
    PREFIX,
    GuestImage,
    GuestSpec,
    GuestState,
    Nic,
    Rule,
    Volume,
)
from nodes.hypervisors.faults import CallerFault, Unsupported
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")

from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from tests.kit import xapi  # noqa: E402

NAME, VOLUME, MAC = f"{PREFIX}xs", f"{PREFIX}xs-v", "52:54:00:aa:00:01"
MANY = 2000
EDGE_MIB = (4 << 10) + 1  # one more than 32 bits of bytes hold
HOSTILE = (
    "quotes ' \" `$(reboot)`; --",
    "two\nlines\tand a tab",
    "x" * 300,
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd",
    "<b>&amp;</b>",
    f"{PREFIX}looks-like-ours",
)


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
        system = one.system()
        assert (system.key, system.grade) == ("xenserver", Grade.EMULATOR)
        assert "stand-in" in system.versions["product"]

    def test_says_of_its_host(self, one: XenServerHypervisor, two: XenServerHypervisor):
        status = one.status()
        assert (status.hostname, status.memory_mib, status.cpus) == ("xs1", 32 << 10, 8)
        assert status.uptime_s > 0
        assert two.status().hostname == "xs2"

    @pytest.mark.parametrize("options", ["host=nobody", "sr=nowhere", "network=none"])
    def test_what_the_url_names_has_to_be_there(self, pool: xapi.XapiPool, options: str):
        with pytest.raises(CallerFault, match="the pool has 0"), pool.opened(options):
            pass


class TestLife:
    def test_each_state_is_the_hypervisors_word(self, one: XenServerHypervisor, guest: str):
        def states(*calls: str) -> list[GuestState]:
            seen = []
            for call in calls:
                getattr(one, call)(guest)
                seen.append(one.info(guest).state)
            return seen

        off, on = GuestState.SHUTOFF, GuestState.RUNNING
        assert one.info(guest).state is on
        assert states("pause", "pause", "unpause", "unpause") == [GuestState.PAUSED] * 2 + [on] * 2
        assert states("suspend", "resume") == [GuestState.SUSPENDED, on]
        assert states("shutdown", "power_off", "start", "start") == [off, off, on, on]
        assert states("reboot", "suspend", "power_off") == [on, GuestState.SUSPENDED, off]
        one.start(guest)
        one.reboot(guest, hard=True)
        assert one.inventory().guests[guest] is on
        one.delete(guest)
        one.delete(guest)
        assert guest not in one.inventory().guests

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

    def test_what_is_there_already_is_told(
        self, one: XenServerHypervisor, guest: str, image: GuestImage
    ):
        with pytest.raises(CallerFault, match="already"):
            one.launch(GuestSpec(name=guest, image=image))
        assert one.info(guest).state is GuestState.RUNNING

    @pytest.mark.parametrize("name", ["xs", f"{PREFIX}$(id)", f"{PREFIX}a\nb", PREFIX + "x" * 300])
    def test_names_that_are_not_ours_are_refused(
        self, one: XenServerHypervisor, image: GuestImage, name: str
    ):
        for call in (
            lambda: one.launch(GuestSpec(name=name, image=image)),
            lambda: one.delete(name),
            lambda: one.create_volume(name, 8),
        ):
            with pytest.raises(CallerFault, match="no name of ours"):
                call()

    @pytest.mark.parametrize(
        ("more", "feature"),
        [
            ({"tpm": True}, Feature.BOOT_EMULATED_TPM),
            ({"graphics": "vnc"}, Feature.CONSOLE_VNC),
            ({"files": {"/a": b""}}, Feature.GUEST_SETUP_INJECT_FILE),
            ({"nics": (Nic(mac=MAC, tag="a"),)}, Feature.DEVICE_TAGS),
            ({"nics": (Nic(mac=MAC, rules=()),)}, Feature.NETWORKING_SECURITYGROUPS),
            ({"root": Volume(name=VOLUME, size_mib=8)}, Feature.REBUILD_VOLUME_BACKED),
        ],
    )
    def test_what_is_missing_is_refused_before_anything_is_made(
        self,
        one: XenServerHypervisor,
        image: GuestImage,
        more: dict[str, object],
        feature: Feature,
    ):
        with pytest.raises(Unsupported) as told:
            one.launch(replace(GuestSpec(name=NAME, image=image), **more))  # type: ignore[arg-type]
        assert told.value.feature is feature
        assert NAME not in one.inventory().guests

    def test_there_is_no_line_to_ask_a_guest_by(self, one: XenServerHypervisor, guest: str):
        with pytest.raises(Unsupported):
            one.console(guest)


class TestDevices:
    def test_a_volume_comes_and_goes(self, one: XenServerHypervisor, guest: str):
        volume = one.create_volume(VOLUME, 8)
        assert VOLUME in one.inventory().volumes
        with pytest.raises(CallerFault, match="already"):
            one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        assert one.info(guest).volumes == {VOLUME}
        with pytest.raises(CallerFault, match="already"):
            one.attach_volume(guest, volume)
        one.detach_volume(guest, volume)
        assert one.info(guest).volumes == frozenset()
        with pytest.raises(CallerFault, match="not attached"):
            one.detach_volume(guest, volume)
        assert one.volume_bytes(volume, 3) == b"\0\0\0"
        one.delete_volume(volume)
        one.delete_volume(volume)

    def test_it_outlives_its_guest(self, one: XenServerHypervisor, guest: str):
        volume = one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        one.delete(guest)
        assert VOLUME in one.inventory().volumes

    def test_a_card_comes_and_goes(self, one: XenServerHypervisor, guest: str):
        other = Nic(mac="52:54:00:AA:00:02")
        one.attach_interface(guest, other)
        assert one.info(guest).macs == {MAC, other.mac.lower()}
        one.detach_interface(guest, other)
        assert one.info(guest).macs == {MAC}
        with pytest.raises(CallerFault, match="no card"):
            one.detach_interface(guest, other)
        with pytest.raises(Unsupported):
            one.attach_interface(guest, replace(other, rules=(Rule(protocol="icmp"),)))

    def test_a_guest_has_so_many_cards_and_no_more(self, one: XenServerHypervisor, guest: str):
        for at in range(2, 8):
            one.attach_interface(guest, Nic(mac=f"52:54:00:aa:00:{at:02x}"))
        with pytest.raises(CallerFault, match="no more"):
            one.attach_interface(guest, Nic(mac="52:54:00:aa:00:ff"))

    def test_sizes_beyond_32_bits(self, one: XenServerHypervisor, image: GuestImage):
        one.launch(GuestSpec(name=NAME, image=image, memory_mib=EDGE_MIB))
        assert one.info(NAME).memory_mib == EDGE_MIB
        for size in (4095, 4096, 2 << 20):
            volume = one.create_volume(VOLUME, size)
            assert one._link.record("VDI", volume.path)["virtual_size"] == str(size << 20)
            one.delete_volume(volume)


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

    @pytest.mark.parametrize(("memory_mib", "cpus"), [(1024, 4), (128, 1), (EDGE_MIB, 2)])
    def test_resize_both_ways(
        self, one: XenServerHypervisor, image: GuestImage, memory_mib: int, cpus: int
    ):
        one.launch(GuestSpec(name=NAME, image=image, memory_mib=512, cpus=2))
        one.resize(NAME, memory_mib=memory_mib, cpus=cpus)
        told = one.info(NAME)
        assert (told.memory_mib, told.cpus) == (memory_mib, cpus)
        assert told.state is GuestState.RUNNING

    def test_rescue_and_back(self, one: XenServerHypervisor, guest: str, tmp_path: Path):
        with pytest.raises(CallerFault, match="not rescued"):
            one.unrescue(guest)
        one.start(guest)
        one.rescue(guest, xapi.image(tmp_path, b"rescue"))
        assert xapi.root_bytes(one, guest, 6) == b"rescue"
        with pytest.raises(CallerFault, match="already"):
            one.rescue(guest, xapi.image(tmp_path, b"rescue"))
        one.unrescue(guest)
        assert xapi.root_bytes(one, guest, 6) == b"first\0"
        assert one.info(guest).state is GuestState.RUNNING

    def test_a_rescued_guest_leaves_nothing(
        self, one: XenServerHypervisor, guest: str, tmp_path: Path
    ):
        before = set(one._link.records("VDI"))
        one.rescue(guest, xapi.image(tmp_path, b"rescue"))
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
        theirs = [_machine(one, name) for name in HOSTILE]
        marked = _machine(one, "theirs-but-marked", hypervouch="hypervouch")
        with pytest.raises(CallerFault, match="not ours"):
            one.delete(HOSTILE[-1])
        assert set(HOSTILE) <= set(one.inventory().guests)
        assert one.cleanup() == (guest,)
        assert {*HOSTILE, "theirs-but-marked"} <= set(one.inventory().guests)
        for ref in (*theirs, marked):
            one._link.call("tidy", "VM.destroy", ref)

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


def test_two_thousand_machines(tmp_path: Path):
    with xapi.pool(tmp_path, "--machines", str(MANY)) as made, made.opened() as one:
        found = one.inventory()
        assert one.cleanup() == ()
    assert len(found.guests) == MANY


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
