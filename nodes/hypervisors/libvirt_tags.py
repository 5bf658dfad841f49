# SPDX-License-Identifier: Apache-2.0
"""Device tags: a guest's config drive tells which card or disk carries which tag.

Tags of cards at launch are written before the guest starts. For a device that is attached
later a fresh config drive is put into the guest's drive, as a changed disc.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import GuestSpec
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_guests import LibvirtGuests

_CHANGE = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE


class LibvirtTags(LibvirtGuests):
    """The part of the adapter that tells guests of tags."""

    def root(self, domain: Any) -> xml.Element:
        """A guest's XML as it is now."""
        return xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))

    def defined(self, spec: GuestSpec, domain: Any) -> None:
        """Tell of tagged cards on the config drive: only now have they addresses."""
        tags = {nic.mac: nic.tag for nic in spec.nics if nic.tag}
        if tags and Feature.DEVICE_TAGS in self.missing:
            self.cannot(Feature.DEVICE_TAGS)
        if spec.config_drive is None:
            if tags:
                raise CallerFault(
                    f"{spec.name} has tagged cards and no config drive", hint="give it one"
                )
            return
        self.store.put(f"{spec.name}.tags", files.pack_drive(spec.config_drive, tags))
        if tags:
            told = files.with_tags(spec.config_drive, devices(self.root(domain), tags))
            self.store.put(f"{spec.name}.config", files.config_drive(told))

    def drive(self, root: xml.Element, name: str) -> xml.Element:
        """A guest's config drive.

        Raises:
            CallerFault: It has none.
        """
        begin = self.store.path(f"{name}.config")
        for _target, source, disk in xml.disks(root):
            if source.startswith(begin):
                return disk
        raise CallerFault(
            f"{name} has no config drive that could tell of tags", hint="launch it with one"
        )

    def tell(self, domain: Any, key: str, tag: str) -> None:
        """Put a fresh config drive into a running guest, with one more tagged device.

        Args:
            domain: The guest's.
            key: MAC address of a card, or path of a volume.
            tag: Its tag.
        """
        name, root = domain.name(), self.root(domain)
        content, tags = files.unpack_drive(self.store.get(f"{name}.tags"))
        tags = tags | {key: tag}
        image = files.config_drive(files.with_tags(content, devices(root, tags)))
        disc = self.drive(root, name)
        source = disc.find("source")
        if source is None:
            raise CallerFault(f"the config drive of {name} is empty")
        old = source.get("file", "")
        # The same path again would be no change to libvirt.
        source.set("file", self.store.put(f"{name}.config-{secrets.token_hex(4)}", image))
        flags = _CHANGE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        if not domain.isActive():
            flags &= ~libvirt.VIR_DOMAIN_AFFECT_LIVE
        for ignored in ("backingStore", "alias"):
            for found in disc.findall(ignored):
                disc.remove(found)
        domain.updateDeviceFlags(xml.text(disc), flags)
        self.store.put(f"{name}.tags", files.pack_drive(content, tags))
        self.store.remove(old.rpartition("/")[2])


def devices(root: xml.Element, tags: Mapping[str, str]) -> list[dict[str, object]]:
    """Nova's `devices` of meta_data.json for the devices that a domain has by now.

    Args:
        root: The domain's XML, with the addresses that libvirt gave.
        tags: By MAC address of a card or path of a disk.
    """
    told: list[dict[str, object]] = []
    for key, tag in tags.items():
        nic = xml.nic_with(root, key)
        disk = xml.disk_at(root, key)
        if nic is not None:
            told.append({"type": "nic", "mac": key, **_where(nic), "tags": [tag]})
        elif disk is not None:
            serial = disk[1].findtext("serial", "")
            told.append({"type": "disk", "serial": serial, **_where(disk[1]), "tags": [tag]})
    return told


def _where(device: xml.Element) -> dict[str, object]:
    """Bus and address of a device, as the guest's kernel writes them."""
    found = device.find("address")
    if found is None:
        return {"bus": "none"}
    at = found.attrib
    if at.get("type") != "pci":
        return {"bus": at.get("type", "none")}
    domain, bus, slot = (int(at.get(k, "0"), 16) for k in ("domain", "bus", "slot"))
    function = int(at.get("function", "0"), 16)
    return {"bus": "pci", "address": f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"}
