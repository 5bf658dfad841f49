# SPDX-License-Identifier: Apache-2.0
"""The vCenter adapter against govmomi's simulator: what it does, by the simulator's own word.

No guest runs behind it, so nothing here says what a guest would see. See `test_vcenter_faults.py`
for what goes wrong, and `test_vcenter_gaps.py` for what the simulator fakes.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import GuestState, Nic
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported
from tests.kit.require import require
from tests.kit.vcenter import Simulator, disk_image, guest_spec, simulator

require("vcenter", present=find_spec("pyVmomi") is not None, why="pip install pyvmomi")

from pyVmomi import vim  # noqa: E402

from nodes.hypervisors import vcenter as adapter  # noqa: E402
from nodes.hypervisors import vcenter_place  # noqa: E402
from nodes.hypervisors.vcenter_store import HOME, Datastore  # noqa: E402

MACHINES, PAGE = int(os.environ.get("HYPERVOUCH_VCENTER_MACHINES", "100")), 30
MAC, OTHER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"
STRANGE = ("hv-'; $(reboot) \"", "hv-a\nb", "hv-" + "x" * 300, "\u202ehv-txt")


# The first test of a machine builds the simulator.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("vcenter")) as made:
        yield made


@pytest.fixture
def hypervisor(vcenter: Simulator) -> Iterator[Any]:
    with vcenter.connected() as made:
        try:
            yield made
        finally:
            made.cleanup()


@pytest.fixture
def guest(hypervisor: Any, tmp_path: Path) -> str:
    hypervisor.launch(guest_spec("hv-one", tmp_path, nics=(Nic(mac=MAC),)))
    return "hv-one"


# Facts -------------------------------------------------------------------------------------


def test_it_says_what_it_is(hypervisor: Any) -> None:
    system, status = hypervisor.system(), hypervisor.status()

    assert (system.key, system.grade) == ("vmware", "simulator")
    assert set(system.versions) == {"vcenter", "build", "api", "product", "drs", "datastore"}
    assert "simulator" in system.versions["product"]
    assert all(system.versions.values())
    assert status.hostname == "DC0_C0 on 127.0.0.1"
    assert min(status.memory_mib, status.cpus, status.uptime_s) > 0
    assert status.cpu_traits


def test_what_it_cannot_do_is_said_and_not_tried(hypervisor: Any, vcenter: Simulator) -> None:
    before = vcenter.calls()

    for feature, ask in (
        (Feature.PAUSE, lambda: hypervisor.pause("hv-none")),
        (Feature.SWAP_VOLUME, lambda: hypervisor.swap_volume("hv-none", None, None)),
        (Feature.CONSOLE_VNC, lambda: hypervisor.screen("hv-none", "vnc")),
    ):
        with pytest.raises(Unsupported) as raised:
            ask()
        assert raised.value.feature is feature
        assert raised.value.reason == hypervisor.missing[feature]
    assert vcenter.calls() == before


@pytest.mark.parametrize(
    ("more", "feature"),
    [
        ({"tpm": True}, Feature.BOOT_EMULATED_TPM),
        ({"files": {"/etc/motd": b"x"}}, Feature.GUEST_SETUP_INJECT_FILE),
        ({"graphics": "vnc"}, Feature.CONSOLE_VNC),
        ({"memory_file": True}, Feature.FILE_BACKED_MEMORY),
        ({"stateless": True}, Feature.BOOT_STATELESS_FIRMWARE),
        ({"nics": (Nic(mac=MAC, rules=()),)}, Feature.NETWORKING_SECURITYGROUPS),
    ],
)
def test_a_guest_with_what_is_missing_is_not_made(
    hypervisor: Any, tmp_path: Path, more: dict[str, Any], feature: Feature
) -> None:
    with pytest.raises(Unsupported) as raised:
        hypervisor.launch(guest_spec("hv-never", tmp_path, **more))

    assert raised.value.feature is feature
    assert "hv-never" not in hypervisor.inventory().guests


# Lifecycle ---------------------------------------------------------------------------------


def test_a_life(hypervisor: Any, guest: str) -> None:
    seen = [hypervisor.info(guest).state]
    for change in (
        hypervisor.suspend,
        hypervisor.resume,
        lambda name: hypervisor.reboot(name, hard=True),
        hypervisor.shutdown,
        hypervisor.start,
        hypervisor.power_off,
    ):
        change(guest)
        seen.append(hypervisor.info(guest).state)
    hypervisor.delete(guest)

    running, off = GuestState.RUNNING, GuestState.SHUTOFF
    assert seen == [running, GuestState.SUSPENDED, running, running, off, running, off]
    assert guest not in hypervisor.inventory().guests
    with pytest.raises(CallerFault, match="no guest hv-one"):
        hypervisor.info(guest)


def test_several_guests_at_once(hypervisor: Any, tmp_path: Path) -> None:
    specs = [guest_spec(f"hv-{at}", tmp_path, nics=(Nic(mac=MAC),)) for at in range(6)]
    volumes = [hypervisor.create_volume(f"hv-volume-{at}", 8) for at in range(6)]

    def live(at: int) -> set[str]:
        name = specs[at].name
        hypervisor.launch(specs[at])
        hypervisor.attach_volume(name, volumes[at])
        told = hypervisor.info(name).volumes
        hypervisor.delete(name)
        return set(told or ())

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(live, range(6))) == [{f"hv-volume-{at}"} for at in range(6)]
    assert hypervisor.inventory().guests.keys().isdisjoint(spec.name for spec in specs)


def test_what_is_done_already_is_no_error(hypervisor: Any, guest: str) -> None:
    volume = hypervisor.create_volume("hv-volume", 8)
    for again in range(2):
        hypervisor.start(guest)
        if again:
            hypervisor.power_off(guest)
        hypervisor.power_off(guest)
    for _ in range(2):
        hypervisor.delete(guest)
        hypervisor.delete_volume(volume)
    assert hypervisor.cleanup() == ()
    hypervisor.close()
    hypervisor.close()


def test_a_name_is_taken_once(hypervisor: Any, guest: str, tmp_path: Path) -> None:
    with pytest.raises(CallerFault, match="hv-one already"):
        hypervisor.launch(guest_spec(guest, tmp_path))
    hypervisor.create_volume("hv-volume", 8)
    with pytest.raises(CallerFault, match="hv-volume already"):
        hypervisor.create_volume("hv-volume", 8)

    assert hypervisor.info(guest).state is GuestState.RUNNING


@pytest.mark.parametrize("name", ["one", "hv-", *STRANGE])
def test_other_names_are_refused(hypervisor: Any, tmp_path: Path, name: str) -> None:
    for ask in (
        lambda: hypervisor.launch(guest_spec(name, tmp_path)),
        lambda: hypervisor.create_volume(name, 8),
        lambda: hypervisor.delete(name),
    ):
        with pytest.raises(CallerFault, match="no name of ours"):
            ask()


def test_images_that_do_not_fit_are_refused(hypervisor: Any, tmp_path: Path) -> None:
    spec = guest_spec("hv-image", tmp_path)
    for image in (
        type(spec.image)(),
        disk_image(tmp_path, hypervisor_type="xen"),
        type(spec.image)(disk=tmp_path / "gone.raw"),
    ):
        with pytest.raises(CallerFault):
            hypervisor.launch(type(spec)(name="hv-image", image=image))
    assert hypervisor.inventory().guests.keys().isdisjoint({"hv-image"})


def test_an_image_for_uefi_boots_by_it(vcenter: Simulator, hypervisor: Any, tmp_path: Path) -> None:
    image = disk_image(tmp_path, hw_firmware_type="uefi")
    spec = guest_spec("hv-bios", tmp_path)
    hypervisor.launch(spec)
    hypervisor.launch(type(spec)(name="hv-uefi", image=image))

    with vcenter.link() as link:
        told = {name: _read(link, name, "config.firmware") for name in ("hv-bios", "hv-uefi")}
    assert told == {"hv-bios": "bios", "hv-uefi": "efi"}


def test_a_config_drive_and_a_log_are_files_of_the_guest(hypervisor: Any, tmp_path: Path) -> None:
    meta = {"openstack/latest/meta_data.json": b'{"uuid": "1"}'}
    hypervisor.launch(guest_spec("hv-drive", tmp_path, config_drive=meta))

    stored = hypervisor._store.read(f"{hypervisor._store.home}/hv-drive/config.iso")
    assert b"config-2" in stored
    assert hypervisor.console_log("hv-drive") == b""
    hypervisor.delete("hv-drive")
    assert hypervisor._store.read(f"{hypervisor._store.home}/hv-drive/config.iso") == b""


# Volumes and cards -------------------------------------------------------------------------


def test_a_volume_comes_grows_and_goes(hypervisor: Any, guest: str) -> None:
    volume = hypervisor.create_volume("hv-volume", 8)
    hypervisor.attach_volume(guest, volume)
    with pytest.raises(CallerFault, match="attached to hv-one already"):
        hypervisor.attach_volume(guest, volume)
    attached = hypervisor.info(guest).volumes
    grown = hypervisor.extend_volume(guest, volume, 16)
    hypervisor.detach_volume(guest, grown)
    with pytest.raises(CallerFault, match="not attached"):
        hypervisor.detach_volume(guest, grown)

    assert (attached, grown.size_mib) == ({"hv-volume"}, 16)
    assert hypervisor.info(guest).volumes == frozenset()
    assert hypervisor.inventory().volumes == {"hv-volume"}


def test_sizes_beyond_32_bits_arrive_whole(vcenter: Simulator, hypervisor: Any, guest: str) -> None:
    volume = hypervisor.create_volume("hv-large", 8)
    hypervisor.attach_volume(guest, volume)
    hypervisor.extend_volume(guest, volume, (4 << 20) + 1)

    with vcenter.link() as link:
        devices = _read(link, guest, "config.hardware.device")
    sizes = [getattr(one, "capacityInBytes", 0) for one in devices]
    assert ((4 << 20) + 1) << 20 in sizes


def test_a_shared_volume_is_on_two_guests(hypervisor: Any, guest: str, tmp_path: Path) -> None:
    hypervisor.launch(guest_spec("hv-two", tmp_path))
    volume = hypervisor.create_volume("hv-shared", 8, shared=True)
    for name in (guest, "hv-two"):
        hypervisor.attach_volume(name, volume)

    assert hypervisor.info(guest).volumes == hypervisor.info("hv-two").volumes == {"hv-shared"}


def test_a_volume_outlives_its_guest(hypervisor: Any, guest: str) -> None:
    volume = hypervisor.create_volume("hv-volume", 8)
    hypervisor.attach_volume(guest, volume)
    hypervisor.delete(guest)

    assert hypervisor.inventory().volumes == {"hv-volume"}
    hypervisor.delete_volume(volume)
    assert hypervisor.inventory().volumes == frozenset()


def test_cards_come_and_go(hypervisor: Any, guest: str) -> None:
    hypervisor.attach_interface(guest, Nic(mac=OTHER_MAC.upper()))
    both = hypervisor.info(guest).macs
    hypervisor.detach_interface(guest, Nic(mac=OTHER_MAC))
    with pytest.raises(CallerFault, match="no card"):
        hypervisor.detach_interface(guest, Nic(mac=OTHER_MAC))

    assert both == {MAC, OTHER_MAC}
    assert hypervisor.info(guest).macs == {MAC}


def test_a_guest_has_places_for_fifteen_disks(hypervisor: Any, guest: str) -> None:
    volumes = [hypervisor.create_volume(f"hv-disk-{at}", 8) for at in range(15)]
    for volume in volumes[:14]:
        hypervisor.attach_volume(guest, volume)
    with pytest.raises(CallerFault, match="no place for another disk"):
        hypervisor.attach_volume(guest, volumes[14])


# Changes -----------------------------------------------------------------------------------


def test_snapshots_have_names(hypervisor: Any, guest: str) -> None:
    hypervisor.snapshot(guest, "first")
    hypervisor.snapshot(guest, "second")
    told = hypervisor.inventory().snapshots
    hypervisor.power_off(guest)
    hypervisor.revert(guest, "first")

    assert told == {"hv-one/first", "hv-one/second"}
    assert hypervisor.info(guest).state is GuestState.RUNNING
    with pytest.raises(CallerFault, match="no snapshot third"):
        hypervisor.revert(guest, "third")


def test_a_resize_keeps_the_guest_running(hypervisor: Any, guest: str) -> None:
    hypervisor.resize(guest, memory_mib=512, cpus=2)

    told = hypervisor.info(guest)
    assert (told.state, told.memory_mib, told.cpus) == (GuestState.RUNNING, 512, 2)


def test_a_rebuild_puts_another_disk_under_it(hypervisor: Any, guest: str, tmp_path: Path) -> None:
    image = disk_image(tmp_path, 128)
    assert image.disk is not None
    image.disk.write_bytes(b"another".ljust(128 << 10, b"\0"))
    hypervisor.rebuild(guest, image)

    stored = hypervisor._store.read(f"{hypervisor._store.home}/hv-one/root-flat.vmdk", first=7)
    assert stored == b"another"
    told = hypervisor.info(guest)
    assert (told.state, told.macs) == (GuestState.RUNNING, {MAC})


def test_a_rescue_boots_another_disk_before_its_own(
    vcenter: Simulator, hypervisor: Any, guest: str, tmp_path: Path
) -> None:
    def disks() -> dict[int, str]:
        with vcenter.link() as link:
            found = _read(link, guest, "config.hardware.device")
        return {
            one.unitNumber: one.backing.fileName.rpartition("/")[2]
            for one in found
            if hasattr(one, "capacityInBytes")
        }

    hypervisor.rescue(guest, disk_image(tmp_path))
    rescued = disks()
    with pytest.raises(CallerFault, match="rescued already"):
        hypervisor.rescue(guest, disk_image(tmp_path))
    hypervisor.unrescue(guest)

    assert rescued == {0: "rescue.vmdk", 1: "root.vmdk"}
    assert disks() == {0: "root.vmdk"}


def test_vmotion_leads_to_the_other_host(hypervisor: Any, guest: str, vcenter: Simulator) -> None:
    before = hypervisor.info(guest)
    hypervisor.live_migrate(guest, hypervisor)
    after = hypervisor.info(guest)

    assert {before.host, after.host} == {"DC0_C0_H0", "DC0_C0_H1"}
    assert (before.state, after.state) == (GuestState.RUNNING, GuestState.RUNNING)
    with vcenter.connected() as other, pytest.raises(Unsupported):
        hypervisor.live_migrate(guest, other)


# Others' ------------------------------------------------------------------------------------


def test_cleanup_takes_what_has_our_mark_and_our_prefix(
    vcenter: Simulator, hypervisor: Any, guest: str
) -> None:
    strangers = {"hv-x": False, "other-y": True, "other-z": False}
    with vcenter.link() as link:
        for name, marked in strangers.items():
            _make(link, name, marked=marked)
        with pytest.raises(CallerFault, match="hv-x is not ours"):
            hypervisor.delete("hv-x")
        removed = hypervisor.cleanup()
        left = set(hypervisor.inventory().guests)
        for name in strangers:
            _remove(link, name)

    assert removed == (guest,)
    assert set(strangers) <= left


def test_strange_names_of_others_do_no_harm(vcenter: Simulator, hypervisor: Any) -> None:
    # The simulator names a folder by them; vCenter itself takes 80 characters.
    names = {name[:80] for name in STRANGE}
    with vcenter.link() as link:
        for name in names:
            _make(link, name, marked=False)
        removed, left = hypervisor.cleanup(), set(hypervisor.inventory().guests)
        for name in names:
            _remove(link, name)

    assert removed == ()
    assert names <= left


@pytest.mark.parametrize("by", ["cleanup", "delete"])
def test_a_guest_that_was_moved_into_a_folder_is_removed(
    vcenter: Simulator, hypervisor: Any, guest: str, by: str
) -> None:
    with vcenter.link() as link:
        place = vcenter_place.find(link)
        folder = link.call("make a folder", lambda: place.folder.CreateFolder("of the operator"))
        machine = link.content.searchIndex.FindChild(place.folder, guest)
        link.run("move it there", lambda: folder.MoveIntoFolder_Task([machine]))
        assert guest in hypervisor.inventory().guests
        if by == "cleanup":
            assert hypervisor.cleanup() == (guest,)
        else:
            hypervisor.delete(guest)
        link.run("remove the folder", folder.Destroy_Task)

    assert guest not in hypervisor.inventory().guests
    assert not hypervisor._store.guest_folders()


def test_what_a_killed_launch_left_is_cleaned_up_and_nothing_beside_it(
    vcenter: Simulator, hypervisor: Any, guest: str, tmp_path: Path
) -> None:
    store, other = hypervisor._store, Datastore(hypervisor._link, hypervisor._place)
    other.home = f"{HOME}/another-cluster"
    for one, name in ((store, "hv-killed"), (store, "theirs"), (other, "hv-killed")):
        one.mkdir(f"{one.home}/{name}")
        one.write_image(disk_image(tmp_path), f"{one.home}/{name}/root.vmdk")
    with vcenter.link() as link:
        _make(link, "hv-x", marked=False)
        store.mkdir(f"{store.home}/hv-x")
        assert hypervisor.cleanup() == (guest,)
        assert store.guest_folders() == {"hv-x"}
        _remove(link, "hv-x")

    assert store.read(f"{store.home}/hv-killed/root.vmdk") == b""
    for one, name in ((store, "theirs"), (other, "hv-killed")):
        assert one.read(f"{one.home}/{name}/root.vmdk")
        one.remove(f"{one.home}/{name}")
    store.remove(f"{store.home}/hv-x")


# The cluster -------------------------------------------------------------------------------


def test_one_that_fails_takes_no_other_of_its_uuid_with_it(
    hypervisor: Any, guest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that are recorded at the same time draw the same."""
    known_as = hypervisor._link.props(hypervisor._guest(guest), "config.instanceUuid")
    monkeypatch.setattr(adapter, "uuid4", lambda: known_as["config.instanceUuid"])
    run, other = hypervisor._run, f"{guest}-other"

    def fails(doing: str, *given: Any) -> Any:
        if doing == f"start {other}":
            raise NodeFault("it does not start")
        return run(doing, *given)

    monkeypatch.setattr(hypervisor, "_run", fails)
    with pytest.raises(NodeFault, match="does not start"):
        hypervisor.launch(guest_spec(other, tmp_path))
    monkeypatch.undo()
    assert guest in hypervisor.inventory().guests


