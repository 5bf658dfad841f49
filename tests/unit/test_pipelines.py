# SPDX-License-Identifier: Apache-2.0
"""Recordings of a Hyper-V host: which value is kept how, what is alike, what is told of others."""

import hashlib
import io
import json
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID
from zipfile import ZipFile

import pytest

pytest.importorskip("pypsrp")

from requests.exceptions import ConnectionError as NoConnection

from ci.errors import ConfigError, HypervouchError
from ci.jobs.compute.run import NOT_TRIED, Order, run
from ci.model.feature import Feature
from nodes.hypervisors import hyperv_files, hyperv_session
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import NodeFault, TransientFault, Unsupported
from nodes.hypervisors.hyperv_errors import CmdletFailed
from nodes.hypervisors.hyperv_link import HyperVLink, address, step, wide
from nodes.hypervisors.hyperv_session import Step
from nodes.recording import cmdlets, tape
from nodes.recording.draws import Draws
from nodes.recording.pipelines import Player, Recorder
from nodes.recording.redaction import PASSWORD, Redaction
from nodes.recording.tape import NotRecorded

URL, WORD = "hyperv://ci@hv1.example.org", "s3cret \"&' w\u00f6rd"
ID = UUID("4c4c4544-0042-3010-8053-b3c04f4c3132")
GET = step("Get-VM", Name="hv-a")
START = step("Start-VM", Name="hv-a")


class Host:
    """Stands where a session of pypsrp's would: answers, or errors, in their order."""

    def __init__(self, *answers: Any) -> None:
        self.left = list(answers)
        self.asked: list[Sequence[Step]] = []

    def __call__(self, *_given: Any) -> "Host":
        return self

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, doing: str, steps: Sequence[Step]) -> list[Any]:
        del doing
        self.asked.append(steps)
        told = self.left.pop(0) if self.left else []
        if isinstance(told, Exception):
            raise told
        return list(told)


def link(password: str = WORD) -> HyperVLink:
    return HyperVLink(address(URL), Access(work=Path("x"), password=password, timeout_s=5.0))


def head(**more: Any) -> tape.Head:
    known = {"hypervouch-recording": 1, "hypervisor": URL, "mark": "0a1b", "timeout_s": 5.0}
    return tape.Head.model_validate(known | {"kind": "cmdlets"} | more)


def recorded(host: Host, path: Path, *asked: Sequence[Step]) -> tape.Tape:
    """What a file says of those pipelines, read again."""
    secrets = Redaction(WORD)
    recorder = Recorder(secrets)
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("nodes.recording.pipelines.Session", host)
        with recorder.inserted():
            one = link()
            for steps in asked:
                with suppress(HypervouchError, Unsupported):
                    one.run("do that", *steps, feature=Feature.PAUSE)
            one.close()
    lines = tuple(recorder.exchanges)
    foot = tape.Foot(exchanges=len(lines), words={"test_a.py::test_b": "works"})
    tape.write(path, tape.Tape(head=head(), pipelines=lines, foot=foot), secrets)
    return tape.read(path)


def played(found: tape.Tape, *asked: Sequence[Step]) -> tuple[Player, list[Any]]:
    player = Player(found)
    with player.inserted():
        one = link(PASSWORD)
        told = [one.run("do that", *steps) for steps in asked]
        one.close()
    return player, told


def test_values_come_back_with_their_kinds(tmp_path: Path):
    answer = {"Id": ID, "Size": 1 << 40, "Raw": b"\xff\0", "On": True, "Notes": None, "More": ["a"]}
    found = recorded(Host([answer, "x", 2.5]), tmp_path / "file", (GET,))
    player, told = played(found, (GET,))
    assert told == [[answer, "x", 2.5]]
    assert (player.rest, player.played) == ([], 2)


def test_the_file_can_be_read_by_people_and_has_no_secret(tmp_path: Path):
    host = Host([{"Notes": f"it takes {WORD}", "Password": "another one"}])
    recorded(host, tmp_path / "file", (GET, step("Select-Object", Property=["Notes"])))
    text = (tmp_path / "file").read_text()
    assert '"cmdlet": "Get-VM", "with": {"Name": "hv-a"' in text
    assert not [secret for secret in ("s3cret", "another one") if secret in text]
    assert PASSWORD in text


