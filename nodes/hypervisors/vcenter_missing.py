# SPDX-License-Identifier: Apache-2.0
"""What vCenter, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_NO_PAUSE = "vCenter has no call that stops a guest's processors and keeps its memory in place"
_NO_TOOLS = "it takes VMware Tools in the guest, which ours does not run"
_NO_AGENT = "its agent in the guest is VMware Tools, which ours does not run"
_NO_TAGS = "it has no metadata service, and its config drive is not made anew"
_NO_SCREEN = "vSphere 7 removed its VNC server: screens are MKS tickets, for which Nova has no row"
_NO_TARGETS = "its disks are files of a datastore: targets belong to its hosts"
_NO_NETWORKS = "its port groups belong to the operator, this adapter makes none"
_VMOTION = "a vMotion that goes on can be cancelled by its task only; there is no other call"
_DISK = "guests boot a disk that lies on a datastore; nothing here opens it"

MISSING: Mapping[Feature, str] = {
    Feature.PAUSE: _NO_PAUSE,
    Feature.UNPAUSE: _NO_PAUSE,
    Feature.ATTACH_TAGGED_VOLUME: _NO_TAGS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.SWAP_VOLUME: "a disk is moved by Storage vMotion with its guest, not put for another",
    Feature.MAINTENANCE_MODE: "hosts have it; a cluster, which is one hypervisor here, has not",
    Feature.EVACUATE: "vSphere HA starts guests of a dead host elsewhere, by itself",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _VMOTION,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _VMOTION,
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: "it quiesces together with a snapshot only, by VMware Tools",
    Feature.UNQUIESCE: "it quiesces together with a snapshot only, by VMware Tools",
    Feature.TRIGGER_CRASH_DUMP: "it has no call that dumps a guest's memory to a file",
    Feature.REBUILD_VOLUME_BACKED: "this adapter boots disks of images only",
    Feature.GUEST_DISK_AUTOCONFIG: _DISK,
    Feature.GUEST_DISK_RATE_LIMIT: "its limits count operations a second, not bytes",
    Feature.GUEST_SETUP_INJECT_FILE: _DISK,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _DISK,
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_TARGETS,
    Feature.BOOT_EMULATED_TPM: "it takes a key provider, which the operator sets up",
    Feature.BOOT_STATELESS_FIRMWARE: "firmware variables lie in a guest's own file",
    Feature.BOOT_ENCRYPTED_VM: "it takes a key provider, which the operator sets up",
    Feature.ENCRYPTED_VOLUME: "it takes a key provider, which the operator sets up",
    Feature.FILE_BACKED_MEMORY: "its memory is its host's business",
    Feature.TRUSTED_CERTS: "images are files given by path, nothing checks signatures",
    Feature.CACHE_IMAGES: "an image is written for each guest anew",
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_NETWORKS,
    Feature.NETWORKING_FIREWALLRULES: _NO_NETWORKS,
    Feature.NETWORKING_ROUTING: _NO_NETWORKS,
    Feature.NETWORKING_SECURITYGROUPS: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_NETWORKS,
}
