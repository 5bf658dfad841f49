# SPDX-License-Identifier: Apache-2.0
"""What Xen guests boot: kernels and initial RAM disks, on the host by their digest or id."""

import hashlib
from collections.abc import Mapping

from nodes.hypervisors import libvirt_files
from nodes.hypervisors.base import GuestImage
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.local import check_properties, need_file
from nodes.hypervisors.xen_host import IMAGES, XlHost
from nodes.hypervisors.xen_words import GuestType

_KERNELS = {b"\x55\xaa": 0x1FE, b"\x7fELF": 0}
_ARCHIVES = {b"\x1f\x8b": 0, b"070701": 0, b"\xfd7zXZ": 0, b"(\xb5/\xfd": 0}
_MODES = {GuestType.PV: {"xen"}, GuestType.PVH: {"xen", "pvh"}, GuestType.HVM: {"hvm"}}


class XlImages(XlHost):
    """The part of the adapter that puts images onto the host."""

    def cache_image(self, image: GuestImage) -> bool:
        """Put kernel and initial RAM disk into a folder of the image's own."""
        if not image.id:
            raise CallerFault("an image is cached by its id, and this one has none")
        folder = self._folder(image)
        self._check_image(image)
        if self._cached(image):
            return False
        self._link.run(["mkdir", "-p", folder])
        kernel = need_file(image.kernel, "kernel", _KERNELS)
        self._link.put(kernel, f"{folder}/kernel")
        # Last: that it is there says that all of it is.
        initrd = need_file(image.initrd, "initial RAM disk", _ARCHIVES)
        self._link.put(initrd, f"{folder}/initrd")
        return True

    def forget_image(self, image: GuestImage) -> None:
        """Remove that folder; repeatable."""
        self._link.run(["rm", "-rf", "--", self._folder(image)])

    def _folder(self, image: GuestImage) -> str:
        return f"{IMAGES}/{image.cache_name()}"

    def _cached(self, image: GuestImage) -> tuple[str, str] | None:
        """Where a cached image's files are; None where it is not cached."""
        if not image.id:
            return None
        kernel, initrd = (f"{self._folder(image)}/{part}" for part in ("kernel", "initrd"))
        there = self._link.run(["test", "-f", initrd], check=False).status == 0
        return (kernel, initrd) if there else None

    def _check_image(self, image: GuestImage) -> None:
        check_properties(image, frozenset({"xen"}), frozenset(_MODES[self._kind]))
        if image.arch != "x86_64":
            raise CallerFault(f"the image is for {image.arch}, this host is x86_64")
        if image.kernel is None and image.disk is not None:
            raise CallerFault(
                "this adapter boots a kernel, the image is a disk", hint="give kernel and initrd"
            )
        if not self._cached(image):
            need_file(image.kernel, "kernel", _KERNELS)
            need_file(image.initrd, "initial RAM disk", _ARCHIVES)

    def _upload(self, image: GuestImage, files: Mapping[str, bytes]) -> tuple[str, str]:
        """Put kernel and initial RAM disk where they are not yet; gives their paths there."""
        if not files and (cached := self._cached(image)):
            return cached
        kernel = need_file(image.kernel, "kernel", _KERNELS).read_bytes()
        initrd = need_file(image.initrd, "initial RAM disk", _ARCHIVES).read_bytes()
        wanted = {
            f"{IMAGES}/{hashlib.sha256(content).hexdigest()[:32]}": content
            for content in (kernel, libvirt_files.injected(initrd, files))
        }
        find = f'mkdir -p {IMAGES}; for path; do [ ! -f "$path" ] || echo "$path"; done'
        there = self._sh(find, *wanted).text.split()
        for path, content in wanted.items():
            if path not in there:
                self._link.put(content, path)
        first, second = wanted
        return first, second
