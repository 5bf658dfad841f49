# SPDX-License-Identifier: Apache-2.0
"""Networks and security groups: what one guest gets from another one, and what not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ci.jobs.compute.bench import Bench, Guest, not_tried, wait_until
from ci.model.feature import Feature
from nodes.hypervisors.base import INTERFACES, Nic, Rule

_PORT = 8080
_WAIT_S = 2
_SERVE = f"httpd -p {_PORT} -h /etc"
_SET_UP = """\
auto eth0
iface eth0 inet static
    address {0}
    netmask 255.255.255.0
"""


@pytest.mark.feature(Feature.NETWORKING_TOPOLOGY_FLAT)
def test_flat(bench: Bench) -> None:
    """Two guests on one network reach each other, a third one on another does not."""
    bench.need(Feature.NETWORKING_TOPOLOGY_FLAT)
    network, elsewhere = bench.network(), bench.network()
    first = _guest(bench, "198.18.77.1", network)
    second = _guest(bench, "198.18.77.2", network)
    _comes(bench, lambda: _pings(first, "198.18.77.2"), "the first does not reach the second")
    _comes(bench, lambda: _pings(second, "198.18.77.1"), "the second does not reach the first")
    bench.delete(second)  # a small host has not the memory for three
    stranger = _guest(bench, "198.18.77.3", elsewhere)
    assert not _pings(stranger, "198.18.77.1"), "a guest of another network reaches it"


@pytest.mark.feature(Feature.NETWORKING_SECURITYGROUPS)
def test_security_group(bench: Bench) -> None:
    """Closed, then open for ping, then for one port, then closed again, as the guest runs."""
    bench.need(Feature.NETWORKING_SECURITYGROUPS)
    network = bench.network()
    card = Nic(mac=bench.mac(), network=network, rules=())
    guarded = _guest(bench, "198.18.77.1", network, card)
    peer = _guest(bench, "198.18.77.2", network)
    guarded.run(_SERVE)
    _comes(bench, lambda: _pings(guarded, "198.18.77.2"), "the guarded guest cannot get out")
    through = _what_gets_through(peer, "198.18.77.1")
    assert not through, f"{through} came through closed rules"
    for rules in ((Rule(protocol="icmp"),), (Rule(protocol="tcp", port=_PORT),), ()):
        bench.hypervisor.update_interface(guarded.name, replace(card, rules=rules))
        _lets_through(bench, peer, {rule.protocol for rule in rules})


def _guest(bench: Bench, address: str, network: str, card: Nic | None = None) -> Guest:
    """A guest with one card and this address."""
    files = {INTERFACES: _SET_UP.format(address).encode()}
    nic = card or Nic(mac=bench.mac(), network=network)
    guest = bench.launch(nics=(nic,), files=files)
    if not guest.has_shell():
        not_tried("needs a guest: a model has no network")
    return guest


def _lets_through(bench: Bench, peer: Guest, wanted: set[str]) -> None:
    why = f"with rules for {wanted or 'nothing'} other things come through"
    _comes(bench, lambda: _what_gets_through(peer, "198.18.77.1") == wanted, why)


def _comes(bench: Bench, check: Callable[[], bool], why: str) -> None:
    wait_until(check, bench.boot_s, why)


def _pings(guest: Guest, address: str) -> bool:
    return bool(guest.ask(f"exec ping -c 1 -W {_WAIT_S} {address}")["rc"] == 0)


def _what_gets_through(guest: Guest, address: str) -> set[str]:
    """Which of `icmp` and `tcp` (a file of its web server) reach the other guest, at one time."""
    url = f"http://{address}:{_PORT}/image"
    tries = (
        f"(ping -c 1 -W {_WAIT_S} {address} >/dev/null && echo icmp)",
        f"(timeout {_WAIT_S} wget -qO- {url} >/dev/null && echo tcp)",
    )
    return set(guest.run(f"{' & '.join(tries)} & wait").split()) & {"icmp", "tcp"}
