# SPDX-License-Identifier: Apache-2.0
"""z/VM's adapter, through IBM's own client and server; what is below that server is modelled.

No guest runs there: what is asked is what the connector says.
"""

import hashlib
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec, GuestState, Nic
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("zvm", present=find_spec("zvmconnector") is not None, why="pip install 'hypervouch[zvm]'")

from nodes.hypervisors.zvm import ZvmHypervisor, connect, user_of  # noqa: E402
from tests.kit import zvm  # noqa: E402

NAME = f"{PREFIX}zvm"
SPEC = GuestSpec(name=NAME, image=GuestImage(), memory_mib=1024, cpus=1)


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zvm.Connector]:
    with zvm.connector(tmp_path_factory.mktemp("zvm")) as made:
        yield made


@pytest.fixture
def one(connector: zvm.Connector, tmp_path: Path) -> Iterator[ZvmHypervisor]:
    with connector.opened(tmp_path) as made:
        yield made
        made.cleanup()


def test_a_guest_lives_and_ends(one: ZvmHypervisor) -> None:
    one.launch(SPEC)
    assert one.inventory().guests == {NAME: GuestState.RUNNING}
    told = one.info(NAME)
    assert (told.state, told.memory_mib, told.cpus) == (GuestState.RUNNING, 1024, 1)
    with pytest.raises(CallerFault, match="already"):
        one.launch(SPEC)
    one.pause(NAME)
    assert one.info(NAME).state is GuestState.PAUSED
    one.unpause(NAME)
    one.reboot(NAME, hard=True)
    assert one.info(NAME).state is GuestState.RUNNING
    one.power_off(NAME)
    one.power_off(NAME)
    assert one.info(NAME).state is GuestState.SHUTOFF
    one.resize(NAME, memory_mib=2048, cpus=2)
    told = one.info(NAME)
    assert (told.state, told.memory_mib, told.cpus) == (GuestState.RUNNING, 2048, 2)
    one.delete(NAME)
    one.delete(NAME)
    assert one.inventory().guests == {}
    with pytest.raises(CallerFault, match="no guest"):
        one.start(NAME)


def test_what_it_cannot_do_is_said_with_the_reason(one: ZvmHypervisor) -> None:
    with pytest.raises(Unsupported, match="/proc/sysinfo"):
        one.status()
    with pytest.raises(Unsupported):
        one.launch(GuestSpec(name=NAME, image=GuestImage(), nics=(Nic(mac="52:54:00:0:0:1"),)))
    with pytest.raises(CallerFault):
        one.launch(GuestSpec(name="$(reboot)", image=GuestImage()))
    one.launch(SPEC)
    for call in (lambda: one.reboot(NAME), lambda: one.shutdown(NAME)):
        with pytest.raises(Unsupported, match="agent"):
            call()
    assert one.system().versions == {"zvmconnector": "1.6.3"}
    assert Feature.PAUSE not in one.missing


def test_only_what_is_ours_is_removed(
    connector: zvm.Connector, one: ZvmHypervisor, tmp_path: Path
) -> None:
    one.launch(SPEC)
    with connector.opened(tmp_path / "other") as stranger:
        assert stranger.inventory().guests == {user_of(NAME): GuestState.RUNNING}
        assert stranger.cleanup() == ()
        stranger.delete(NAME)
        with pytest.raises(CallerFault, match="already"):
            stranger.launch(SPEC)
    assert one.cleanup() == (NAME,)
    assert one.inventory().guests == {}


def test_logins_and_certificates(connector: zvm.Connector, tmp_path: Path) -> None:
    pem = connector.host.ca_file.read_text()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    pinned = connector.access(tmp_path, ca_file=None, certificate=digest)
    connect(connector.url, pinned).close()
    for wrong in ({"ca_file": None}, {"ca_file": None, "certificate": "ab" * 32}):
        with pytest.raises(NodeFault, match="certificate"):
            connect(connector.url, connector.access(tmp_path, **wrong))
    with pytest.raises(CallerFault, match="no token"):
        connect(connector.url, connector.access(tmp_path, password=""))
    with pytest.raises(TransientFault):
        connect("zvm://127.0.0.1:1", connector.access(tmp_path))
    with pytest.raises(NodeFault, match="token"):
        connect(connector.url, connector.access(tmp_path, password="another"))


def test_on_a_real_one_nothing_is_launched(connector: zvm.Connector, tmp_path: Path) -> None:
    real = connect(connector.url, connector.access(tmp_path, grade=Grade.BARE))
    with pytest.raises(Unsupported, match="real z/VM"):
        real.launch(SPEC)
    assert real.inventory().guests == {}
