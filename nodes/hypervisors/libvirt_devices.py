# SPDX-License-Identifier: Apache-2.0
"""Volumes and cards of a libvirt host's guests, and what they are told of them."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import libvirt

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import PREFIX, DiskFormat, Nic, Volume
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_guests import NAME
from nodes.hypervisors.libvirt_store import MIB
from nodes.hypervisors.libvirt_tags import LibvirtTags

ASK_AGAIN_S = 8.0
"""A guest that boots does not answer when it is asked to give a device up."""

_ASKED_ALREADY = ("in the process of unplug", "unplug already in progress")
"""What QEMU says when it is asked once more: of x86 and ARM guests, and of POWER's."""

_SECRETS: Mapping[str, tuple[int, str]] = {
    "volume": (libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "volume"),
    "iscsi": (libvirt.VIR_SECRET_USAGE_TYPE_ISCSI, "target"),
}
"""By libvirt's word for a use: its number, and the element that names whose it is."""

_NAME_AND_LUN = 2
_BYTES = libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES
_BLOCK_COPY = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB


class LibvirtDevices(LibvirtTags):
    """The part of the adapter that attaches and detaches."""

    def _affect(self, domain: Any) -> int:
        """Whether a change is for the running guest, its definition, or both."""
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        if self.flavour.live or not flags:
            flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
        return int(flags)

    # Volumes -----------------------------------------------------------------------------

    @operation(Feature.ATTACH_VOLUME)
    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """Make an empty volume: qcow2, or raw where it is shared or encrypted (LUKS)."""
        for feature, asked in (
            (Feature.MULTIATTACH_VOLUME, shared),
            (Feature.ENCRYPTED_VOLUME, bool(secret)),
        ):
            if asked and feature in self.missing:
                self.cannot(feature)
        if not NAME.match(name):
            raise CallerFault(
                f"{name!r} is no name of a volume",
                hint=f"{PREFIX} and then letters, digits and -, at most 40 characters",
            )
        if self.store.find(name) is not None:
            raise CallerFault(f"there is a volume {name} on {self.url} already")
        form = DiskFormat.RAW if shared or secret else DiskFormat.QCOW2
        encryption = None
        if secret:
            made = self._keep("volume", self.store.path(name), secret)
            key = xml.element("secret", type="passphrase", uuid=made)
            encryption = xml.element("encryption", key, format="luks")
        try:
            self.store.create(name, size_mib * MIB, form.value, encryption=encryption)
        except BaseException:
            self._drop(name)
            raise
        return Volume(
            name=name,
            size_mib=size_mib,
            path=self.store.path(name),
            format=form,
            shared=shared,
            secret=secret,
        )

    @operation(Feature.ATTACH_VOLUME)
    def delete_volume(self, volume: Volume) -> None:
        """Remove a volume; repeatable."""
        self.remove_volume(volume.name)

    def remove_volume(self, name: str) -> None:
        """Remove a file of the store and the passphrase that belongs to it."""
        super().remove_volume(name)
        self._drop(name)

    def _secret(self, kind: str, owner: str) -> Any:
        """Libvirt's secret of a kind (a key of _SECRETS) for an owner; None where there is none."""
        try:
            return self.link.conn.secretLookupByUsage(_SECRETS[kind][0], owner)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_ERR_NO_SUPPORT):
                return None
            raise

    def _keep(self, kind: str, owner: str, passphrase: str) -> str:
        """Give libvirt a passphrase, in memory only; returns the secret's UUID."""
        secret = self._secret(kind, owner)
        if secret is None:
            usage = xml.element("usage", xml.element(_SECRETS[kind][1], content=owner), type=kind)
            made = xml.element("secret", usage, ephemeral="yes", private="yes")
            secret = self.link.conn.secretDefineXML(xml.text(made))
        secret.setValue(passphrase.encode())
        return str(secret.UUIDString())

    def _drop(self, name: str) -> None:
        for kind, owner in (("volume", self.store.path(name)), ("iscsi", name)):
            secret = self._secret(kind, owner)
            if secret is not None:
                secret.undefine()

    def _key(self, volume: Volume) -> str:
        """UUID of the secret that a volume is opened with; empty where it takes none."""
        if volume.user:
            return self._keep("iscsi", volume.name, volume.secret)
        return self._keep("volume", volume.path, volume.secret) if volume.secret else ""

    def let_go(self, root: xml.Element) -> None:
        """Also what libvirt was told to log in to targets with."""
        super().let_go(root)
        for key in root.findall(".//auth/secret[@type='iscsi']"):
            with suppress(libvirt.libvirtError):
                self.link.conn.secretLookupByUUIDString(key.get("uuid", "")).undefine()

    @operation(Feature.STORAGE_BLOCK)
    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """The first bytes of a volume; of an encrypted one its file's, header and all."""
        if volume.format is DiskFormat.RAW:
            return self.store.get(volume.name, count=count)
        return files.first_bytes(self.store.get(volume.name), volume.format, count)

    @operation(Feature.ATTACH_VOLUME)
    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Attach a volume to a guest."""
        if tag and Feature.ATTACH_TAGGED_VOLUME in self.missing:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self._check_target(volume)
        domain = self.domain(name)
        root = self.root(domain)
        if xml.disk_at(root, xml.place(volume)) is not None:
            raise CallerFault(f"{volume.name} is attached to {name} already")
        if tag:
            self.drive(root, name)
        target = xml.free_target(root, self.flavour.disk_prefix)
        made = self.flavour.disk(volume, target, secret=self._key(volume))
        try:
            domain.attachDeviceFlags(made, self._affect(domain))
        except libvirt.libvirtError:
            if volume.source:
                self.let_go(xml.parse(made))
            raise
        self.remember(domain)
        if tag:
            self.tell(domain, xml.place(volume), tag)

    def _check_target(self, volume: Volume) -> None:
        """Look at a volume that is not the host's own.

        Raises:
            CallerFault: Its source is no iSCSI URL.
            Unsupported: This driver cannot have it.
        """
        feature = Feature.STORAGE_BLOCK_BACKEND_ISCSI
        if volume.user:
            feature = Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP
        if feature in self.missing:
            self.cannot(feature)
        where = urlsplit(volume.source)
        if where.scheme != "iscsi" or not where.hostname or where.path.count("/") < _NAME_AND_LUN:
            raise CallerFault(
                f"{volume.source} leads to no volume", hint="iscsi://HOST:PORT/IQN/LUN"
            )

    @operation(Feature.DETACH_VOLUME)
    def detach_volume(self, name: str, volume: Volume) -> None:
        """Detach it; it is gone from the guest when this returns."""
        domain = self.domain(name)
        self._detach(domain, lambda root: self._attached(root, xml.place(volume)), volume.name)

    def _attached(self, root: xml.Element, path: str) -> xml.Element | None:
        found = xml.disk_at(root, path)
        return None if found is None else found[1]

    def _detach(
        self, domain: Any, find: Callable[[xml.Element], xml.Element | None], what: str
    ) -> None:
        """Take a device away; asked again and again, for a guest may be booting.

        Raises:
            CallerFault: It is not attached.
            TransientFault: The guest does not give it up.
        """
        device = find(self.root(domain))
        if device is None:
            raise CallerFault(f"{what} is not attached to {domain.name()} on {self.url}")
        asked, flags = xml.text(device), self._affect(domain)
        ends = time.monotonic() + self.timeout_s
        while time.monotonic() < ends:
            try:
                domain.detachDeviceFlags(asked, flags)
            except libvirt.libvirtError as error:
                if find(self.root(domain)) is None:
                    break
                if not any(words in str(error) for words in _ASKED_ALREADY):
                    raise
            flags = libvirt.VIR_DOMAIN_AFFECT_LIVE  # the definition has changed by now
            if self.link.watch.wait(lambda: find(self.root(domain)) is None, ASK_AGAIN_S):
                break
        else:
            self.late(domain.name(), f"gives {what} up")
        self.let_go(device)
        self.remember(domain)

    @operation(Feature.EXTEND_VOLUME)
    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """Make an attached volume larger under the running guest."""
        domain = self.domain(name)
        target = self._target(domain, volume)
        domain.blockResize(target, size_mib * MIB, _BYTES)
        if domain.blockInfo(target)[0] < size_mib * MIB:
            self.late(name, f"has {volume.name} with {size_mib} MiB")
        return replace(volume, size_mib=size_mib)

    def _target(self, domain: Any, volume: Volume) -> str:
        found = xml.disk_at(self.root(domain), xml.place(volume))
        if found is None:
            raise CallerFault(f"{volume.name} is not attached to {domain.name()} on {self.url}")
        return found[0]

    @operation(Feature.SWAP_VOLUME)
    def swap_volume(self, name: str, old: Volume, new: Volume) -> None:
        """Copy an attached volume to another one and put that in its place, under the guest."""
        domain = self.domain(name)
        target = self._target(domain, old)
        copy = self.flavour.disk(new, target, secret=self._key(new))
        domain.blockCopy(target, copy, flags=_BLOCK_COPY)

        def ready() -> bool:
            job = domain.blockJobInfo(target, 0)
            mirror = self.root(domain).find(f"./devices/disk/target[@dev='{target}']/../mirror")
            return bool(job and job["cur"] == job["end"] and mirror is not None) and (
                mirror is not None and mirror.get("ready") == "yes"
            )

        if not self.link.watch.wait(ready, self.timeout_s):
            domain.blockJobAbort(target, 0)
            self.late(name, f"has copied {old.name}")
        domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        if not self.link.watch.wait(
            lambda: xml.disk_at(self.root(domain), new.path) is not None, self.timeout_s
        ):
            self.late(name, f"has {new.name}")

        def change(root: xml.Element) -> None:
            for dev, _source, disk in xml.disks(root):
                source = disk.find("source")
                driver = disk.find("driver")
                if dev == target and source is not None and driver is not None:
                    source.set("file", new.path)
                    driver.set("type", new.format.value)

        self.redefine(domain, change)

    @operation(Feature.GUEST_DISK_RATE_LIMIT)
    def limit_volume(self, name: str, volume: Volume, bytes_per_s: int) -> None:
        """Limit what a guest reads and writes on an attached volume; 0 takes it away."""
        domain = self.domain(name)
        limit = {libvirt.VIR_DOMAIN_BLOCK_IOTUNE_TOTAL_BYTES_SEC: bytes_per_s}
        domain.setBlockIoTune(self._target(domain, volume), limit, self._affect(domain))

    # Cards -------------------------------------------------------------------------------

    @operation(Feature.ATTACH_INTERFACE)
    def attach_interface(self, name: str, nic: Nic) -> None:
        """Attach a network card to a guest."""
        if nic.tag and Feature.ATTACH_TAGGED_INTERFACE in self.missing:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        domain = self.domain(name)
        root = self.root(domain)
        if xml.nic_with(root, nic.mac) is not None:
            raise CallerFault(f"{name} on {self.url} has a card {nic.mac} already")
        if nic.tag:
            self.drive(root, name)
        if nic.network and Feature.NETWORKING_TOPOLOGY_FLAT in self.missing:
            self.cannot(Feature.NETWORKING_TOPOLOGY_FLAT)
        self.keep_all_rules((nic,))
        made = self.flavour.nic(nic, self.link.options.get("bridge", ""))
        try:
            domain.attachDeviceFlags(made, self._affect(domain))
        except libvirt.libvirtError:
            self.let_go(xml.parse(made))
            raise
        self.remember(domain)
        if nic.tag:
            self.tell(domain, nic.mac, nic.tag)

    @operation(Feature.DETACH_INTERFACE)
    def detach_interface(self, name: str, nic: Nic) -> None:
        """Detach it; it is gone from the guest when this returns."""
        self._detach(self.domain(name), lambda root: xml.nic_with(root, nic.mac), nic.mac)

    @operation(Feature.NETWORKING_SECURITYGROUPS)
    def update_interface(self, name: str, nic: Nic) -> None:
        """Give an attached card other rules."""
        domain = self.domain(name)
        card = xml.nic_with(self.root(domain), nic.mac)
        if card is None:
            raise CallerFault(f"{name} on {self.url} has no card {nic.mac}")
        self.keep_rules(nic)
        if card.find("filterref") is None and nic.rules is not None:
            card.append(xml.element("filterref", filter=xml.filter_of(nic.mac)))
            domain.updateDeviceFlags(xml.text(card), self._affect(domain))
            self.remember(domain)
