# SPDX-License-Identifier: Apache-2.0
"""A run against an API is recorded, the API goes away, and the recording stands in for it."""

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.errors import ConfigError
from ci.jobs.compute.run import FAILS, NOT_TRIED, WORKS, Order, run
from ci.matrix import report
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors import certificates
from nodes.hypervisors.base import HostStatus
from nodes.lab.apis import USER
from nodes.recording import tape
from nodes.recording.redaction import Redaction
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")
require("vcenter", present=find_spec("pyVmomi") is not None, why="pip install pyvmomi")
_OF_HYPERV = ("pypsrp", "psrpcore", "spnego")
require("hyperv", present=all(map(find_spec, _OF_HYPERV)), why="pip install pypsrp psrpcore")

import requests  # noqa: E402

from nodes.hypervisors import requests_tls  # noqa: E402
from nodes.hypervisors.hyperv import HyperVHypervisor  # noqa: E402
from nodes.hypervisors.hyperv_link import step  # noqa: E402
from nodes.hypervisors.vcenter_link import VcenterLink  # noqa: E402
from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from nodes.hypervisors.xenserver_link import XapiLink  # noqa: E402
from nodes.recording.cassette import Recorder  # noqa: E402
from tests.kit import hyperv, vcenter, xapi, zvm  # noqa: E402

KEPT = Path(__file__).parents[1] / "data" / "recordings"

ROWS = frozenset(
    {
        Feature.LAUNCH,
        Feature.SUSPEND,
        Feature.SNAPSHOT,
        Feature.ATTACH_VOLUME,
        Feature.GET_HOST_INFO,
    }
)
STATUS: dict[str, Any] = {
    "hostname": "xs1",
    "address": "192.0.2.1",
    "uptime_s": 1.0,
    "memory_mib": 1 << 14,
    "cpus": 8,
}


@dataclass
class Made:
    """A recording, with what was secret while it was made.

    Attributes:
        file: Where it is.
        lines: What the run said.
        secrets: The password and the sessions.
    """

    file: Path
    lines: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def words(self) -> dict[str, str]:
        """Of each test."""
        return tape.read(self.file).foot.words


