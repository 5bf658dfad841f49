# SPDX-License-Identifier: Apache-2.0
"""Networks of a Xen host and what may reach a card: bridges of dom0, and its nftables.

A guarded card's device in dom0 has a name of its own (`hv` and the hardware address), so that
rules find it again in whatever domain the guest is. Frames are looked at on the bridge.
"""

from collections.abc import Iterable, Iterator

from nodes.hypervisors.base import Nic, Rule
from nodes.hypervisors.faults import CallerFault, NodeFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.xen_host import XlHost
from nodes.hypervisors.xen_words import device_of

_TABLE = "bridge hypervouch"
_PROTOCOLS = frozenset({"icmp", "tcp", "udp"})
_LONGEST = 15
"""Characters of a network device's name."""

_MAKE = (
    '! ip link show "$1" >/dev/null 2>&1 || exit 9; '
    'ip link add "$1" type bridge && ip link set "$1" up'
)
_THERE_ALREADY = 9


class XlNetworks(XlHost):
    """The part of the adapter that makes networks and guards cards."""

    def create_network(self, name: str) -> None:
        """A bridge that has no way out."""
        check_name(name)
        if len(name) > _LONGEST:
            raise CallerFault(
                f"{name!r} is too long for a bridge", hint=f"at most {_LONGEST} characters"
            )
        done = self._sh(_MAKE, name, check=False)
        if done.status == _THERE_ALREADY:
            raise CallerFault(f"there is a network {name} already")
        if done.status:
            raise NodeFault(f"cannot make the network {name}: {done.complaint}")

    def delete_network(self, name: str) -> None:
        """Remove the bridge; repeatable."""
        check_name(name)
        self._sh('! ip link show "$1" >/dev/null 2>&1 || ip link del "$1"', name)

    def update_interface(self, name: str, nic: Nic) -> None:
        """Other rules for a card that was guarded from the beginning."""
        if nic.mac not in self._record(name).guarded:
            raise CallerFault(
                f"the card {nic.mac} of {name} is not guarded", hint="attach it with rules"
            )
        self._guard([nic])

    def _guard(self, nics: Iterable[Nic]) -> None:
        """Let in what the rules of these cards say; those without rules are left alone."""
        lines = [line for nic in nics if nic.rules is not None for line in _chain(nic)]
        if lines:
            self._nft([*_basis(), *lines])

    def _unguard(self, macs: Iterable[str]) -> None:
        """Forget the rules of cards; repeatable."""
        lines = []
        for mac in macs:
            device = device_of(mac)
            lines += [
                # Adding first: what is not there cannot be deleted.
                f"add chain {_TABLE} {device}",
                f'add element {_TABLE} cards {{ "{device}" : jump {device} }}',
                f'delete element {_TABLE} cards {{ "{device}" }}',
                f"delete chain {_TABLE} {device}",
            ]
        if lines:
            self._nft([*_basis(), *lines])

    def _nft(self, lines: Iterable[str]) -> None:
        """All of it or nothing."""
        self._link.run(["nft", "-f", "-"], feed="".join(f"{line}\n" for line in lines).encode())


def _basis() -> Iterator[str]:
    """What all cards have in common; may be said again."""
    yield f"add table {_TABLE}"
    yield f"add map {_TABLE} cards {{ type ifname : verdict ; }}"
    yield f"add chain {_TABLE} forward {{ type filter hook forward priority 0 ; }}"
    yield f"flush chain {_TABLE} forward"
    yield f"add rule {_TABLE} forward oifname vmap @cards"


def _chain(nic: Nic) -> Iterator[str]:
    """What one card lets in."""
    device = device_of(nic.mac)
    yield f"add chain {_TABLE} {device}"
    yield f"flush chain {_TABLE} {device}"
    yield f"add rule {_TABLE} {device} ether type arp accept"
    yield f"add rule {_TABLE} {device} ct state established,related accept"
    for rule in nic.rules or ():
        yield f"add rule {_TABLE} {device} {_match(rule)} accept"
    yield f"add rule {_TABLE} {device} drop"
    yield f'add element {_TABLE} cards {{ "{device}" : jump {device} }}'


def _match(rule: Rule) -> str:
    if rule.protocol not in _PROTOCOLS:
        raise CallerFault(f"{rule.protocol!r} is no protocol of a rule", hint="icmp, tcp or udp")
    if rule.protocol == "icmp":
        return "ip protocol icmp"
    return f"{rule.protocol} dport {int(rule.port)}"
