# SPDX-License-Identifier: Apache-2.0
"""Hypervisors that libvirt drives: QEMU, KVM, LXC, Xen and Virtuozzo, on this machine or over SSH.

The pieces: `libvirt_link` (URL, SSH, connection), `libvirt_events` (event loop and waiting),
`libvirt_bounded` (deadlines, error translation by `libvirt_errors`), `libvirt_store` (files on
the host), then the adapter in layers: `libvirt_facts`, `_guests`, `_tags`, `_devices`, `_changes`,
`_core`. What is particular to a driver is its Flavour (`libvirt_flavour`), one module each.

Our own parameters of a URL, beside libvirt's (`socket` and others):

- `type`: `kvm` or `qemu`; without it KVM is used when a guest proves that it works. Virtuozzo's
  are `vm`, the usual one, and `ct`.
- `arch`: machine of the guests, by default the host's own.
- `disks`: directory on the host for whatever we make; hosts with the same one share storage.
- `bridge`: the host's bridge that cards are put on; without it they use QEMU's own network.
"""

from typing import cast

from ci import plugins
from nodes.hypervisors.base import Access, Hypervisor

DRIVERS = {
    "qemu": "nodes.hypervisors.libvirt_qemu:connected",
    "lxc": "nodes.hypervisors.libvirt_lxc:connected",
    "xen": "nodes.hypervisors.libvirt_xen:connected",
    "vz": "nodes.hypervisors.libvirt_vz:connected",
}


def connect(url: str, access: Access) -> Hypervisor:
    """Connect to a libvirt daemon.

    Args:
        url: For instance `qemu:///system`, `qemu:///system?socket=/run/other/libvirt-sock`,
            `qemu+ssh://root@host:22/system`.
        access: What the URL must not hold.

    Raises:
        ConfigError: libvirt-python is not installed.
        CallerFault: The URL is wrong, or there is no such driver on the host.
        TransientFault: The daemon does not answer.
        NodeFault: It refuses us, or showed another host key than the pinned one.
    """
    plugins.need("libvirt", extra="libvirt", what=f"the hypervisor {url}")
    # Only now: it imports the library.
    from nodes.hypervisors.libvirt_link import answered, open_link  # noqa: PLC0415

    link = open_link(url, access)
    try:
        make = plugins.load("libvirt", link.address.scheme, DRIVERS, "hypervouch.libvirt")
        # A driver may look at the host first, and even run a guest to see whether KVM works.
        made = answered(lambda: make(link), link.address, access.timeout_s)
        return cast("Hypervisor", made)
    except BaseException:
        link.close()
        raise
