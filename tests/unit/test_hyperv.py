# SPDX-License-Identifier: Apache-2.0
"""How Hyper-V's URLs are read, what its words mean, and what its emulator makes of cmdlets."""

import ssl
import threading
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any

import pytest

pytest.importorskip("pypsrp")
pytest.importorskip("psrpcore")

import requests
from pypsrp.complex_objects import GenericComplexObject
from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.serializer import Serializer

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState
from nodes.hypervisors.faults import (
    CallerFault,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)
from nodes.hypervisors.hyperv_devices import whole
from nodes.hypervisors.hyperv_errors import (
    BY_CATEGORY,
    BY_ID,
    NO_SHELL,
    CmdletFailed,
    fault,
    from_record,
)
from nodes.hypervisors.hyperv_facts import is_ours, state_of
from nodes.hypervisors.hyperv_link import FOLDER, address, step, wide
from nodes.hypervisors.hyperv_session import plain
from nodes.stand_ins.hyperv import devices, host, machines
from nodes.stand_ins.hyperv.objects import CmdletError


class TestAddress:
    def test_what_a_url_says(self):
        where = address("hyperv://LAB%5Cci@hv1:5999?switch=ci%20net&folder=D:%5Cci&auth=basic")
        assert (where.host, where.port, where.user) == ("hv1", 5999, "LAB\\ci")
        assert (where.way, where.folder, where.options["switch"]) == ("basic", "D:\\ci", "ci net")

    def test_what_it_leaves_out(self):
        where = address("hyperv://ci@[2001:db8::1]")
        assert (where.host, where.port, where.is_tls) == ("2001:db8::1", 5986, True)
        assert (where.way, where.folder) == ("negotiate", FOLDER)
        assert address("hyperv+http://ci@hv1").port == 5985

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("hyperv://ci:secret@hv1", "holds a password"),
            ("hyperv://hv1", "no user"),
            ("hyperv://ci@hv1/path", "has a path"),
            ("hyperv://ci@hv1:port", "no URL"),
            ("hyperv+tcp://ci@hv1", "no URL of a Hyper-V host"),
            ("hyperv://ci@hv1?vlan=2", "unknown option"),
            ("hyperv://ci@hv1?auth=digest", "auth=digest"),
            ("hyperv+http://ci@hv1?auth=basic", "would show the password"),
            ("hyperv://ci@hv1?folder=hypervouch", "no folder"),
            ("hyperv://ci@hv1?folder=C:%5C*", "no folder"),
            ("hyperv://ci@hv1?folder=C:%5Ca%5C..%5CWindows", "no folder"),
            ("hyperv://ci@hv1?folder=C:%5Ca;b", "no folder"),
        ],
    )
    def test_what_is_refused(self, url: str, words: str):
        with pytest.raises(CallerFault, match=words) as told:
            address(url)
        assert "secret" not in told.value.message

    def test_a_share_is_a_folder(self):
        folder = "%5C%5Cfiles%5Cci$%5Chypervouch"
        assert address(f"hyperv://ci@hv1?folder={folder}").folder == r"\\files\ci$\hypervouch"


class TestValues:
    @pytest.mark.parametrize("size", [(1 << 31) - 1, 1 << 31, 1 << 32, 64 << 40])
    def test_a_size_has_64_bits(self, size: int):
        written = Serializer().serialize(wide(size))
        assert (written.tag, written.text) == ("I64", str(size))

    def test_a_cmdlet_ends_its_pipeline_when_it_fails(self):
        assert step("Get-VM", Name="a").parameters == {"Name": "a", "ErrorAction": "Stop"}

    def test_objects_become_dictionaries_and_enums_their_names(self):
        state, vm = GenericComplexObject(), GenericComplexObject()
        state.to_string = "Running"
        vm.extended_properties = {"State": state, "Name": "a", "Disks": [state, 1]}
        assert plain([vm]) == [{"State": "Running", "Name": "a", "Disks": ["Running", 1]}]


class TestMachines:
    @pytest.mark.parametrize(
        ("state", "meant"),
        [
            ("Running", GuestState.RUNNING),
            ("FastSaving", GuestState.RUNNING),
            ("Hibernated", GuestState.SHUTOFF),
            ("OffCritical", GuestState.SHUTOFF),
            ("SavedCritical", GuestState.SUSPENDED),
            ("RunningCritical", GuestState.CRASHED),
            ("Other", GuestState.CRASHED),
        ],
    )
    def test_states(self, state: str, meant: GuestState):
        assert state_of({"State": state}) is meant

    @pytest.mark.parametrize(
        ("name", "notes", "ours"),
        [
            ("hv-a", "hypervouch", True),
            ("hv-a", "made by hypervouch today", True),
            ("hv-a", "hypervouchers", False),
            ("hv-a", None, False),
            ("other", "hypervouch", False),
        ],
    )
    def test_ours_is_what_has_mark_and_prefix(self, name: str, notes: str | None, *, ours: bool):
        assert is_ours({"Name": name, "Notes": notes}) is ours

    def test_a_difference_is_known_by_its_disk(self):
        difference = r"C:\ci\hv-a_0A1B2C3D-0000-1111-2222-333344445555.avhdx"
        assert whole(difference) == r"C:\ci\hv-a.vhdx"
        for path in (r"C:\ci\hv-a.vhdx", r"C:\ci\hv-a_1.avhdx", r"\\files\ci\a b.vhdx"):
            assert whole(path) == path


