# SPDX-License-Identifier: Apache-2.0
"""Node hand-outs by provider, what killed builds leave, and what our libvirt layer costs.

Each run needs its real counterpart on this machine; one that is missing is told and left out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ci import proc
from nodes.hypervisors.base import Access, GuestSpec, Hypervisor
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost
from nodes.providers.base import KeepsSpares
from tests.bench.runs import spread
from tests.kit import containers, libvirt_domains, sshd
from tests.kit.killed_builds import (
    Source,
    containers_of,
    kill_and_clean,
    qemu_objects,
    running_domains,
)

COUNT = 10
ROUNDS = 20
KILLS = {"qemu": 20, "container": 15, "libvirt": 15}
RUNS = ("hand-out", "leaks", "overhead")
GUEST = "hv-bench"
Measured = dict[str, Any]


def runs(directory: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Measured]]]:
    """Each measurement that was asked for, with what it needs held up while it is consumed.

    Args:
        directory: For the nodes' files.
        names: Of `RUNS`.
    """
    if "hand-out" in names:
        for name, made in (("local", _local), ("static", _static), ("qemu", _qemu)):
            for title, source, warm in made(directory / name):
                with source as ready:
                    yield f"hand-out-{title}", partial(hand_outs, ready, warm=warm)
    for name, opened in (("container", _container), ("libvirt", _libvirt)):
        if {"hand-out", "leaks"} & set(names):
            with opened(directory / name) as source:
                if "hand-out" in names:
                    yield f"hand-out-{name}", partial(hand_outs, source)
                if "leaks" in names:
                    yield f"leaks-{name}", partial(leaks, source, KILLS[name])
    if "leaks" in names:
        source = _source("qemu", {"slots": 2}, directory / "killed")
        yield "leaks-qemu", partial(leaks, source, KILLS["qemu"])
    if "overhead" in names:
        yield "overhead", partial(overhead, directory / "overhead")


def hand_outs(source: Source, *, warm: bool = False, count: int = COUNT) -> Measured:
    """Hand out one node after the other: from `start` until it has let us in.

    Args:
        source: Whose nodes.
        warm: A spare is made before each, which is not measured.
        count: How many.
    """
    provider = source.make()
    provider.prepare()
    node = provider.node_names()[0]
    took: list[float] = []
    boots: set[str] = set()
    try:
        for number in range(count):
            if warm and isinstance(provider, KeepsSpares):
                provider.keep_spares(0)
            began = time.monotonic()
            endpoint = provider.start(node, f"bench-{number}")
            took.append(time.monotonic() - began)
            boots.add(endpoint.facts.get("boot", ""))
            provider.stop(node)
    finally:
        if isinstance(provider, KeepsSpares):
            provider.end_spares()
        provider.stop(node)
    return {"count": count, "boot": ", ".join(sorted(boots - {""})), "latency": spread(took)}


def leaks(source: Source, kills: int) -> Measured:
    """Kill builds one after the other; what each left, and what is left after the next clean."""
    found = [kill_and_clean(source, number) for number in range(kills)]
    return {
        "count": kills,
        "met": sum(left.by_kill > 0 for left in found),
        "left_by_kills": sum(left.by_kill for left in found),
        "left_after_clean": sum(left.after_first for left in found),
        "left_after_second_clean": sum(left.after_second for left in found),
    }


def overhead(directory: Path) -> Measured:
    """The same operations on one guest through our adapter and through `virsh`, in turn."""
    with _libvirt_host() as host, ExitStack() as held:
        url = host.uri("qemu")
        access = Access(work=directory, timeout_s=120.0)
        ours = connect(f"{url}&type=qemu", access)
        held.callback(ours.close)
        ours.launch(GuestSpec(name=GUEST, image=tiny()))
        held.callback(ours.delete, GUEST)
        return {"count": ROUNDS, **_beside_virsh(ours, url)}


def _beside_virsh(ours: Hypervisor, url: str) -> Measured:
    def virsh(*words: str) -> None:
        proc.run(["virsh", "-q", "-c", url, *words, GUEST], timeout_s=120)

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "pause": (partial(ours.pause, GUEST), partial(virsh, "suspend")),
        "unpause": (partial(ours.unpause, GUEST), partial(virsh, "resume")),
        "info": (partial(ours.info, GUEST), partial(virsh, "dominfo")),
        "power off": (partial(ours.power_off, GUEST), partial(virsh, "destroy")),
        "start": (partial(ours.start, GUEST), partial(virsh, "start")),
    }
    took: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for _ in range(ROUNDS):
        for side in (0, 1):
            for name, both in pairs.items():
                began = time.monotonic()
                both[side]()
                took[name][side].append(time.monotonic() - began)
    return {
        name: {
            "ours": spread(mine),
            "virsh": spread(theirs),
            "ratio": round(spread(mine)["p50"] / max(spread(theirs)["p50"], 0.001), 2),
        }
        for name, (mine, theirs) in took.items()
    }


def _source(driver: str, options: dict[str, Any], state: Path) -> Source:
    return Source(driver=driver, options=options, state=state, count=qemu_objects(state))


Sources = Iterator[tuple[str, Any, bool]]


def _local(state: Path) -> Sources:
    yield "local", _held(_source("local", {}, state)), False


def _static(state: Path) -> Sources:
    yield "static", _daemon(state), False


def _qemu(state: Path) -> Sources:
    for title, options, warm in (
        ("qemu-cold", {"snapshot": False}, False),
        ("qemu-ram", {}, False),
        ("qemu-warm", {"slots": 2}, True),
    ):
        yield title, _held(_source("qemu", {"slots": 1, **options}, state / title)), warm


@contextmanager
def _held(source: Source) -> Iterator[Source]:
    yield source


@contextmanager
def _daemon(state: Path) -> Iterator[Source]:
    with sshd.running(state) as server:
        reach = server.endpoint(state)
        options = {
            "host": "127.0.0.1",
            "port": reach.port,
            "user": reach.user,
            "key-file": reach.key_file,
            "known-hosts": reach.known_hosts,
        }
        yield _source("static", options, state)


@contextmanager
def _container(state: Path) -> Iterator[Source]:
    with containers.engine("docker", machine_network=True) as path:
        url = f"unix://{path}"
        options = {"url": url, "network": "host"}
        yield Source(driver="container", options=options, state=state, count=containers_of(url))


@contextmanager
def _libvirt(state: Path) -> Iterator[Source]:
    with _libvirt_host() as host:
        url = host.uri("qemu")
        domains = libvirt_domains.define(url, host.folder / "domains", ["hv-lab-a"])
        try:
            yield Source(
                driver="libvirt", options=domains.options, state=state, count=running_domains(url)
            )
        finally:
            libvirt_domains.remove(domains)


@contextmanager
def _libvirt_host() -> Iterator[LibvirtHost]:
    host = LibvirtHost(Path(mkdtemp(prefix="hv-bench-")), "bench")
    host.start()
    try:
        yield host
    finally:
        host.stop()
        proc.run(["rm", "-rf", str(host.folder)], timeout_s=60)
