# SPDX-License-Identifier: Apache-2.0
"""The pure parts of XenServer's adapter: URLs, records of machines, whose fault an error is."""

import http.client
import ssl
import xmlrpc.client
from importlib.util import find_spec
from pathlib import Path
from xml.parsers.expat import ExpatError

import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec, GuestState, Hypervisor, Nic
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)
from tests.kit.require import require

require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")

import XenAPI  # noqa: E402

from nodes.hypervisors import xenserver_link as link  # noqa: E402
from nodes.hypervisors import xenserver_machines as machines  # noqa: E402
from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from nodes.hypervisors.xenserver_disks import MARK, is_ours  # noqa: E402
from nodes.hypervisors.xenserver_missing import MISSING  # noqa: E402


class TestUrls:
    def test_a_url_is_taken_apart(self):
        where = link.address("xenserver://o%40x@[::1]:4433/?host=xs2&sr=a%20b")
        assert (where.host, where.port, where.user) == ("::1", 4433, "o@x")
        assert where.options == {"host": "xs2", "sr": "a b"}
        assert link.address("xenserver://root@master").port == 443

    @pytest.mark.parametrize(
        "url",
        [
            "xenserver://",
            "xenserver://master",
            "xenserver://root:secret@master",
            "xenserver://root@master/path",
            "xenserver://root@master:99999",
            "xenserver://root@[::1",
            "xenserver://root@master?colour=red",
        ],
    )
    def test_a_wrong_one_is_the_callers_fault_and_shows_no_password(self, url: str):
        with pytest.raises(CallerFault) as told:
            link.address(url)
        assert "secret" not in str(told.value)


def spec(**properties: str) -> GuestSpec:
    image = GuestImage(disk=Path("/d"), properties=properties)
    return GuestSpec(name=f"{PREFIX}a", image=image, memory_mib=(4 << 10) + 1, cpus=3)


class TestMachines:
    def test_a_machine_is_marked_and_at_home_from_the_first(self):
        record = machines.machine(spec(), "OpaqueRef:h")
        assert is_ours(record)
        assert record["affinity"] == "OpaqueRef:h"
        assert {record[f"memory_{one}"] for one in ("static_max", "dynamic_min")} == {"4296015872"}
        assert not any(isinstance(value, int) for value in record.values() if value not in (0, 1))

    @pytest.mark.parametrize(
        ("properties", "asked", "found"),
        [
            ({}, "bios", "bios"),
            ({}, "uefi", "uefi"),
            ({"hw_firmware_type": "UEFI"}, "bios", "uefi"),
            ({"hw_firmware_type": "bios"}, "bios", "bios"),
        ],
    )
    def test_firmware(self, properties: dict[str, str], asked: str, found: str):
        assert machines.firmware(spec(**properties).image, asked) == found
        params, platform = machines.boot(found)
        assert params["firmware"] == found
        assert ("device-model" in platform) == (found == "uefi")

    def test_a_firmware_that_is_none(self):
        with pytest.raises(CallerFault, match="no firmware"):
            machines.firmware(spec(hw_firmware_type="coreboot").image)

    @pytest.mark.parametrize(
        ("runs_on", "affinity", "is_at_home"),
        [
            ("OpaqueRef:h", "OpaqueRef:o", True),
            ("OpaqueRef:o", "OpaqueRef:h", False),
            (link.NULL, "OpaqueRef:h", True),
            (link.NULL, "OpaqueRef:o", False),
            (link.NULL, link.NULL, True),
            (link.NULL, "", True),
        ],
    )
    def test_where_a_machine_is_at_home(self, runs_on: str, affinity: str, is_at_home: bool):  # noqa: FBT001
        told = {"resident_on": runs_on, "affinity": affinity}
        assert machines.is_at_home(told, "OpaqueRef:h") is is_at_home

    def test_two_of_one_name_and_a_state_that_nobody_knows(self):
        one = {"name_label": "a", "power_state": "Running", "uuid": "1"}
        two = {"name_label": "a", "power_state": "Unheard", "uuid": "2"}
        states = {"a": GuestState.RUNNING, "a (2)": GuestState.CRASHED}
        assert machines.named([one, two]) == states

    @pytest.mark.parametrize("grade", Grade)
    def test_an_emulator_is_called_nothing_better(self, grade: Grade):
        made = {"name_label": "xs1", "software_version": {"product_brand": "stand-in for XCP-ng"}}
        real = {"name_label": "xs1", "software_version": {"product_brand": "XCP-ng"}}
        machines.check_grade(real, grade)
        if grade in (Grade.EMULATOR, Grade.NONE):
            machines.check_grade(made, grade)
            return
        with pytest.raises(CallerFault, match=f"no evidence of grade {grade}"):
            machines.check_grade(made, grade)

    def test_a_card_names_its_place(self):
        made = machines.card("vm", Nic(mac="52:54:00:00:00:01"), "net", 3)
        assert (made["device"], made["MAC"]) == ("3", "52:54:00:00:00:01")

    @pytest.mark.parametrize(
        ("name", "marks"),
        [("theirs", MARK), (f"{PREFIX}a", {}), (f"{PREFIX}a", {"hypervouch": ""})],
    )
    def test_what_is_not_ours(self, name: str, marks: dict[str, str]):
        assert not is_ours({"name_label": name, "other_config": marks})


