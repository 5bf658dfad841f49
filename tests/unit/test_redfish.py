# SPDX-License-Identifier: Apache-2.0
"""Redfish's adapter: the URL, whose fault an answer is, and whose the machine is."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from ci.model.feature import Feature
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)

sushy = pytest.importorskip("sushy")
from nodes.hypervisors import requests_tls  # noqa: E402 - sushy may be missing
from nodes.hypervisors.redfish import RedfishHypervisor  # noqa: E402 - sushy may be missing
from nodes.hypervisors.redfish_link import address, fault  # noqa: E402 - as above

URL = "redfish://ci@bmc.example/redfish/v1/Systems/1"


class Machine:
    """A link to a machine that obeys at once."""

    def __init__(self, url: str = URL, power: str = "Off") -> None:
        self.where = address(url)
        self.state: dict[str, Any] = {
            "PowerState": power,
            "Name": "rack 7",
            "Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"},
            "MemorySummary": {"TotalSystemMemoryGiB": 4096.5},
            "ProcessorSummary": {"Count": 2, "LogicalProcessorCount": None},
        }
        self.root = SimpleNamespace(redfish_version="1.5.0")
        self.machine = self
        self.did: list[str] = []

    def told(self) -> dict[str, Any]:
        return self.state

    @contextmanager
    def asking(self, doing: str, feature: Feature | None = None) -> Iterator[None]:
        yield

    def reset(self, doing: str, kind: Any, feature: Feature) -> None:
        self.did.append(kind.value)
        self.state["PowerState"] = "Off" if kind.value in {"ForceOff", "GracefulShutdown"} else "On"

    def await_power(self, doing: str, wanted: str) -> None:
        assert self.state["PowerState"] == wanted

    def set_system_boot_options(self, target: Any, *, enabled: Any) -> None:
        self.did.append(f"{target.value} {enabled.value}")

    def close(self) -> None:
        pass


def hypervisor(machine: Machine, work: Path) -> RedfishHypervisor:
    return RedfishHypervisor(machine, Access(work=work))


def http_error(status: int, detail: str = "why") -> Exception:
    body = {"error": {"code": "Base.1.0.GeneralError", "message": detail}}
    response = SimpleNamespace(status_code=status, json=lambda: body)
    try:
        sushy.exceptions.raise_for_response("GET", "https://bmc.example/", response)
    except sushy.exceptions.HTTPError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redfish://ci:pw@bmc.example/redfish/v1/Systems/1", "holds a password"),
        ("redfish://bmc.example/redfish/v1/Systems/1", "no user"),
        ("redfish://ci@bmc.example/", "no machine"),
        ("redfish://ci@bmc.example/redfish/v1/Systems/", "no machine"),
        ("redfish://ci@bmc.example/redfish/v1/Systems/1/Actions", "no machine"),
        (URL + "?boot=floppy", "boot is"),
        (URL + "?boot=cd", "boot is"),
        (URL + "?images=http://web&boot=pxe", "boot is"),
        (URL + "?color=red", "unknown option color"),
        ("redfish://ci@[::1/redfish/v1/Systems/1", "no URL"),
    ],
)
def test_a_wrong_url_is_the_callers(url, words):
    with pytest.raises(CallerFault, match=words):
        address(url)


def test_what_a_machine_boots_is_said_in_the_url():
    assert address(URL).boot == "hdd"
    assert address(URL + "?boot=pxe").boot == "pxe"
    assert (address(URL + "?images=http://web/").boot, address(URL).port) == ("cd", 443)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (http_error(400), CallerFault, "HTTP 400"),
        (http_error(401), LoginRefused, "tried once"),
        (http_error(403), LoginRefused, "role"),
        (http_error(404), CallerFault, "path"),
        (http_error(409), TransientFault, "busy"),
        (http_error(418), NodeFault, "log"),
        (http_error(500, "bad\nthings \x1b[2J"), TransientFault, r"bad things \[2J"),
        (http_error(503), TransientFault, "HTTP 503"),
        (sushy.exceptions.MissingAttributeError(attribute="a", resource="b"), NodeFault, "is it a"),
        (requests.ConnectionError("refused"), TransientFault, "whether it runs"),
        (requests.exceptions.InvalidSchema("no adapter"), NodeFault, "another host"),
        (ssl.SSLCertVerificationError("other"), CertificateRefused, "certificate"),
        (ssl.SSLEOFError("broke"), TransientFault, "broke"),
    ],
)
def test_whose_fault_an_answer_is(error, kind, words):
    told = fault(error, "try")
    assert type(told) is kind
    with pytest.raises(kind, match=words):
        raise told


def test_what_a_controller_has_not_is_unsupported():
    for error in (http_error(405), http_error(501), _no_action()):
        assert isinstance(fault(error, "press", Feature.REBOOT), Unsupported)
        assert isinstance(fault(error, "press"), CallerFault)


def _no_action() -> Exception:
    return sushy.exceptions.MissingActionError(action="#Reset", resource="1")


def test_the_password_goes_to_one_host_alone():
    session = requests.Session()
    requests_tls.secure(session, "https://bmc.example:443", ssl.create_default_context())
    assert not session.trust_env
    for url in ("https://bmc.example.evil/", "http://bmc.example:443/", "https://other:443/"):
        with pytest.raises(requests.exceptions.InvalidSchema):
            session.get(url)


def test_a_machine_is_taken_and_given_back_as_it_was(tmp_path):
    machine = Machine(URL + "?boot=pxe")
    metal = hypervisor(machine, tmp_path)
    metal.launch(GuestSpec(name="hv-a", image=GuestImage()))
    assert metal.inventory().guests == {"hv-a": GuestState.RUNNING}
    assert metal.info("hv-a").memory_mib == int(4096.5 * 1024)
    assert metal.info("hv-a").cpus == 2
    metal.shutdown("hv-a")
    metal.start("hv-a")
    metal.reboot("hv-a")
    metal.reboot("hv-a", hard=True)
    for _ in range(2):
        metal.delete("hv-a")
    assert machine.did == [
        *("Pxe Continuous", "On", "GracefulShutdown", "On", "GracefulRestart", "ForceRestart"),
        *("ForceOff", "Pxe Once"),
    ]
    assert not list(tmp_path.iterdir())
    assert not metal.inventory().guests


def test_a_machine_that_runs_and_is_not_ours_is_left_alone(tmp_path):
    machine = Machine(power="On")
    metal = hypervisor(machine, tmp_path)
    with pytest.raises(TransientFault, match="nobody here"):
        metal.launch(GuestSpec(name="hv-a", image=GuestImage()))
    assert metal.cleanup() == ()
    metal.delete("hv-a")
    for call in (metal.power_off, metal.start, metal.shutdown, metal.reboot):
        with pytest.raises(CallerFault, match="no guest"):
            call("hv-a")
    assert metal.inventory().guests == {"rack 7": GuestState.RUNNING}
    assert machine.did == []


def test_two_cannot_take_one_machine(tmp_path):
    machine = Machine()
    hypervisor(machine, tmp_path).launch(GuestSpec(name="hv-a", image=GuestImage()))
    other = hypervisor(machine, tmp_path)
    with pytest.raises(TransientFault, match="taken: it is hv-a"):
        other.launch(GuestSpec(name="hv-b", image=GuestImage()))
    with pytest.raises(CallerFault, match="already"):
        other.launch(GuestSpec(name="hv-a", image=GuestImage()))
    assert other.cleanup() == ("hv-a",)


def test_a_source_that_only_its_vendor_knows_is_left_to_its_owner(tmp_path):
    machine = Machine(URL + "?boot=pxe")
    machine.state["Boot"] = {"BootSourceOverrideTarget": "OemThing"}
    metal = hypervisor(machine, tmp_path)
    metal.launch(GuestSpec(name="hv-a", image=GuestImage()))
    assert metal.cleanup() == ("hv-a",)
    assert machine.did == ["Pxe Continuous", "On", "ForceOff"]
    assert not list(tmp_path.iterdir())


def test_what_was_launched_from_a_medium_is_deleted_by_whoever_boots_otherwise(tmp_path):
    machine = Machine(URL + "?boot=pxe")
    hypervisor(machine, tmp_path).launch(GuestSpec(name="hv-a", image=GuestImage()))
    note = next(tmp_path.iterdir())
    note.write_text(note.read_text().replace('"boot": "pxe"', '"boot": "cd"'))
    out: list[str] = []
    drive = SimpleNamespace(
        media_types=[sushy.VirtualMediaType.CD],
        inserted=True,
        eject_media=lambda: out.append("out"),
    )
    machine.virtual_media = SimpleNamespace(get_members=lambda: [drive])
    hypervisor(machine, tmp_path).cleanup()
    assert out == ["out"]


def test_a_controller_without_a_virtual_drive_is_told(tmp_path):
    machine = Machine(URL + "?images=http://web")
    machine.managers = [SimpleNamespace()]
    with pytest.raises(Unsupported, match="no virtual CD"):
        hypervisor(machine, tmp_path).launch(
            GuestSpec(name="hv-a", image=GuestImage(disk=tmp_path / "a.iso"))
        )
    assert not list(tmp_path.iterdir())


def test_a_note_that_says_nothing_is_not_guessed(tmp_path):
    metal = hypervisor(Machine(), tmp_path)
    metal._mark.write_text("hv-")
    with pytest.raises(NodeFault, match="whose the machine is"):
        metal.cleanup()


def test_a_medium_takes_an_image_and_a_name_of_ours(tmp_path):
    metal = hypervisor(Machine(URL + "?images=http://web"), tmp_path)
    with pytest.raises(CallerFault, match="medium"):
        metal.launch(GuestSpec(name="hv-a", image=GuestImage()))
    for name in ("hv-$(id)", "rack 7", "hv-" + "a" * 300):
        with pytest.raises(CallerFault, match="no name of ours"):
            metal.launch(GuestSpec(name=name, image=GuestImage(disk=tmp_path / "a.iso")))
