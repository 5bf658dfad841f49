# SPDX-License-Identifier: Apache-2.0
"""Rows of Nova's matrix that the suite has no test for, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_NO_CALL = "the suite has no test for it"
_NETWORK = "it belongs to the network service, not to a hypervisor"
_HARDWARE = "it takes hardware that no guest of ours can stand for"

UNTESTED: Mapping[Feature, str] = {
    Feature.ATTACH_TAGGED_VOLUME: _NO_CALL,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_CALL,
    Feature.DEVICE_TAGS: _NO_CALL,
    Feature.REBUILD_VOLUME_BACKED: _NO_CALL,
    Feature.GUEST_DISK_AUTOCONFIG: _NO_CALL,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _HARDWARE,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_CALL,
    Feature.TRUSTED_CERTS: _NO_CALL,
    Feature.PORT_WITH_RESOURCE_REQUEST: _NETWORK,
    Feature.BOOT_ENCRYPTED_VM: _HARDWARE,
    Feature.CACHE_IMAGES: _NO_CALL,
    Feature.BOOT_STATELESS_FIRMWARE: _NO_CALL,
    Feature.NETWORKING_FIREWALLRULES: _NETWORK,
    Feature.NETWORKING_ROUTING: _NETWORK,
    Feature.NETWORKING_SECURITYGROUPS: _NETWORK,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NETWORK,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NETWORK,
}
