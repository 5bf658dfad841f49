# SPDX-License-Identifier: Apache-2.0
"""Records of a XenServer pool's machines: what one is made of, and what one says. Pure.

Source: the class VM of the XenAPI reference; the fields that Nova's driver gave to `VM.create`
until it was removed in 2020.
"""

from collections.abc import Iterable

from ci.model.result import Grade
from nodes.hypervisors.base import GuestImage, GuestSpec, GuestState, Nic
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.xenserver_disks import MARK, QOS
from nodes.hypervisors.xenserver_link import NULL, Record

MIB = 1 << 20
STAND_IN = "stand-in"
"""Begins the name of the product that our emulator says it is."""

_FIRMWARE = "hw_firmware_type"
_STATES = {
    "Running": GuestState.RUNNING,
    "Paused": GuestState.PAUSED,
    "Suspended": GuestState.SUSPENDED,
    "Halted": GuestState.SHUTOFF,
}
_PLATFORM = {"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "viridian": "false"}
# Nobody signed the disks of ours; and only this device model has UEFI.
_UEFI = {"device-model": "qemu-upstream-uefi", "secureboot": "false"}


def firmware(image: GuestImage, asked: str = "bios") -> str:
    """What a machine boots by: `uefi` where the image says so, else what was asked for.

    Raises:
        CallerFault: There is no such firmware.
    """
    told = image.properties.get(_FIRMWARE, "").lower()
    for one in filter(None, (asked, told)):
        if one not in ("bios", "uefi"):
            raise CallerFault(f"{one!r} is no firmware", hint="use bios or uefi")
    return "uefi" if "uefi" in {asked, told} else "bios"


def boot(kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """`HVM_boot_params` and `platform` of a machine that boots its first disk."""
    return {"order": "c", "firmware": kind}, _PLATFORM | (_UEFI if kind == "uefi" else {})


def machine(spec: GuestSpec, host: str) -> Record:
    """What a machine is made of: marked from its first moment, at home on one host.

    Whole numbers are strings: XML-RPC's own end at 32 bits.
    """
    size, cpus = str(spec.memory_mib * MIB), str(spec.cpus)
    params, platform = boot(firmware(spec.image, spec.firmware))
    texts = ("name_description", "recommendations", "ha_restart_priority", "PCI_bus")
    paravirtual = ("bootloader", "kernel", "ramdisk", "args", "bootloader_args", "legacy_args")
    sizes = ("static_min", "static_max", "dynamic_min", "dynamic_max")
    return {
        **dict.fromkeys(texts, ""),
        **{f"PV_{one}": "" for one in paravirtual},
        **{f"memory_{one}": size for one in sizes},
        "name_label": spec.name,
        "user_version": "1",
        "is_a_template": False,
        "affinity": host,
        "VCPUs_params": {},
        "VCPUs_max": cpus,
        "VCPUs_at_startup": cpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": params,
        "platform": platform,
        "other_config": dict(MARK),
        "xenstore_data": {},
        "ha_always_run": False,
        "blocked_operations": {},
        "tags": [],
    }


def card(vm: str, nic: Nic, network: str, place: int) -> Record:
    """What a card is made of."""
    return {
        "VM": vm,
        "network": network,
        "device": str(place),
        "MAC": nic.mac,
        "MTU": "1500",
        "other_config": {},
        **QOS,
    }


def check_grade(told: Record, grade: Grade) -> None:
    """Look whether a host of that record may be called so real.

    Raises:
        CallerFault: It is our own emulator, said to be more than that.
    """
    product = str(told["software_version"].get("product_brand", ""))
    if product.startswith(STAND_IN) and grade in (Grade.BARE, Grade.NESTED, Grade.SIMULATOR):
        raise CallerFault(
            f"{told['name_label']} is our emulator, which is no evidence of grade {grade}",
            hint=f"say grade: {Grade.EMULATOR}",
        )


def state(told: Record) -> GuestState:
    """What a machine's record says."""
    return _STATES.get(told["power_state"], GuestState.CRASHED)


def is_guest(told: Record) -> bool:
    """Whether it is a machine, and no template, snapshot or control domain."""
    kinds = ("is_a_template", "is_a_snapshot", "is_control_domain")
    return not any(told[kind] for kind in kinds)


def is_at_home(told: Record, host: str) -> bool:
    """Whether a machine belongs to a host: it runs there, or would, or is bound to none."""
    home = told["resident_on"] if told["resident_on"] != NULL else told["affinity"]
    return home in ("", NULL, host)


def named(machines: Iterable[Record]) -> dict[str, GuestState]:
    """States by name; of several machines with one name all but the first get their uuid."""
    found: dict[str, GuestState] = {}
    for told in machines:
        name = str(told["name_label"])
        found[f"{name} ({told['uuid']})" if name in found else name] = state(told)
    return found
