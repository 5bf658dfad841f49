# SPDX-License-Identifier: Apache-2.0
"""Firmware, devices, and what is done inside a guest from outside."""

import pytest

from ci.jobs.compute.bench import MIB, Bench, Guest, not_tried
from ci.model.feature import Feature
from nodes.hypervisors.faults import TransientFault

_PASSWORD = "Sesame-4711"  # noqa: S105 - of a guest that lives for seconds
_FIRMWARE_MIB = 256
_VARIABLES = "/sys/firmware/efi/efivars"
_VARIABLE = f"{_VARIABLES}/Hypervouch-d9a9a9d4-6f1b-4b0e-9f0c-3d6a5b0f7c11"
_MOUNT_VARIABLES = f"mount -t efivarfs efivarfs {_VARIABLES} && ls {_VARIABLES} | grep -c ."


@pytest.mark.feature(Feature.UEFI_BOOT)
def test_uefi(bench: Bench) -> None:
    """The guest was booted by UEFI and says so."""
    guest = bench.launch(firmware="uefi", memory_mib=_FIRMWARE_MIB)
    assert guest.info()["uefi"] is True


@pytest.mark.feature(Feature.BOOT_STATELESS_FIRMWARE)
def test_stateless_firmware(bench: Bench) -> None:
    """It boots by UEFI, and a firmware variable that it wrote is gone after a power cycle."""
    bench.need(Feature.BOOT_STATELESS_FIRMWARE)
    guest = bench.launch(firmware="uefi", stateless=True, memory_mib=_FIRMWARE_MIB)
    assert guest.info()["uefi"] is True
    if not guest.has_shell():
        not_tried("needs a guest: a model has no firmware variables")
    guest.run(_MOUNT_VARIABLES)
    guest.run(f"printf '\\007\\000\\000\\000x' >{_VARIABLE}")
    assert guest.run(f"tail -c 1 {_VARIABLE}") == "x"
    old = guest.boot_id()
    bench.hypervisor.power_off(guest.name)
    guest.let_go()
    bench.hypervisor.start(guest.name)
    guest.booted_after(old)
    guest.run(_MOUNT_VARIABLES)
    assert guest.ask(f"exec cat {_VARIABLE}")["rc"] != 0, "the variable outlived the power cycle"


@pytest.mark.feature(Feature.BOOT_EMULATED_TPM)
def test_tpm(bench: Bench) -> None:
    """The guest has a TPM."""
    has_uefi = Feature.UEFI_BOOT not in bench.hypervisor.missing
    firmware = "uefi" if has_uefi else "bios"
    guest = bench.launch(tpm=True, firmware=firmware, memory_mib=_FIRMWARE_MIB)
    assert guest.info()["tpm"] is True


@pytest.mark.feature(Feature.FILE_BACKED_MEMORY)
def test_memory_in_a_file(bench: Bench) -> None:
    """A guest whose memory is a file runs as any other."""
    guest = bench.launch(memory_file=True)
    assert guest.count()[0] == 1


@pytest.mark.feature(Feature.SET_ADMIN_PASSWORD)
def test_admin_password(bench: Bench, guest: Guest) -> None:
    """The guest's own password file holds the password that was set."""
    bench.hypervisor.set_admin_password(guest.name, _PASSWORD)
    if not guest.has_shell():
        not_tried("needs a guest: a model has no accounts")
    stored = str(guest.ask("exec grep ^root: /etc/shadow")["out"]).split(":")[1]
    _, method, salt, _ = stored.split("$")
    assert method == "6"
    made = guest.ask(f"exec mkpasswd -m sha512 -S {salt} {_PASSWORD}")["out"]
    assert str(made).strip() == stored


@pytest.mark.feature(Feature.QUIESCE)
def test_quiesce(bench: Bench, guest: Guest) -> None:
    """While a file system is frozen nothing is written to it."""
    _mounted(bench, guest)
    bench.hypervisor.quiesce(guest.name)
    try:
        guest.ask("exec ( echo late >/mnt/late; sync ) >/dev/null 2>&1 &")
        written = guest.ask("exec sleep 2; jobs; ps | grep -c '[e]cho late\\|[s]ync' || true")
        assert str(written["out"]).strip() != "0", "it was written although it is frozen"
    finally:
        bench.hypervisor.unquiesce(guest.name)


@pytest.mark.feature(Feature.UNQUIESCE)
def test_unquiesce(bench: Bench, guest: Guest) -> None:
    """Afterwards it is written to again."""
    _mounted(bench, guest)
    bench.hypervisor.quiesce(guest.name)
    bench.hypervisor.unquiesce(guest.name)
    assert guest.ask("exec echo again >/mnt/again && sync && cat /mnt/again")["out"] == "again"


@pytest.mark.feature(Feature.TRIGGER_CRASH_DUMP)
def test_crash_dump(bench: Bench) -> None:
    """The dump is at least as large as what the guest's kernel alone takes."""
    guest = bench.launch()
    try:
        size = bench.hypervisor.crash_dump(guest.name)
    except TransientFault as error:
        not_tried(f"the host is too slow for it: {error.message}")
    assert size > 16 * MIB


def _mounted(bench: Bench, guest: Guest) -> None:
    """A file system on a volume of its own, mounted in the guest."""
    if Feature.QUIESCE in bench.hypervisor.missing:
        bench.hypervisor.cannot(Feature.QUIESCE)
    if not guest.has_shell():
        not_tried("needs a guest: a model has no file systems")
    volume = bench.volume(16)
    disk = bench.attached(guest, volume)
    done = guest.ask(f"exec mke2fs /dev/{disk} >/dev/null 2>&1 && mount /dev/{disk} /mnt")
    assert done["rc"] == 0, done["out"]
