# SPDX-License-Identifier: Apache-2.0
"""Skip a test for want of a real counterpart, or fail it where that counterpart is required."""

import os

import pytest

REQUIRE = "HYPERVOUCH_REQUIRE"
PARTS = frozenset(
    {"gerrit", "gerrit313", "qemu", "sshd", "chromium", "postgresql", "s3"}
    | {"ironic", "redfish", "powervm", "wine"}
    | {
        "libvirt",
        "lxc",
        "uml",
        "docker",
        "podman",
        "xen",
        "kvm",
        "vcenter",
        "xenserver",
        "hyperv",
        "zvm",
    }
)


def required() -> frozenset[str]:
    """The parts that may not be missing: HYPERVOUCH_REQUIRE, by commas or blanks."""
    return frozenset(os.environ.get(REQUIRE, "").replace(",", " ").split())


def require(part: str, *, present: bool, why: str) -> None:
    """Go on where `part` is present; else skip, or fail where it is required.

    Args:
        part: One of PARTS.
        present: Whether it can be used here.
        why: What is missing and how to get it, for the account at the end.

    Raises:
        ValueError: `part` or a name in HYPERVOUCH_REQUIRE is not one of PARTS.
    """
    if unknown := ({part} | required()) - PARTS:
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}: use {', '.join(PARTS)}")
    if present:
        return
    if part in required():
        pytest.fail(f"{part}: {why} ({REQUIRE} names {part})", pytrace=False)
    pytest.skip(f"{part}: {why}", allow_module_level=True)
