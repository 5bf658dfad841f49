# SPDX-License-Identifier: Apache-2.0
"""z/VM's adapter without a connector: answers as its server gave them, directory entries, URLs."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import requests

pytest.importorskip("zvmconnector", reason="pip install 'hypervouch[zvm]'")

from ci.model.feature import Feature
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.zvm import size_of, user_of
from nodes.hypervisors.zvm_link import ZvmLink, address, fault
from nodes.stand_ins.zvm.cp import System


def told(overall: int, rc: int, rs: int, text: str = "it\n  says so") -> dict[str, Any]:
    return {"overallRC": overall, "rc": rc, "rs": rs, "errmsg": text, "output": ""}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (told(404, 404, 1, "Guest 'NOPE0001' does not exist."), CallerFault),
        (told(400, 400, 3), CallerFault),
        (told(409, 409, 1), CallerFault),
        (told(503, 503, 2), TransientFault),
        (told(8, 200, 4), CallerFault),
        (told(8, 200, 8), TransientFault),
        (told(8, 200, 12), TransientFault),
        (told(8, 596, 1184), NodeFault),
        (told(300, 300, 1), NodeFault),
        (told(500, 500, 1, "[Errno 2] No such file or directory: '/proc/sysinfo'"), NodeFault),
        (told(101, 101, 3, "unexpected response: status_code: 502"), NodeFault),
        ({"errmsg": None}, NodeFault),
    ],
)
def test_a_return_code_is_somebodys_fault(answer: dict[str, Any], kind: type) -> None:
    made = fault(answer, "start hv-a")
    assert type(made) is kind
    assert "cannot start hv-a" in str(made)
    assert "\n" not in str(made)


def test_the_way_there_is_told_apart() -> None:
    answer = told(101, 101, 1, "Request failed")
    pin = requests.exceptions.SSLError(ssl.SSLCertVerificationError("it shows a, b is pinned"))
    assert isinstance(fault(answer, "x", cause=requests.ConnectionError()), TransientFault)
    assert isinstance(fault(answer, "x", cause=requests.ReadTimeout()), TransientFault)
    wrong = fault(answer, "x", cause=pin)
    assert isinstance(wrong, NodeFault)
    assert "certificate" in str(wrong)
    eof = requests.exceptions.SSLError(ssl.SSLEOFError("EOF occurred"))
    assert isinstance(fault(answer, "x", cause=eof), TransientFault)


def test_a_call_that_is_not_there_is_a_row_of_the_matrix() -> None:
    made = fault(told(501, 501, 1), "pause", Feature.PAUSE)
    assert isinstance(made, Unsupported)
    assert isinstance(fault(told(501, 501, 1), "pause"), NodeFault)


@pytest.mark.parametrize(
    "url",
    ["zvm://", "zvm://u@host", "zvm://u:p@host", "zvm://host/path", "zvm://host:x", "zvm://h?a=b"],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(CallerFault):
        address(url)


def test_no_token_no_connection(tmp_path: Path) -> None:
    where = address("zvm://host")
    assert (where.host, where.port) == ("host", 443)
    with pytest.raises(CallerFault, match="no token"):
        ZvmLink(where, Access(work=tmp_path))


def test_a_user_follows_from_a_name() -> None:
    assert user_of("hv-a") == user_of("hv-a") != user_of("hv-b")
    assert len(user_of("hv-" + "x" * 37)) == 8


def test_a_directory_entry_gives_the_size() -> None:
    entry = ["USER HV000001 LBYONLY 1024m 64G G", "COMMAND DEFINE CPU 00 TYPE IFL", "CPU 01"]
    assert size_of(entry) == (1024, 2)
    assert size_of(["USER A B 4G 64G G"]) == (4096, 1)
    with pytest.raises(NodeFault):
        size_of(["INCLUDE OSDFLT"])


def test_the_model_keeps_smapis_rules(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    entry.write_text("USER A B 1G 2G G")
    system = System(tmp_path / "state")
    assert system.smcli("Image_Activate", ["-T", "A"]).text.startswith("8 200 4")
    assert system.smcli("Image_Create_DM", ["-T", "A", "-f", str(entry)]).status == 0
    assert system.smcli("Image_Activate", ["-T", "A"]).status == 0
    assert system.smcli("Image_Activate", ["-T", "A"]).text.startswith("8 200 8")
    assert system.vmcp(["query user A"]).text == "A - DSC\n"
    assert system.smcli("Image_Deactivate", ["-T", "A"]).status == 0
    assert system.smcli("Image_Deactivate", ["-T", "A"]).text.startswith("8 200 12")
    assert "not logged on" in system.vmcp(["query user A"]).text
    assert system.smcli("Image_Query_DM", ["-T", "A"]).text.endswith("USER A B 1G 2G G")
    system.save()
    assert System(tmp_path / "state").entries == system.entries
