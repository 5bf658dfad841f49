# SPDX-License-Identifier: Apache-2.0
"""Networks of a libvirt host, and what reaches guests over them.

A network is a bridge that libvirt makes and that leads nowhere else. A card's rules are one of
libvirt's network filters (nwfilter), named by the card's hardware address: libvirt puts it into
the host's ebtables and iptables when the card appears, and changes it there when it is defined
anew.

Source: libvirt's formatnetwork.html and formatnwfilter.html.
"""

from typing import Any

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_marks as marks
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import PREFIX, Nic, Rule
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_facts import LibvirtFacts

PROTOCOLS = ("icmp", "tcp", "udp")
_ABSENT = (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_NWFILTER, libvirt.VIR_ERR_NO_SUPPORT)
_LET_IN, _DROP_REST = "500", "900"


class LibvirtNetworks(LibvirtFacts):
    """The part of the adapter that knows networks and filters."""

    @operation(Feature.NETWORKING_TOPOLOGY_FLAT)
    def create_network(self, name: str) -> None:
        """Make a bridge of its own."""
        if not name.startswith(PREFIX):
            raise CallerFault(f"{name!r} is no name of a network", hint=f"begin with {PREFIX}")
        if self._network(name) is not None:
            raise CallerFault(f"there is a network {name} on {self.url} already")
        made = xml.element(
            "network",
            xml.element("name", content=name),
            xml.element("bridge", name=marks.bridge(name), stp="off", delay="0"),
        )
        self.link.conn.networkCreateXML(xml.text(made))

    @operation(Feature.NETWORKING_TOPOLOGY_FLAT)
    def delete_network(self, name: str) -> None:
        """Remove a network; repeatable."""
        found = self._network(name)
        if found is not None:
            found.destroy()

    def _network(self, name: str) -> Any:
        """Libvirt's network; None where there is none."""
        try:
            return self.link.conn.networkLookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _ABSENT:
                return None
            raise

    def remove_networks(self) -> tuple[str, ...]:
        """Remove all networks and filters of ours; returns the networks' names."""
        named = [name for name in self._networks() if name.startswith(PREFIX)]
        ours = [name for name in named if self._is_our_network(name)]
        for name in ours:
            self.delete_network(name)
        for found in self._filters():
            if marks.is_our_filter(found.name()):
                found.undefine()
        return tuple(ours)

    def _is_our_network(self, name: str) -> bool:
        found = self._network(name)
        return found is not None and marks.is_our_network(found.XMLDesc())

    def _filters(self) -> list[Any]:
        """All filters; none where the daemon has no driver for them."""
        try:
            return list(self.link.conn.listAllNWFilters())
        except libvirt.libvirtError as error:
            if error.get_error_code() in _ABSENT:
                return []
            raise

    def keep_rules(self, nic: Nic) -> None:
        """Let libvirt know a card's rules; a card that has them already obeys at once.

        Raises:
            CallerFault: A rule has no such protocol.
            Unsupported: This driver has no filters.
        """
        if Feature.NETWORKING_SECURITYGROUPS in self.missing:
            self.cannot(Feature.NETWORKING_SECURITYGROUPS)
        name = xml.filter_of(nic.mac)
        found = self._filter(name)
        uuid = "" if found is None else str(found.UUIDString())
        self.link.conn.nwfilterDefineXML(xml.text(filter_xml(name, uuid, nic.rules)))

    def carry_rules(self, root: xml.Element, to: "LibvirtNetworks") -> None:
        """Let another host know the rules of a domain's cards, before the guest goes there."""
        for used in root.iter("filterref"):
            name = used.get("filter", "")
            found = self._filter(name)
            if found is not None and to._filter(name) is None:  # noqa: SLF001 - of our kind
                to.link.conn.nwfilterDefineXML(found.XMLDesc())

    def drop_rules(self, root: xml.Element) -> None:
        """Forget the rules of all cards in a domain's XML, or of one card."""
        for used in root.iter("filterref"):
            name = used.get("filter", "")
            found = self._filter(name) if name.startswith(PREFIX) else None
            if found is not None:
                found.undefine()

    def _filter(self, name: str) -> Any:
        """Libvirt's filter; None where there is none."""
        try:
            return self.link.conn.nwfilterLookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _ABSENT:
                return None
            raise


def filter_xml(name: str, uuid: str, rules: tuple[Rule, ...] | None) -> xml.Element:
    """A filter: what the guest begins and what is let in, and nothing else of IP.

    Raises:
        CallerFault: A rule has no such protocol.
    """
    made = xml.element("filter", name=name, chain="root")
    if uuid:
        made.append(xml.element("uuid", content=uuid))
    if rules is None:
        return made
    made.append(_rule("accept", "out", _LET_IN, xml.element("all")))
    for rule in rules:
        if rule.protocol not in PROTOCOLS:
            raise CallerFault(
                f"{rule.protocol!r} is no protocol of a rule", hint=", ".join(PROTOCOLS)
            )
        ports = {"dstportstart": str(rule.port)} if rule.port else {}
        made.append(_rule("accept", "in", _LET_IN, xml.element(rule.protocol, **ports)))
    made.append(_rule("drop", "in", _DROP_REST, xml.element("all")))
    return made


def _rule(action: str, direction: str, priority: str, what: xml.Element) -> xml.Element:
    return xml.element("rule", what, action=action, direction=direction, priority=priority)
