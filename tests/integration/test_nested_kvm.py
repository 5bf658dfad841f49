# SPDX-License-Identifier: Apache-2.0
"""Real KVM in a nested node, under libvirt over SSH."""

import importlib.util
from pathlib import Path

import pytest

from ci.model.node import Endpoint
from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.hypervisors.table import connect
from tests.kit.guests import round_with_a_guest
from tests.kit.require import require

pytestmark = [pytest.mark.integration]


def test_a_guest_of_kvm_keeps_its_memory_and_leaves_nothing(kvm_node: Endpoint, tmp_path: Path):
    found = importlib.util.find_spec("libvirt") is not None
    require("kvm", present=found, why="libvirt-python: run scripts/setup test")
    access = Access(
        work=tmp_path,
        grade=kvm_node.grade,
        key_file=kvm_node.key_file,
        known_hosts=kvm_node.known_hosts,
        timeout_s=300.0,
    )
    hypervisor = connect(f"{kvm_node.hypervisor}?type=kvm", access)
    try:
        system = hypervisor.system()
        assert (system.key, system.grade) == ("libvirt-kvm-x86", Grade.NESTED)
        round_with_a_guest(hypervisor)
    finally:
        hypervisor.cleanup()
        hypervisor.close()
