# SPDX-License-Identifier: Apache-2.0
"""What goes into the base image, and the fingerprint that names it. Pure but for guest files."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

# Python and pytest run a project's functional suite; QEMU is what its driver drives. Dropbear
# would log in faster but loses a channel that opens while another one closes.
PACKAGES = (
    "bash",
    "busybox-static",
    "linux-image-cloud-amd64",
    "openssh-server",
    "procps",
    "python3",
    "python3-pytest",
    "qemu-system-x86",
    "qemu-utils",
)

# What the kernel needs before it can see its disk and its network; dependencies are followed.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng")

# Paths under the root that no node reads: documentation, firmware of other architectures,
# drivers of devices that the machine does not have.
DROPPED = (
    "boot",
    "etc/systemd",
    "usr/include",
    "usr/lib/ipxe",
    "usr/lib/modules",
    "usr/lib/openssh/ssh-*",
    "usr/lib/qemu",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/libLLVM*",
    "usr/lib/x86_64-linux-gnu/dri",
    "usr/lib/x86_64-linux-gnu/libperl*",
    "usr/lib/x86_64-linux-gnu/perl*",
    "usr/bin/perl*",
    "usr/bin/qemu-io",
    "usr/bin/qemu-nbd",
    "usr/bin/qemu-pr-helper",
    "usr/bin/qemu-storage-daemon",
    "usr/bin/qemu-system-x86_64-microvm",
    "usr/libexec/qemu-*",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/iso-codes",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "usr/share/qemu/*.dtb",
    "usr/share/qemu/*-firmware.img",
    "usr/share/qemu/npcm*",
    "usr/share/qemu/open*",
    "usr/share/qemu/palcode*",
    "usr/share/qemu/s390*",
    "usr/share/qemu/skiboot*",
    "usr/share/qemu/slof*",
    "usr/share/xml",
)

DISK_SIZE = "1G"
_GUEST_FILES = ("stage1", "node-init", "node-reseed", "sshd_config")
# Raised when the code that shapes the image changes what it makes out of the same lists.
_REVISION = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything an image is made from.

    Attributes:
        packages: Debian packages; their dependencies come along.
        modules: Kernel modules that the first stage loads.
        dropped: Globs under the root that are left out.
        guest_files: Our own programs in the guest, by name.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    dropped: tuple[str, ...]
    guest_files: dict[str, bytes]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change whenever the recipe does."""
        digest = hashlib.sha256(f"{_REVISION} {DISK_SIZE}".encode())
        for words in (self.packages, self.modules, self.dropped):
            digest.update("\0".join(words).encode() + b"\1")
        for name in sorted(self.guest_files):
            digest.update(name.encode() + b"\0" + self.guest_files[name] + b"\1")
        return digest.hexdigest()[:12]


def standard() -> Recipe:
    """The recipe of the nodes this version hands out."""
    folder = files("nodes.images") / "guest"
    return Recipe(
        packages=PACKAGES,
        modules=MODULES,
        dropped=DROPPED,
        guest_files={name: (folder / name).read_bytes() for name in _GUEST_FILES},
    )
