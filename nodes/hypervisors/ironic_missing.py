# SPDX-License-Identifier: Apache-2.0
"""What a bare machine under Ironic, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature

_NO_LAYER = "a bare machine has no layer below it that could stop it and keep its memory"
_NO_MOVE = "a bare machine does not move"
_NO_VOLUMES = "Ironic connects volumes while a machine is off and free only, for its operator"
_NO_CARDS = "its cards are wired; which network they are in is Neutron's business"
_NO_AGENT = "nothing of ours runs in it while its system does"
_NO_SCREEN = "this adapter gives no screens: Ironic's is a web page with a token, not an address"
_DISK = "its disk is written by Ironic's own RAM disk as the image is; nothing here opens it"
_FIRMWARE = "its firmware is set up by Ironic's operator"

MISSING: Mapping[Feature, str] = {
    Feature.ATTACH_VOLUME: _NO_VOLUMES,
    Feature.ATTACH_TAGGED_VOLUME: _NO_VOLUMES,
    Feature.DETACH_VOLUME: _NO_VOLUMES,
    Feature.EXTEND_VOLUME: _NO_VOLUMES,
    Feature.SWAP_VOLUME: _NO_VOLUMES,
    Feature.MULTIATTACH_VOLUME: _NO_VOLUMES,
    Feature.ENCRYPTED_VOLUME: _NO_VOLUMES,
    Feature.STORAGE_BLOCK: _NO_VOLUMES,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: _NO_VOLUMES,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_VOLUMES,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_VOLUMES,
    Feature.REBUILD_VOLUME_BACKED: _NO_VOLUMES,
    Feature.ATTACH_INTERFACE: _NO_CARDS,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_CARDS,
    Feature.DETACH_INTERFACE: _NO_CARDS,
    Feature.DEVICE_TAGS: _NO_CARDS,
    Feature.PORT_WITH_RESOURCE_REQUEST: _NO_CARDS,
    Feature.NETWORKING_FIREWALLRULES: _NO_CARDS,
    Feature.NETWORKING_ROUTING: _NO_CARDS,
    Feature.NETWORKING_SECURITYGROUPS: _NO_CARDS,
    Feature.NETWORKING_TOPOLOGY_FLAT: _NO_CARDS,
    Feature.NETWORKING_TOPOLOGY_VLAN: _NO_CARDS,
    Feature.EVACUATE: _NO_MOVE,
    Feature.LIVE_MIGRATE: _NO_MOVE,
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: _NO_MOVE,
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: _NO_MOVE,
    Feature.PAUSE: _NO_LAYER,
    Feature.UNPAUSE: _NO_LAYER,
    Feature.SUSPEND: _NO_LAYER,
    Feature.RESUME: _NO_LAYER,
    Feature.SNAPSHOT: "a bare machine's disk has no snapshots",
    Feature.RESIZE: "a bare machine has the memory and the processors that are built in",
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.TRIGGER_CRASH_DUMP: "it sends an NMI; where the dump goes, and whether, it cannot see",
    Feature.GET_HOST_UPTIME: "Ironic does not know since when a machine runs",
    Feature.GET_HOST_IP: "Ironic knows a machine's cards by hardware address only",
    Feature.REPORT_CPU_TRAITS: "Ironic has traits that its operator set, not the processor's flags",
    Feature.GUEST_DISK_AUTOCONFIG: _DISK,
    Feature.GUEST_DISK_RATE_LIMIT: _NO_LAYER,
    Feature.GUEST_SETUP_INJECT_FILE: _DISK,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _DISK,
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.CONSOLE_SERIAL_LOG: "Ironic gives the line and keeps no log of it",
    Feature.BOOT_EMULATED_TPM: _FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _FIRMWARE,
    Feature.BOOT_ENCRYPTED_VM: _NO_LAYER,
    Feature.FILE_BACKED_MEMORY: "its memory is its own",
    Feature.TRUSTED_CERTS: "images are told by URL and digest; Ironic checks no signatures",
    Feature.CACHE_IMAGES: "the conductor keeps what it likes of images and has no call for it",
}
