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
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.errors import HypervouchError
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
from nodes.hypervisors.hyperv_link import step  # noqa: E402
from nodes.hypervisors.hyperv_session import Step  # noqa: E402
from tests.kit import hyperv  # noqa: E402

NAME, VOLUME, MAC = f"{PREFIX}hv", f"{PREFIX}hv-v", "52:54:00:aa:00:01"


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
    def test_says_what_windows_it_is_and_since_when(self, one: HyperVHypervisor):
        assert "(emulator)" in one.system().versions["windows"]
        assert 3000 < one.status().uptime_s < 90_000

    def test_a_switch_that_the_url_names_has_to_be_there(self, hosts: hyperv.Hosts):
        with pytest.raises(CallerFault, match="no switch"), hosts.opened("switch=none"):
            pass


class TestLife:
    def test_a_whole_guest(self, one: HyperVHypervisor, image: GuestImage):
        spec = GuestSpec(
            name=NAME, image=image, cpus=2, tpm=True, graphics="rdp", config_drive={"a": b"b"}
        )
        one.launch(spec)
        told = one.info(NAME)
        assert (told.memory_mib, told.cpus, told.host) == (192, 2, "HV01")
        assert told.macs == frozenset()
        assert one.screen(NAME, "rdp").port == RDP_PORT
        with pytest.raises(Unsupported, match="named pipe"):
            one.console(NAME)

    def test_what_cannot_be_ours_is_not_removed(self, one: HyperVHypervisor):
        for name in ("hv", f"{PREFIX}*", f"{PREFIX}a\nb", PREFIX + "x" * 300):
            for call in (
                partial(one.delete_volume, Volume(name=name, size_mib=8)),
                partial(one.delete_network, name),
            ):
                with pytest.raises(CallerFault, match="no name of ours"):
                    call()

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
        assert not one._files.is_there(one.folder_of(NAME))

    def test_what_a_dead_launch_left_is_in_the_way_until_it_is_cleaned(
        self, one: HyperVHypervisor, image: GuestImage
    ):
        one._files.claim(NAME)
        with pytest.raises(CallerFault, match="one has left"):
            one.launch(GuestSpec(name=NAME, image=image))
        assert one._files.is_there(one.folder_of(NAME))
        one.cleanup()
        assert not one._files.is_there(one.folder_of(NAME))

    def test_a_folder_that_cannot_be_made_is_not_somebodys(
        self, hosts: hyperv.Hosts, one: HyperVHypervisor, image: GuestImage
    ):
        hosts.fail("New-Item", error_id="CommandNotFoundException", message="no such cmdlet")
        with pytest.raises(CallerFault, match="no such cmdlet") as told:
            one.launch(GuestSpec(name=NAME, image=image))
        assert "already" not in told.value.message

    def test_a_machine_whose_launch_was_killed_before_it_was_marked_is_cleaned(
        self, one: HyperVHypervisor, image: GuestImage, monkeypatch: pytest.MonkeyPatch
    ):
        """It lies in our folder; somebody's of the same kind of name does not."""
        theirs = f"{NAME}-theirs"
        one._link.run("make another's", step("New-VM", Name=theirs), step("Out-Null"))

        class Killed(BaseException):
            pass

        def killed(*_given: Any, **_more: Any) -> None:
            raise Killed

        with monkeypatch.context() as patches:
            patches.setattr(one._devices, "on", killed)
            patches.setattr(one, "_undo", lambda _name: None)
            with pytest.raises(Killed):
                one.launch(GuestSpec(name=NAME, image=image))
        assert not one._facts.find(NAME)[0]["Notes"]
        assert one.cleanup() == (NAME,)
        assert not one._facts.find(NAME)
        assert not one._files.is_there(one.folder_of(NAME))
        (found,) = one._facts.find(theirs)
        one._devices.on("remove it", found["Id"], step("Remove-VM", Force=None))


class TestDevices:
    def test_a_volume_grows_and_a_switch_comes_and_goes(self, one: HyperVHypervisor, guest: str):
        volume = one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        larger = one.extend_volume(guest, volume, 16)
        assert larger.size_mib == 16
        with pytest.raises(CallerFault, match="not made smaller"):
            one.extend_volume(guest, larger, 8)
        one.detach_volume(guest, larger)

        switch = f"{PREFIX}net"
        one.create_network(switch)
        other = Nic(mac="52:54:00:AA:00:02", network=switch)
        one.attach_interface(guest, other)
        assert one.info(guest).macs == {MAC, other.mac.lower()}
        one.detach_interface(guest, other)
        assert one.info(guest).macs == {MAC}
        one.delete_network(switch)
        one.delete_network(switch)
        one.delete_network(f"{PREFIX}never")

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

    def test_a_rebuild_leaves_no_old_disk_but_what_a_checkpoint_needs(
        self, one: HyperVHypervisor, guest: str, image: GuestImage
    ):
        old = one._root(guest)
        one.rebuild(guest, image)
        first = one._root(guest)
        assert first != old
        assert not one._files.is_there(old)
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
        path = one.folder_of(VOLUME) + r"\a.iso"
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
        self, one: HyperVHypervisor, monkeypatch: pytest.MonkeyPatch
    ):
        with monkeypatch.context() as patching:
            patching.setattr(one._files, "is_there", lambda _path: True)
            patching.setattr(one._link, "run", lambda *_: [])
            patching.setattr(one._link, "timeout_s", 0.2)
            with pytest.raises(TransientFault, match="still there"):
                one._files.remove(one.folder_of(VOLUME))

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
        assert not one._files.is_there(one.folder_of(guest))


def _forget_bytes(run: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """A host that adds nothing of what it is given to unpack."""

    def wrapped(doing: str, *steps: Step, **named: Any) -> list[Any]:
        if steps[0].name == "Expand-Archive":
            path = str(steps[0].parameters["LiteralPath"]).removesuffix(".zip")
            steps = (step("New-Item", Path=path, ItemType="File"), step("Out-Null"))
        return run(doing, *steps, **named)

    return wrapped


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
        shell = one._link._session._opened()
        asked = PowerShell(shell)
        asked.add_script("Get-VM")
        asked.invoke()
        assert "ParserError" in asked.streams.error[0].fq_error

    def test_kerberos_takes_its_library(self, hosts: hyperv.Hosts):
        if find_spec("gssapi"):
            return
        with pytest.raises(CallerFault, match="gssapi"), hosts.opened("auth=kerberos"):
            pass

    @pytest.mark.parametrize("how", ["dies", "hangs"])
    def test_the_server_is_gone_in_the_middle(self, tmp_path: Path, how: str):
        with hyperv.hosts(tmp_path) as made, made.opened(timeout_s=2.0) as one:
            if how == "dies":
                made.fail("New-VMSwitch", die=True)
            else:
                os.kill(made.pid, signal.SIGSTOP)
            try:
                with pytest.raises(TransientFault):
                    one.create_network(f"{NAME}-net")
            finally:
                if how == "hangs":
                    os.kill(made.pid, signal.SIGCONT)
