# SPDX-License-Identifier: Apache-2.0
"""What z/VM, its Cloud Connector, or this adapter of it cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

HOST = (
    "off z/VM the connector cannot say: it reads /proc/sysinfo of a Linux on Z; on one nobody has"
    " tried this adapter"
)
AGENT = "it takes a guest that runs IBM's IUCV agent, and none was there to try it"
DEPLOY = "an image is deployed to disks of a real z/VM only, and none was there to try it"
_DISKS = "its volumes are FCP devices of the host, and none was there to try it"
_CARDS = "cards are coupled to a VSWITCH, and none was there to try it"
_NO_CALL = "the connector has no call for it"
_NO_SCREEN = "its guests have a line console and no screen"
_LINE = "the connector gives the console's spool of a guest that runs, and none was there to try it"
_NO_FIRMWARE = "its guests start by IPL; there is no firmware like that"
_INSIDE = "it is put into the deployed image, see operation.launch on a real z/VM"

MISSING: Mapping[Feature, str] = {
    Feature.GET_HOST_INFO: HOST,
    Feature.GET_HOST_UPTIME: HOST,
    Feature.GET_HOST_IP: HOST,
    Feature.REPORT_CPU_TRAITS: _NO_CALL,
    Feature.ATTACH_VOLUME: _DISKS,
    Feature.ATTACH_TAGGED_VOLUME: _DISKS,
    Feature.DETACH_VOLUME: _DISKS,
    Feature.EXTEND_VOLUME: _DISKS,
    Feature.SWAP_VOLUME: _NO_CALL,
    Feature.MULTIATTACH_VOLUME: _DISKS,
    Feature.ENCRYPTED_VOLUME: _DISKS,
    Feature.ATTACH_INTERFACE: _CARDS,
    Feature.ATTACH_TAGGED_INTERFACE: _CARDS,
    Feature.DETACH_INTERFACE: _CARDS,
    Feature.DEVICE_TAGS: _CARDS,
    Feature.MAINTENANCE_MODE: _NO_CALL,
    Feature.EVACUATE: _NO_CALL,
    Feature.REBUILD: DEPLOY,
    Feature.REBUILD_VOLUME_BACKED: DEPLOY,
    Feature.LIVE_MIGRATE: "it takes two members of a single system image, and none was there",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _NO_CALL,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _NO_CALL,
    Feature.RESCUE: _NO_CALL,
    Feature.SET_ADMIN_PASSWORD: _NO_CALL,
    Feature.SNAPSHOT: "a guest is captured by its agent, and none was there to try it",
    Feature.SUSPEND: _NO_CALL,
    Feature.RESUME: _NO_CALL,
    Feature.QUIESCE: _NO_CALL,
    Feature.UNQUIESCE: _NO_CALL,
    Feature.TRIGGER_CRASH_DUMP: _NO_CALL,
    Feature.GUEST_DISK_AUTOCONFIG: _INSIDE,
    Feature.GUEST_DISK_RATE_LIMIT: _NO_CALL,
    Feature.GUEST_SETUP_CONFIGDRIVE: _INSIDE,
    Feature.GUEST_SETUP_INJECT_FILE: _INSIDE,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _INSIDE,
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.CONSOLE_SERIAL_LOG: _LINE,
    Feature.CONSOLE_SERIAL_INTERACTIVE: _NO_CALL,
    Feature.STORAGE_BLOCK: _DISKS,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _DISKS,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_CALL,
    Feature.STORAGE_IMAGE: DEPLOY,
    Feature.CACHE_IMAGES: DEPLOY,
    Feature.UEFI_BOOT: _NO_FIRMWARE,
    Feature.BOOT_EMULATED_TPM: _NO_FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _NO_FIRMWARE,
    Feature.BOOT_ENCRYPTED_VM: _NO_CALL,
    Feature.FILE_BACKED_MEMORY: "its memory is the control program's",
    Feature.TRUSTED_CERTS: _NO_CALL,
    Feature.PORT_WITH_RESOURCE_REQUEST: _CARDS,
    Feature.NETWORKING_FIREWALLRULES: _CARDS,
    Feature.NETWORKING_ROUTING: _CARDS,
    Feature.NETWORKING_SECURITYGROUPS: _CARDS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _CARDS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _CARDS,
}
