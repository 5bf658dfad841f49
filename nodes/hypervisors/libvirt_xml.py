# SPDX-License-Identifier: Apache-2.0
"""Domain XML, read and changed. Pure: nothing here calls libvirt."""

import string
from collections.abc import Iterator
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from nodes.hypervisors.base import PREFIX, Nic, Volume

Element = ET.Element


def parse(text: str) -> Element:
    """XML that a daemon sent; expat refuses entities that blow up."""
    return ET.fromstring(text)  # noqa: S314 - from a daemon that we let run our guests


def text(element: Element) -> str:
    """XML as a string."""
    return ET.tostring(element, encoding="unicode")


def element(tag: str, *children: Element, content: str = "", **attributes: str) -> Element:
    """An element; empty attributes are left out."""
    made = ET.Element(tag, {key: value for key, value in attributes.items() if value})
    made.text = content or None
    made.extend(children)
    return made


def disks(domain: Element) -> Iterator[tuple[str, str, Element]]:
    """Target, source and element of every disk; no source gives an empty string."""
    for disk in domain.findall("./devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        where = {} if source is None else source.attrib
        path = where.get("file") or where.get("dev") or where.get("name") or ""
        yield ("" if target is None else target.get("dev", "")), path, disk


def disk_at(domain: Element, path: str) -> tuple[str, Element] | None:
    """Target and element of the disk with a source; None where it is not attached."""
    return next(((target, disk) for target, source, disk in disks(domain) if source == path), None)


def place(volume: Volume) -> str:
    """What stands as the source of a volume's disk: its path, or its name on a target."""
    return urlsplit(volume.source).path.lstrip("/") or volume.path


def filter_of(mac: str) -> str:
    """The name of the filter with a card's rules."""
    return PREFIX + mac.lower().replace(":", "")


def wire(card: Element, nic: Nic, bridge: str, alone: str) -> None:
    """Lead a card somewhere, and put it behind its rules.

    Args:
        card: `<interface>`, changed.
        nic: What was asked for.
        bridge: The host's usual bridge, or nothing.
        alone: The card's type where there is neither network nor bridge.
    """
    card.set("type", "network" if nic.network else "bridge" if bridge else alone)
    if nic.network:
        card.append(element("source", network=nic.network))
    elif bridge:
        card.append(element("source", bridge=bridge))
    if nic.rules is not None:
        card.append(element("filterref", filter=filter_of(nic.mac)))


def nic_with(domain: Element, mac: str) -> Element | None:
    """The card with a MAC address."""
    for nic in domain.findall("./devices/interface"):
        found = nic.find("mac")
        if found is not None and found.get("address", "").lower() == mac.lower():
            return nic
    return None


def free_target(domain: Element, prefix: str) -> str:
    """The first device name with a prefix that no disk has, as `vdb`.

    Raises:
        ValueError: All 26 are taken.
    """
    taken = {target for target, _source, _disk in disks(domain)}
    for letter in string.ascii_lowercase:
        if prefix + letter not in taken:
            return prefix + letter
    raise ValueError(f"no device name {prefix}* is free")


def set_text(domain: Element, path: str, content: str) -> None:
    """Give an element below the root another text; it is made at the root when missing."""
    found = domain.find(path)
    if found is None:
        found = ET.SubElement(domain, path)
    found.text = content


def set_boot(domain: Element, **files: str) -> None:
    """Let a domain boot other `kernel`, `initrd` and `cmdline`; empty ones are taken away."""
    os = domain.find("os")
    if os is None:
        raise ValueError("the domain has no <os>")
    for tag, content in files.items():
        found = os.find(tag)
        if content:
            if found is None:
                found = ET.SubElement(os, tag)
            found.text = content
        elif found is not None:
            os.remove(found)


def replace_paths(xml: str, old: str, new: str) -> str:
    """XML with files of one directory looked for in another one."""
    root = parse(xml)
    for node in root.iter():
        for key, value in node.attrib.items():
            if value.startswith(old + "/"):
                node.set(key, new + value[len(old) :])
        if node.text and node.text.startswith(old + "/"):
            node.text = new + node.text[len(old) :]
    return text(root)
