# SPDX-License-Identifier: Apache-2.0
"""PowerVM's adapter on answers that are modelled, and on those that pypowervm recorded.

The recordings are of real consoles and not ours: they are read in that package's files, which
`scripts/setup test` puts into `.cache/powervm` by `requirements-powervm.lock`. Nothing imports it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.powervm import PowerVmHypervisor, connect
from nodes.hypervisors.powervm_link import address
from tests.kit import modelled_api
from tests.kit.modelled_api import WORD, Answer, Asked, job
from tests.kit.require import require

URL = "powervm://hscroot@console.example/HV4"
# Names in the recording of 2013: 21 partitions, none of which is ours.
RUNNING, OFF = "z3-9-5-126-127-00000015", "z3-9-5-126-127-00000001"


ANSWERS = Path(__file__).parents[2] / ".cache/powervm/pypowervm/tests/data"


def recorded(name: str) -> str:
    require("powervm", present=ANSWERS.is_dir(), why="run scripts/setup test")
    told = (ANSWERS / name).read_text()
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


class Modelled:
    """A console of answers of our own; a rule of a test goes before."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.rule: Callable[[Asked], Answer | None] = lambda _asked: None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        asked = Asked(request.method, request.url.path, headers, request.content)
        self.asked.append(f"{asked.method} {asked.path.rpartition('/')[2]}")
        told = self.rule(asked) or modelled_api.powervm(asked)
        return httpx.Response(told.status, text=told.body)

    def opened(self, work: Path) -> PowerVmHypervisor:
        return connect(URL, Access(work=work, password=WORD), httpx.MockTransport(self))


def jobs(*states: str) -> Callable[[Asked], Answer | None]:
    """A job that has these states in turn, the last for ever."""
    left = list(states)

    def rule(asked: Asked) -> Answer | None:
        if "/do/" not in asked.path and "/jobs/" not in asked.path:
            return None
        return job(left.pop(0) if len(left) > 1 else left[0])

    return rule


class TestModelled:
    def test_power(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(time, "sleep", lambda _s: None)
        console = Modelled()
        told = console.opened(tmp_path)
        assert told.inventory().guests == {
            "hv-a": GuestState.SHUTOFF,
            "linux1": GuestState.RUNNING,
        }
        console.rule = jobs("NOT_STARTED", "RUNNING", "COMPLETED_OK")
        told.start("hv-a")
        told.power_off("hv-a")  # it is off already
        assert console.asked[-5:-1] == ["PUT PowerOn", "GET 7", "GET 7", "DELETE 7"]

    def test_a_job_that_never_ends_ends_for_us(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        now = [0.0]
        monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        console = Modelled()
        told = console.opened(tmp_path)
        console.rule = jobs("RUNNING")
        with pytest.raises(TransientFault, match="job has not ended in 120 s"):
            told.start("hv-a")

    def test_a_console_that_goes_while_a_job_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(time, "sleep", lambda _s: None)
        console = Modelled()
        told = console.opened(tmp_path)
        states = jobs("RUNNING")

        def goes(asked: Asked) -> Answer | None:
            if "/jobs/" in asked.path:
                raise httpx.ReadTimeout("timed out")
            return states(asked)

        console.rule = goes
        with pytest.raises(TransientFault, match="timed out"):
            told.start("hv-a")

    @pytest.mark.parametrize("status", ["FAILED_BEFORE_COMPLETION", "CANCELED_WHILE_RUNNING", ""])
    def test_a_job_that_fails(self, tmp_path: Path, status: str):
        console = Modelled()
        told = console.opened(tmp_path)
        console.rule = jobs(status)
        with pytest.raises(NodeFault, match=f"cannot start hv-a: {status or 'no job'}"):
            told.start("hv-a")

    def test_a_refused_log_on_is_not_tried_again(self, tmp_path: Path):
        console = Modelled()
        told = console.opened(tmp_path)
        console.rule = lambda _asked: Answer(401)
        for _ in range(3):
            with pytest.raises(NodeFault, match="401"):
                told.inventory()
        assert console.asked.count("PUT Logon") == 2

    def test_numbers_may_be_anything(self, tmp_path: Path):
        console = Modelled()
        told = console.opened(tmp_path)
        assert told.status().memory_mib == 65536
        for text, number in (("much", 0), ("", 0), ("1e999", 0), (str(1 << 33), 1 << 33)):
            console.rule = lambda asked, text=text: (
                Answer(200, modelled_api.powervm(asked).body.replace("65536", text))
                if asked.path.endswith("ManagedSystem")
                else None
            )
            assert told.status().memory_mib == number

    def test_only_partitions_of_our_prefix_are_switched(self, tmp_path: Path):
        console = Modelled()
        told = console.opened(tmp_path)
        for name in ("linux1", "hv-$(id)", "hv-'", "hv-a\nb", "hv-" + "a" * 300, "hv-\u202ea"):
            for call in (told.start, told.power_off, told.shutdown, told.reboot, told.delete):
                with pytest.raises(CallerFault, match="no name of ours"):
                    call(name)
        assert told.cleanup() == ()
        assert "PUT PowerOff" not in console.asked

    def test_a_large_inventory(self, tmp_path: Path):
        console = Modelled()
        told = console.opened(tmp_path)
        entries = "".join(
            f"<entry><id>{at}</id><content><LogicalPartition><PartitionName>p{at}</PartitionName>"
            "<PartitionState>running</PartitionState></LogicalPartition></content></entry>"
            for at in range(2000)
        )
        feed = Answer(200, f'<feed xmlns="http://www.w3.org/2005/Atom">{entries}</feed>')
        console.rule = lambda _asked: feed
        assert len(told.inventory().guests) == 2000


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