def test_errors_come_back_as_they_were(tmp_path: Path):
    absent = CmdletFailed("no such thing (NotSupported,x)", "NotSupported", 11)
    errors = (
        CmdletFailed("it is busy (Other,x)", "Other", 19),
        NoConnection("the line broke"),
        TransientFault("cannot do that: not in time", hint="look", retryable=True),
        NodeFault("it is broken"),
        absent,
    )
    found = recorded(Host(*errors), tmp_path / "file", *[(GET,)] * len(errors))
    player = Player(found)
    with player.inserted():
        one = link(PASSWORD)
        for kind, words in (
            (TransientFault, "busy"),
            (TransientFault, "the line broke"),
            (TransientFault, "not in time"),
            (NodeFault, "broken"),
        ):
            with pytest.raises(kind, match=words):
                one.run("do that", GET)
        with pytest.raises(Unsupported, match="no such thing"):
            one.run("do that", GET, feature=Feature.PAUSE)


def test_a_kind_of_error_that_we_do_not_know_is_the_nodes(tmp_path: Path):
    found = recorded(Host(NodeFault("broken")), tmp_path / "file", (GET,))
    text = (tmp_path / "file").read_text().replace('"NodeFault"', '"Feature"')
    (tmp_path / "file").write_text(text)
    for one in (found, tape.read(tmp_path / "file")):
        with pytest.raises(NodeFault, match="broken"):
            played(one, (GET,))


def test_another_parameter_is_named_with_its_line(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET, step("Set-VM", Size=wide(1 << 33))))
    told = "line 3 .*Set-VM Size: 8589934592 was recorded, 4294967296 is asked.*to do that"
    player = Player(found)
    with player.inserted(), pytest.raises(NotRecorded, match=told) as caught:
        link(PASSWORD).run("do that", GET, step("Set-VM", Size=wide(1 << 32)))
    assert "record anew" in caught.value.hint
    with pytest.raises(NotRecorded):  # and nothing is answered after it
        player.next("do that", found.pipelines[1].asked)
    assert player.difference is caught.value


def test_a_number_of_32_bits_is_not_one_of_64(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (step("New-VHD", SizeBytes=wide(1 << 30)),))
    with pytest.raises(NotRecorded):
        played(found, (step("New-VHD", SizeBytes=1 << 30),))


def test_what_is_left_out_is_named(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET,), (START,), (GET, step("Save-VM")))
    told = "line 3 .*not asked any more: Get-VM Name=hv-a; the adapter asks what comes 2 later"
    with pytest.raises(NotRecorded, match=told):
        played(found, (GET, step("Save-VM")))


def test_what_is_asked_beyond_the_end_is_named(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET,))
    with pytest.raises(NotRecorded, match=r"ends before line 4 .*Start-VM Name=hv-a"):
        played(found, (GET,), (START,))


def test_another_host_is_not_the_same(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET,))
    with (
        Player(found).inserted(),
        pytest.raises(NotRecorded, match="the login to hv2:5986 is asked"),
    ):
        HyperVLink(address("hyperv://ci@hv2"), Access(work=Path("x"), password=PASSWORD))


def test_what_was_not_asked_again_is_told_by_what_it_did(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET,), (START,))
    player, _ = played(found)
    assert [(one.name, one.only_reads) for one in player.rest] == [
        ("Get-VM Name=hv-a", True),
        ("Start-VM Name=hv-a", False),
    ]


def sending(content: bytes, name: str = "root.vhdx") -> list[Sequence[Step]]:
    """A file on its way, as `hyperv_files` sends it, and the question what has arrived."""
    packed, folder = rf"C:\ci\{name}.zip", r"C:\ci"
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    parts = [file.getvalue()[at : at + 64] for at in range(0, len(file.getvalue()), 64)]
    return [
        *((step("Add-Content", LiteralPath=packed, Value=part),) for part in parts),
        (step("Expand-Archive", LiteralPath=packed, DestinationPath=folder),),
        (step("Get-FileHash", LiteralPath=rf"C:\ci\{name}"),),
        (step("Remove-Item", LiteralPath=packed),),
    ]


