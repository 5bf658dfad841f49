# SPDX-License-Identifier: Apache-2.0
"""Volumes, cards and networks of a Xen host's guests, by `xl` and dom0's own tools."""

from dataclasses import replace

from ci.model.feature import Feature
from nodes.hypervisors import xen_words
from nodes.hypervisors.base import DiskFormat, Nic, Volume
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.xen_host import VOLUMES
from nodes.hypervisors.xen_networks import XlNetworks


class XlDevices(XlNetworks):
    """The part of the adapter that attaches and detaches."""

    def create_volume(
        self, name: str, size_mib: int, *, shared: bool = False, secret: str = ""
    ) -> Volume:
        """A sparse file of dom0."""
        check_name(name)
        if shared:
            self.cannot(Feature.MULTIATTACH_VOLUME)
        if secret:
            self.cannot(Feature.ENCRYPTED_VOLUME)
        path = f"{VOLUMES}/{name}"
        script = (
            'mkdir -p "$(dirname "$1")"; if [ -e "$1" ]; then exit 9; fi; truncate -s "$2" "$1"'
        )
        done = self._sh(script, path, f"{size_mib}M", check=False)
        if done.status == 9:  # noqa: PLR2004 - the script's own
            raise CallerFault(f"there is a volume {name} already")
        if done.status:
            raise NodeFault(f"cannot make volume {name}: {done.complaint}")
        return Volume(name=name, size_mib=size_mib, path=path, format=DiskFormat.RAW)

    def delete_volume(self, volume: Volume) -> None:
        """Remove its file; repeatable."""
        check_name(volume.name)
        self._link.run(["rm", "-f", "--", f"{VOLUMES}/{volume.name}"])

    def volume_bytes(self, volume: Volume, count: int) -> bytes:
        """Its first bytes, as dom0 sees them."""
        return self._link.run(["head", "-c", str(count), volume.path]).out

    def attach_volume(self, name: str, volume: Volume, *, tag: str = "") -> None:
        """Attach its file as the next free device."""
        if tag:
            self.cannot(Feature.ATTACH_TAGGED_VOLUME)
        if volume.source:
            self.cannot(Feature.STORAGE_BLOCK_BACKEND_ISCSI)
        self._running(name)
        record = self._record(name)
        free = [d for d in xen_words.VOLUME_DEVICES if d not in record.volumes.values()]
        if volume.path in record.volumes or not free:
            raise CallerFault(f"{volume.name} is attached already, or {name} has no device free")
        target = xen_words.block_target(volume.path, free[0])
        self._attach(name, ("block-attach", target), ("block-detach", free[0]))
        self._note(name, replace(record, volumes={**record.volumes, volume.path: free[0]}))

    def detach_volume(self, name: str, volume: Volume) -> None:
        """Detach it and wait until its backend is gone."""
        self._running(name)
        record = self._record(name)
        device = record.volumes.get(volume.path)
        if device is None:
            raise CallerFault(f"{volume.name} is not attached to {name}")
        self._xl("block-detach", name, device)
        rest = {path: at for path, at in record.volumes.items() if path != volume.path}
        self._note(name, replace(record, volumes=rest))

    def _attach(self, name: str, make: tuple[str, ...], undo: tuple[str, str]) -> None:
        """Attach a device; one that came too late goes again, so that it can be tried anew."""
        try:
            self._xl(make[0], name, *make[1:])
        except TransientFault:
            self._link.run(["xl", undo[0], name, undo[1]], check=False)
            raise

    def extend_volume(self, name: str, volume: Volume, size_mib: int) -> Volume:
        """Make its file larger and tell its loop device; blkback then tells the guest."""
        self._running(name)
        if volume.path not in self._record(name).volumes or size_mib < volume.size_mib:
            raise CallerFault(f"{volume.name} is not attached to {name}, or would shrink")
        script = (
            'truncate -s "$2" "$1" && for loop in $(losetup -n -O NAME -j "$1"); do '
            'losetup -c "$loop" || exit; done'
        )
        self._sh(script, volume.path, f"{size_mib}M")
        return replace(volume, size_mib=size_mib)

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Attach a card."""
        if nic.tag:
            self.cannot(Feature.ATTACH_TAGGED_INTERFACE)
        self._running(name)
        record = self._record(name)
        self._guard([nic])
        guarded = nic.rules is not None
        bridge = nic.network or self._bridge
        words = xen_words.card(nic.mac, bridge, guarded=guarded)
        self._attach(name, ("network-attach", *words), ("network-detach", nic.mac))
        changed = replace(
            record,
            macs=(*record.macs, nic.mac),
            networks={**record.networks, nic.mac: bridge},
            guarded=(*record.guarded, nic.mac) if guarded else record.guarded,
        )
        self._note(name, changed)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """Detach it."""
        self._running(name)
        record = self._record(name)
        if nic.mac not in record.macs:
            raise CallerFault(f"{name} has no card {nic.mac}")
        self._xl("network-detach", name, nic.mac)
        self._unguard([nic.mac] if nic.mac in record.guarded else [])
        changed = replace(
            record,
            macs=tuple(mac for mac in record.macs if mac != nic.mac),
            networks={mac: at for mac, at in record.networks.items() if mac != nic.mac},
            guarded=tuple(mac for mac in record.guarded if mac != nic.mac),
        )
        self._note(name, changed)
