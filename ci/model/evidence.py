# SPDX-License-Identifier: Apache-2.0
"""Evidence: what one test showed of one feature on one hypervisor, and how real that was."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ci.model.result import Grade


class Shown(StrEnum):
    """What a test showed.

    A test that could not be tried for a reason that lies with the lab (`needs a guest`, no
    second host) is no evidence at all, and has no word here.
    """

    WORKS = "works"
    FAILS = "fails"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, kw_only=True)
class System:
    """A column of the matrix, and what exactly stood behind it.

    Attributes:
        key: Nova's key of the driver where it has one (`libvirt-qemu-x86`), else ours (`uml`).
        title: For people: `Libvirt QEMU (x86)`.
        grade: How real it was.
        versions: Of hypervisor, kernel, firmware, CPU flags: only like is compared with like.
    """

    key: str
    title: str
    grade: Grade
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One test's word on one feature.

    Attributes:
        system: On what.
        feature: A key of Nova's matrix, see `ci.model.feature`.
        shown: What it showed.
        test_id: Which test.
        reason: Why it fails or is unsupported, one line; hostile text.
        at: When; aware, UTC.
        source: Id of the attempt, or the name of the report that was read in.
        duration_s: Of the test.
    """

    system: System
    feature: str
    shown: Shown
    test_id: str
    reason: str = ""
    at: datetime
    source: str = ""
    duration_s: float = 0.0