def test_a_disk_that_is_made_anew_arrives_as_itself(tmp_path: Path):
    """Its GUIDs are drawn anew, so its digest differs, and so do the bytes that are sent."""
    before, now = sending(b"a disk, first"), sending(b"a disk, again")
    answers: list[Any] = [[] for _ in before]
    answers[-2] = [{"Hash": hashlib.sha256(b"a disk, first").hexdigest().upper()}]
    found = recorded(Host(*answers), tmp_path / "file", *before)
    assert "a disk" not in (tmp_path / "file").read_text()
    _, told = played(found, *now)
    assert told[-2] == [{"Hash": hashlib.sha256(b"a disk, again").hexdigest().upper()}]


def test_one_that_arrived_broken_does_so_again(tmp_path: Path):
    before = sending(b"a disk, first")
    answers: list[Any] = [[] for _ in before]
    answers[-2] = [{"Hash": "0" * 64}]
    found = recorded(Host(*answers), tmp_path / "file", *before)
    _, told = played(found, *sending(b"a disk, again"))
    assert told[-2] == [{"Hash": "0" * 64}]


def test_nothing_stands_in_for_sessions_afterwards(tmp_path: Path):
    before = hyperv_session.Session
    found = recorded(Host(), tmp_path / "file", (GET,))
    played(found, (GET,))
    assert hyperv_session.Session is before


def test_waits_pass_as_they_did(tmp_path: Path):
    found = recorded(Host(), tmp_path / "file", (GET,))
    last = found.pipelines[-1].model_copy(update={"at": 900.0})
    found = found.model_copy(update={"pipelines": (*found.pipelines[:-1], last)})
    player = Player(found)
    with player.inserted():
        one = link(PASSWORD)
        one.run("do that", GET)
        assert hyperv_files.time.monotonic() == 900


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "http"}, "no line of a recording"),
        ({"hypervisor": "ironic://ci@bmc.example?node=x"}, "has cmdlets, and not http"),
        ({"second": "ironic://ci@bmc.example?node=x"}, "reached in two ways"),
        ({"hypervouch-recording": 2}, "no line of a recording"),
    ],
)
def test_a_recording_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
):
    path = tmp_path / "file"
    found = recorded(Host(), path, (GET,))
    lines = path.read_text().splitlines(keepends=True)
    told = found.head.model_dump(mode="json", by_alias=True) | changes
    path.write_text("".join([f"{json.dumps(told)}\n", *lines[1:]]))
    said: list[str] = []
    assert run(Order(replay=path), said.append) == NOT_TRIED
    assert any(why in line for line in said), said


def test_requests_are_no_cmdlets(tmp_path: Path):
    asked = tape.Asked(method="GET", url="https://h/")
    made = tape.Exchange(at=0.0, asked=asked, status=200)
    foot = tape.Foot(exchanges=1, words={})
    written = tape.Tape(head=head(), exchanges=(made,), foot=foot)
    tape.write(tmp_path / "file", written, Redaction(WORD))
    with pytest.raises(ConfigError, match="file:2 is no line of a recording"):
        tape.read(tmp_path / "file")


def test_people_are_shown_values_and_not_all_of_them():
    one = cmdlets.Cmdlet(
        name="Add-Content",
        parameters=cmdlets.sent({"LiteralPath": "x" * 100, "Value": b"abc", "Force": None}),
    )
    assert str(one) == f"Add-Content LiteralPath={'x' * 80}... Value=(3 bytes) Force"


def test_identifiers_are_drawn_alike(monkeypatch: pytest.MonkeyPatch):
    by_name, by_module = ModuleType("nodes.hypervisors.a"), ModuleType("nodes.hypervisors.b")
    by_name.uuid4, by_module.uuid = uuid.uuid4, uuid  # type: ignore[attr-defined]
    for module in (by_name, by_module):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    seen = []
    for _ in range(2):
        with Draws().ruling():
            drawn = [by_name.uuid4(), by_module.uuid.uuid4(), by_module.uuid.UUID(int=7)]
            seen.append(drawn)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3
    assert by_name.uuid4 is uuid.uuid4
