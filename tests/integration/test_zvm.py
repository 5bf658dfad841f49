# SPDX-License-Identifier: Apache-2.0
"""z/VM's adapter, through IBM's own client and server; what is below that server is modelled.

No guest runs there: what is asked is what the connector says.
"""

import hashlib
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
CARDS = tuple(Nic(mac=f"52:54:00:00:00:0{at}") for at in (1, 2))
SPEC = GuestSpec(name=NAME, image=GuestImage(), memory_mib=1024, cpus=1, nics=CARDS)


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
    tagged = Nic(mac="52:54:00:00:00:01", tag="left")
    with pytest.raises(Unsupported):
        one.launch(GuestSpec(name=NAME, image=GuestImage(), nics=(tagged,)))
    for name in ("$(reboot)", "hv-'", "hv-a\nb", "hv-" + "a" * 300, "hv-\u202ea"):
        with pytest.raises(CallerFault, match="no name of ours"):
            one.launch(GuestSpec(name=name, image=GuestImage()))
        with pytest.raises(CallerFault, match="no name of ours"):
            one.delete(name)
    one.launch(SPEC)
    for call in (lambda: one.reboot(NAME), lambda: one.shutdown(NAME)):
        with pytest.raises(Unsupported, match="agent"):
            call()
    assert one.system().versions == {"zvmconnector": "1.6.3"}
    assert Feature.PAUSE not in one.missing


def test_guests_are_made_and_removed_from_several_threads(one: ZvmHypervisor) -> None:
    names = [f"{PREFIX}zvm-{at}" for at in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: one.launch(GuestSpec(name=name, image=GuestImage())), names))
        assert sorted(one.inventory().guests) == names
        list(pool.map(one.delete, names))
    assert one.cleanup() == ()
    assert one.inventory().guests == {}


def test_a_token_that_has_run_out_is_asked_for_anew(one: ZvmHypervisor) -> None:
    one.launch(SPEC)
    one._link._rest._token = "of last year"
    assert one.inventory().guests == {NAME: GuestState.RUNNING}


def test_who_takes_a_name_in_between_keeps_it(
    connector: zvm.Connector, one: ZvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connector.opened(tmp_path / "other") as quicker:
        quicker.launch(SPEC)
        users = one._users
        monkeypatch.setattr(one, "_users", lambda: ())  # as it was when the slower one looked
        with pytest.raises(NodeFault, match="UNIQUE"):
            one.launch(SPEC)
        monkeypatch.setattr(one, "_users", users)
        assert one.cleanup() == ()
        assert quicker.inventory().guests == {NAME: GuestState.RUNNING}
        quicker.cleanup()


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
