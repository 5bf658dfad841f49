# SPDX-License-Identifier: Apache-2.0
"""What a libvirt host does to a whole guest: other images, its agent, dumps, its screen."""

from typing import Any

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import GuestImage, Screen
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_devices import LibvirtDevices
from nodes.hypervisors.libvirt_guests import DEFINITION

AGENT_S = 60.0
_RESCUE = "rescue-"
_ORIGINAL = "original"


class LibvirtChanges(LibvirtDevices):
    """The part of the adapter that puts another image under a guest, and asks its agent."""

    @operation(Feature.REBUILD)
    def rebuild(self, name: str, image: GuestImage) -> None:
        """Put another image under a guest; its first disk begins anew, snapshots are gone."""
        domain = self.domain(name)
        self.check_image(image)
        volume = self._root_volume(domain)
        self.power_off(name)
        if Feature.SNAPSHOT not in self.missing:
            for snapshot in domain.listAllSnapshots():
                snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        for what in ("kernel", "initrd", "disk"):
            self.store.remove(f"{name}.{what}")
        kernel, initrd, disk = self.put_image(name, image, {})
        if volume:
            if image.disk is None:
                self.store.remove(disk.rpartition("/")[2])
            self._renew(volume, disk if image.disk is not None else "")
        self.begin(self.redefine(domain, lambda root: self._boot(root, kernel, initrd)))

    def _root_volume(self, domain: Any) -> str:
        """The volume that is a guest's first disk; empty where that is its own."""
        first = next((path for _target, path, _disk in xml.disks(self.root(domain))), "")
        file = first.rpartition("/")[2]
        return "" if file.startswith(f"{domain.name()}.") else file

    def _renew(self, volume: str, disk: str) -> None:
        """Put a disk's content, or nothing, into a guest's root volume, whose size stays."""
        size = self.store.find(volume).info()[1]
        if not disk:
            self.store.remove(volume)
            self.store.create(volume, size, "qcow2")
            return
        made = disk.rpartition("/")[2]
        self.store.put(volume, self.store.get(made), form="qcow2")
        self.store.remove(made)
        self.store.refresh()
        renewed = self.store.find(volume)
        if renewed.info()[1] < size:
            renewed.resize(size)

    def _boot(self, root: xml.Element, kernel: str, initrd: str) -> None:
        line = root.findtext("./os/cmdline") or self.flavour.boot_arguments()
        xml.set_boot(root, kernel=kernel, initrd=initrd, cmdline=line if kernel else "")

    @operation(Feature.RESCUE)
    def rescue(self, name: str, image: GuestImage) -> None:
        """Boot a guest from another image, its own disks attached.

        Raises:
            CallerFault: It is rescued already.
        """
        domain = self.domain(name)
        if self.store.find(f"{name}.{_ORIGINAL}") is not None:
            raise CallerFault(f"{name} on {self.url} is rescued already")
        self.check_image(image)
        self.power_off(name)
        kernel, initrd, disk = self.put_image(name, image, {}, _RESCUE)
        self.store.put(f"{name}.{_ORIGINAL}", domain.XMLDesc(DEFINITION).encode())

        def change(root: xml.Element) -> None:
            self._boot(root, kernel, initrd)
            if not kernel:
                self._boot_from(root, disk)

        self.begin(self.redefine(domain, change))

    def _boot_from(self, root: xml.Element, disk: str) -> None:
        """Let a domain boot a disk that is put before its own."""
        target = xml.free_target(root, self.flavour.disk_prefix)
        first = next((found for _target, _source, found in xml.disks(root)), None)
        system, devices = root.find("os"), root.find("devices")
        if first is None or system is None or devices is None:
            raise CallerFault("the guest has no disk, it cannot be rescued by one")
        for boot in system.findall("boot"):
            system.remove(boot)
        added = xml.parse(xml.text(first))
        for ignored in ("serial", "address", "alias", "backingStore"):
            for found in added.findall(ignored):
                added.remove(found)
        for tag, key, value in (("source", "file", disk), ("target", "dev", target)):
            for found in added.findall(tag):
                found.set(key, value)
        added.append(xml.element("boot", order="1"))
        devices.append(added)

    @operation(Feature.RESCUE)
    def unrescue(self, name: str) -> None:
        """Boot a rescued guest from its own image again.

        Raises:
            CallerFault: It is not rescued.
        """
        self.domain(name)
        original = self.store.get(f"{name}.{_ORIGINAL}")
        if not original:
            raise CallerFault(f"{name} on {self.url} is not rescued")
        self.power_off(name)
        domain = self.link.conn.defineXML(original.decode())
        self.remember(domain)
        self.begin(domain)
        for file in self.store.names():
            if file.startswith(f"{name}.{_RESCUE}") or file == f"{name}.{_ORIGINAL}":
                self.store.remove(file)

    # The guest's agent -------------------------------------------------------------------

    def _agent(self, name: str) -> Any:
        """A domain whose guest agent answers, or did not within a minute."""
        domain = self.domain(name)

        def answers() -> bool:
            channels = xml.parse(domain.XMLDesc()).findall("./devices/channel/target")
            return any(
                target.get("state") == "connected"
                for target in channels
                if target.get("name") == "org.qemu.guest_agent.0"
            )

        # Not waiting any longer lets libvirt say that there is no agent.
        self.link.watch.wait(answers, min(AGENT_S, self.timeout_s))
        return domain

    @operation(Feature.SET_ADMIN_PASSWORD)
    def set_admin_password(self, name: str, password: str) -> None:
        """Set root's password inside a guest, by its agent."""
        self._agent(name).setUserPassword("root", password, 0)

    @operation(Feature.QUIESCE)
    def quiesce(self, name: str) -> None:
        """Freeze a guest's file systems, by its agent."""
        self._agent(name).fsFreeze()

    @operation(Feature.UNQUIESCE)
    def unquiesce(self, name: str) -> None:
        """Thaw them."""
        self._agent(name).fsThaw()

    # What it shows -----------------------------------------------------------------------

    @operation(Feature.TRIGGER_CRASH_DUMP)
    def crash_dump(self, name: str) -> int:
        """Make a dump of a guest's memory; it goes on."""
        file = f"{name}.core"
        self.store.remove(file)
        self.domain(name).coreDumpWithFormat(
            self.store.path(file),
            libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW,
            libvirt.VIR_DUMP_MEMORY_ONLY | libvirt.VIR_DUMP_LIVE,
        )
        return self.store.size(file)

    @operation()
    def screen(self, name: str, kind: str) -> Screen:
        """Where a guest's screen is: on the host's own loopback, or at our end of a tunnel to it.

        Raises:
            CallerFault: It was launched without.
            Unsupported: There is no such screen here.
        """
        feature = Feature(f"console.{kind}")
        if feature in self.missing:
            self.cannot(feature)
        root = xml.parse(self.domain(name).XMLDesc())
        found = root.find(f"./devices/graphics[@type='{kind}']")
        port = -1 if found is None else int(found.get("port", "-1"))
        if found is None or port < 0:
            raise CallerFault(f"{name} on {self.url} has no {kind} screen", hint="launch it with")
        host, port = self.link.reach(found.get("listen") or "127.0.0.1", port)
        return Screen(kind=kind, host=host, port=port)
