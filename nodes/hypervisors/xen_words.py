# SPDX-License-Identifier: Apache-2.0
"""What xl is told and what it says: guests' configuration files, listings, states. Pure.

Source: xl(1), xl.cfg(5), xl-disk-configuration(5) and xl-network-configuration(5) of Xen 4.17.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState
from nodes.hypervisors.faults import CallerFault

CONSOLE_ARGUMENTS = "console=hvc0 quiet panic=-1"
CONFIG_DRIVE_DEVICE = "xvdz"
ROOT_DEVICE = "xvda"
VOLUME_DEVICES = tuple(f"xvd{letter}" for letter in "bcdefghijklmnop")
DOMAIN_0 = "Domain-0"
_COLUMNS = 6
_NEVER_WRITTEN = frozenset('"\\')

_NO_CALL = "this adapter has no call for it"
_OUTSIDE = "belongs to the network service, not to the hypervisor: no call in this adapter"
MISSING: Mapping[Feature, str] = {
    Feature.SNAPSHOT: "xl has no snapshots: those of disks are the storage backend's",
    Feature.SET_ADMIN_PASSWORD: "xl has no channel to an agent in the guest",
    Feature.QUIESCE: "xl has no channel to an agent in the guest",
    Feature.UNQUIESCE: "xl has no channel to an agent in the guest",
    Feature.SWAP_VOLUME: "xl cannot copy a disk under a running guest",
    Feature.GUEST_DISK_RATE_LIMIT: "xl has no limits for disks",
    Feature.EXTEND_VOLUME: _NO_CALL,
    Feature.MULTIATTACH_VOLUME: "Xen's block script refuses a file that another guest has",
    Feature.ENCRYPTED_VOLUME: "the disk backends of dom0 do not decrypt",
    Feature.EVACUATE: _NO_CALL,
    Feature.TRIGGER_CRASH_DUMP: "xl dump-core did not end in 5 minutes on a nested host: not used",
    Feature.MAINTENANCE_MODE: "Xen has no maintenance mode of a host",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: "xl migrates in one call that cannot be hurried",
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: "xl migrates in one call that cannot be ended",
    Feature.CONSOLE_SPICE: "Debian's Xen is built without SPICE",
    Feature.CONSOLE_RDP: "Xen has no RDP server",
    Feature.CONSOLE_VNC: "only HVM guests have a screen, and this adapter makes none for them",
    Feature.UEFI_BOOT: "no OVMF is built into this host's hvmloader",
    Feature.BOOT_EMULATED_TPM: "Xen 4.17 has no emulated TPM 2.0",
    Feature.FILE_BACKED_MEMORY: "Xen keeps guests' memory itself",
    Feature.DEVICE_TAGS: _NO_CALL,
    Feature.ATTACH_TAGGED_VOLUME: _NO_CALL,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_CALL,
    Feature.CACHE_IMAGES: _NO_CALL,
    Feature.REBUILD_VOLUME_BACKED: _NO_CALL,
    Feature.GUEST_SETUP_INJECT_NETWORKING: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "needs a fibre channel adapter and fabric",
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_CALL,
    Feature.TRUSTED_CERTS: "the image service's signatures are Nova's to check",
    Feature.BOOT_ENCRYPTED_VM: "needs a processor with AMD SEV or Intel TDX",
    Feature.BOOT_STATELESS_FIRMWARE: "this adapter boots kernels, no firmware",
    Feature.PORT_WITH_RESOURCE_REQUEST: "needs SR-IOV cards or a network that guarantees bandwidth",
    Feature.NETWORKING_FIREWALLRULES: _OUTSIDE,
    Feature.NETWORKING_ROUTING: _OUTSIDE,
    Feature.NETWORKING_SECURITYGROUPS: _OUTSIDE,
    Feature.NETWORKING_TOPOLOGY_FLAT: _OUTSIDE,
    Feature.NETWORKING_TOPOLOGY_VLAN: _OUTSIDE,
}


class GuestType(StrEnum):
    """How a guest is virtualised."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a guest is, kept beside its disk on the host.

    Attributes:
        memory_mib: RAM.
        cpus: Virtual processors.
        kernel: Path on the host.
        initrd: Path on the host.
        arguments: For the kernel, after the console's.
        macs: Of its network cards.
        config_drive: Whether it has one.
        volumes: Device by path of an attached volume.
    """

    memory_mib: int
    cpus: int
    kernel: str
    initrd: str
    arguments: str = ""
    macs: tuple[str, ...] = ()
    config_drive: bool = False
    volumes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A line of `xl list`.

    Attributes:
        name: Of the guest.
        number: Its domain id.
        memory_mib: What it has now.
        cpus: Online virtual processors.
        state: From its flags.
    """

    name: str
    number: int
    memory_mib: int
    cpus: int
    state: GuestState


def parse_list(text: str) -> dict[str, Domain]:
    """Domains by name, without dom0, those that are no more, and those still arriving."""
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) != _COLUMNS or not all(word.isdigit() for word in words[1:4]):
            continue
        name, number, memory, cpus, flags, _ = words
        # A domain that is shut down or dying is only waiting for the toolstack to clear it.
        if name in (DOMAIN_0, "(null)") or "s" in flags or "d" in flags or "--" in name:
            continue
        found[name] = Domain(
            name=name,
            number=int(number),
            memory_mib=int(memory),
            cpus=int(cpus),
            state=_state(flags),
        )
    return found


def _state(flags: str) -> GuestState:
    if "c" in flags:
        return GuestState.CRASHED
    return GuestState.PAUSED if "p" in flags else GuestState.RUNNING


def parse_info(text: str) -> dict[str, str]:
    """`xl info` by its words."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def block_target(path: str, device: str, *, read_only: bool = False) -> str:
    """A raw file as a disk, for `xl block-attach` and the configuration file."""
    return f"format=raw,vdev={device},access={'ro' if read_only else 'rw'},target={path}"


def card(mac: str, bridge: str) -> tuple[str, ...]:
    """A network card, as the words of `xl network-attach`."""
    return (f"mac={mac}", f"bridge={bridge}")


def configuration(name: str, record: Record, kind: GuestType, place: str, bridge: str) -> str:
    """The guest's file for `xl create`.

    Args:
        name: Of the guest.
        record: What it is.
        kind: How it is virtualised.
        place: Its folder on the host.
        bridge: That its cards are on.

    Raises:
        CallerFault: A value has a character that these files cannot hold.
    """
    disks = [block_target(f"{place}/disk.img", ROOT_DEVICE)]
    if record.config_drive:
        disks.append(block_target(f"{place}/config.iso", CONFIG_DRIVE_DEVICE, read_only=True))
    disks += [block_target(path, device) for path, device in record.volumes.items()]
    values: dict[str, object] = {
        "name": name,
        "type": kind.value,
        "kernel": record.kernel,
        "ramdisk": record.initrd,
        "extra": f"{CONSOLE_ARGUMENTS} {record.arguments}".strip(),
        "memory": record.memory_mib,
        "vcpus": record.cpus,
        "disk": disks,
        "vif": [",".join(card(mac, bridge)) for mac in record.macs],
        "on_crash": "preserve",
    }
    if kind is GuestType.HVM:
        values |= {"serial": "pty", "vga": "none", "vnc": 0}
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(part) for part in value)}]"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if not text.isprintable() or _NEVER_WRITTEN & set(text):
        raise CallerFault(f"{text!r} cannot stand in a Xen guest's configuration")
    return f'"{text}"'
