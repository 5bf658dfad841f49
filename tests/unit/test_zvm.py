# SPDX-License-Identifier: Apache-2.0
"""z/VM's adapter without a connector: answers as its server gave them, directory entries, URLs."""

import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import requests

pytest.importorskip("zvmconnector", reason="pip install 'hypervouch[zvm]'")

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access, GuestImage, GuestInfo, GuestSpec, GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.zvm import ZvmHypervisor, size_of, user_of
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
    twice = ["USER A B 4G 64G G", "COMMAND DEFINE CPU 00 TYPE IFL", "CPU 00", "CPU 01"]
    assert size_of(twice) == (4096, 2)
    with pytest.raises(NodeFault):
        size_of(["INCLUDE OSDFLT"])


class Connector:
    """A link to a connector that answers from a list; everybody is on."""

    def __init__(self, *users: str) -> None:
        self.where = address("zvm://connector.example")
        self.users = list(users)
        self.called: list[tuple[Any, ...]] = []
        self.faults: dict[str, Exception] = {}

    def call(self, doing: str, name: str, *given: Any, **more: Any) -> Any:
        self.called.append((name, *given))
        if name in self.faults:
            raise self.faults[name]
        if name == "guest_create":
            self.users.append(given[0])
        elif name == "guest_delete":
            self.users.remove(given[0])
        if name == "guest_get_power_state_real" and given[0] not in self.users:
            raise CallerFault("there is no such guest")
        told = {"version": {"version": "1.6.3"}, "guest_list": list(self.users)}
        return told.get(name, "on")


def opened(connector: Connector, work: Path, grade: Grade = Grade.SIMULATOR) -> ZvmHypervisor:
    return ZvmHypervisor(cast("ZvmLink", connector), Access(work=work, grade=grade))


SPEC = GuestSpec(name="hv-a", image=GuestImage())


def test_a_large_inventory_is_told_whole_and_left_alone(tmp_path: Path) -> None:
    connector = Connector(*(f"HV{at:06}" for at in range(2000)))
    made = opened(connector, tmp_path)
    assert len(made.inventory().guests) == 2000
    assert made.cleanup() == ()
    assert len(connector.users) == 2000


def test_a_guest_that_goes_while_the_list_is_read_is_not_in_it(tmp_path: Path) -> None:
    connector = Connector("LNX1", "LNX2")
    connector.call = lambda *told, **more: (  # type: ignore[method-assign]
        ["LNX1", "GONE", "LNX2"]
        if told[1] == "guest_list"
        else Connector.call(connector, *told, **more)
    )
    assert set(opened(connector, tmp_path).inventory().guests) == {"LNX1", "LNX2"}


def test_a_guest_whose_start_fails_is_removed_and_the_first_error_told(tmp_path: Path) -> None:
    connector = Connector()
    connector.faults["guest_start"] = TransientFault("SMAPI is busy")
    with pytest.raises(TransientFault, match="SMAPI is busy"):
        opened(connector, tmp_path).launch(SPEC)
    assert connector.users == []
    assert not list(tmp_path.rglob("HV*"))


def test_an_answer_that_was_lost_leaves_a_mark(tmp_path: Path) -> None:
    """Whoever made it does not know whether it is there: the next cleaning does."""
    connector = Connector("LNX1")
    made = opened(connector, tmp_path)
    lost = TransientFault("the line broke")
    connector.faults = {"guest_create": lost}
    call = connector.call

    def broken(doing: str, name: str, *given: Any, **more: Any) -> Any:
        if name == "guest_create":  # it was taken, and nobody hears of it: all breaks from here
            connector.users.append(given[0])
            connector.faults = dict.fromkeys(("guest_create", "guest_list"), lost)
        return call(doing, name, *given, **more)

    connector.call = broken  # type: ignore[method-assign]
    with pytest.raises(TransientFault, match="the line broke"):
        made.launch(SPEC)
    connector.faults = {}
    assert opened(connector, tmp_path).cleanup() == ("hv-a",)
    assert connector.users == ["LNX1"]


def test_a_mark_that_does_not_fit_marks_nothing(tmp_path: Path) -> None:
    user = user_of("hv-a")
    connector = Connector(user, "HVAAAAAA")
    made = opened(connector, tmp_path)
    made._mark("HVAAAAAA", "hv-a")
    made._mark(user, "linux")
    assert made.cleanup() == ()
    assert set(made.inventory().guests) == {user, "HVAAAAAA"}


def test_a_mark_that_cannot_be_written_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector = Connector()
    made = opened(connector, tmp_path)
    real = Path.open

    def full(path: Path, mode: str = "r", *given: Any, **more: Any) -> Any:
        if mode != "x":
            return real(path, mode, *given, **more)
        path.touch()
        return real(Path("/dev/full"), "w", *given, **more)

    with monkeypatch.context() as patches:
        patches.setattr(Path, "open", full)
        with pytest.raises(NodeFault, match="No space"):
            made._mark(user_of("hv-a"), "hv-a")
    made.launch(SPEC)
    assert "hv-a" in made.inventory().guests


def test_marks_that_cannot_be_read_are_the_nodes_fault(tmp_path: Path) -> None:
    made = opened(Connector(), tmp_path)
    made._marks.parent.mkdir(exist_ok=True)
    made._marks.write_text("a file where a folder should be")
    with pytest.raises(NodeFault):
        made.launch(SPEC)


def test_on_a_real_one_nothing_is_made(tmp_path: Path) -> None:
    connector = Connector()
    with pytest.raises(Unsupported, match="real z/VM"):
        opened(connector, tmp_path, Grade.BARE).launch(SPEC)
    assert {name for name, *_ in connector.called} == {"version"}


def test_a_size_is_told_in_the_unit_that_has_room(tmp_path: Path) -> None:
    connector = Connector()
    made = opened(connector, tmp_path)
    made.launch(SPEC)
    connector.faults["guest_get_definition_info"] = CallerFault("not here")
    made.info = lambda _name: GuestInfo(state=GuestState.SHUTOFF, memory_mib=1, cpus=1)  # type: ignore[method-assign]
    for mib, told in ((1000, "1000M"), (4096, "4G"), (1 << 22, "4096G")):
        made.resize("hv-a", memory_mib=mib, cpus=1)
        assert ("guest_resize_mem", user_of("hv-a"), told) in connector.called


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
