# SPDX-License-Identifier: Apache-2.0
"""What User Mode Linux, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_ONE_HOST = "guests are processes of one machine, there is no second host to move to"
_NO_SCREEN = "it has no graphics device"
_NO_STATE = "it cannot write a running guest's state to disk"
_NO_TAGS = "it has neither firmware tables nor a metadata service to tell a tag by"
_NO_AGENT = "it has no channel for a guest agent"
_NO_TARGETS = "its disks are files of the machine"
_NO_NETWORKS = "its cards end in tap devices: networks are the machine's business"
_NO_FIRMWARE = "its kernel is a program and has no firmware"

MISSING: Mapping[Feature, str] = {
    Feature.ATTACH_TAGGED_VOLUME: _NO_TAGS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.EXTEND_VOLUME: "a disk keeps the size it had when it was attached",
    Feature.SWAP_VOLUME: "its disks have no mirror",
    Feature.MAINTENANCE_MODE: "it has no daemon that could be told of it",
    Feature.EVACUATE: _ONE_HOST,
    Feature.REBUILD_VOLUME_BACKED: "it boots an initial RAM disk here, not a volume",
    Feature.LIVE_MIGRATE: _ONE_HOST,
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _ONE_HOST,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _ONE_HOST,
    Feature.SUSPEND: _NO_STATE,
    Feature.RESUME: _NO_STATE,
    Feature.SNAPSHOT: "it has no snapshots of its own",
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.TRIGGER_CRASH_DUMP: "a panic ends the process and leaves no dump",
    Feature.GUEST_DISK_AUTOCONFIG: "its root is the initial RAM disk",
    Feature.GUEST_DISK_RATE_LIMIT: "its disks have no rate limit",
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_TARGETS,
    Feature.UEFI_BOOT: _NO_FIRMWARE,
    Feature.BOOT_EMULATED_TPM: _NO_FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _NO_FIRMWARE,
    Feature.ENCRYPTED_VOLUME: "its disks know no encryption",
    Feature.BOOT_ENCRYPTED_VM: "its memory is an ordinary process's",
    Feature.TRUSTED_CERTS: "images are files given by path, nothing checks signatures",
    Feature.CACHE_IMAGES: "images are files given by path, there is nothing to cache",
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_NETWORKS,
    Feature.NETWORKING_FIREWALLRULES: _NO_NETWORKS,
    Feature.NETWORKING_ROUTING: _NO_NETWORKS,
    Feature.NETWORKING_SECURITYGROUPS: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_NETWORKS,
}
