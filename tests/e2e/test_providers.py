# SPDX-License-Identifier: Apache-2.0
"""Real nodes of every provider through the whole CI: one change, a job on each, one vote.

Docker and Podman containers, a domain of a libvirt host, QEMU guests with a spare, and a machine of
one's own behind a real sshd, whose hypervisor the compute suite tries. All serve one installation.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.client import authorities
from nodes.images import machine
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost
from tests.kit import containers, libvirt_domains, libvirt_hosts, sshd
from tests.kit.installation import GOOD, SUITE, Installation
from tests.kit.node_sources import require_qemu
from tests.kit.require import require
from tests.kit.sandbox_host import SandboxHost

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BUILDS_S = 300.0
DOMAIN = "ci-node-a"
LABELS = ("docker", "podman", "virt", "spared", "own")
# Longer than a machine boots beside others: the quickest build shall not end before that.
SLOW = f"{GOOD}watch sleep 50\n"  # longer than the slowest node takes to come on a busy machine


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Where nodes come from on this machine.

    Attributes:
        providers: Items of the configuration.
        engines: URLs of the container engines.
        libvirt: URL of the libvirt host with the domain.
    """

    providers: tuple[dict[str, Any], ...]
    engines: tuple[str, ...]
    libvirt: str


@pytest.fixture(scope="module")
def hosts(libvirt: LibvirtHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_qemu()
    tiny()  # built before anybody's time runs
    home = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        kinds = ("docker", "podman")
        opened = [
            stack.enter_context(containers.engine(kind, machine_network=True)) for kind in kinds
        ]
        engines = [f"unix://{path}" for path in opened]
        outer = stack.enter_context(libvirt_hosts.running_host("node-p"))
        domains = libvirt_domains.define(outer.uri("qemu"), outer.folder / "domains", [DOMAIN])
        stack.callback(libvirt_domains.remove, domains)
        server = stack.enter_context(own_machine(home / "sshd", libvirt))
        yield Hosts(
            providers=(
                *(container(kind, url) for kind, url in zip(kinds, engines, strict=True)),
                item("virt", "libvirt", domains.options),
                item("spared", "qemu", {"slots": 2, "warm": 1}),
                item("own", "static", of_own(server, home / "work")),
            ),
            engines=tuple(engines),
            libvirt=domains.url,
        )


def own_machine(home: Path, libvirt: LibvirtHost) -> Any:
    """A machine whose own libvirt is that host: its SSH server sees what the host sees."""
    try:
        sshd.binary()
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    pid = (libvirt.folder / "libvirtd.pid").read_text().strip()
    return sshd.running(home, inside=["nsenter", "--target", pid, "--mount", "--uts"])


def item(name: str, driver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: str(one) if isinstance(one, Path) else one for key, one in options.items()}
    return {"provider": {"name": name, "driver": driver, "label": name, **plain}}


def container(kind: str, url: str) -> dict[str, Any]:
    options = {"url": url, "network": "host", "slots": 1, "boot-timeout-s": 120}
    limits = {"ulimits": containers.ULIMITS} if kind == "podman" else {}
    return item(kind, "container", {**options, **limits})


def of_own(server: sshd.Sshd, work: Path) -> dict[str, Any]:
    end = server.endpoint(work)
    reach = {"host": end.host, "port": end.port, "user": end.user, "workdir": end.workdir}
    pins = {"key-file": end.key_file, "known-hosts": end.known_hosts}
    return {**reach, **pins, "hypervisor": "qemu:///system?type=qemu", "grade": "bare"}


class Site:
    """An installation with a job on a node of each provider, and an author."""

    def __init__(self, server: SandboxHost, folder: Path, hosts: Hosts) -> None:
        self.hosts = hosts
        project = f"providers-{time.time_ns()}"
        server.create_project(project)
        self.author = Pusher(server.admin, project, folder / "author")
        self.author.push_branch({"suite.py": SUITE, "cases.txt": GOOD}, subject="Base")
        self.ci = Installation(
            server.ci,
            folder / "ci",
            project,
            service={"worker-slots": len(LABELS)},
            items=[*hosts.providers, *(job(label) for label in LABELS)],
            project_keys={"check": [f"on-{label}" for label in LABELS]},
        )

    def push(self, cases: str) -> PushedChange:
        """A change that makes the suites run these cases."""
        files = {"cases.txt": f"{cases}tag-{time.time_ns()} pass\n"}
        return self.author.push_change("Change the cases", files)

    def attempts(self, change: PushedChange) -> dict[str, list[dict[str, Any]]]:
        """By node label, oldest first."""
        return {
            build["job"].removeprefix("on-"): self.ci.get(f"builds/{build['id']}.json")["detail"][
                "attempts"
            ]
            for build in self.ci.builds(change)
        }

    def log(self, change: PushedChange, label: str) -> str:
        """The live log of one of its builds."""
        for build in self.ci.builds(change):
            if build["job"] == f"on-{label}":
                url = f"{self.ci.url}builds/{build['id']}/log"
                reply = httpx.get(url, trust_env=False, verify=authorities())
                return reply.text if reply.status_code == 200 else ""
        return ""

    def guests(self) -> set[int]:
        """Pids of the QEMUs of its own nodes, spares included."""
        found = set()
        for folder in self.ci.directory.glob("state/nodes/spared/spared-*"):
            found |= {pid for pid, _ in machine.running_in(folder)}
        return found

    def machines(self) -> set[str]:
        """Names of every machine that exists for it, asked of whoever really has it."""
        found = {f"qemu {pid}" for pid in self.guests()}
        for url in self.hosts.engines:
            client = docker.DockerClient(base_url=url)
            found |= {f"container {one['Id']}" for one in client.api.containers(all=True)}
            client.close()
        return found | running_domains(self.hosts.libvirt)


def stands_still(pid: int) -> bool:
    """Whether a guest waits for its hand-out: one that is being made uses the processor."""
    used = []
    for _ in range(2):
        used.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        time.sleep(1.5)
    return used[0] == used[1]


def running_domains(url: str) -> set[str]:
    import libvirt  # noqa: PLC0415 - the fixture has seen that it is here

    host = libvirt.openReadOnly(url)
    try:
        return {f"domain {number}" for number in host.listDomainsID()}
    finally:
        host.close()


def job(label: str) -> dict[str, Any]:
    made = {"name": f"on-{label}", "node-label": label, "timeout-s": BUILDS_S}
    if label == "own":
        return {"job": {**made, "suite": "compute", "features": ["operation.launch"]}}
    driver = {"suite": "driver", "run": "python3 suite.py", "results": ["junit.xml"]}
    return {"job": {**made, **driver}}


@pytest.fixture
def site(sandbox_host: SandboxHost, hosts: Hosts, tmp_path: Path) -> Iterator[Site]:
    made = Site(sandbox_host, tmp_path, hosts)
    made.ci.start()
    yield made
    made.ci.stop()


def test_one_change_is_built_on_nodes_of_every_provider_at_once(site: Site):
    site.ci.wait(lambda: any(map(stands_still, site.guests())), BUILDS_S, "a spare")
    (spare,) = site.guests()
    change = site.push(GOOD)
    said = site.ci.wait_for_comments(site.author, change, seconds=BUILDS_S)
    assert (said.vote, len(said.comments)) == (1, 1), said.comments
    attempts = site.attempts(change)
    ran = {
        label: [(one["node"][:-2], one["result"]) for one in attempts[label]] for label in LABELS
    }
    assert ran == {label: [(label, "SUCCESS")] for label in LABELS}
    facts = {label: attempts[label][0]["facts"] for label in LABELS}
    assert facts["docker"]["container"] != facts["podman"]["container"]
    assert (facts["virt"]["domain"], facts["virt"]["snapshot"]) == (DOMAIN, "ready")
    assert facts["spared"]["boot"] == "warm"
    assert facts["own"]["libvirt"], "the preflight asked the machine's own hypervisor"
    assert attempts["own"][0]["grade"] == "bare"
    site.ci.wait(lambda: len(site.machines()) == 1, 180, "all nodes to end and a new spare")
    assert spare not in site.guests()
    assert site.ci.stop() == 0
    assert site.machines() == set()


def test_who_is_killed_in_mid_build_leaves_nothing_once_it_was_started_again(site: Site):
    change = site.push(SLOW)
    fresh = [label for label in LABELS if label != "own"]
    begun = lambda: all("case resume" in site.log(change, label) for label in fresh)  # noqa: E731
    site.ci.wait(begun, BUILDS_S, "every suite to run")
    left = site.machines()
    site.ci.kill()
    assert len(site.machines() & left) >= len(fresh), "no machine outlived it: this proves nothing"
    site.ci.start()
    said = site.ci.wait_for_comments(site.author, change, seconds=BUILDS_S)
    assert (said.vote, len(said.comments)) == (1, 1), said.comments
    assert not left & site.machines()
    assert site.ci.stop() == 0
    assert site.machines() == set()
