# SPDX-License-Identifier: Apache-2.0
"""Volumes and cards of vCenter's guests: disks in our folder, cards on the URL's network."""

from typing import Any

from ci.model.feature import Feature
from nodes.hypervisors import vcenter_devices as devices
from nodes.hypervisors.base import DiskFormat, Nic, Volume
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.vcenter_core import VcenterCore


class VcenterVolumes(VcenterCore):
    """The part of the adapter that knows volumes and cards."""

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A virtual disk in our folder; what several write to is zeroed at once, as VMFS wants."""
        check_name(name)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        if name in self._store.volume_names():
            raise CallerFault(f"there is a volume {name} already")
        self._store.mkdir(self._store.volumes)
        kind = "eagerZeroedThick" if shared else "thin"
        path = self._store.volume_path(name)
        self._store.create_disk(path, size_mib << 10, kind)
        return Volume(
            name=name, size_mib=size_mib, path=path, format=DiskFormat.VMDK, shared=shared
        )

    def delete_volume(self, volume: Volume) -> None:
        """Remove its files."""
        if volume.name in self._store.volume_names():
            self._store.delete_disk(volume.path)

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """From the flat file beside the descriptor."""
        path = volume.path.partition("] ")[2].removesuffix(".vmdk") + "-flat.vmdk"
        return self._store.read(path, first=count)

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """The next place on the guest's SCSI bus."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        found = self._devices(self._guest(name))
        if devices.find_disk(found, volume) is not None:
            raise CallerFault(f"{volume.name} is attached to {name} already")
        change = devices.disk(volume.path, devices.free_unit(found), shared=volume.shared)
        self._reconfigure(name, [change], Feature.ATTACH_VOLUME)

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Its files stay."""
        change = devices.remove(self._attached(name, volume))
        self._reconfigure(name, [change], Feature.DETACH_VOLUME)

    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """Under the running guest."""
        attached = self._attached(name, volume)
        attached.capacityInKB = size_mib << 10
        attached.capacityInBytes = size_mib << 20
        self._reconfigure(name, [devices.edit(attached)], Feature.EXTEND_VOLUME)
        return Volume(
            name=volume.name,
            size_mib=size_mib,
            path=volume.path,
            format=volume.format,
            shared=volume.shared,
        )

    def attach_interface(self, name: str, nic: Nic) -> None:
        """A vmxnet3 card on the URL's network."""
        if nic.tag:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        change = devices.card(nic, self._place.network, self._place.network_name, -400)
        self._reconfigure(name, [change], Feature.ATTACH_INTERFACE)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """By its address."""
        found = devices.find_card(self._devices(self._guest(name)), nic)
        if found is None:
            raise CallerFault(f"{name} has no card {nic.mac}")
        self._reconfigure(name, [devices.remove(found)], Feature.DETACH_INTERFACE)

    def _attached(self, name: str, volume: Volume) -> Any:
        found = devices.find_disk(self._devices(self._guest(name)), volume)
        if found is None:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        return found