class Record:
    """As pypsrp gives an error record."""

    fq_error = "InvalidState,Microsoft.HyperV.PowerShell.Commands.StartVM"
    category = 7

    def __str__(self) -> str:
        return "the object is\nin its   current state"


class TestFaults:
    def test_words_and_identity_are_kept(self):
        told = fault(from_record(Record()), "start hv-a")
        assert isinstance(told, TransientFault)
        assert "cannot start hv-a: the object is in its current state (InvalidState," in str(told)

    @pytest.mark.parametrize("identity", sorted(BY_ID))
    def test_each_identity_says_whose_fault_it_is(self, identity: str):
        told = fault(CmdletFailed("words", identity, 0), "do it", Feature.PAUSE)
        assert type(told) is BY_ID[identity].fault

    @pytest.mark.parametrize("category", sorted(BY_CATEGORY))
    def test_other_identities_go_by_their_category(self, category: int):
        told = fault(CmdletFailed("words", "new", category), "do it", Feature.PAUSE)
        assert type(told) is BY_CATEGORY[category].fault

    def test_the_rest_is_the_nodes(self):
        assert isinstance(fault(CmdletFailed("words", "new", 0), "do it"), NodeFault)

    def test_unsupported_without_a_feature_is_the_callers(self):
        failed = CmdletFailed("words", "NotSupported", 0)
        assert isinstance(fault(failed, "do it", Feature.PAUSE), Unsupported)
        assert isinstance(fault(failed, "do it"), CallerFault)

    @pytest.mark.parametrize(
        ("error", "meant"),
        [
            (AuthenticationError("no"), LoginRefused),
            (WSManFaultError(NO_SHELL, "HV", "gone", None, None, None), TransientFault),
            (WSManFaultError(5, "HV", "denied", None, None, None), LoginRefused),
            (WSManFaultError("w:Odd", "HV", "odd", None, None, None), NodeFault),
            (WinRMTransportError("http", 503, ""), TransientFault),
            (WinRMTransportError("http", 403, ""), LoginRefused),
            (requests.ConnectionError("refused"), TransientFault),
            (requests.ReadTimeout("slow"), TransientFault),
            (requests.TooManyRedirects("there"), NodeFault),
            (requests.exceptions.SSLError("EOF"), TransientFault),
            (KeyError("127.0.0.1"), NodeFault),
        ],
    )
    def test_on_the_way(self, error: Exception, meant: type[Exception]):
        assert type(fault(error, "log in")) is meant

    def test_a_certificate_is_the_nodes_however_deep_it_lies(self):
        outer = requests.exceptions.SSLError("HTTPSConnectionPool: Max retries")
        outer.__context__ = ssl.SSLError("retry")
        outer.__context__.__cause__ = ssl.SSLCertVerificationError("another is pinned")
        told = fault(outer, "log in")
        assert isinstance(told, NodeFault)
        assert "certificate" in told.message


class TestEmulator:
    """The model is strict where a real host is."""

    @pytest.fixture
    def run(self) -> Any:
        assert {devices.get_vhd, machines.get_vm} < {one for one, _ in host.CMDLETS.values()}
        made = host.Host("HV01", threading.RLock())
        made.folders.add("c:\\ci")

        def run(cmdlet: str, piped: Sequence[Any] = (), /, **given: Any) -> list[Any]:
            function, accepted = host.CMDLETS[cmdlet.lower()]
            assert set(given) <= accepted
            return list(function(made, given, list(piped)))

        return run

    def test_names_hold_wildcards_and_may_be_taken_twice(self, run: Any):
        for name in ("a1", "a2", "a2"):
            run("New-VM", name=name)
        assert len(run("Get-VM", name="a*")) == 3
        assert len(run("Get-VM", name="a2")) == 2
        assert run("Get-VM", name="b*") == []

    def test_states_allow_what_they_allow(self, run: Any):
        vm = run("New-VM", name="a")
        for name, allowed in (
            ("Suspend-VM", False),
            ("Start-VM", True),
            ("Set-VMProcessor", False),
            ("Remove-VM", False),
            ("Save-VM", True),
            ("Resume-VM", False),
        ):
            given = {"count": 2} if name == "Set-VMProcessor" else {}
            if allowed:
                run(name, vm, **given)
                continue
            with pytest.raises(CmdletError) as told:
                run(name, vm, **given)
            assert told.value.error_id == "InvalidState"

    def test_a_file_that_a_running_machine_uses_stays(self, run: Any):
        path = str(PureWindowsPath("C:/ci/a.vhdx"))
        run("New-VHD", path=path, sizebytes=1)
        vm = run("New-VM", name="a", vhdpath=path)
        run("Start-VM", vm)
        with pytest.raises(CmdletError, match="in use"):
            run("Remove-Item", literalpath=path)
        run("Stop-VM", vm, turnoff=True)
        run("Remove-Item", literalpath=path)
        assert run("Test-Path", literalpath=path) == [False]
