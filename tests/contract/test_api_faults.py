# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between an adapter and an API: one account of it for four systems.

The answers are modelled, TLS and the adapters' clients are real. vCenter, XenServer and Hyper-V
have tests of their own, on larger stand-ins.
"""

import hashlib
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nodes.hypervisors.base import Access, GuestState, Hypervisor
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
)
from nodes.hypervisors.table import connect
from tests.kit import modelled_api
from tests.kit.modelled_api import WORD, Answer, Api, Asked
from tests.kit.receivers import certificate

pytestmark = pytest.mark.integration


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A system.

    Attributes:
        url: With a place for the port.
        needs: The package that its adapter imports.
        keeps_sessions: Whether a login is a call of its own that is answered by a token.
        others: A guest in its model.
        holds: What of a request holds the password, if any.
    """

    url: str
    needs: str = "httpx"
    keeps_sessions: bool = False
    others: str
    holds: Callable[[Asked], bool]


def _basic(asked: Asked) -> bool:
    return "authorization" in asked.headers


KINDS = {
    "ironic": Kind(url="ironic://ci@127.0.0.1:{}?node=ci-*", others="theirs", holds=_basic),
    "redfish": Kind(
        url="redfish://ci@127.0.0.1:{}/redfish/v1/Systems/1",
        needs="sushy",
        others="rack 7",
        holds=_basic,
    ),
    "zvm": Kind(
        url="zvm://127.0.0.1:{}",
        needs="zvmconnector",
        keeps_sessions=True,
        others="LNX0001",
        holds=lambda asked: "x-admin-token" in asked.headers,
    ),
    "powervm": Kind(
        url="powervm://ci@127.0.0.1:{}/HV4",
        keeps_sessions=True,
        others="linux1",
        holds=lambda asked: asked.path.endswith("/Logon") and asked.method == "PUT",
    ),
}


@dataclass
class Place:
    """A modelled system and what connects to it."""

    kind: Kind
    api: Api
    work: Path

    def connected(self, **changes: Any) -> closing[Hypervisor]:
        known = {"password": WORD, "ca_file": self.api.ca_file, "timeout_s": 20.0}
        access = Access(work=self.work, **{**known, **changes})
        return closing(connect(self.kind.url.format(self.api.port), access))  # type: ignore[type-var]

    def tried(self) -> int:
        return sum(self.kind.holds(asked) for asked in self.api.asked)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind = KINDS[request.param]
    if find_spec(kind.needs) is None:
        pytest.skip(f"{kind.needs} is not installed")
    with modelled_api.serving(getattr(modelled_api, request.param), tmp_path) as api:
        yield Place(kind, api, tmp_path / "work")


def refused(call: Callable[[], Any], fault: type[Exception]) -> str:
    """What a call is refused with; the password is nowhere in what a log could show of it."""
    with pytest.raises(fault) as told:
        call()
    shown = "".join(traceback.format_exception(told.value)) + repr(told.value)
    assert WORD not in shown
    assert "&lt;4711" not in shown
    return str(told.value)


def test_what_is_there_is_told(place: Place) -> None:
    with place.connected() as hypervisor:
        assert hypervisor.inventory().guests[place.kind.others] is GuestState.RUNNING
        assert hypervisor.cleanup() == ()


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_password_is_tried_once(place: Place, status: int) -> None:
    no = Answer(status, "no such user")
    place.api.rule = lambda asked: no if place.kind.holds(asked) else None
    assert "log in" in refused(place.connected, LoginRefused) or place.kind is KINDS["zvm"]
    assert place.tried() == 1


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_is_quoted(place: Place, status: int) -> None:
    with place.connected() as hypervisor:
        place.api.rule = lambda _asked: Answer(status, "the disk \x1b[31mis\nfull")
        told = refused(hypervisor.inventory, TransientFault)
    assert str(status) in told
    assert "\x1b" not in told
    assert "full" in told or place.kind is KINDS["redfish"]  # sushy keeps words of JSON only


def test_an_end_of_the_session_is_seen_to_once(place: Place) -> None:
    with place.connected() as hypervisor:
        before, over = place.tried(), iter([True])
        place.api.rule = lambda _asked: Answer(401, "{}") if next(over, False) else None
        if place.kind.keeps_sessions:
            assert hypervisor.inventory().guests
        else:
            refused(hypervisor.inventory, NodeFault)
        assert place.tried() == before + 1


def test_a_session_that_cannot_be_opened_anew_is_given_up(place: Place) -> None:
    with place.connected() as hypervisor:
        before = place.tried()
        place.api.rule = lambda _asked: Answer(401, "{}")
        for _ in range(2):
            refused(hypervisor.inventory, LoginRefused)
        assert place.tried() <= before + 2  # with each call, or once


def test_another_certificate_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(other.read_text())).hexdigest()
    for changes in (
        {"ca_file": other},
        {"ca_file": None},
        {"ca_file": None, "certificate": digest},
    ):
        told = refused(lambda: place.connected(**changes), CertificateRefused)  # noqa: B023
        assert "certificate" in told
    assert not place.api.asked


def test_a_pinned_certificate_is_enough(place: Place) -> None:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(place.api.ca_file.read_text())).hexdigest()
    with place.connected(ca_file=None, certificate=digest.upper()) as hypervisor:
        assert hypervisor.inventory().guests


def test_a_slow_server_is_not_waited_for_without_end(place: Place) -> None:
    with place.connected(timeout_s=1.0) as hypervisor:
        place.api.rule = lambda _asked: Answer(wait=True)
        began = time.monotonic()
        refused(hypervisor.inventory, TransientFault)
        assert time.monotonic() - began < 40
        place.api.rule = lambda _asked: None


def test_a_line_that_breaks_is_nobodys_fault(place: Place) -> None:
    with place.connected() as hypervisor:
        place.api.rule = lambda _asked: Answer(cut=True)
        refused(hypervisor.inventory, TransientFault)
        place.api.rule = lambda _asked: None
        assert hypervisor.inventory().guests


def test_a_closed_port_may_open_again(place: Place) -> None:
    open_port, place.api.port = place.api.port, 1
    refused(place.connected, TransientFault)
    place.api.port = open_port
    with place.connected() as hypervisor:
        assert hypervisor.inventory().guests


@pytest.mark.parametrize("body", ["<!DOCTYPE html><p>Sign in", "[]", "null", '{"a": 1}', "7"])
def test_something_else_is_none_of_it(place: Place, body: str) -> None:
    place.api.rule = lambda _asked: Answer(200, body, {"Content-Type": "application/json"})
    refused(place.connected, (NodeFault, CallerFault))
    assert place.tried() <= 1 or place.kind is KINDS["ironic"]


def test_another_host_is_not_told_the_password(place: Place, tmp_path: Path) -> None:
    (tmp_path / "thief").mkdir()
    with modelled_api.serving(place.api.model, tmp_path / "thief") as thief:
        away = {"Location": f"https://127.0.0.1:{thief.port}/"}
        with place.connected() as hypervisor:
            place.api.rule = lambda _asked: Answer(307, "", away)
            refused(hypervisor.inventory, NodeFault)
        assert not thief.asked
