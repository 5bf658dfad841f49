# SPDX-License-Identifier: Apache-2.0
"""Images on a libvirt host: looked at, put there for a guest, or kept there for many.

A cached image is the files `hv-image-ID.kernel`, `.initrd` and `.disk` of the store. Its guests
boot that kernel and RAM disk, and their disks are overlays of that disk.
"""

from collections.abc import Mapping

from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import GuestImage
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_networks import LibvirtNetworks
from nodes.hypervisors.libvirt_store import MIB

EMPTY_DISK_MIB = 64
"""First disk of a guest whose image has none."""

KERNEL, INITRD, DISK = "kernel", "initrd", "disk"


class LibvirtImages(LibvirtNetworks):
    """The part of the adapter that knows images."""

    def check_image(self, image: GuestImage) -> None:
        """Look at an image's properties and files.

        Raises:
            CallerFault: It is for another hypervisor, or a file of it is missing.
        """
        fits = {
            "hypervisor_type": self.flavour.hypervisor_types,
            "vm_mode": self.flavour.vm_modes,
        }
        for key, allowed in fits.items():
            wanted = image.properties.get(key, "").lower()
            if wanted and wanted not in allowed:
                raise CallerFault(
                    f"the image wants {key}={wanted}, {self.flavour.column()[1]} is "
                    f"{' or '.join(sorted(allowed))}",
                    hint="choose another image or another hypervisor",
                )
        if self._cached(image):
            return
        for path in (image.kernel, image.initrd, image.root, image.disk):
            if path is not None and not path.is_file():
                raise CallerFault(f"{path} of the image is not there")

    def put_image(
        self, name: str, image: GuestImage, more: Mapping[str, bytes], mark: str = ""
    ) -> tuple[str, str, str]:
        """Put an image's kernel, RAM disk and disk onto the host; returns their paths."""
        cached = self._cached(image)
        kernel = initrd = ""
        if image.kernel is not None:
            kernel = cached.get(KERNEL) or self.store.put(f"{name}.{mark}kernel", image.kernel)
        if image.initrd is not None:
            initrd = cached.get(INITRD, "")
            if more or not initrd:
                plain = self._initrd(image, cached)
                initrd = self.store.put(f"{name}.{mark}initrd", files.injected(plain, more))
        return kernel, initrd, self._put_disk(f"{name}.{mark}disk", image, cached)

    def _initrd(self, image: GuestImage, cached: Mapping[str, str]) -> bytes:
        if image.initrd is not None and image.initrd.is_file():
            return image.initrd.read_bytes()  # nearer than the host's copy of it
        return self.store.get(cached[INITRD].rpartition("/")[2])

    def _put_disk(self, disk: str, image: GuestImage, cached: Mapping[str, str]) -> str:
        """A guest's first disk: an overlay of a cached one, a copy, or empty."""
        if image.disk is not None and DISK not in cached:
            with files.as_qcow2(image) as ready:
                return self.store.put(disk, ready, form="qcow2")
        self.store.remove(disk)
        if image.disk is None:
            self.store.create(disk, EMPTY_DISK_MIB * MIB, "qcow2")
        else:
            base = self.store.find(cached[DISK].rpartition("/")[2])
            self.store.create(disk, base.info()[1], "qcow2", over=cached[DISK])
        return self.store.path(disk)

    # The cache ---------------------------------------------------------------------------

    def _cached(self, image: GuestImage) -> dict[str, str]:
        """Where a cached image's files are, by what they are; empty where it is not cached."""
        if not image.id or Feature.CACHE_IMAGES in self.missing:
            return {}
        begin, names = f"{image.cache_name()}.", self.store.names()
        found = {name.removeprefix(begin) for name in names if name.startswith(begin)}
        return {what: self.store.path(f"{begin}{what}") for what in found}

    @operation(Feature.CACHE_IMAGES)
    def cache_image(self, image: GuestImage) -> bool:
        """Put an image's files where guests share them."""
        if not image.id:
            raise CallerFault("an image without an id cannot be cached", hint="set its id")
        if self._cached(image):
            return False
        self.check_image(image)
        begin = f"{image.cache_name()}."
        try:
            for what, path in ((KERNEL, image.kernel), (INITRD, image.initrd)):
                if path is not None:
                    self.store.put(f"{begin}{what}", path)
            if image.disk is not None:
                with files.as_qcow2(image) as ready:
                    self.store.put(f"{begin}{DISK}", ready, form="qcow2")
        except BaseException:
            self.forget_image(image)
            raise
        return True

    @operation(Feature.CACHE_IMAGES)
    def forget_image(self, image: GuestImage) -> None:
        """Remove a cached image; repeatable.

        Raises:
            CallerFault: A guest uses it.
        """
        begin = self.store.path(f"{image.cache_name()}.")
        for domain in self.link.conn.listAllDomains():
            used = xml.parse(domain.XMLDesc()).itertext()
            if any(text.startswith(begin) for text in used):
                raise CallerFault(f"{domain.name()} on {self.url} uses the image")
        self.store.remove_of(image.cache_name())
