# SPDX-License-Identifier: Apache-2.0
"""A card's rules as libvirt's filters, and where cards and volumes are led: the XML alone."""

import pytest

pytest.importorskip("libvirt")

from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import Nic, Rule, Volume
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_networks import filter_xml

MAC = "52:54:00:AB:00:01"


def said(rules: tuple[Rule, ...] | None) -> list[tuple[str, str, str, dict[str, str]]]:
    """Action, direction, protocol and its attributes, in the order of their priority."""
    found = filter_xml("hv-a", "", rules).findall("rule")
    found.sort(key=lambda rule: int(rule.get("priority", "")))
    return [(r.get("action", ""), r.get("direction", ""), r[0].tag, r[0].attrib) for r in found]


class TestRules:
    OUT = ("accept", "out", "all", {})
    REST = ("drop", "in", "all", {})

    def test_none_let_everything_in(self) -> None:
        assert said(None) == []

    def test_no_rule_lets_nothing_in_and_the_guest_out(self) -> None:
        assert said(()) == [self.OUT, self.REST]

    def test_what_is_let_in_goes_before_the_rest(self) -> None:
        rules = (Rule(protocol="icmp"), Rule(protocol="tcp", port=22))
        ssh = ("accept", "in", "tcp", {"dstportstart": "22"})
        assert said(rules) == [self.OUT, ("accept", "in", "icmp", {}), ssh, self.REST]

    def test_a_protocol_that_is_none_is_refused(self) -> None:
        with pytest.raises(CallerFault, match="gre"):
            said((Rule(protocol="gre"),))

    def test_a_known_filter_keeps_its_uuid(self) -> None:
        assert filter_xml("hv-a", "u-1", ()).findtext("uuid") == "u-1"


class TestCards:
    @pytest.mark.parametrize(
        ("nic", "bridge", "kind", "source"),
        [
            (Nic(mac=MAC), "", "user", None),
            (Nic(mac=MAC), "br0", "bridge", {"bridge": "br0"}),
            (Nic(mac=MAC, network="hv-n"), "br0", "network", {"network": "hv-n"}),
        ],
    )
    def test_lead_somewhere(
        self, nic: Nic, bridge: str, kind: str, source: dict[str, str] | None
    ) -> None:
        card = xml.element("interface")
        xml.wire(card, nic, bridge, "user")
        found = card.find("source")
        assert card.get("type") == kind
        assert (None if found is None else found.attrib) == source
        assert card.find("filterref") is None

    def test_have_their_rules_by_their_address(self) -> None:
        card = xml.element("interface")
        xml.wire(card, Nic(mac=MAC, network="hv-n", rules=()), "", "user")
        used = card.find("filterref")
        assert used is not None
        assert used.get("filter") == xml.filter_of(MAC) == "hv-525400ab0001"


def test_a_volume_of_a_target_stands_by_its_name() -> None:
    there = Volume(name="hv-v", size_mib=1, source="iscsi://192.0.2.9:3260/iqn.2026-01.test:a/1")
    assert xml.place(there) == "iqn.2026-01.test:a/1"
    assert xml.place(Volume(name="hv-v", size_mib=1, path="/d/hv-v")) == "/d/hv-v"
