# SPDX-License-Identifier: Apache-2.0
"""PowerVM's adapter on answers that pypowervm recorded of real consoles; nothing else stands in.

The recordings are read from the installed package and are not ours: where it is not installed
(`pip install --no-deps pypowervm`), these tests are skipped.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.powervm import PowerVmHypervisor, connect
from nodes.hypervisors.powervm_link import address
from tests.kit.require import require

URL = "powervm://hscroot@console.example/HV4"
# Names in the recording of 2013: 21 partitions, none of which is ours.
RUNNING, OFF = "z3-9-5-126-127-00000015", "z3-9-5-126-127-00000001"


def recorded(name: str) -> str:
    found = find_spec("pypowervm")
    present = found is not None and found.origin is not None
    require("powervm", present=present, why="pip install --no-deps pypowervm (it has the answers)")
    assert found is not None
    assert found.origin is not None
    told = (Path(found.origin).parent / "tests/data" / name).read_text()
    if "BODY{" not in told:
        return told
    return told.partition("BODY{")[2].rpartition("END OF SECTION")[0].strip()


Rule = Callable[[httpx.Request], httpx.Response | None]


class Console:
    """Answers by path; a rule of a test goes before."""

    def __init__(self, **files: str) -> None:
        self.asked: list[httpx.Request] = []
        self.rule: Rule = lambda _request: None
        self._job = files.get("job", "job_response_completed_ok.txt")
        self.partitions = recorded("lpar.txt").replace(OFF, "hv-off").replace(RUNNING, "hv-other")

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.rule(request)
        if answer is not None:
            return answer
        if request.method == "DELETE":
            return httpx.Response(204)
        answers = {
            "Logon": recorded("logon.xml"),
            "ManagedSystem": recorded("managedsystem.txt"),
            "LogicalPartition": self.partitions,
            "PowerOn": recorded(self._job),
            "PowerOff": recorded(self._job),
        }
        last = request.url.path.rpartition("/")[2]
        return httpx.Response(200, text=answers[last]) if last in answers else httpx.Response(404)


def opened(console: Console, tmp_path: Path, **more: Any) -> PowerVmHypervisor:
    access = Access(work=tmp_path, **({"password": "p<&>w"} | more))
    return connect(URL, access, httpx.MockTransport(console))


class TestRecorded:
    def test_facts(self, tmp_path: Path):
        told = opened(Console(), tmp_path)
        assert told.system().versions["machine"].startswith("8203-E4A-")
        status = told.status()
        assert (status.hostname, status.memory_mib, status.cpus) == ("HV4", 5767168, 500)

    def test_inventory(self, tmp_path: Path):
        told = opened(Console(), tmp_path)
        guests = told.inventory().guests
        assert len(guests) == 21
        assert guests["hv-off"] is GuestState.SHUTOFF
        assert list(guests.values()).count(GuestState.RUNNING) == 4
        assert told.info("hv-off").memory_mib == 512

    def test_power(self, tmp_path: Path):
        console = Console()
        told = opened(console, tmp_path)
        told.start("hv-off")
        told.power_off("hv-off")  # it is off already
        told.reboot("hv-off", hard=True)
        jobs = [one for one in console.asked if "/do/" in one.url.path]
        assert [one.url.path.rpartition("/")[2] for one in jobs] == ["PowerOn", "PowerOff"]
        assert b"<ParameterName>restart</ParameterName>" in jobs[1].content
        assert jobs[0].headers["X-API-Session"]

    def test_a_job_that_failed_keeps_the_consoles_words(self, tmp_path: Path):
        told = opened(Console(job="job_response_exception.txt"), tmp_path)
        with pytest.raises(NodeFault, match=r"FAILED_BEFORE_COMPLETION: .*lssyscfg"):
            told.start("hv-off")

    def test_a_refusal_keeps_the_consoles_words(self, tmp_path: Path):
        console = Console()
        told = opened(console, tmp_path)
        body = recorded("fake_httperror.txt")
        console.rule = lambda _request: httpx.Response(500, text=body)
        with pytest.raises(TransientFault, match="Unable to send command to VIOS"):
            told.inventory()

    @pytest.mark.parametrize(
        ("answer", "meant"),
        [
            (httpx.Response(401), NodeFault),
            (httpx.Response(403), NodeFault),
            (httpx.Response(503), TransientFault),
            (httpx.Response(200, text="<rubbish"), NodeFault),
            (httpx.Response(200), NodeFault),
        ],
    )
    def test_a_log_on_that_fails_is_tried_once(
        self, tmp_path: Path, answer: httpx.Response, meant: type[Exception]
    ):
        console = Console()
        console.rule = lambda _request: answer
        with pytest.raises(meant) as told:
            opened(console, tmp_path)
        assert len(console.asked) == 1
        assert "p<&>w" not in str(told.value)

    def test_a_console_that_is_gone(self, tmp_path: Path):
        console = Console()
        told = opened(console, tmp_path)

        def gone(_request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused")

        console.rule = gone
        with pytest.raises(TransientFault, match="refused"):
            told.inventory()
        told.close()
        told.close()

    def test_nobody_elses_partition_is_touched(self, tmp_path: Path):
        console = Console()
        told = opened(console, tmp_path)
        for call in (told.start, told.power_off, told.reboot, told.delete):
            with pytest.raises(CallerFault, match="no name of ours"):
                call("linux1")
        with pytest.raises(CallerFault, match="not ours"):
            told.delete("hv-off")
        told.delete("hv-nobody")
        assert told.cleanup() == ()
        assert not [one for one in console.asked if "/do/" in one.url.path]

    def test_what_is_missing_is_said(self, tmp_path: Path):
        told = opened(Console(), tmp_path)
        with pytest.raises(Unsupported) as launch:
            told.launch(GuestSpec(name="hv-a", image=GuestImage()))
        assert launch.value.feature is Feature.LAUNCH
        with pytest.raises(Unsupported):
            told.console("hv-off")


@pytest.mark.parametrize(
    "url",
    [
        "powervm://console",
        "powervm://u:secret@console",
        "powervm://u@console/a/b",
        "powervm://u@console?x=y",
        "powervm://u@[::1",
    ],
)
def test_a_wrong_url(url: str):
    with pytest.raises(CallerFault) as told:
        address(url)
    assert "secret" not in str(told.value)


def test_no_password(tmp_path: Path):
    with pytest.raises(CallerFault, match="no password"):
        connect(URL, Access(work=tmp_path))
