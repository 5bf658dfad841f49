# SPDX-License-Identifier: Apache-2.0
"""Who is killed with nodes in hand leaves some; whoever comes next finds and ends every one."""

from pathlib import Path

import pytest

from tests.kit import openstack_cloud
from tests.kit.killed_builds import (
    Source,
    containers_of,
    kill_and_clean,
    qemu_objects,
    running_domains,
)
from tests.kit.node_sources import require_qemu

pytestmark = [
    pytest.mark.timeout(600),
    # Of openstacksdk's own calls to itself.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:openstack\..*"),
    pytest.mark.filterwarnings(r"ignore::PendingDeprecationWarning:openstack\..*"),
]
KILLS = 5


SOURCES = ["qemu", "libvirt", "container", "openstack-stand-in"]
if openstack_cloud.asked():
    SOURCES += [pytest.param("openstack-cloud", marks=pytest.mark.timeout(3600))]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "qemu":
        require_qemu()
        options = {"slots": 2}
        return Source(driver="qemu", options=options, state=tmp_path, count=qemu_objects(tmp_path))
    if request.param == "libvirt":
        options = request.getfixturevalue("lab_domains")
        count = running_domains(options["url"])
        return Source(driver="libvirt", options=options, state=tmp_path, count=count)
    if request.param == "container":
        options = request.getfixturevalue("docker_daemon")
        count = containers_of(options["url"])
        return Source(driver="container", options=options, state=tmp_path, count=count)
    if request.param == "openstack-cloud":
        options = request.getfixturevalue("real_cloud")
        count = openstack_cloud.objects_of(options)
        return Source(driver="openstack", options=options, state=tmp_path, count=count)
    cloud = request.getfixturevalue("cloud_stand_in")
    return Source(
        driver="openstack",
        options={**cloud.options, "floating-network": "outside"},
        state=tmp_path,
        count=lambda: len(cloud.servers) + len(cloud.addresses),
    )


def test_nothing_is_left_of_killed_builds_once_it_was_cleaned(source: Source):
    kills = KILLS if source.driver != "openstack" else 2  # more would prove no more
    found = [kill_and_clean(source, number) for number in range(kills)]
    assert [left.after_second for left in found] == [0] * kills
    assert any(left.by_kill for left in found), "no kill met a node: this proves nothing"
