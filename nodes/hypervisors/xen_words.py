# SPDX-License-Identifier: Apache-2.0
"""What xl is told and what it says: URLs, guests' configuration files, listings, states. Pure.

Source: xl(1), xl.cfg(5), xl-disk-configuration(5) and xl-network-configuration(5) of Xen 4.17.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, urlsplit

from ci.model.feature import Feature
from nodes.hypervisors.base import GuestState
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.shell_link import Address

# Without mitigations a guest boots in less than half the time where the processor is emulated.
CONSOLE_ARGUMENTS = "console=hvc0 quiet panic=-1 mitigations=off"
CONFIG_DRIVE_DEVICE = "xvdz"
ROOT_DEVICE = "xvda"
VOLUME_DEVICES = tuple(f"xvd{letter}" for letter in "bcdefghijklmnop")
DOMAIN_0 = "Domain-0"
SCREEN_HOST = "127.0.0.1"
"""As dom0 sees it."""

_NO_SCREEN = {"vga": "none", "vnc": 0}
_SCREEN_OF_HVM = {"vga": "stdvga", "vnc": 1, "vnclisten": SCREEN_HOST, "vncunused": 1}
_COLUMNS = 6
_MAC = re.compile(r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")
_NEVER_WRITTEN = frozenset('"\\')

_NO_CALL = "this adapter has no call for it"
MISSING: Mapping[Feature, str] = {
    Feature.SNAPSHOT: "xl has no snapshots: those of disks are the storage backend's",
    Feature.SET_ADMIN_PASSWORD: "xl has no channel to an agent in the guest",
    Feature.QUIESCE: "xl has no channel to an agent in the guest",
    Feature.UNQUIESCE: "xl has no channel to an agent in the guest",
    Feature.SWAP_VOLUME: "xl cannot copy a disk under a running guest",
    Feature.GUEST_DISK_RATE_LIMIT: "xl has no limits for disks",
    Feature.MULTIATTACH_VOLUME: "Xen's block script refuses a file that another guest has",
    Feature.ENCRYPTED_VOLUME: "the disk backends of dom0 do not decrypt",
    Feature.EVACUATE: "guests' disks are files of their host alone in this adapter",
    Feature.MAINTENANCE_MODE: "Xen has no maintenance mode of a host",
    Feature.FORCE_LIVE_MIGRATION_TO_COMPLETE: "xl migrates in one call that cannot be hurried",
    Feature.ABORT_IN_PROGRESS_LIVE_MIGRATION: "xl migrates in one call that cannot be ended",
    Feature.CONSOLE_SPICE: "Debian's Xen is built without SPICE",
    Feature.CONSOLE_RDP: "Xen has no RDP server",
    Feature.UEFI_BOOT: "this adapter boots kernels, no firmware",
    Feature.BOOT_EMULATED_TPM: "Xen 4.17 has no emulated TPM 2.0",
    Feature.FILE_BACKED_MEMORY: "Xen keeps guests' memory itself",
    Feature.DEVICE_TAGS: _NO_CALL,
    Feature.ATTACH_TAGGED_VOLUME: _NO_CALL,
    Feature.ATTACH_TAGGED_INTERFACE: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_FIBRECHANNEL: "needs a fibre channel adapter and fabric",
    Feature.STORAGE_BLOCK_BACKEND_ISCSI: _NO_CALL,
    Feature.STORAGE_BLOCK_BACKEND_ISCSI_AUTH_CHAP: _NO_CALL,
    Feature.TRUSTED_CERTS: "the image service's signatures are Nova's to check",
    Feature.BOOT_ENCRYPTED_VM: "needs a processor with AMD SEV or Intel TDX",
    Feature.BOOT_STATELESS_FIRMWARE: "this adapter boots kernels, no firmware",
    Feature.PORT_WITH_RESOURCE_REQUEST: "needs SR-IOV cards or a network that guarantees bandwidth",
    Feature.NETWORKING_TOPOLOGY_VLAN: "the tags are the host's own network set-up: no call here",
    Feature.GUEST_DISK_AUTOCONFIG: (
        "Xen gives a disk its size; partitions and file systems on it are the guest's"
    ),
}


def address(url: str, known: frozenset[str]) -> Address:
    """Take `xl+ssh://root@host:port?key=value` apart.

    Raises:
        CallerFault: It is no such URL, or has an option that is not among `known`.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or 22
    except ValueError as error:
        raise CallerFault(f"{url!r} is no URL: {error}") from error
    if parts.scheme != "xl+ssh" or not host:
        raise CallerFault(f"{url!r} leads to no Xen host", hint="use xl+ssh://root@host:22")
    if parts.password:
        raise CallerFault(f"the URL of {host} holds a password", hint="use a key-file")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if strange := sorted(set(options) - known):
        raise CallerFault(
            f"{url!r} has an unknown option {strange[0]}", hint=f"use {', '.join(sorted(known))}"
        )
    return Address(host=host, port=port, user=parts.username or "root", options=options)


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
        screen: Whether it has one, over VNC.
        root: Path of the volume that is its first disk; empty where that is its own.
        volumes: Device by path of an attached volume.
        networks: Bridge by hardware address, of cards that are not on the usual one.
        guarded: Hardware addresses of the cards that have rules.
    """

    memory_mib: int
    cpus: int
    kernel: str
    initrd: str
    arguments: str = ""
    macs: tuple[str, ...] = ()
    config_drive: bool = False
    screen: bool = False
    root: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    guarded: tuple[str, ...] = ()


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


def card(mac: str, bridge: str, *, guarded: bool = False) -> tuple[str, ...]:
    """A network card, as the words of `xl network-attach`."""
    named = (f"vifname={device_of(mac)}",) if guarded else ()
    return (f"mac={mac}", f"bridge={bridge}", *named)


def device_of(mac: str) -> str:
    """Name in dom0 of a guarded card's device.

    Raises:
        CallerFault: It is no hardware address.
    """
    if not _MAC.match(mac):
        raise CallerFault(f"{mac!r} is no hardware address")
    return f"hv{mac.lower().replace(':', '')}"


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
    disks = [block_target(record.root or f"{place}/disk.img", ROOT_DEVICE)]
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
        "vif": [",".join(_card(mac, record, bridge)) for mac in record.macs],
        "on_crash": "preserve",
    }
    if kind is GuestType.HVM:
        values |= {"serial": "pty", **(_SCREEN_OF_HVM if record.screen else _NO_SCREEN)}
    elif record.screen:
        values["vfb"] = [f"type=vnc,vnclisten={SCREEN_HOST},vncunused=1"]
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _card(mac: str, record: Record, bridge: str) -> tuple[str, ...]:
    return card(mac, record.networks.get(mac, bridge), guarded=mac in record.guarded)


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(part) for part in value)}]"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if not text.isprintable() or _NEVER_WRITTEN & set(text):
        raise CallerFault(f"{text!r} cannot stand in a Xen guest's configuration")
    return f'"{text}"'
