# SPDX-License-Identifier: Apache-2.0
"""The machines whose guests QEMU runs under libvirt: what differs between them.

Those of another machine than the host's are emulated (TCG), and stand-ins: they show that guests
of that machine boot and are driven by libvirt, and nothing of KVM there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.model.feature import Feature


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What an architecture's guests are like.

    Attributes:
        key: Part of the column's key.
        machine: QEMU's machine type.
        console: The kernel's console argument.
        screen: Model of its screen.
        tpm: Model of its TPM; empty where QEMU has none.
        uefi: QEMU's machine type of guests with UEFI; empty where there is no such firmware.
        cpu: Model of an emulated processor; QEMU's own choice where empty.
        ports: Whether PCI devices need ports of their own to be plugged in and out, with UEFI
            or without.
        console_only: Whether its first line is a console and no serial port.
        missing: What it has not, with the reason.
    """

    key: str
    machine: str
    console: str
    screen: str
    tpm: str = ""
    uefi: str = ""
    cpu: str = ""
    ports: bool = False
    console_only: bool = False
    missing: Mapping[Feature, str] = field(default_factory=dict)


def _no_uefi(machine: str) -> Mapping[Feature, str]:
    reason = f"there is no UEFI firmware for {machine} guests"
    return {Feature.UEFI_BOOT: reason, Feature.BOOT_STATELESS_FIRMWARE: reason}


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(
        key="x86",
        machine="pc",
        console="ttyS0",
        screen="vga",
        tpm="tpm-crb",
        uefi="q35",
    ),
    "s390x": Machine(
        key="s390x",
        machine="s390-ccw-virtio",
        console="ttysclp0",
        screen="virtio",
        console_only=True,
        missing={
            **_no_uefi("s390x"),
            Feature.BOOT_EMULATED_TPM: "QEMU has no TPM for s390x guests",
        },
    ),
    "ppc64le": Machine(
        key="ppc64",
        machine="pseries",
        console="hvc0",
        screen="vga",
        tpm="tpm-spapr",
        cpu="POWER9",
        missing=_no_uefi("ppc64le"),
    ),
    "aarch64": Machine(
        key="aarch64",
        machine="virt",
        console="ttyAMA0",
        screen="virtio",
        tpm="tpm-tis",
        uefi="virt",
        cpu="cortex-a57",
        ports=True,
        missing={
            Feature.BOOT_STATELESS_FIRMWARE: "not made for aarch64 guests by this adapter",
        },
    ),
}
"""By `uname -m`."""
