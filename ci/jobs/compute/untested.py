# SPDX-License-Identifier: Apache-2.0
"""Rows of Nova's matrix that the suite has no test for, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_UNCLEAR = "Nova's own table says that it is unclear what this row means"

UNTESTED: Mapping[Feature, str] = {
    Feature.GUEST_DISK_AUTOCONFIG: (
        "two drivers that are gone grew a guest's file system from outside; guests do it themselves"
    ),
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "it takes a fibre channel adapter and a fabric",
    Feature.TRUSTED_CERTS: "Nova checks Glance's signatures before a hypervisor sees the image",
    Feature.PORT_WITH_RESOURCE_REQUEST: (
        "it takes a network service that guarantees bandwidth, and placement"
    ),
    Feature.BOOT_ENCRYPTED_VM: "it takes a processor with AMD SEV or Intel TDX",
    Feature.NETWORKING_FIREWALLRULES: _UNCLEAR,
    Feature.NETWORKING_ROUTING: _UNCLEAR,
    Feature.NETWORKING_TOPOLOGY_VLAN: (
        "the network service tags frames on a Linux bridge, none of these hypervisors does"
    ),
}
