# SPDX-License-Identifier: Apache-2.0
"""What the guides of hypervisors say is missing is what the adapters say."""

from pathlib import Path

import pytest

from nodes.hypervisors import (
    container_missing,
    hyperv_missing,
    ironic_missing,
    libvirt_lxc_missing,
    powervm_missing,
    redfish_missing,
    uml_missing,
    vcenter_missing,
    xenserver_missing,
    zvm_missing,
)

GUIDES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize(
    ("guide", "missing"),
    [
        ("hypervisor-containers.md", container_missing.MISSING),
        ("hypervisor-hyperv.md", hyperv_missing.MISSING),
        ("hypervisor-ironic.md", ironic_missing.MISSING),
        ("hypervisor-redfish.md", redfish_missing.MISSING),
        ("hypervisor-uml.md", uml_missing.MISSING),
        ("hypervisor-lxc.md", libvirt_lxc_missing.MISSING),
        ("hypervisor-vcenter.md", vcenter_missing.MISSING),
        ("hypervisor-powervm.md", powervm_missing.MISSING),
        ("hypervisor-xenserver.md", xenserver_missing.MISSING),
        ("hypervisor-zvm.md", zvm_missing.MISSING),
    ],
)
def test_a_guide_names_every_missing_row_with_its_reason(guide, missing):
    text = (GUIDES / guide).read_text()
    said = [line for line in text.splitlines() if line.startswith(("| `operation.", "| `console."))]
    said += [line for line in text.splitlines() if line.startswith(("| `guest.", "| `storage."))]
    said += [line for line in text.splitlines() if line.startswith("| `networking.")]
    assert sorted(said) == sorted(
        f"| `{feature}` | {reason} |" for feature, reason in missing.items()
    )
