# SPDX-License-Identifier: Apache-2.0
"""What our libvirt adapter costs beside libvirt itself: the same operations on one guest.

Three sides, in turns: the adapter; libvirt's Python module, called as plainly as it can be, on a
connection of its own; and `virsh`, a process each, as an operator works. The adapter waits until it
sees the effect and keeps the guest's definition beside its disks, the plain calls do not.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import libvirt

from ci import proc
from nodes.hypervisors.base import Access, GuestSpec, Hypervisor, Volume
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.libvirt_qemu import QemuFlavour
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from tests.bench.runs import spread

GUEST, VOLUME, TAG = "hv-beside", "hv-extra", "beside"
BOOT_S = 180.0
Step = Callable[[], Any]


def beside_libvirt(url: str, directory: Path, rounds: int = 10) -> dict[str, Any]:
    """Times in seconds by operation and side, and our medians as ratios to the others'.

    Args:
        url: Of a libvirt host's QEMU driver, without our parameters.
        directory: For the guest's files.
        rounds: Of each operation on each side.
    """
    separator = "&" if "?" in url else "?"
    ours = connect(f"{url}{separator}type=qemu", Access(work=directory))
    try:
        ours.launch(GuestSpec(name=GUEST, image=tiny()))
        agent = GuestAgent(ours.console(GUEST), GUEST)
        agent.ready(BOOT_S)
        agent.close()
        volume = ours.create_volume(VOLUME, 8)
        sides = {
            "ours": _ours(ours, volume),
            "plain": _plain(libvirt.open(url), volume),
            "virsh": _virsh(url, volume, directory),
        }
        return _in_turns(sides, rounds)
    finally:
        ours.cleanup()
        ours.close()


def _in_turns(sides: dict[str, dict[str, Step]], rounds: int) -> dict[str, Any]:
    took: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for side, steps in sides.items():
            for name, step in steps.items():
                began = time.monotonic()
                step()
                took.setdefault(name, {}).setdefault(side, []).append(time.monotonic() - began)
    measured: dict[str, Any] = {"count": rounds}
    for name, by_side in took.items():
        found = {side: spread(times) for side, times in by_side.items()}
        mine = found["ours"]["p50"]
        ratios = {
            f"to_{side}": round(mine / max(found[side]["p50"], 1e-6), 2)
            for side in ("plain", "virsh")
        }
        measured[name] = {**found, **ratios}
    return measured


def _ours(on: Hypervisor, volume: Volume) -> dict[str, Step]:
    def forget() -> None:
        on.link.conn.lookupByName(GUEST).snapshotLookupByName(TAG).delete()  # type: ignore[attr-defined]  # the adapter keeps snapshots

    return {
        "pause": partial(on.pause, GUEST),
        "unpause": partial(on.unpause, GUEST),
        "attach": partial(on.attach_volume, GUEST, volume),
        "detach": partial(on.detach_volume, GUEST, volume),
        "snapshot": partial(on.snapshot, GUEST, TAG),
        "(forget the snapshot)": forget,
        "suspend": partial(on.suspend, GUEST),
        "resume": partial(on.resume, GUEST),
    }


def _plain(conn: Any, volume: Volume) -> dict[str, Step]:
    both = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    disk = QemuFlavour().disk(volume, "vdb")

    def on(call: Callable[[Any], Any]) -> Step:
        return lambda: call(conn.lookupByName(GUEST))

    def detach(domain: Any) -> None:
        domain.detachDeviceFlags(disk, both)
        _until(lambda: "vdb" not in domain.XMLDesc())

    made = f"<domainsnapshot><name>{TAG}</name></domainsnapshot>"
    return {
        "pause": on(lambda domain: domain.suspend()),
        "unpause": on(lambda domain: domain.resume()),
        "attach": on(lambda domain: domain.attachDeviceFlags(disk, both)),
        "detach": on(detach),
        "snapshot": on(lambda domain: domain.snapshotCreateXML(made)),
        "(forget the snapshot)": on(lambda domain: domain.snapshotLookupByName(TAG).delete()),
        "suspend": on(lambda domain: domain.managedSave()),
        "resume": on(lambda domain: domain.create()),
    }


def _virsh(url: str, volume: Volume, directory: Path) -> dict[str, Step]:
    disk = directory / "volume.xml"
    disk.write_text(QemuFlavour().disk(volume, "vdb"))

    def virsh(*words: str) -> proc.Completed:
        return proc.run(["virsh", "-q", "-c", url, *words], timeout_s=120)

    def detach() -> None:
        virsh("detach-device", GUEST, str(disk), "--live", "--config")
        _until(lambda: "vdb" not in virsh("domblklist", GUEST).text)

    return {
        "pause": lambda: virsh("suspend", GUEST),
        "unpause": lambda: virsh("resume", GUEST),
        "attach": lambda: virsh("attach-device", GUEST, str(disk), "--live", "--config"),
        "detach": detach,
        "snapshot": lambda: virsh("snapshot-create-as", GUEST, TAG),
        "(forget the snapshot)": lambda: virsh("snapshot-delete", GUEST, TAG),
        "suspend": lambda: virsh("managedsave", GUEST),
        "resume": lambda: virsh("start", GUEST),
    }


def _until(done: Callable[[], bool]) -> None:
    for _ in proc.wait_until(time.monotonic() + 60, every_s=0.01):
        if done():
            return
    raise TimeoutError("the guest does not give its volume up")
