# SPDX-License-Identifier: Apache-2.0
"""What Hyper-V, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_PIPE = "a guest's serial line is a named pipe of its host, which no cmdlet reads"
_NO_TAGS = "its guests have no metadata service, and the config drive is not made anew"
_NO_AGENT = "it takes an agent in the guest, which ours does not run"
_BY_SNAPSHOT = "Hyper-V freezes file systems for a production checkpoint only, by the guest's VSS"
_NO_SCREEN = "its screens are RDP at port 2179"
_NO_TARGETS = "targets belong to the host's initiator, which the operator sets up"
_NO_RULES = "this adapter makes private switches and sets no rules on their ports"
_CLUSTER = "a failover cluster has it, a host alone has not"
_DISK = "guests boot a VHDX; nothing here opens it"
_MOVE = "Move-VM is one call: it takes no other pace and no end from elsewhere"

MISSING: Mapping[Feature, str] = {
    Feature.ATTACH_TAGGED_VOLUME: _NO_TAGS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_TAGS,
    Feature.DEVICE_TAGS: _NO_TAGS,
    Feature.SWAP_VOLUME: "a disk is moved with Move-VMStorage, not put for another",
    Feature.MAINTENANCE_MODE: _CLUSTER,
    Feature.EVACUATE: _CLUSTER,
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _MOVE,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _MOVE,
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _BY_SNAPSHOT,
    Feature.UNQUIESCE: _BY_SNAPSHOT,
    Feature.TRIGGER_CRASH_DUMP: "its cmdlets send a guest an NMI, and dump nothing themselves",
    Feature.REBUILD_VOLUME_BACKED: "this adapter boots disks of images only",
    Feature.MULTIATTACH_VOLUME: "a disk of several guests is a VHD set on a cluster's volume",
    Feature.ENCRYPTED_VOLUME: "a VHDX knows no encryption",
    Feature.GUEST_DISK_AUTOCONFIG: _DISK,
    Feature.GUEST_DISK_RATE_LIMIT: "its limits count operations a second, not bytes",
    Feature.GUEST_SETUP_INJECT_FILE: _DISK,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _DISK,
    Feature.CONSOLE_SERIAL_INTERACTIVE: _PIPE,
    Feature.CONSOLE_SERIAL_LOG: _PIPE,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_TARGETS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_TARGETS,
    Feature.FILE_BACKED_MEMORY: "its memory is Hyper-V's",
    Feature.BOOT_STATELESS_FIRMWARE: "firmware variables lie in a guest's own file",
    Feature.BOOT_ENCRYPTED_VM: "shielded guests take a host guardian, which the operator sets up",
    Feature.TRUSTED_CERTS: "images are files given by path, nothing checks signatures",
    Feature.REPORT_CPU_TRAITS: "Get-VMHost tells no flags of a processor",
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_RULES,
    Feature.NETWORKING_FIREWALLRULES: _NO_RULES,
    Feature.NETWORKING_ROUTING: _NO_RULES,
    Feature.NETWORKING_SECURITYGROUPS: _NO_RULES,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_RULES,
}
