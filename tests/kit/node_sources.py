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
from tests.kit import docker_host, libvirt_domains, libvirt_hosts, openstack_stand_in, sshd
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
    try:
        with docker_host.running() as host:
            yield {"url": host.url, "network": "host"}
    except docker_host.DockerMissing as missing:
        require("docker", present=False, why=str(missing))


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
