# SPDX-License-Identifier: Apache-2.0
"""The look at a hypervisor with an API of its own: who is asked, how often, and whose is what."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import ConfigError, NodeUnavailable
from ci.model.evidence import System
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes import api_login, health_api
from nodes.health import preflight
from nodes.hypervisors.base import Access, GuestState, Inventory
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
)
from nodes.leftovers import Fate, Leftovers
from nodes.reach import access_of, connecting, has_api, place_of


class Far:
    """A hypervisor behind an API, in memory."""

    def __init__(self) -> None:
        self.guests: dict[str, GuestState] = {"theirs": GuestState.RUNNING}
        self.snapshots: set[str] = set()
        self.stuck: set[str] = set()
        self.faults: list[Exception] = []
        self.asked: list[tuple[str, Access]] = []
        self.closed = 0

    def connect(self, url: str, access: Access) -> "Far":
        self.asked.append((url, access))
        if self.faults:
            raise self.faults.pop(0)
        return self

    def system(self) -> System:
        return System(key="far", title="Far", grade=Grade.SIMULATOR, versions={"far": "1.2"})

    def inventory(self) -> Inventory:
        return Inventory(guests=dict(self.guests), snapshots=frozenset(self.snapshots))

    def cleanup(self) -> tuple[str, ...]:
        for name in [one for one in self.guests if one.startswith("hv-")]:
            if name not in self.stuck:
                del self.guests[name]
        return ()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Far:
    made = Far()
    monkeypatch.setattr(api_login.table, "connect", made.connect)
    monkeypatch.setattr(api_login, "_refused", {})
    monkeypatch.setattr(api_login, "_taken", set())
    return made


@pytest.fixture
def node(tmp_path: Path) -> Endpoint:
    file = tmp_path / "password"
    file.write_text("open-sesame\n")
    return Endpoint(
        transport=Transport.LOCAL,
        workdir=str(tmp_path),
        hypervisor="vcenter://ci%40vsphere.local@VC.example.org:444/DC/C?datastore=d",
        grade=Grade.SIMULATOR,
        password_file=file,
        certificate="ab" * 32,
    )


def test_it_is_known_by_the_password_that_we_were_given(node: Endpoint):
    assert has_api(node)
    assert place_of(node) == "vcenter://vc.example.org:444"
    for other in (
        replace(node, password_file=None),
        replace(node, hypervisor=""),
        replace(node, hypervisor="qemu:///system"),
    ):
        assert (has_api(other), place_of(other)) == (False, "")


def test_what_logs_in_is_handed_on(node: Endpoint, far: Far, tmp_path: Path):
    assert connecting(tmp_path / "hv")(replace(node, marks=tmp_path / "marks")) is far
    ((url, access),) = far.asked
    assert (access.work, access.marks) == (tmp_path / "hv", tmp_path / "marks")
    assert (url, access.password, access.certificate) == (
        node.hypervisor,
        "open-sesame",
        node.certificate,
    )
    assert "open-sesame" not in repr(access)
    gone = replace(node, password_file=tmp_path / "gone")
    with pytest.raises(NodeUnavailable, match="gone cannot be read"):
        access_of(gone, tmp_path)


@pytest.mark.parametrize("transport", [Transport.LOCAL, Transport.WINRM, Transport.DUMMY])
def test_the_preflight_asks_it_however_the_node_is_reached(
    node: Endpoint, far: Far, transport: Transport
):
    assert preflight(replace(node, transport=transport))["far"] == "1.2"
    assert (len(far.asked), far.closed) == (1, 1)


def test_a_refused_login_rests_until_another_password_or_some_minutes(
    node: Endpoint, far: Far, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    now = [1000.0]
    monkeypatch.setattr(api_login.time, "monotonic", lambda: now[0])
    assert node.password_file is not None
    far.faults = [LoginRefused("it refuses us", hint="look"), LoginRefused("it refuses us")]
    for ask in (health_api.probe, connecting(tmp_path), health_api.probe):
        with pytest.raises(LoginRefused, match="it refuses us"):
            ask(node)
    assert len(far.asked) == 1
    now[0] += api_login.AGAIN_S
    with pytest.raises(NodeUnavailable, match=r"us$"):
        health_api.probe(node)
    now[0] += api_login.AGAIN_S
    with pytest.raises(NodeUnavailable, match="tried again in 300 s"):
        health_api.probe(node)
    node.password_file.write_text("another")
    assert health_api.probe(node) == {"far": "1.2"}
    node.password_file.write_text("open-sesame")
    with pytest.raises(NodeUnavailable, match="tried again in"):
        health_api.probe(node)
    now[0] += api_login.AGAIN_S
    assert health_api.probe(node) == {"far": "1.2"}
    far.faults = [LoginRefused("again")]
    for words in ("again$", "tried again in 300 s"):
        with pytest.raises(LoginRefused, match=words):
            health_api.probe(node)


def test_clusters_of_one_vcenter_rest_together(node: Endpoint, far: Far):
    """The account is vCenter's, which locks it after five refusals in a row."""
    far.faults = [LoginRefused("no")]
    for cluster in ("DC/C?datastore=d", "DC/D", "DC2/E?network=n"):
        url = f"vcenter://ci%40vsphere.local@VC.example.org:444/{cluster}"
        with pytest.raises(LoginRefused):
            health_api.probe(replace(node, hypervisor=url))
    assert len(far.asked) == 1
    for url in (
        "vcenter://another@vc.example.org:444/DC/C",
        "vcenter://ci%40vsphere.local@vc2.example.org:444/DC/C",
        "vcenter://ci%40vsphere.local@vc.example.org:444/DC/C?auth=ntlm",
    ):
        assert health_api.probe(replace(node, hypervisor=url)) == {"far": "1.2"}


