# SPDX-License-Identifier: Apache-2.0
"""Whose guests, networks and filters are, on a real libvirt: names alone make nothing ours."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from ci.errors import HypervouchError
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState, Nic, Rule
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
NAME, THEIRS = "hv-marked", "hv-theirs"
CARD = Nic(mac="52:54:00:aa:00:01", rules=(Rule(protocol="icmp"),))
MEET_S = 60.0


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


@pytest.fixture
def opened(libvirt: LibvirtHost, tmp_path: Path) -> Callable[[], Any]:
    """Sessions of their own."""

    def one() -> Any:
        access = Access(work=tmp_path, timeout_s=150)
        return closing(connect(f"{libvirt.uri('qemu')}&type=qemu", access))

    return one


@pytest.fixture
def one(opened: Callable[[], Any]) -> Iterator[Any]:
    with opened() as made:
        yield made
        made.cleanup()


def _define(one: Any, name: str) -> Any:
    """Somebody else's, that is never started."""
    return one.link.conn.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
        "<os><type arch='x86_64'>hvm</type></os></domain>"
    )


def test_only_what_is_marked_is_cleaned(one: Any, image: GuestImage) -> None:
    theirs = _define(one, THEIRS)
    one.link.conn.networkCreateXML(f"<network><name>{THEIRS}</name><bridge name='br9'/></network>")
    one.link.conn.nwfilterDefineXML(f"<filter name='{THEIRS}' chain='root'/>")
    try:
        one.launch(GuestSpec(name=NAME, image=image, nics=(CARD,)))
        one.create_network("hv-net")
        with pytest.raises(CallerFault, match="not ours"):
            one.delete(THEIRS)
        cleaned = one.cleanup()
        assert {NAME, "hv-net"} <= set(cleaned)
        assert THEIRS not in cleaned
        left = one.inventory()
        assert left.guests == {THEIRS: GuestState.SHUTOFF}
        assert THEIRS in left.networks
        assert "hv-net" not in left.networks
        filters = {found.name() for found in one.link.conn.listAllNWFilters()}
        assert THEIRS in filters
        assert "hv-525400aa0001" not in filters
    finally:
        theirs.undefine()
        one.link.conn.networkLookupByName(THEIRS).destroy()
        one.link.conn.nwfilterLookupByName(THEIRS).undefine()


def test_a_guest_of_an_older_version_is_known_by_what_our_store_keeps_of_it(one: Any) -> None:
    """So are Virtuozzo's, whose driver keeps no metadata."""
    domain = _define(one, NAME)
    assert not one.is_ours(domain)
    one.store.put(f"{NAME}.xml", b"<domain><uuid>another one's</uuid></domain>")
    assert not one.is_ours(domain)
    one.remember(domain)
    assert NAME in one.cleanup()
    assert not one.inventory().guests


def test_a_domain_with_files_in_our_store_is_ours_before_it_is_known(one: Any) -> None:
    """A launch was killed before it kept the definition, and this driver keeps no metadata."""
    for name, path in ((NAME, one.store.path(f"{NAME}.kernel")), (THEIRS, "/boot/hv.kernel")):
        one.link.conn.defineXML(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
            f"<os><type arch='x86_64'>hvm</type><kernel>{path}</kernel></os></domain>"
        )
    try:
        assert NAME in one.cleanup()
        assert set(one.inventory().guests) == {THEIRS}
    finally:
        one.link.conn.lookupByName(THEIRS).undefine()


def test_the_first_error_of_a_launch_is_told_though_it_cannot_be_undone(
    one: Any, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def call(*_given: Any) -> None:
            raise error

        return call

    remove = one.store.remove
    monkeypatch.setattr(one, "defined", fails(NodeFault("no space")))
    monkeypatch.setattr(one, "_undo", fails(TransientFault("it is away")))
    with pytest.raises(NodeFault, match="no space"):
        one.launch(GuestSpec(name=NAME, image=image))
    with monkeypatch.context() as patches, one.claimed("hv-other"):
        patches.setattr(one.store, "remove", fails(TransientFault("it is away")))
    assert one.store.remove == remove
    assert {NAME, "hv-claim.hv-other"} <= set(one.store.names()) | set(one.inventory().guests)
    one.delete("hv-other")
    one.delete(NAME)
    assert not [name for name in one.store.names() if name.startswith("hv-")]


def test_of_two_launches_of_a_name_one_wins(
    one: Any, opened: Callable[[], Any], image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen that the name is free; what the loser made goes, the winner's stays."""
    both, kind = threading.Barrier(2), type(one)
    check = kind.check

    def met(self: Any, spec: GuestSpec) -> None:
        check(self, spec)
        with suppress(threading.BrokenBarrierError):
            both.wait(MEET_S)

    monkeypatch.setattr(kind, "check", met)
    spec = GuestSpec(name=NAME, image=image, config_drive={"a": b"b"})

    def launched(session: Any) -> HypervouchError | None:
        try:
            session.launch(spec)
        except HypervouchError as error:
            return error
        return None

    before = set(one.store.names())
    with opened() as other, ThreadPoolExecutor(2) as pool:
        told = list(pool.map(launched, (one, other)))
    monkeypatch.undo()
    lost = [error for error in told if error is not None]
    assert len(lost) == 1, told
    assert isinstance(lost[0], CallerFault)
    assert "already" in lost[0].message
    assert one.info(NAME).state is GuestState.RUNNING
    assert not any("claim" in file for file in one.store.names())
    one.delete(NAME)
    assert set(one.store.names()) == before


def test_a_name_that_somebody_takes_meanwhile_stays_theirs(
    one: Any, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person at virsh asks for no claim: libvirt itself refuses the second definition."""
    prepare, made = one.prepare, []

    def prepared(spec: GuestSpec) -> Any:
        made.append(_define(one, NAME))
        return prepare(spec)

    monkeypatch.setattr(one, "prepare", prepared)
    with pytest.raises(HypervouchError, match="already exists"):
        one.launch(GuestSpec(name=NAME, image=image))
    monkeypatch.undo()
    assert one.inventory().guests == {NAME: GuestState.SHUTOFF}
    assert not [file for file in one.store.names() if file.startswith(f"{NAME}.")]
    made[0].undefine()