@pytest.mark.parametrize("grade", ["bare", "nested"])
def test_a_simulator_is_called_nothing_better(vcenter: Simulator, grade: str) -> None:
    raised = pytest.raises(CallerFault, match=f"no evidence of grade {grade}")
    with raised, vcenter.connected(grade=Grade(grade)):
        pass


def test_without_drs_we_choose_the_host(tmp_path: Path) -> None:
    with simulator(tmp_path, ["-machines=0"]) as made, made.link() as link:
        place = vcenter_place.find(link)
        with made.connected() as with_drs:
            told = with_drs.system().versions
        spec = vim.cluster.ConfigSpecEx(drsConfig=vim.cluster.DrsConfigInfo(enabled=False))
        change = partial(place.cluster.ReconfigureComputeResource_Task, spec, modify=True)
        link.run("end DRS", change)
        with made.connected() as hypervisor:
            hosts = []
            for name in ("hv-a", "hv-b", "hv-c", "hv-d"):
                hypervisor.launch(guest_spec(name, tmp_path))
                hosts.append(hypervisor.info(name).host)
            without = hypervisor.system().versions

    assert (told["drs"], told["datastore"]) == ("on", "on 2 of 2 hosts")
    assert without["drs"] == "off"
    assert sorted(hosts) == ["DC0_C0_H0", "DC0_C0_H0", "DC0_C0_H1", "DC0_C0_H1"]


