# SPDX-License-Identifier: Apache-2.0
"""The compute suite through the whole CI: a real libvirt as node, a vote, cells of the matrix.

Two libvirt hosts on this machine are the nodes, so that one can be killed under a build. The
review server is the sandbox: what it does with our votes is held by tests elsewhere.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.client import authorities
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost
from tests.kit.installation import Installation, Said
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SUITE_S = 300.0
LAUNCHED = "::test_launch "
FEATURES = ("operation.launch", "operation.pause", "operation.get-guest-info")


def provider(name: str, host: LibvirtHost) -> dict[str, Any]:
    """A node whose hypervisor is this libvirt."""
    url = f"{host.uri()}&type=qemu"
    options = {"driver": "local", "label": "virt", "hypervisor": url, "grade": "bare"}
    return {"provider": {"name": name, **options}}


class ComputeStage:
    """An installation with the compute suite on libvirt hosts, and an author."""

    def __init__(self, server: SandboxHost, folder: Path, hosts: Sequence[LibvirtHost]) -> None:
        self.hosts = {f"virt-{one.name}-1": one for one in hosts}
        project = f"compute-{time.time_ns()}"
        server.create_project(project)
        self.author = Pusher(server.admin, project, folder / "author")
        self.author.push_branch({"driver.py": "A = 1\n"}, subject="Base")
        job: dict[str, object] = {
            "suite": "compute",
            "features": list(FEATURES),
            "node-label": "virt",
        }
        job.update({"run": None, "results": None, "irrelevant-files": None})
        self.ci = Installation(
            server.ci,
            folder / "ci",
            project,
            job={**job, "timeout-s": SUITE_S, "node-attempts": 3},
            items=[provider(f"virt-{one.name}", one) for one in hosts],
        )

    def push(self) -> PushedChange:
        """A change; what is in it does not matter to the suite."""
        return self.author.push_change(
            "Change the driver", {"driver.py": f"A = {time.time_ns()}\n"}
        )

    def attempts(self, change: PushedChange) -> list[dict[str, Any]]:
        """Of the change's newest build, oldest first."""
        build = self.ci.builds(change)[0]
        found: list[dict[str, Any]] = self.ci.get(f"builds/{build['id']}.json")["detail"][
            "attempts"
        ]
        return found

    def log(self, change: PushedChange) -> str:
        """The live log of its newest build; empty before there is one."""
        builds = self.ci.builds(change)
        if not builds:
            return ""
        url = f"{self.ci.url}builds/{builds[0]['id']}/log"
        reply = httpx.get(url, trust_env=False, verify=authorities())
        return reply.text if reply.status_code == 200 else ""

    def said(self, change: PushedChange) -> Said:
        """Our comment on it, once it is there."""
        return self.ci.wait_for_comments(self.author, change, seconds=SUITE_S)


@pytest.fixture
def stage(
    sandbox_host: SandboxHost, libvirt_pair: tuple[LibvirtHost, LibvirtHost], tmp_path: Path
) -> Iterator[ComputeStage]:
    tiny()  # built before anybody's time runs
    for host in libvirt_pair:
        host.start()
    made = ComputeStage(sandbox_host, tmp_path, libvirt_pair)
    made.ci.start()
    yield made
    made.ci.stop()
    for host in libvirt_pair:  # other tests use them, too
        host.start()


def test_a_change_gets_its_vote_and_once_merged_the_matrix_its_evidence(stage: ComputeStage):
    change = stage.push()
    assert stage.said(change).vote == 1
    [attempt] = stage.attempts(change)
    assert (attempt["result"], attempt["grade"]) == ("SUCCESS", "bare")
    assert shown(stage) == {}, "a patch's own run says nothing of the branch"
    stage.author.submit(change)
    stage.ci.wait(lambda: set(FEATURES) <= set(shown(stage)), 60, "the matrix to take it up")
    assert set(shown(stage).values()) == {("complete", "bare")}
    page = httpx.get(f"{stage.ci.url}matrix", trust_env=False)
    assert page.status_code == 200
    assert "libvirt-qemu-x86" in page.text
    assert "bare" in page.text


def shown(stage: ComputeStage) -> dict[str, tuple[str, str]]:
    """State and grade of the hypervisor's cells that have evidence, by feature."""
    lines = stage.ci.get("matrix.json")["lines"]
    cells = [cell for line in lines for cell in line["cells"] if cell["tests"]]
    assert {cell["system"] for cell in cells} <= {"libvirt-qemu-x86"}
    return {cell["feature"]: (cell["state"], cell["grade"]) for cell in cells}


def test_a_hypervisor_that_dies_in_mid_suite_costs_the_patch_nothing(stage: ComputeStage):
    change = stage.push()
    stage.ci.wait(lambda: LAUNCHED in stage.log(change), SUITE_S, "the first test to pass")
    node = stage.attempts(change)[0]["node"]
    host = stage.hosts[node]
    os.kill(int((host.folder / "libvirtd.pid").read_text()), signal.SIGKILL)
    said = stage.said(change)
    attempts = stage.attempts(change)
    assert [one["result"] for one in attempts] == ["NODE_FAILURE", "SUCCESS"]
    assert attempts[1]["node"] != node
    assert (said.vote, len(said.comments)) == (1, 1)
    nodes = {one["name"]: one for one in stage.ci.get("nodes.json")["nodes"]}
    assert "connect" in nodes[node]["reason"]