class TestFaults:
    @pytest.mark.parametrize(
        ("error", "meant"),
        [
            (XenAPI.Failure(["SR_FULL", "1"]), NodeFault),
            (XenAPI.Failure(["NEVER_HEARD_OF"]), NodeFault),
            (XenAPI.Failure([]), NodeFault),
            (XenAPI.Failure(["SESSION_INVALID", "x"]), TransientFault),
            (XenAPI.Failure(["HOST_IS_SLAVE", "192.0.2.7"]), CallerFault),
            (XenAPI.Failure(["MESSAGE_METHOD_UNKNOWN", "x"]), CallerFault),
            (ssl.SSLCertVerificationError("self-signed"), CertificateRefused),
            (ssl.SSLEOFError(8, "EOF occurred"), TransientFault),
            (ssl.SSLError(1, "wrong version number"), NodeFault),
            (TimeoutError("timed out"), TransientFault),
            (ConnectionRefusedError(111, "refused"), TransientFault),
            (http.client.RemoteDisconnected("gone"), TransientFault),
            (ExpatError("not well-formed"), NodeFault),
            (xmlrpc.client.ProtocolError("x", 403, "Forbidden", {}), LoginRefused),
            (xmlrpc.client.ProtocolError("x", 503, "Busy", {}), TransientFault),
            (xmlrpc.client.Fault(500, "Missing Value"), NodeFault),
            (xmlrpc.client.Fault(500, "Tried 3 times to get a valid session"), TransientFault),
        ],
        ids=repr,
    )
    def test_whose_it_is(self, error: Exception, meant: type[Exception]):
        told = link.fault(error, "try it")
        assert type(told) is meant
        assert "cannot try it" in str(told)

    def test_what_it_cannot_do_is_no_fault(self):
        told = link.fault(XenAPI.Failure(["NOT_IMPLEMENTED", "VM.pause"]), "x", Feature.PAUSE)
        assert isinstance(told, Unsupported)
        assert told.feature is Feature.PAUSE

    def test_the_hosts_words_are_kept_in_one_line(self):
        told = link.fault(XenAPI.Failure(["SR_FULL", "two\nlines", "\tof it"]), "x")
        assert "SR_FULL two lines of it" in str(told)


def test_every_call_of_the_contract_is_there_or_missing_with_a_reason():
    """What is neither overridden nor declared would be found out by a suite only."""
    rows = {
        "swap_volume": Feature.SWAP_VOLUME,
        "extend_volume": Feature.EXTEND_VOLUME,
        "limit_volume": Feature.GUEST_DISK_RATE_LIMIT,
        "quiesce": Feature.QUIESCE,
        "unquiesce": Feature.UNQUIESCE,
        "crash_dump": Feature.TRIGGER_CRASH_DUMP,
        "set_admin_password": Feature.SET_ADMIN_PASSWORD,
        "cache_image": Feature.CACHE_IMAGES,
        "forget_image": Feature.CACHE_IMAGES,
        "console_log": Feature.CONSOLE_SERIAL_LOG,
        "screen": Feature.CONSOLE_VNC,
        "create_network": Feature.NETWORKING_TOPOLOGY_FLAT,
        "delete_network": Feature.NETWORKING_TOPOLOGY_FLAT,
        "update_interface": Feature.NETWORKING_SECURITYGROUPS,
        "begin_live_migration": Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION,
        "abort_live_migration": Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION,
        "force_live_migration": Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE,
    }
    told = vars(Hypervisor).items()
    calls = {name for name, it in told if callable(it) and not name.startswith("_")}
    own = set(vars(XenServerHypervisor))
    kept = {"refuse_missing", "cannot"}
    assert calls - own - kept == set(rows)
    assert set(rows.values()) <= set(MISSING)
    assert all(reason.strip() for reason in MISSING.values())