@pytest.fixture(scope="module")
def of_vcenter(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("vcenter")
    made = Made(folder / "recording")
    close = VcenterLink.close

    def noted(link: VcenterLink) -> None:
        made.secrets.append(str(link._stub.cookie).partition("=")[2].partition(";")[0].strip('"'))
        made.secrets.append(str(link.content.sessionManager.currentSession.key))
        close(link)

    with pytest.MonkeyPatch.context() as patching, vcenter.simulator(folder) as simulator:
        patching.setattr(VcenterLink, "close", noted)
        order = Order(
            hypervisor=simulator.url,
            password=simulator.host.password,
            ca_file=simulator.host.ca_file,
            timeout_s=60.0,
            features=ROWS,
            record=made.file,
        )
        assert run(order, made.lines.append) == WORKS, made.lines
        made.secrets.append(simulator.host.password())
    return made


@pytest.fixture(scope="module")
def of_xenserver(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("xapi")
    made = Made(folder / "recording")
    close = XapiLink.close

    def noted(link: XapiLink) -> None:
        made.secrets.append(link.reference)
        close(link)

    with pytest.MonkeyPatch.context() as patching, xapi.pool(folder) as pool:
        patching.setattr(XapiLink, "close", noted)
        order = Order(
            hypervisor=pool.url("host=xs1"),
            second=pool.url("host=xs2"),
            password=pool.host.password,
            ca_file=pool.host.ca_file,
            timeout_s=60.0,
            features=ROWS | {Feature.LIVE_MIGRATE},
            record=made.file,
        )
        assert run(order, made.lines.append) == WORKS, made.lines
        made.secrets.append(pool.host.password())
    return made


@pytest.fixture(scope="module")
def of_hyperv(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("hyperv")
    made = Made(folder / "recording")
    with hyperv.hosts(folder) as hosts:
        word = hosts.api.password()
        order = Order(
            hypervisor=hosts.url("auth=basic"),
            second=hosts.url("auth=ntlm", at=1),
            password=hosts.api.password,
            ca_file=hosts.api.ca_file,
            timeout_s=60.0,
            features=ROWS | {Feature.LIVE_MIGRATE},
            record=made.file,
        )
        assert run(order, made.lines.append) == WORKS, made.lines
        made.secrets += [word, base64.b64encode(f"{USER}:{word}".encode()).decode()]
    return made


@pytest.fixture(params=["vcenter", "xenserver", "hyperv"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(f"of_{request.param}")
    return found


def test_without_the_installation_each_test_says_the_same(made: Made, tmp_path: Path):
    lines: list[str] = []
    written = {name: tmp_path / name for name in ("report", "html", "junit")}
    assert run(Order(replay=made.file, **written), lines.append) == WORKS, lines
    assert lines[-1].startswith(f"same: {len(made.words())} tests"), lines
    tables = [[line for line in told if "\n" in line] for told in (made.lines, lines)]
    assert tables[0] == tables[1] != []
    assert list(made.words().values()).count("works") >= 4
    assert "no evidence" in lines[0]
    assert "This is a replay" in written["html"].read_text()
    assert 'name="hypervouch.replay-of" value="recording"' in written["junit"].read_text()
    with pytest.raises(ConfigError, match="report of a replay"):
        report.read(written["report"], now=datetime.now(UTC))


def test_no_secret_is_in_the_file_or_was_said(made: Made):
    assert len(made.secrets) >= 2
    for text in (made.file.read_text(), "\n".join(made.lines)):
        assert not [secret for secret in made.secrets if secret in text]
    assert all(len(secret) > 8 for secret in made.secrets)


def test_an_adapter_that_does_more_on_a_stand_in_is_told_again_that_it_is_one(tmp_path: Path):
    """z/VM's launches there only; what is told of the replay claims no grade all the same."""
    require("zvm", present=find_spec("zvmconnector") is not None, why="pip install zvmconnector")
    made = tmp_path / "recording"
    with zvm.connector(tmp_path) as connector:
        order = Order(
            hypervisor=connector.url,
            password=connector.host.password,
            ca_file=connector.host.ca_file,
            grade=Grade.SIMULATOR,
            timeout_s=60.0,
            features=frozenset({Feature.LAUNCH}),
            record=made,
        )
        assert run(order, lambda _line: None) == WORKS
    lines: list[str] = []
    assert run(Order(replay=made), lines.append) == WORKS, lines
    assert lines[-1].startswith("same:"), lines
    assert lines[1].startswith("zVM, evidence none:"), lines


@pytest.mark.parametrize("file", sorted(KEPT.glob("*.recording")), ids=lambda file: file.stem)
def test_an_adapter_asks_what_it_asked_when_that_was_kept(file: Path):
    """Of our emulator: it guards what the adapter asks, and proves nothing of a real host."""
    lines: list[str] = []
    assert run(Order(replay=file), lines.append) == WORKS, lines
    assert lines[-1].startswith("same: "), lines
    assert "(emulator)" in lines[1]


def test_a_cmdlet_with_another_parameter_is_told_with_its_line(
    of_hyperv: Made, monkeypatch: pytest.MonkeyPatch
):
    def otherwise(one: HyperVHypervisor, name: str) -> None:
        one._do(f"suspend {name}", name, step("Save-VM", AsJob=None), Feature.SUSPEND)

    monkeypatch.setattr(HyperVHypervisor, "suspend", otherwise)
    lines: list[str] = []
    assert run(Order(replay=of_hyperv.file), lines.append) == FAILS
    differs = [line for line in lines if line.startswith("differs: ")]
    assert len(differs) == 1
    assert "Save-VM AsJob: nothing was recorded, a switch is asked" in differs[0]
    number = int(differs[0].partition("line ")[2].partition(" ")[0].rstrip(":"))
    kept = of_hyperv.file.read_text().splitlines()[number - 1]
    assert '"cmdlet": "Save-VM"' in kept
    assert "record anew" in lines[-1]


def test_an_adapter_that_asks_something_else_is_told_what(
    of_xenserver: Made, monkeypatch: pytest.MonkeyPatch
):
    def otherwise(one: XenServerHypervisor, name: str) -> None:
        one._link.run(f"suspend {name}", "VM.hibernate", one._guest(name))

    monkeypatch.setattr(XenServerHypervisor, "suspend", otherwise)
    lines: list[str] = []
    assert run(Order(replay=of_xenserver.file), lines.append) == FAILS
    differs = [line for line in lines if line.startswith("differs: ")]
    assert len(differs) == 1
    assert "does not know POST https://" in differs[0]
    assert "(Async.VM.hibernate)" in differs[0]


def test_an_adapter_that_forgets_to_change_something_is_told_what(
    of_xenserver: Made, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(XenServerHypervisor, "suspend", lambda *_: None)
    lines: list[str] = []
    assert run(Order(replay=of_xenserver.file), lines.append) == FAILS
    assert "not made any more" in lines[-1]
    assert "(Async.VM.suspend)" in lines[-1]


def test_an_adapter_that_reads_less_is_the_same(
    of_xenserver: Made, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(XenServerHypervisor, "status", lambda *_: HostStatus(**STATUS))
    lines: list[str] = []
    assert run(Order(replay=of_xenserver.file), lines.append) == WORKS, lines
    assert "only read" in lines[-2]


def test_a_recording_that_was_cut_off_is_one_sentence(of_vcenter: Made, tmp_path: Path):
    part = tmp_path / "part"
    part.write_bytes(of_vcenter.file.read_bytes()[:-200])
    lines: list[str] = []
    assert run(Order(replay=part), lines.append) == NOT_TRIED
    assert "cut off" in lines[0]
    assert len(lines) == 2


@pytest.mark.parametrize("wrong", ["ca", "pin"])
def test_a_recording_is_not_made_of_a_server_with_another_certificate(tmp_path: Path, wrong: str):
    lines: list[str] = []
    with xapi.pool(tmp_path / "pool") as pool:
        trusts = {"ca_file": None} if wrong == "ca" else {"certificate": "0" * 64}
        order = Order(
            hypervisor=pool.url(),
            password=pool.host.password,
            timeout_s=20.0,
            record=tmp_path / "recording",
            **trusts,
        )
        assert run(order, lines.append) == NOT_TRIED
    assert "certificate is not the one that was expected" in lines[0]
    assert not (tmp_path / "recording").exists()


def test_libraries_that_bring_their_own_tls_check_the_certificate_as_well(tmp_path: Path):
    with xapi.pool(tmp_path / "pool") as pool:
        recorder = Recorder(Redaction(pool.host.password()))
        for access in (pool.access(ca_file=None), pool.access(certificate="0" * 64)):
            where = f"https://127.0.0.1:{pool.port}"
            with recorder.inserted(), requests.Session() as session:
                secured = requests_tls.secure(session, where, certificates.context(access))
                with pytest.raises(requests.exceptions.SSLError):
                    secured.get(f"{where}/", timeout=20)
        assert recorder.exchanges == []
        context = certificates.context(pool.access(ca_file=None, certificate=pool.digest()))
        with recorder.inserted(), requests.Session() as session:
            requests_tls.secure(session, where, context).get(f"{where}/", timeout=20)
        assert len(recorder.exchanges) == 1
