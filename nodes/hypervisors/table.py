# SPDX-License-Identifier: Apache-2.0
"""Hypervisor adapters by the scheme of their URL: imported only when chosen.

Outsiders join by the entry point group `hypervouch.hypervisors`, named by scheme; its value
names a function `(url: str, access: Access) -> Hypervisor`.
"""

from typing import cast
from urllib.parse import urlsplit

from ci import plugins
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.faults import CallerFault

GROUP = "hypervouch.hypervisors"
BUILT_IN = {
    "dummy": "nodes.hypervisors.dummy:connect",
    "qemu": "nodes.hypervisors.libvirt:connect",
    "lxc": "nodes.hypervisors.libvirt:connect",
    "xen": "nodes.hypervisors.libvirt:connect",
    "vz": "nodes.hypervisors.libvirt:connect",
    "xl": "nodes.hypervisors.xen_xl:connect",
    "uml": "nodes.hypervisors.uml:connect",
    "docker": "nodes.hypervisors.container:connect",
    "podman": "nodes.hypervisors.container:connect",
    "vcenter": "nodes.hypervisors.vcenter:connect",
    "ironic": "nodes.hypervisors.ironic:connect",
    "redfish": "nodes.hypervisors.redfish:connect",
    "xenserver": "nodes.hypervisors.xenserver:connect",
    "powervm": "nodes.hypervisors.powervm:connect",
    "hyperv": "nodes.hypervisors.hyperv:connect",
    "zvm": "nodes.hypervisors.zvm:connect",
}


def connect(url: str, access: Access) -> Hypervisor:
    """Connect to a hypervisor.

    Args:
        url: For instance `qemu:///system`, `xen+ssh://root@host/system`, `xl+ssh://root@host:22`.
        access: What the URL must not hold: keys, where to work, how real it is.

    Raises:
        CallerFault: There is no adapter for it, or the URL is wrong.
        ConfigError: The adapter's library is not installed.
        TransientFault: It does not answer.
        NodeFault: It answers with what is broken there, or showed another host key.
    """
    scheme = _scheme(url)
    if not scheme:
        raise CallerFault(
            f"{url!r} is no URL of a hypervisor", hint="for instance qemu:///system or uml:///"
        )
    make = plugins.load("hypervisor", scheme, BUILT_IN, GROUP)
    return cast("Hypervisor", make(url, access))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme.partition("+")[0]
    except ValueError:  # for instance a bracket that is not closed
        return ""
