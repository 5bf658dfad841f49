# SPDX-License-Identifier: Apache-2.0
"""What XenServer, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_NO_TAGS = "its guests have no metadata service, and the config drive is not made anew"
_NO_AGENT = "it takes XenServer's agent in the guest, which ours does not run"
_NO_SCREEN = "it has VNC only"
_NO_LINE = "its HVM guests have a screen and no text line"
_NO_TARGETS = "targets belong to its storage repositories, which the operator makes"
_NO_NETWORKS = "networks belong to the operator, this adapter makes none"
_DISK = "guests boot a disk of a storage repository; nothing here opens it"
_MOVE = "a migration that goes on can only be cancelled with its task"

MISSING: Mapping[Feature, str] = {
    Feature.ATTACH_TAGGED_VOLUME: _NO_TAGS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.EXTEND_VOLUME: "it makes a disk larger only while no guest has it",
    Feature.SWAP_VOLUME: "a disk is moved with its guest, not put for another",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _MOVE,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _MOVE,
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.TRIGGER_CRASH_DUMP: "its API has no call for it",
    Feature.REBUILD_VOLUME_BACKED: "this adapter boots disks of images only",
    Feature.GUEST_DISK_AUTOCONFIG: _DISK,
    Feature.GUEST_DISK_RATE_LIMIT: "its quality of service for disks is a priority, not a rate",
    Feature.GUEST_SETUP_INJECT_FILE: _DISK,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _DISK,
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: "its VNC goes through the host's HTTPS port: no call in this adapter",
    Feature.CONSOLE_SERIAL_INTERACTIVE: _NO_LINE,
    Feature.CONSOLE_SERIAL_LOG: _NO_LINE,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_TARGETS,
    Feature.ENCRYPTED_VOLUME: "its disks know no encryption",
    Feature.FILE_BACKED_MEMORY: "its memory is Xen's",
    Feature.BOOT_EMULATED_TPM: "this adapter gives guests none",
    Feature.BOOT_STATELESS_FIRMWARE: "firmware variables lie in the guest's own record",
    Feature.BOOT_ENCRYPTED_VM: "Xen has no encrypted guests in this version",
    Feature.TRUSTED_CERTS: "images are files given by path, nothing checks signatures",
    Feature.CACHE_IMAGES: "an image is written for each guest anew",
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_NETWORKS,
    Feature.NETWORKING_FIREWALLRULES: _NO_NETWORKS,
    Feature.NETWORKING_ROUTING: _NO_NETWORKS,
    Feature.NETWORKING_SECURITYGROUPS: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NO_NETWORKS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_NETWORKS,
}
