# SPDX-License-Identifier: Apache-2.0
"""Hyper-V's adapter, by pypsrp over TLS, on hosts that are modelled by us.

No guest runs there: what is asked is what the host says. Real are HTTP, TLS, NTLM with its sealed
messages, WS-Management and PowerShell Remoting's protocol.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.errors import HypervouchError
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec, GuestState, Inventory, Nic, Volume
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.table import connect
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
_NEEDED = ("pypsrp", "psrpcore", "spnego")
require("hyperv", present=all(map(find_spec, _NEEDED)), why="pip install pypsrp psrpcore")

from pypsrp.powershell import PowerShell  # noqa: E402

from nodes.hypervisors.hyperv import RDP_PORT, HyperVHypervisor  # noqa: E402
from nodes.hypervisors.hyperv_devices import whole  # noqa: E402
from nodes.hypervisors.hyperv_link import Step, step  # noqa: E402
from tests.kit import hyperv  # noqa: E402

NAME, VOLUME, MAC = f"{PREFIX}hv", f"{PREFIX}hv-v", "52:54:00:aa:00:01"
MANY = 100
EDGE_MIB = (2 << 10, (2 << 10) + 1, (4 << 10) + 1)  # where an Int32 of bytes ends, and beyond
HOSTILE = (
    "quotes ' \" `$(reboot)`; --",
    "two\nlines\tand a tab",
    "x" * 300,
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd",
    "<b>&amp;</b> _x000D_",
    f"{PREFIX}looks-like-ours",
    f"{PREFIX}[a-z]*?",
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hyperv.Hosts]:
    with hyperv.hosts(tmp_path_factory.mktemp("hyperv")) as made:
        yield made


@pytest.fixture(scope="module")
def linked(hosts: hyperv.Hosts) -> Iterator[tuple[HyperVHypervisor, Inventory]]:
    with hosts.opened() as made:
        yield made, made.inventory()


@pytest.fixture
def one(
    hosts: hyperv.Hosts, linked: tuple[HyperVHypervisor, Inventory]
) -> Iterator[HyperVHypervisor]:
    made, before = linked
    yield made
    hosts.fail()
    if made.inventory() != before:
        made.cleanup()
        assert made.inventory() == before


@pytest.fixture
def two(hosts: hyperv.Hosts) -> Iterator[HyperVHypervisor]:
    with hosts.opened(at=1) as made:
        yield made
        made.cleanup()


@pytest.fixture(scope="module")
def image(hosts: hyperv.Hosts, tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    """One that the host has already: what each launch sends is tested by itself."""
    made = hyperv.image(tmp_path_factory.mktemp("image"), id="module")
    with hosts.opened() as one:
        one.cache_image(made)
    return made


@pytest.fixture
def guest(one: HyperVHypervisor, image: GuestImage) -> str:
    one.launch(GuestSpec(name=NAME, image=image, nics=(Nic(mac=MAC),)))
    return NAME


class TestFacts:
    def test_says_what_it_is(self, one: HyperVHypervisor):
        system = one.system()
        assert (system.key, system.grade) == ("hyperv", Grade.EMULATOR)
        assert "(emulator)" in system.versions["windows"]

    def test_says_of_its_host(self, one: HyperVHypervisor):
        status = one.status()
        assert (status.hostname, status.memory_mib, status.cpus) == ("HV01", 64 << 10, 16)
        assert 3000 < status.uptime_s < 90_000

    def test_a_switch_that_the_url_names_has_to_be_there(self, hosts: hyperv.Hosts):
        with pytest.raises(CallerFault, match="no switch"), hosts.opened("switch=none"):
            pass

    def test_our_emulator_is_never_taken_for_more(self, hosts: hyperv.Hosts):
        grade = Grade.SIMULATOR
        with pytest.raises(CallerFault, match=f"no evidence of grade {grade}"):
            connect(hosts.url("auth=ntlm"), replace(hosts.access(), grade=grade))


class TestLife:
    def test_each_state_is_the_hypervisors_word(self, one: HyperVHypervisor, guest: str):
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

    def test_a_whole_guest(self, one: HyperVHypervisor, image: GuestImage):
        spec = GuestSpec(
            name=NAME, image=image, cpus=2, tpm=True, graphics="rdp", config_drive={"a": b"b"}
        )
        one.launch(spec)
        told = one.info(NAME)
        assert (told.memory_mib, told.cpus, told.host) == (192, 2, "HV01")
        assert told.macs == frozenset()
        assert one.screen(NAME, "rdp").port == RDP_PORT

    def test_what_is_there_already_is_told(
        self, one: HyperVHypervisor, guest: str, image: GuestImage
    ):
        with pytest.raises(CallerFault, match="already"):
            one.launch(GuestSpec(name=guest, image=image))
        assert one.info(guest).state is GuestState.RUNNING

    def test_names_that_are_not_ours_are_refused(self, one: HyperVHypervisor, image: GuestImage):
        calls: tuple[Callable[[str], object], ...] = (
            lambda name: one.launch(GuestSpec(name=name, image=image)),
            one.power_off,
            one.delete,
            lambda name: one.create_volume(name, 8),
            lambda name: one.delete_volume(Volume(name=name, size_mib=8)),
            one.delete_network,
        )
        for name in ("hv", f"{PREFIX}*", f"{PREFIX}a\nb", PREFIX + "x" * 300):
            for call in calls:
                with pytest.raises(CallerFault, match="no name of ours"):
                    call(name)

    def test_what_is_missing_is_refused_before_anything_is_made(
        self, one: HyperVHypervisor, image: GuestImage
    ):
        plain = GuestSpec(name=NAME, image=image)
        for spec, feature in (
            (replace(plain, graphics="vnc"), Feature.CONSOLE_VNC),
            (replace(plain, files={"/a": b""}), Feature.GUEST_SETUP_INJECT_FILE),
            (replace(plain, nics=(Nic(mac=MAC, tag="a"),)), Feature.DEVICE_TAGS),
            (replace(plain, nics=(Nic(mac=MAC, rules=()),)), Feature.NETWORKING_SECURITYGROUPS),
            (replace(plain, root=Volume(name=VOLUME, size_mib=8)), Feature.REBUILD_VOLUME_BACKED),
        ):
            with pytest.raises(Unsupported) as told:
                one.launch(spec)
            assert told.value.feature is feature
        assert NAME not in one.inventory().guests

    def test_a_line_that_no_cmdlet_reads(self, one: HyperVHypervisor, guest: str):
        with pytest.raises(Unsupported, match="named pipe"):
            one.console(guest)

    def test_a_launch_that_fails_leaves_nothing(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, image: GuestImage
    ):
        hosts.fail("Set-VM", error_id="OperationFailed", message="no notes today")
        with pytest.raises(NodeFault, match="no notes today"):
            one.launch(GuestSpec(name=NAME, image=image))
        assert NAME not in one.inventory().guests
        assert not one._files.is_there(one.folder_of(NAME))

    def test_one_that_fails_takes_nobody_elses_machine_with_it(
        self,
        hosts: hyperv.Hosts,
        one: HyperVHypervisor,
        image: GuestImage,
        monkeypatch: pytest.MonkeyPatch,
    ):
        put = one._files.put_image

        def somebody_is_quicker(*given: Any) -> None:
            put(*given)
            one._link.run("make another's", step("New-VM", Name=NAME), step("Out-Null"))

        monkeypatch.setattr(one._files, "put_image", somebody_is_quicker)
        hosts.fail("Set-VMProcessor", error_id="OperationFailed", message="none left")
        with pytest.raises(NodeFault, match="none left"):
            one.launch(GuestSpec(name=NAME, image=image))
        left = one._facts.find(NAME)
        assert len(left) == 1
        assert not left[0]["Notes"]
        with pytest.raises(CallerFault, match="not ours"):
            one.delete(NAME)
        one._devices.on("remove it", left[0]["Id"], step("Remove-VM", Force=None))


class TestDevices:
    def test_a_volume_comes_grows_and_goes(self, one: HyperVHypervisor, guest: str):
        volume = one.create_volume(VOLUME, 8)
        assert VOLUME in one.inventory().volumes
        with pytest.raises(CallerFault, match="already"):
            one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        assert one.info(guest).volumes == {VOLUME}
        with pytest.raises(CallerFault, match="already"):
            one.attach_volume(guest, volume)
        larger = one.extend_volume(guest, volume, 16)
        assert larger.size_mib == 16
        with pytest.raises(CallerFault, match="not made smaller"):
            one.extend_volume(guest, larger, 8)
        one.detach_volume(guest, larger)
        assert one.info(guest).volumes == frozenset()
        with pytest.raises(CallerFault, match="not attached"):
            one.detach_volume(guest, volume)
        one.delete_volume(volume)
        one.delete_volume(volume)

    def test_it_outlives_its_guest(self, one: HyperVHypervisor, guest: str):
        one.attach_volume(guest, one.create_volume(VOLUME, 8))
        one.delete(guest)
        assert VOLUME in one.inventory().volumes

    def test_a_checkpoint_puts_a_difference_in_its_place(self, one: HyperVHypervisor, guest: str):
        volume = one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        one.snapshot(guest, "before")
        shown = one._devices.drives(one._facts.guest(guest)["Id"])
        assert all(drive["Path"].endswith(".avhdx") for drive in shown)
        assert one.info(guest).volumes == {VOLUME}
        with pytest.raises(CallerFault, match="has a checkpoint"):
            one.extend_volume(guest, volume, 16)
        with pytest.raises(CallerFault, match="already"):
            one.attach_volume(guest, volume)
        one.delete(guest)
        assert VOLUME in one.inventory().volumes
        told = one._link.run("look", step("Get-ChildItem", LiteralPath=r"C:\hypervouch\volumes"))
        assert [file["Name"] for file in told] == [f"{VOLUME}.vhdx"]

    def test_a_card_and_a_switch_come_and_go(self, one: HyperVHypervisor, guest: str):
        switch = f"{PREFIX}net"
        one.create_network(switch)
        other = Nic(mac="52:54:00:AA:00:02", network=switch)
        one.attach_interface(guest, other)
        assert one.info(guest).macs == {MAC, other.mac.lower()}
        one.detach_interface(guest, other)
        assert one.info(guest).macs == {MAC}
        with pytest.raises(CallerFault, match="no card"):
            one.detach_interface(guest, other)
        one.delete_network(switch)
        one.delete_network(switch)
        one.delete_network(f"{PREFIX}never")

    def test_sizes_at_the_edge_of_32_bits(self, one: HyperVHypervisor, guest: str):
        for size in EDGE_MIB:
            one.resize(guest, memory_mib=size, cpus=1)
            assert one.info(guest).memory_mib == size
            volume = one.create_volume(VOLUME, size)
            shown = step("Select-Object", Property=["Size"])
            told = one._link.run("look", step("Get-VHD", Path=volume.path), shown)
            assert told == [{"Size": size << 20}]
            one.delete_volume(volume)


class TestChanges:
    def test_a_snapshot_brings_the_size_back(self, one: HyperVHypervisor, guest: str):
        one.snapshot(guest, "before")
        assert f"{guest}/before" in one.inventory().snapshots
        one.resize(guest, memory_mib=1024, cpus=4)
        told = one.info(guest)
        assert (told.memory_mib, told.cpus, told.state) == (1024, 4, GuestState.RUNNING)
        one.revert(guest, "before")
        told = one.info(guest)
        assert (told.memory_mib, told.cpus, told.state) == (192, 1, GuestState.RUNNING)
        with pytest.raises(CallerFault, match="no snapshot"):
            one.revert(guest, "bef*")

    def test_rescue_and_back_and_rebuild(
        self, one: HyperVHypervisor, guest: str, image: GuestImage
    ):
        own = one._root(guest)
        with pytest.raises(CallerFault, match="not rescued"):
            one.unrescue(guest)
        one.rescue(guest, image)
        assert one._root(guest) != own
        with pytest.raises(CallerFault, match="already"):
            one.rescue(guest, image)
        one.unrescue(guest)
        assert one._root(guest) == own
        for _ in range(2):
            old = one._root(guest)
            one.rebuild(guest, image)
            assert one._root(guest) != old
            assert not one._files.is_there(old)
        assert one.info(guest).state is GuestState.RUNNING

    def test_what_a_checkpoint_needs_is_kept(
        self, one: HyperVHypervisor, guest: str, image: GuestImage
    ):
        first = one._root(guest)
        one.snapshot(guest, "before")
        for _ in range(2):
            one.rebuild(guest, image)
        assert one._files.is_there(first)
        one.rescue(guest, image)
        one.unrescue(guest)
        one.revert(guest, "before")
        root = one._root(guest)
        assert (root.endswith(".avhdx"), whole(root)) == (True, first)

    def test_a_cached_image_is_sent_once(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, tmp_path: Path
    ):
        kept = hyperv.image(tmp_path, id="' $(id)")
        assert one.cache_image(kept)
        assert not one.cache_image(kept)
        sent = hosts.told()["commands"].count("Add-Content")
        one.launch(GuestSpec(name=NAME, image=kept))
        assert hosts.told()["commands"].count("Add-Content") == sent
        one.forget_image(kept)
        one.forget_image(kept)

    def test_what_arrives_is_compared(
        self, one: HyperVHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = one.folder_of(NAME) + r"\a.iso"
        one._files.put_bytes(bytes(range(256)) * 4096, path)
        one._files.remove(path)
        (tmp_path / "b").write_bytes(b"b")
        monkeypatch.setattr(one._link, "run", _forget_bytes(one._link.run))
        with pytest.raises(NodeFault, match="other bytes"):
            one._files.put_file(tmp_path / "b", path)

    def test_an_upload_that_fails_leaves_no_archive(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, tmp_path: Path
    ):
        kept = hyperv.image(tmp_path, id="fails")
        hosts.fail("Expand-Archive", error_id="Other", category="WriteError", message="disk full")
        with pytest.raises(NodeFault, match="disk full"):
            one.cache_image(kept)
        path = one._files.image(kept)
        assert not one._files.is_there(path)
        assert not one._files.is_there(f"{path}.zip")

    def test_what_is_removed_and_stays_is_waited_for_in_vain(
        self, hosts: hyperv.Hosts, monkeypatch: pytest.MonkeyPatch
    ):
        with hosts.opened(timeout_s=1.0) as made:
            made._files.put_bytes(b"", made.folder_of(NAME) + r"\a")
            monkeypatch.setattr(made._files, "is_there", lambda _path: True)
            monkeypatch.setattr(made._link, "run", lambda *_: [])
            with pytest.raises(TransientFault, match="still there"):
                made._files.remove(made.folder_of(NAME))

    def test_a_guest_moves_with_its_disks(
        self, one: HyperVHypervisor, two: HyperVHypervisor, guest: str
    ):
        volume = one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        with pytest.raises(CallerFault, match="has volumes"):
            one.live_migrate(guest, two)
        one.detach_volume(guest, volume)
        alone = step("Move-VM", DestinationHost=two.name)
        with pytest.raises(NodeFault, match="has no access"):
            one._devices.on("move it without its disk", one._facts.guest(guest)["Id"], alone)
        one.live_migrate(guest, two)
        assert guest not in one.inventory().guests
        assert two.inventory().guests[guest] is GuestState.RUNNING
        assert two.info(guest).host == "HV02"


def _forget_bytes(run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """A host that adds nothing of what it is given to unpack."""

    def wrapped(doing: str, *steps: Step, **named: Any) -> list[Any]:
        if steps[0].name == "Expand-Archive":
            path = str(steps[0].parameters["LiteralPath"]).removesuffix(".zip")
            steps = (step("New-Item", Path=path, ItemType="File"), step("Out-Null"))
        return run(doing, *steps, **named)

    return wrapped


class TestOthers:
    def test_many_machines_of_others(self, tmp_path: Path):
        with hyperv.hosts(tmp_path, f"--machines={MANY}") as made, made.opened() as one:
            assert len(one.inventory().guests) == MANY
            assert one.cleanup() == ()
            assert len(one.inventory().guests) == MANY

    def test_hostile_names_are_listed_and_left_alone(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, guest: str
    ):
        scripts = hosts.told()["scripts"]
        for name in HOSTILE:
            one._link.run("make another's", step("New-VM", Name=name), step("Out-Null"))
        try:
            listed = one.inventory().guests
            assert set(HOSTILE) < set(listed)
            assert one.cleanup() == (guest,)
            assert set(HOSTILE) <= set(one.inventory().guests)
            with pytest.raises(CallerFault, match="not ours"):
                one.delete(f"{PREFIX}looks-like-ours")
        finally:
            for told in one._facts.machines():
                if told["Name"] in HOSTILE:
                    one._devices.on("remove it", told["Id"], step("Remove-VM", Force=None))
        assert hosts.told()["scripts"] == scripts


class TestTheWayThere:
    def refused(self, url: str, access: Any) -> HypervouchError:
        with pytest.raises(HypervouchError) as told:
            connect(url, access).close()
        return told.value

    @pytest.mark.parametrize("way", ["negotiate", "ntlm", "basic"])
    def test_ways_to_log_in(self, hosts: hyperv.Hosts, way: str):
        with hosts.opened(f"auth={way}") as made:
            assert made.status().hostname == "HV01"

    def test_messages_are_sealed_without_tls(self, tmp_path: Path):
        with hyperv.hosts(tmp_path, is_tls=False) as made, made.opened() as one:
            one.launch(GuestSpec(name=NAME, image=hyperv.image(tmp_path)))
            assert one.cleanup() == (NAME,)

    @pytest.mark.parametrize("way", ["ntlm", "basic"])
    def test_a_wrong_password_is_tried_once(self, hosts: hyperv.Hosts, way: str):
        before = hosts.told()["logins"]
        access = hosts.access(password="wrong")
        told = self.refused(hosts.url(f"auth={way}"), access)
        assert isinstance(told, NodeFault)
        assert "tried once" in str(told.hint)
        assert "wrong" not in told.message
        steps = {"ntlm": 2, "basic": 1}  # two messages of the client are one login by NTLM
        assert hosts.told()["logins"] - before == steps[way]

    def test_a_pin_replaces_the_signer(self, hosts: hyperv.Hosts):
        with hosts.opened(ca_file=None, certificate=hosts.digest()) as made:
            assert made.status().hostname == "HV01"

    @pytest.mark.parametrize("more", [{"certificate": "0" * 64}, {}])
    def test_another_certificate_is_refused_before_the_password_is_sent(
        self, hosts: hyperv.Hosts, more: dict[str, str]
    ):
        before = hosts.told()
        access = hosts.access(ca_file=None, **more)
        told = self.refused(hosts.url("auth=basic"), access)
        assert isinstance(told, NodeFault)
        assert "certificate" in told.message
        after = hosts.told()
        assert (after["requests"], after["logins"]) == (before["requests"], before["logins"])

    def test_proxies_of_the_environment_are_not_asked(
        self, hosts: hyperv.Hosts, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        with hosts.opened() as made:
            assert made.status().hostname == "HV01"

    def test_nobody_listens(self, hosts: hyperv.Hosts):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"hyperv://ci@127.0.0.1:{taken.getsockname()[1]}"
            assert isinstance(self.refused(url, hosts.access()), TransientFault)

    def test_no_password(self, hosts: hyperv.Hosts):
        assert isinstance(self.refused(hosts.url(), hosts.access(password="")), CallerFault)

    def test_something_that_is_no_winrm(self, hosts: hyperv.Hosts):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_say_hello, args=(server,))
            thread.start()
            url = f"hyperv+http://ci@127.0.0.1:{server.getsockname()[1]}?auth=ntlm"
            told = self.refused(url, hosts.access(timeout_s=10.0))
            thread.join()
        assert isinstance(told, (NodeFault, TransientFault))


def _say_hello(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


class TestFaults:
    def test_whose_fault_it_is(self, hosts: hyperv.Hosts, one: HyperVHypervisor, guest: str):
        words = "the vendor's <words> & more"
        for meant, identity, category in (
            (TransientFault, "InvalidState", "InvalidOperation"),
            (TransientFault, "Other", "ResourceUnavailable"),
            (NodeFault, "Other", "PermissionDenied"),
            (NodeFault, "OutOfMemory", "InvalidOperation"),
            (NodeFault, "never heard of", "NotSpecified"),
            (Unsupported, "CommandNotFoundException", "ObjectNotFound"),
            (Unsupported, "NotSupported", "NotImplemented"),
        ):
            hosts.fail("Suspend-VM", message=words, error_id=identity, category=category)
            with pytest.raises(meant) as told:
                one.pause(guest)
            assert words in str(told.value)
            assert identity in str(told.value)
        one.pause(guest)
        assert one.info(guest).state is GuestState.PAUSED

    def test_a_cmdlet_that_is_not_there(self, one: HyperVHypervisor):
        with pytest.raises(CallerFault, match="not recognized"):
            one._link.run("do nonsense", step("Get-Nonsense"))

    def test_script_text_is_no_way(self, one: HyperVHypervisor):
        shell = one._link._opened()
        asked = PowerShell(shell)
        asked.add_script("Get-VM")
        asked.invoke()
        assert "ParserError" in asked.streams.error[0].fq_error

    def test_kerberos_takes_its_library(self, hosts: hyperv.Hosts):
        if find_spec("gssapi"):
            return
        with pytest.raises(CallerFault, match="gssapi"), hosts.opened("auth=kerberos"):
            pass

    def test_a_session_that_the_host_ended_is_opened_anew(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, guest: str
    ):
        hosts.fail(forget="shells")
        assert one.info(guest).state is GuestState.RUNNING

    def test_a_slow_answer_ends_in_time_and_the_next_call_works(
        self, hosts: hyperv.Hosts, guest: str
    ):
        with hosts.opened(timeout_s=2.0) as made:
            hosts.fail("Suspend-VM", delay_s=8)
            with pytest.raises(TransientFault, match="has not ended in 2 s"):
                made.pause(guest)
            assert made.info(guest).state in {GuestState.RUNNING, GuestState.PAUSED}

    @pytest.mark.parametrize("how", ["dies", "hangs"])
    def test_the_server_is_gone_in_the_middle(self, tmp_path: Path, how: str):
        with hyperv.hosts(tmp_path) as made, made.opened(timeout_s=2.0) as one:
            one.launch(GuestSpec(name=NAME, image=hyperv.image(tmp_path)))
            if how == "dies":
                made.fail("Suspend-VM", die=True)
            else:
                os.kill(made.pid, signal.SIGSTOP)
            try:
                with pytest.raises(TransientFault):
                    one.pause(NAME)
            finally:
                if how == "hangs":
                    os.kill(made.pid, signal.SIGCONT)
