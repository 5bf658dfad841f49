# SPDX-License-Identifier: Apache-2.0
"""Container engines of the lab: apart from each other, reached, and gone with their starter."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from ci import proc
from nodes.hypervisors.container_engine import peer
from nodes.images.tiny import tiny
from nodes.lab import engines
from nodes.lab.table import LAB
from tests.kit import containers
from tests.kit.node_sources import require_qemu

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
STARTER = """
import sys, time
from pathlib import Path
from nodes.lab import engines
from nodes.lab.table import LAB
with engines.running(sys.argv[1], Path(sys.argv[2])):
    print("up", flush=True)
    time.sleep(600)
"""
PROVIDER = """
import json, sys
from pathlib import Path
from nodes.health import preflight
from nodes.providers.container import ContainerOptions, ContainerProvider
options = ContainerOptions.model_validate(json.loads(sys.argv[1]))
made = ContainerProvider(options, Path(sys.argv[2]))
made.prepare()
try:
    print(preflight(made.start("container-1", "build"))["kernel"])
finally:
    made.stop("container-1")
assert made.leaked(frozenset()) == ()
"""


@contextmanager
def asking(path: Path) -> Iterator[Any]:
    client = docker.DockerClient(base_url=f"unix://{path}")
    try:
        yield client
    finally:
        client.close()


def networks(path: Path) -> set[str]:
    with asking(path) as client:
        return {one.name for one in client.networks.list()}


def test_two_podmans_do_not_see_each_others_networks():
    with containers.engine("podman") as first, containers.engine("podman") as second:
        with asking(first) as client:
            client.networks.create("hv-between")
        assert "hv-between" in networks(first)
        assert "hv-between" not in networks(second)
        with asking(second) as client:  # the name is free, and so is the same range of addresses
            client.networks.create("hv-between")
    assert not list(Path("/etc/cni/net.d").glob("*hv-between*"))


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_starter_that_is_killed_leaves_nothing_for_long(kind: str):
    with containers.home_of(kind) as home:
        argv = [sys.executable, "-c", STARTER, kind, str(home)]
        starter = subprocess.Popen(argv, stdout=subprocess.PIPE)
        try:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"up\n"
            start_a_container(home / "sock", kind)
            assert engines.processes(home)
        finally:
            starter.kill()
            starter.wait()
            if starter.stdout is not None:
                starter.stdout.close()
        if kind == "docker":  # its daemon ends its containers
            ends = time.monotonic() + 60
            assert any(not engines.processes(home) for _ in proc.wait_until(ends))
        with containers.started(kind, home) as path, asking(path) as client:
            (found,) = client.containers.list(all=True)
            assert found.name == "hv-left"
            assert found.status != "running"
        assert not engines.processes(home)


def start_a_container(path: Path, kind: str) -> None:
    limits = containers.ULIMITS.items() if kind == "podman" else ()
    pairs = [(name, *(int(n) for n in pair.split(":"))) for name, pair in limits]
    with asking(path) as client:
        client.api.import_image_from_file(str(tiny().root), repository="hv-tiny", tag="1")
        image = client.images.list()[0].id
        client.containers.run(
            image,
            ["/bin/sh", "-c", "trap exit TERM; sleep 600 & wait"],
            entrypoint=[],
            detach=True,
            name="hv-left",
            network_mode="none",
            ulimits=[docker.types.Ulimit(name=n, soft=s, hard=h) for n, s, h in pairs],
        )


def test_what_only_names_the_folder_is_left_alone(tmp_path: Path):
    bystander = subprocess.Popen([sys.executable, "-c", "input()", f"{tmp_path}/sock"], stdin=-1)
    try:
        assert engines.processes(tmp_path) == set()
        engines.sweep(tmp_path)
        assert bystander.poll() is None
    finally:
        os.kill(bystander.pid, signal.SIGKILL)
        bystander.communicate()


def test_a_lab_that_is_taken_down_takes_its_containers_along():
    node = LAB["podman"]
    with containers.home_of("podman") as home:
        node.up(home, lambda _: None)
        try:
            start_a_container(home / "sock", "podman")
        finally:
            node.down(home)
        assert not engines.processes(home)
        assert node.reach(home) is None


def test_a_node_on_the_engines_own_bridge_is_reached(docker_socket: Path, tmp_path: Path):
    """From inside its network namespace, where its published ports are."""
    require_qemu()  # its image is made with the same tools
    options = {"url": f"unix://{docker_socket}", "slots": 1, "boot-timeout-s": 120}
    inside = ["nsenter", "--target", str(peer(docker_socket)), "--net"]
    argv = [*inside, sys.executable, "-c", PROVIDER, json.dumps(options), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == platform.release()
