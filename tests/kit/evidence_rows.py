# SPDX-License-Identifier: Apache-2.0
"""Evidence for tests and pictures: a few systems of different grades, good and bad news."""

from collections.abc import Sequence
from datetime import datetime

from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature
from ci.model.result import Grade
from ci.store import evidence
from ci.store.database import Database
from tests.kit.rows import ago

QEMU = System(
    key="libvirt-qemu-x86",
    title="Libvirt QEMU (x86)",
    grade=Grade.BARE,
    versions={"libvirt": "9.0.0", "qemu": "7.2.15", "kernel": "6.1.0-28-amd64"},
)
XEN = System(key="libvirt-xen", title="Libvirt Xen", grade=Grade.NESTED, versions={"xen": "4.17.4"})
LXC = System(
    key="libvirt-lxc", title="Libvirt LXC", grade=Grade.BARE, versions={"libvirt": "9.0.0"}
)
VCENTER = System(key="vmware", title="vCenter", grade=Grade.SIMULATOR, versions={"vcsim": "0.52.0"})
DUMMY = System(key="dummy", title="Dummy", grade=Grade.EMULATOR)
HOSTILE = "<script>alert(1)</script>\n[section]\n=cmd|'/c calc'!A1 %(x)s \x1b[31m"


def word(
    system: System,
    feature: str,
    shown: Shown = Shown.WORKS,
    *,
    test: str = "",
    reason: str = "",
    at: datetime | None = None,
    source: str = "report: nightly",
) -> Evidence:
    """One test's word, an hour ago by the pages' clock."""
    return Evidence(
        system=system,
        feature=str(feature),
        shown=shown,
        test_id=test or f"compute::test_{str(feature).rpartition('.')[2].replace('-', '_')}",
        reason=reason,
        at=at or ago(3600),
        source=source,
        duration_s=2.5,
    )


def story(source: str = "report: nightly") -> Sequence[Evidence]:
    """What a lab may know after a while."""
    every = list(Feature)
    found = [word(QEMU, one, source=source) for one in every[:34]]
    found += [
        word(QEMU, Feature.LAUNCH, test="compute::test_launch_uefi", source=source),
        word(
            QEMU,
            Feature.MAINTENANCE_MODE,
            Shown.UNSUPPORTED,
            reason="libvirt has no host maintenance",
            at=ago(60),
        ),
        word(QEMU, Feature.RESCUE, Shown.FAILS, reason="guest did not answer in 120 s", at=ago(60)),
        word(QEMU, Feature.SNAPSHOT, test="compute::test_snapshot_memory", at=ago(50)),
        word(
            QEMU,
            Feature.SNAPSHOT,
            Shown.FAILS,
            test="compute::test_snapshot_live",
            reason=HOSTILE,
            at=ago(40),
        ),
        *(word(XEN, one, at=ago(86_400 * 45)) for one in every[16:22]),
        word(
            XEN,
            Feature.ATTACH_VOLUME,
            Shown.UNSUPPORTED,
            reason="xl block-attach needs a backend in dom0",
        ),
        *(
            word(LXC, one)
            for one in (Feature.LAUNCH, Feature.TERMINATE, Feature.PAUSE, Feature.REBOOT)
        ),
        word(LXC, Feature.LIVE_MIGRATE, Shown.UNSUPPORTED, reason="LXC cannot migrate"),
        *(word(VCENTER, one) for one in every[17:24]),
        *(word(DUMMY, one) for one in every[:30]),
    ]
    return found


def fill_evidence(database: Database, source: str = "report: nightly") -> None:
    """Write the story down."""
    with database.write() as tx:
        evidence.add(tx, story(source))
