# SPDX-License-Identifier: Apache-2.0
"""What a bare machine behind Redfish, or this adapter of it, cannot do, and why."""

from collections.abc import Mapping

from ci.model.feature import Feature
from nodes.hypervisors import ironic_missing

_NO_VOLUMES = "its disks are built in; Redfish knows controllers and drives, no volumes to attach"
_NO_CARDS = "its cards are wired, and the switch is not Redfish's"
_NO_AGENT = "nothing of ours runs in it while its system does"
_NO_CONSOLE = "Redfish tells where a console is and carries none: IPMI or SSH do"
_NO_SCREEN = "a controller's screen is a web page of its vendor"
_DISK = "it boots virtual media, the network or its own disk; nothing here writes a disk"
_FIRMWARE = "its firmware is set up by its owner"

_VOLUMES = (
    *(Feature.ATTACH_VOLUME, Feature.ATTACH_TAGGED_VOLUME, Feature.DETACH_VOLUME),
    *(Feature.EXTEND_VOLUME, Feature.SWAP_VOLUME, Feature.MULTIATTACH_VOLUME),
    *(Feature.ENCRYPTED_VOLUME, Feature.STORAGE_BLOCK, Feature.REBUILD_VOLUME_BACKED),
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP,
)
_CARDS = (
    *(Feature.ATTACH_INTERFACE, Feature.ATTACH_TAGGED_INTERFACE, Feature.DETACH_INTERFACE),
    *(Feature.DEVICE_TAGS, Feature.PORT_WITH_RESOURCE_REQUEST),
    *(Feature.NETWORKING_FIREWALLRULES, Feature.NETWORKING_ROUTING),
    *(Feature.NETWORKING_SECURITYGROUPS, Feature.NETWORKING_TOPOLOGY_FLAT),
    Feature.NETWORKING_TOPOLOGY_VLAN,
)

MISSING: Mapping[Feature, str] = {
    **ironic_missing.MISSING,
    **dict.fromkeys(_VOLUMES, _NO_VOLUMES),
    **dict.fromkeys(_CARDS, _NO_CARDS),
    Feature.REBUILD: _DISK,
    Feature.RESCUE: _DISK,
    Feature.STORAGE_IMAGE: _DISK,
    Feature.GUEST_DISK_AUTOCONFIG: _DISK,
    Feature.GUEST_SETUP_INJECT_FILE: _DISK,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _DISK,
    Feature.GUEST_SETUP_CONFIGDRIVE: "it has room for one virtual medium, which it boots",
    Feature.MAINTENANCE_MODE: "Redfish has no such mode",
    Feature.SET_ADMIN_PASSWORD: _NO_AGENT,
    Feature.QUIESCE: _NO_AGENT,
    Feature.UNQUIESCE: _NO_AGENT,
    Feature.GET_HOST_UPTIME: "Redfish does not tell since when a machine runs",
    Feature.GET_HOST_IP: "Redfish tells the controller's address, not the machine's",
    Feature.REPORT_CPU_TRAITS: "Redfish tells a processor's model, not its flags",
    Feature.CONSOLE_SERIAL_INTERACTIVE: _NO_CONSOLE,
    Feature.CONSOLE_SERIAL_LOG: _NO_CONSOLE,
    Feature.CONSOLE_RDP: _NO_SCREEN,
    Feature.CONSOLE_SPICE: _NO_SCREEN,
    Feature.CONSOLE_VNC: _NO_SCREEN,
    Feature.UEFI_BOOT: _FIRMWARE,
    Feature.BOOT_EMULATED_TPM: _FIRMWARE,
    Feature.BOOT_STATELESS_FIRMWARE: _FIRMWARE,
    Feature.TRUSTED_CERTS: "a controller fetches a medium by URL; nothing checks signatures",
    Feature.CACHE_IMAGES: "a controller fetches a medium each time",
}