def test_of_several_that_log_in_at_once_one_is_refused(
    node: Endpoint, far: Far, monkeypatch: pytest.MonkeyPatch
):
    """Six builds that begin together would lock the account otherwise."""
    many, turns = 6, threading.Semaphore(0)
    ask = api_login._key

    def key(url: str, access: Access) -> str:
        turns.release()
        return ask(url, access)

    def refuse(url: str, access: Access) -> Far:
        far.asked.append((url, access))
        for _ in range(many if len(far.asked) == 1 else 0):  # until all have come
            turns.acquire(timeout=30)
        raise LoginRefused("no")

    monkeypatch.setattr(api_login, "_key", key)
    monkeypatch.setattr(api_login.table, "connect", refuse)
    with ThreadPoolExecutor(many) as pool:
        told = [pool.submit(health_api.probe, node) for _ in range(many)]
    assert all(isinstance(one.exception(), LoginRefused) for one in told)
    assert len(far.asked) == 1
    assert not api_login._ahead


def test_it_never_rests_for_more_than_an_hour(
    node: Endpoint, far: Far, monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr(api_login.time, "monotonic", lambda: now[0])
    for _ in range(8):
        far.faults = [LoginRefused("no")]
        with pytest.raises(LoginRefused):
            health_api.probe(node)
        now[0] += api_login.LONGEST_S
    assert len(far.asked) == 8


@pytest.mark.parametrize("fault", [CertificateRefused, NodeFault])
def test_what_never_saw_our_password_is_asked_again_at_once(
    node: Endpoint, far: Far, fault: type[NodeFault]
):
    far.faults = [fault("another certificate")]
    with pytest.raises(fault, match=r"certificate$"):
        health_api.probe(node)
    assert health_api.probe(node) == {"far": "1.2"}


def test_one_that_does_not_answer_is_asked_again_at_once(node: Endpoint, far: Far):
    far.faults = [TransientFault("away"), TransientFault("away")]
    for _ in range(2):
        with pytest.raises(NodeUnavailable, match="away"):
            health_api.probe(node)
    assert health_api.probe(node) == {"far": "1.2"}


@pytest.mark.parametrize("error", [CallerFault("no such cluster"), ConfigError("no pyvmomi")])
def test_what_we_cannot_ask_is_the_nodes_trouble_and_no_crash(
    node: Endpoint, far: Far, error: Exception
):
    far.faults = [error]
    with pytest.raises(NodeUnavailable, match=r"nobody can ask vcenter://vc\.example\.org:444: no"):
        health_api.probe(node)


def settled(far: Far, node: Endpoint, change: Any, **more: Any) -> dict[str, Fate]:
    care = Leftovers(lambda _: far)  # type: ignore[arg-type,return-value]
    before = care.look(node)
    change()
    return {one.name: one.fate for one in care.settle(node, before, **more)}


def test_others_machines_behind_it_are_noted_and_ours_that_stay_are_trouble(
    node: Endpoint, far: Far
):
    def change() -> None:
        far.guests |= dict.fromkeys(("hv-a", "hv-b", "instance-1"), GuestState.RUNNING)
        far.snapshots = {"theirs/daily", "hv-b/x"}
        far.stuck = {"hv-b"}

    assert settled(far, node, change) == {
        "hv-a": Fate.REMOVED,
        "hv-b": Fate.STAYS,
        "hv-b/x": Fate.STAYS,
        "instance-1": Fate.NOTED,
        "theirs/daily": Fate.NOTED,
    }
    assert far.closed == 2


def test_where_another_build_uses_it_nobody_looks(node: Endpoint, far: Far):
    change = lambda: far.guests.update({"hv-a": GuestState.RUNNING})  # noqa: E731
    assert settled(far, node, change, alone=False) == {}
    assert "hv-a" in far.guests
