# SPDX-License-Identifier: Apache-2.0
"""What libvirt's LXC driver, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_SAYS = "libvirt's LXC driver says: this function is not supported by the connection driver: "
_NO_BLOCK_JOB = "libvirt's LXC driver has no block jobs"
_NO_SCREEN = "a container has no graphics device"
_NO_FIRMWARE = "a container has no firmware: it runs on the host's kernel"
_NO_AGENT = "a container has no channel for a guest agent"
_NO_TAGS = "a container has no metadata by which it would find a tagged device"
_NO_LOGIN = "the host's kernel would have to log in to a target: no call in this adapter"

MISSING: Mapping[Feature, str] = {
    Feature.SUSPEND: f"{_SAYS}virDomainManagedSave",
    Feature.RESUME: f"{_SAYS}virDomainManagedSave",
    Feature.SNAPSHOT: f"{_SAYS}virDomainSnapshotCreateXML",
    Feature.LIVE_MIGRATE: f"{_SAYS}virDomainMigrate",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: f"{_SAYS}virDomainMigrateStartPostCopy",
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: f"{_SAYS}virDomainAbortJob",
    Feature.TRIGGER_CRASH_DUMP: f"{_SAYS}virDomainCoreDumpWithFormat",
    Feature.EVACUATE: "a container's root lies on its host alone",
    Feature.EXTEND_VOLUME: f"{_SAYS}virDomainBlockResize",
    Feature.SWAP_VOLUME: _NO_BLOCK_JOB,
    Feature.ENCRYPTED_VOLUME: "libvirt's LXC driver gives containers block devices as they are",
    Feature.REBUILD_VOLUME_BACKED: "a container's root is a directory here",
    Feature.RESCUE: "a container's root is a directory: another one could not have it attached",
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.ATTACH_TAGGED_VOLUME: _NO_TAGS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.MAINTENANCE_MODE: "libvirt has no maintenance mode of a host",
    Feature.CONSOLE_SERIAL_LOG: "libvirt's LXC driver keeps no log of a console",
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.UEFI_BOOT: _NO_FIRMWARE,
    Feature.BOOT_EMULATED_TPM: _NO_FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _NO_FIRMWARE,
    Feature.BOOT_ENCRYPTED_VM: "a container's memory is ordinary processes'",
    Feature.FILE_BACKED_MEMORY: "a container's memory is ordinary processes'",
    Feature.GUEST_DISK_AUTOCONFIG: "a container has no disk that could be partitioned",
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "needs a fibre channel adapter and fabric",
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_LOGIN,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_LOGIN,
    Feature.TRUSTED_CERTS: "the image service's signatures are Nova's to check",
    Feature.CACHE_IMAGES: "this adapter unpacks a root anew for each container",
    Feature.PORT_WITH_RESOURCE_REQUEST: (
        "needs SR-IOV cards or a network that guarantees bandwidth"
    ),
    Feature.NETWORKING_TOPOLOGY_VLAN: "libvirt tags frames on Open vSwitch and SR-IOV only",
}