def test_a_disk_of_one_host_is_not_taken_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    with simulator(tmp_path, ["-machines=0"]) as made, made.link() as link:
        place = vcenter_place.find(link)
        (host, told), *_ = link.all(vim.HostSystem, place.cluster, "configManager.datastoreSystem")
        system = told["configManager.datastoreSystem"]
        folder = str(tmp_path / "local")
        link.call("add a disk", lambda: system.CreateLocalDatastore("A local one", folder))
        name = link.props(host, "name")["name"]
        with made.connected() as usual:
            assert usual._place.datastore_name == place.datastore_name
        local = replace(made, url=f"{made.url}?datastore=A%20local%20one")
        with local.connected() as hypervisor:
            hypervisor.launch(guest_spec("hv-local", tmp_path))
            facts = hypervisor.system().versions["datastore"]
            with pytest.raises(NodeFault, match="no second host in use that reaches A local one"):
                hypervisor.live_migrate("hv-local", hypervisor)
            assert (facts, hypervisor.info("hv-local").host) == ("on 1 of 2 hosts", name)


@pytest.mark.timeout(1800)
def test_a_large_inventory_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HYPERVOUCH_VCENTER_MACHINES=2000 makes it larger, and the simulator minutes slower."""
    monkeypatch.setattr("nodes.hypervisors.vcenter_link.PAGE", PAGE)
    options = [f"-machines={MACHINES}", "-autostart=false"]
    with simulator(tmp_path, options) as made, made.connected() as hypervisor:
        before = made.calls().get("ContinueRetrievePropertiesEx", 0)
        guests = hypervisor.inventory().guests
        pages = made.calls().get("ContinueRetrievePropertiesEx", 0) - before

    assert len(guests) == MACHINES
    assert pages == -(-MACHINES // PAGE) - 1


def _read(link: Any, name: str, path: str) -> Any:
    for found, told in link.all(vim.VirtualMachine, link.content.rootFolder, "name"):
        if told["name"] == name:
            return link.props(found, path)[path]
    raise AssertionError(name)


def _make(link: Any, name: str, *, marked: bool) -> None:
    place = vcenter_place.find(link)
    mark = [vim.option.OptionValue(key="hypervouch.owner", value="hypervouch")]
    config = vim.vm.ConfigSpec(
        name=name,
        memoryMB=32,
        numCPUs=1,
        guestId="otherGuest",
        files=vim.vm.FileInfo(vmPathName=f"[{place.datastore_name}]"),
        extraConfig=mark if marked else [],
    )
    link.run(f"make {name}", lambda: place.folder.CreateVM_Task(config, place.pool))


def _remove(link: Any, name: str) -> None:
    for found, told in list(link.all(vim.VirtualMachine, link.content.rootFolder, "name")):
        if told["name"] == name:
            link.run(f"remove {name}", found.Destroy_Task)


def _requests(vcenter: Simulator) -> int:
    return sum(vcenter.calls().values())


def test_how_much_is_asked_does_not_grow_with_what_is_there(tmp_path: Path) -> None:
    """A page holds 500: neither networks, datastores nor machines are asked one by one."""
    told = []
    for size in (1, 30):
        folder = tmp_path / str(size)
        folder.mkdir()
        options = [f"-machines={size}", f"-datastores={size}"]
        with simulator(folder, options) as made, made.link() as link:
            _add_networks(link, size)
            before = _requests(made)
            with made.connected() as one:
                connected = _requests(made)
                found = one.inventory()
                asked = _requests(made)
            assert {f"net{at}" for at in range(size)} <= found.networks
            assert len(found.guests) >= size
            told.append((connected - before, asked - connected))
    assert max(told[1]) <= 20
    # Its task may be looked at a few times more.
    assert all(abs(few - many) <= 3 for few, many in zip(*told, strict=True)), told


def _add_networks(link: Any, count: int) -> None:
    kind = vim.DistributedVirtualSwitch
    (switch, _), *_ = link.all(kind, link.content.rootFolder, "name")
    config = vim.dvs.DistributedVirtualPortgroup.ConfigSpec
    more = [config(name=f"net{at}", type="earlyBinding", numPorts=1) for at in range(count)]
    link.run("make networks", partial(switch.AddDVPortgroup_Task, more))
