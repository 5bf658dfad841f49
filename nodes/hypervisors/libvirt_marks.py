# SPDX-License-Identifier: Apache-2.0
"""Whose a libvirt domain, network or filter is. Names are anybody's; only what is marked is ours.

A domain says so in its `<metadata>`. Virtuozzo's driver keeps none: there, and for domains that
older versions of ours made, the definition that our store keeps of a guest names the very UUID;
and where a launch was killed before it kept one, the domain has files of its name in our store. A
network is known by its bridge, whose name we make of the network's; a filter by the hardware
address in its name. Volumes carry no mark: they are ours by the directory that they are in.

Source: "General metadata" of libvirt's domain XML format; `virDomainGetMetadata`.
"""

import hashlib
import re
from xml.etree import ElementTree as ET

from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import PREFIX

NAMESPACE = "urn:hypervouch"
CLAIM = f"{PREFIX}claim"
"""Begins the names of files that say who launches: `hv-claim.GUEST`."""
_OWNER = f"{{{NAMESPACE}}}owner"
_FILTER = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{12}}")

ET.register_namespace("hypervouch", NAMESPACE)


def marked(domain: str, known_as: str) -> str:
    """The XML of a new domain, with our mark and a UUID of ours."""
    root = xml.parse(domain)
    xml.set_text(root, "uuid", known_as)
    metadata = root.find("metadata")
    if metadata is None:
        metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, _OWNER).text = "hypervouch"
    return xml.text(root)


def is_marked(domain: str) -> bool:
    """Whether a domain's XML carries our mark."""
    return xml.parse(domain).find(f"./metadata/{_OWNER}") is not None


def uses(domain: str, path: str) -> bool:
    """Whether a domain's XML names a file whose path begins so."""
    told = ((one.text or "", *one.attrib.values()) for one in xml.parse(domain).iter())
    return any(word.strip().startswith(path) for words in told for word in words)


def names(kept: bytes, known_as: str) -> bool:
    """Whether a definition that our store keeps is that of the domain with a UUID."""
    try:
        told = xml.parse(kept.decode(errors="replace")).findtext("uuid", "")
    except ET.ParseError:
        return False
    return bool(told) and told.lower() == known_as.lower()


def bridge(network: str) -> str:
    """The bridge of a network of ours; a network device's name has 15 characters at most."""
    return f"hv{hashlib.sha256(network.encode()).hexdigest()[:10]}"


def is_our_network(network: str) -> bool:
    """Whether a network's XML is one that we have made."""
    root = xml.parse(network)
    name, found = root.findtext("name", ""), root.find("bridge")
    is_ours = found is not None and found.get("name") == bridge(name)
    return is_ours and name.startswith(PREFIX)


def is_our_filter(name: str) -> bool:
    """Whether a filter's name is one that we give."""
    return _FILTER.fullmatch(name) is not None
