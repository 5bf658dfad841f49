# SPDX-License-Identifier: Apache-2.0
"""Real counterparts of the node providers, started once a session when a test first asks.

Each yields what a provider's options have to say of it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.images.build import missing_tools
from nodes.providers.openstack import OpenstackOptions, OpenstackProvider
from tests.kit import (
    containers,
    libvirt_domains,
    libvirt_hosts,
    openstack_cloud,
    openstack_stand_in,
    sshd,
)
from tests.kit.require import require

DOMAINS = ("hv-lab-a", "hv-lab-b")


def require_qemu() -> None:
    """Skip, or fail, where a node image cannot be built and booted."""
    missing = missing_tools()
    require("qemu", present=not missing, why=f"apt-get install {' '.join(missing)}")


@pytest.fixture(scope="session")
def lab_domains() -> Iterator[dict[str, Any]]:
    """Two domains of a real libvirt host, with a RAM snapshot each."""
    require_qemu()
    folder = Path(tempfile.mkdtemp(prefix="hv-domains-"))
    with libvirt_hosts.running_host("node-c") as host:
        domains = libvirt_domains.define(host.uri("qemu"), folder, DOMAINS)
        try:
            yield domains.options
        finally:
            libvirt_domains.remove(domains)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[dict[str, Any]]:
    """A real Docker daemon, without a bridge."""
    require_qemu()  # its image is made with the same tools
    with containers.engine("docker", machine_network=True) as path:
        yield {"url": f"unix://{path}", "network": "host"}


@pytest.fixture(scope="session")
def real_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A real OpenStack cloud that the environment names; what tests leave there is deleted."""
    told = {**openstack_cloud.options(), "slots": 2}
    yield told
    options = OpenstackOptions.model_validate(told)
    made = OpenstackProvider(options, tmp_path_factory.mktemp("cloud"))
    for node in made.leaked(frozenset()):
        made.stop(node)


@pytest.fixture(scope="session")
def cloud_stand_in() -> Iterator[openstack_stand_in.Cloud]:
    """A stand-in for OpenStack, whose servers are SSH daemons."""
    patch = pytest.MonkeyPatch()
    patch.setenv("OS_TEST_PASSWORD", openstack_stand_in.PASSWORD)
    try:
        with openstack_stand_in.running() as cloud:
            yield cloud
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    finally:
        patch.undo()
