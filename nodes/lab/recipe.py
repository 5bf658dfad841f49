# SPDX-License-Identifier: Apache-2.0
"""What goes into the image of the nested nodes, and the fingerprint that names it. Pure.

One image serves all personas: what differs between them is decided when a node boots.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

# No maintainer script runs and nothing is taken for essential: what is needed is named. No ovmf:
# a guest of kvm_amd with it ended the node's own QEMU 7.2 (TCG) by a failed assertion, seen once,
# perhaps at a write of CR8 with interrupts waiting.
PACKAGES = (
    *("bash", "busybox-static", "coreutils", "dash", "debianutils", "findutils", "grep"),
    *("hostname", "kmod", "libc-bin", "mawk", "mount", "procps", "sed", "util-linux"),
    *("bridge-utils", "dnsmasq-base", "ebtables", "iproute2", "iptables", "iputils-ping"),
    *("nftables", "openssh-client", "openssh-server", "python3-minimal", "socat"),
    *("libvirt-clients", "libvirt-daemon", "libvirt-daemon-config-nwfilter"),
    *("libvirt-daemon-driver-lxc", "libvirt-daemon-driver-qemu", "libvirt-daemon-driver-xen"),
    *("linux-image-amd64", "lvm2", "lxc", "open-iscsi", "swtpm", "swtpm-tools", "tgt"),
    *("qemu-block-extra", "qemu-system-x86", "qemu-system-xen", "qemu-utils"),
    *("xen-system-amd64", "xenstore-utils"),
)

# Before the disk can be seen and mounted; dependencies are followed.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "crc32c_generic", "ext4")

_DRIVERS = (
    *("accel", "ata", "bluetooth", "comedi", "firewire", "gpu", "hid", "hwmon", "iio"),
    *("infiniband", "input", "isdn", "media", "mmc", "mtd", "nvme", "platform", "power", "rtc"),
    *("staging", "thunderbolt", "usb", "video", "net/arcnet", "net/can", "net/dsa"),
    *("net/ethernet", "net/fddi", "net/hamradio", "net/ieee802154", "net/phy", "net/usb"),
    *("net/wireless", "net/wwan"),
)
_NETWORKS = (
    *("batman-adv", "bluetooth", "can", "ieee802154", "mac80211", "nfc", "rds", "sctp", "tipc"),
    "wireless",
)
_FILE_SYSTEMS = (
    *("afs", "ceph", "cifs", "coda", "dlm", "f2fs", "gfs2", "hfs", "hfsplus", "jfs", "nfs"),
    *("nfsd", "nilfs2", "ntfs3", "ocfs2", "orangefs", "reiserfs", "ubifs", "udf"),
)

# Patterns of tar, under the root: what no node reads.
DROPPED = (
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/iso-codes/*",
    "./usr/share/lintian/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./usr/share/xml/*",
    "./usr/share/perl/*",
    "./usr/lib/*/perl*",
    "./usr/lib/*/libperl*",
    "./usr/lib/*/libLLVM*",
    "./usr/lib/debug/*",
    # Of the block drivers only the one for iSCSI is wanted.
    *(f"./usr/lib/*/{name}*" for name in ("ceph", "libceph", "librados", "librbd", "libgfapi")),
    # libvirt would ask it for what it can do, which takes seconds of each boot.
    "./usr/bin/qemu-system-i386",
    *(f"./lib/modules/*/kernel/drivers/{name}" for name in _DRIVERS),
    *(f"./lib/modules/*/kernel/net/{name}" for name in _NETWORKS),
    *(f"./lib/modules/*/kernel/fs/{name}" for name in _FILE_SYSTEMS),
    "./lib/modules/*/kernel/sound",
)

DISK_SIZE = "3G"
_OURS = ("node-init",)
_SHARED = ("stage1", "node-reseed", "sshd_config")
# Raised when the code that shapes the image changes what it makes out of the same lists.
_REVISION = 3


@dataclass(frozen=True, kw_only=True)
class NestedRecipe:
    """Everything the image is made from.

    Attributes:
        packages: Debian packages; their dependencies come along.
        modules: Kernel modules that the first stage loads.
        dropped: Patterns that are left out.
        guest_files: Our own programs in the node, by name.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    dropped: tuple[str, ...]
    guest_files: dict[str, bytes]

    @property
    def fingerprint(self) -> str:
        """`nested-` and 12 hexadecimal digits that change whenever the recipe does."""
        digest = hashlib.sha256(f"{_REVISION} {DISK_SIZE}".encode())
        for words in (self.packages, self.modules, self.dropped):
            digest.update("\0".join(words).encode() + b"\1")
        for name in sorted(self.guest_files):
            digest.update(name.encode() + b"\0" + self.guest_files[name] + b"\1")
        return f"nested-{digest.hexdigest()[:12]}"


def standard() -> NestedRecipe:
    """The recipe of the nodes that this version boots."""
    ours, shared = files("nodes.lab") / "guest", files("nodes.images") / "guest"
    read = {name: (ours / name).read_bytes() for name in _OURS}
    read |= {name: (shared / name).read_bytes() for name in _SHARED}
    return NestedRecipe(packages=PACKAGES, modules=MODULES, dropped=DROPPED, guest_files=read)
