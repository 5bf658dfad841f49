# SPDX-License-Identifier: Apache-2.0
"""Rows of the compute suite that take more than one guest: a network, and rules on it.

Containers of libvirt's LXC, since they boot at once; QEMU's guests by hand:
docs/explanation/figures.md.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci.jobs.compute.run import Order, run
from ci.matrix import report
from ci.model.evidence import Shown
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.lab.libvirt_host import LibvirtHost
from tests.kit.libvirt_hosts import running_host
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
FEATURES = (Feature.NETWORKING_SECURITYGROUPS, Feature.GUEST_SETUP_INJECT_NETWORKING)


@pytest.fixture
def host() -> Iterator[LibvirtHost]:
    found = shutil.which("iptables", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    require("lxc", present=found is not None, why="apt-get install iptables")
    with running_host("node-r") as made:
        yield made


def test_rules_hold_between_containers(host: LibvirtHost, tmp_path: Path) -> None:
    lines: list[str] = []
    order = Order(
        hypervisor=host.uri("lxc"),
        grade=Grade.BARE,
        timeout_s=120.0,
        features=frozenset(FEATURES),
        report=tmp_path / "report.json",
    )
    assert run(order, lines.append) == 0, "\n".join(lines)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    _, words = report.read(tmp_path / "report.json", now=soon)
    shown = {word.feature: word.shown for word in words}
    assert shown == dict.fromkeys((one.value for one in FEATURES), Shown.WORKS), "\n".join(lines)
