# SPDX-License-Identifier: Apache-2.0
"""What container engines, or this adapter of them, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_NO_CRIU = "it needs CRIU, which neither this adapter nor the engines of Debian 12 have"
_NO_BLOCK = "a running container cannot be given a block device"
_NO_TAGS = "it has no metadata by which a guest would find a tagged device"
_NO_SCREEN = "a container has no graphics device"
_NO_FIRMWARE = "a container has no firmware: it runs on the host's kernel"
_NO_AGENT = "it has no channel for a guest agent"
_NO_NETWORKS = "networks here are one a card, without a way out; rules are not this adapter's"

MISSING: Mapping[Feature, str] = {
    Feature.ATTACH_VOLUME: _NO_BLOCK,
    Feature.ATTACH_TAGGED_VOLUME: _NO_BLOCK,
    Feature.DETACH_VOLUME: _NO_BLOCK,
    Feature.EXTEND_VOLUME: _NO_BLOCK,
    Feature.SWAP_VOLUME: _NO_BLOCK,
    Feature.MULTIATTACH_VOLUME: _NO_BLOCK,
    Feature.ENCRYPTED_VOLUME: _NO_BLOCK,
    Feature.STORAGE_BLOCK: _NO_BLOCK,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_BLOCK,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_BLOCK,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_BLOCK,
    Feature.GUEST_DISK_RATE_LIMIT: _NO_BLOCK,
    Feature.GUEST_SETUP_CONFIGDRIVE: "a config drive is a block device; a folder would be none",
    Feature.REBUILD_VOLUME_BACKED: _NO_BLOCK,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.MAINTENANCE_MODE: "an engine has no such mode",
    Feature.EVACUATE: "a container's file system lies on its engine's machine alone",
    Feature.LIVE_MIGRATE: _NO_CRIU,
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _NO_CRIU,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _NO_CRIU,
    Feature.SUSPEND: _NO_CRIU,
    Feature.RESUME: _NO_CRIU,
    Feature.RESCUE: "a container has one file system, which cannot be given to another one",
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.TRIGGER_CRASH_DUMP: "a container has no kernel of its own that could be dumped",
    Feature.GUEST_DISK_AUTOCONFIG: "a container has no disk that could be partitioned",
    Feature.GUEST_SETUP_INJECT_NETWORKING: "the engine sets up a card's addresses itself",
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.UEFI_BOOT: _NO_FIRMWARE,
    Feature.BOOT_EMULATED_TPM: _NO_FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _NO_FIRMWARE,
    Feature.BOOT_ENCRYPTED_VM: "a container's memory is ordinary processes'",
    Feature.FILE_BACKED_MEMORY: "a container's memory is ordinary processes'",
    Feature.TRUSTED_CERTS: "images are files given by path, nothing checks signatures",
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_NETWORKS,
    Feature.NETWORKING_FIREWALLRULES: _NO_NETWORKS,
    Feature.NETWORKING_ROUTING: _NO_NETWORKS,
    Feature.NETWORKING_SECURITYGROUPS: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_NETWORKS,
}
