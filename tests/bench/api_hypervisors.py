# SPDX-License-Identifier: Apache-2.0
"""What our adapters cost beside the bare client libraries, where hypervisors have an API.

Behind the API stands a simulator or an emulator on this machine, so the times say nothing of a
hypervisor: what counts is the ratio of two sides that take turns in one run, and our own memory.
"""

import http.client
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ci import proc
from nodes.hypervisors import libvirt_files
from nodes.hypervisors.base import Access, DiskFormat, GuestImage, GuestSpec
from nodes.hypervisors.table import connect
from nodes.lab import ironic as ironic_lab

ROUNDS = 20
MANY = 2000
RUNS = ("api", "api-inventory", "api-suite")
SUITE_S = 900.0
TAG = "bench"
NEEDS = {"vcenter": "pyVmomi", "xenserver": "XenAPI", "hyperv": "pypsrp", "ironic": "httpx"}
LIFE = ("launch", "info", "snapshot", "power off", "start", "delete")
Measured = dict[str, Any]
Step = Callable[[], Any]
Taken = tuple[float, int]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A stand-in that serves: its URL, that of another host like it, and what opens it."""

    url: str
    access: Access
    second: str = ""


def runs(directory: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Measured]]]:
    """Each measurement that was asked for; a system that is missing here is told and left out.

    Args:
        directory: For files.
        names: Of `RUNS`.
    """
    for system, module in NEEDS.items() if set(names) & set(RUNS) else ():
        if find_spec(module) is None or (system == "ironic" and not ironic_lab.is_built()):
            sys.stderr.write(f"{system} is not measured: its library or stand-in is missing\n")
            continue
        at = directory / system
        if "api" in names:
            yield f"api-{system}", partial(beside_bare, system, at / "api")
        if "api-inventory" in names and system != "ironic":
            yield f"api-inventory-{system}", partial(large_inventory, system, at / "many")
        if "api-suite" in names:
            yield f"api-suite-{system}", partial(whole_suite, system, at / "suite")


def beside_bare(system: str, directory: Path, rounds: int = ROUNDS) -> Measured:
    """The same operations through our adapter and through the bare library, in turns."""
    from tests.bench import api_bare  # noqa: PLC0415 - it wants every library

    kinds = {
        "vcenter": api_bare.Vcenter,
        "xenserver": api_bare.XenServer,
        "hyperv": api_bare.HyperV,
        "ironic": api_bare.Ironic,
    }
    with served(system, directory) as (one, held):
        ours = held.enter_context(closing(connect(one.url, one.access)))
        bare: Any = held.enter_context(closing(kinds[system](one.url, one.access)))
        looks: tuple[dict[str, Step], dict[str, Step]] = (
            {"inventory": ours.inventory, "status": ours.status},
            {"inventory": bare.inventory, "status": bare.status},
        )
        if system == "ironic":
            return _in_turns(looks, rounds)
        image = held.enter_context(_image(directory, system))
        mine = GuestSpec(name="hv-bench-ours", image=image)
        theirs = GuestSpec(name="hv-bench-bare", image=image)
        made: tuple[Any, ...] = (theirs.name, image.disk)
        if system == "xenserver":
            made += (api_bare.machine_of(bare, theirs),)
        lives: tuple[dict[str, Step], dict[str, Step]] = (
            {
                "launch": partial(ours.launch, mine),
                "snapshot": partial(ours.snapshot, mine.name, TAG),
                **{
                    name: partial(getattr(ours, name.replace(" ", "_")), mine.name)
                    for name in ("info", "power off", "start", "delete")
                },
            },
            {
                "launch": partial(bare.launch, *made),
                **{
                    name: partial(getattr(bare, name.replace(" ", "_")), theirs.name)
                    for name in ("info", "snapshot", "power off", "start", "delete")
                },
            },
        )
        steps = tuple(
            {name: life[name] for name in LIFE[:2]} | look | {name: life[name] for name in LIFE[2:]}
            for life, look in zip(lives, looks, strict=True)
        )
        return _in_turns(steps, rounds)


def _in_turns(sides: tuple[dict[str, Step], ...], rounds: int) -> Measured:
    """Whole lives of a guest, one side after the other; who begins changes with each round."""
    took: dict[str, tuple[list[Taken], list[Taken]]] = {name: ([], []) for name in sides[0]}
    with _counted() as so_far:
        for turn in range(-1, rounds):  # the first one warms both up
            for side in (0, 1) if turn % 2 else (1, 0):
                for name, step in sides[side].items():
                    before, began = so_far(), time.perf_counter()
                    step()
                    taken = ((time.perf_counter() - began) * 1000, so_far() - before)
                    if turn >= 0:
                        took[name][side].append(taken)
    return {"count": rounds} | {name: _compared(*both) for name, both in took.items()}


@contextmanager
def _counted() -> Iterator[Callable[[], int]]:
    """Counts the requests of this process, where a library sends them by `http.client`."""
    made, sent = http.client.HTTPConnection.putrequest, 0

    def counting(*given: Any, **more: Any) -> None:
        nonlocal sent
        sent += 1
        made(*given, **more)

    with patch.object(http.client.HTTPConnection, "putrequest", counting):
        yield lambda: sent


def _compared(ours: list[Taken], bare: list[Taken]) -> Measured:
    told = {"ours": _spread(ours), "bare": _spread(bare)}
    return told | {"ratio": round(told["ours"]["p50"] / told["bare"]["p50"], 2)}


def _spread(values: list[Taken]) -> dict[str, float]:
    """Milliseconds, and requests."""
    ordered = sorted(ms for ms, _ in values)
    p95 = ordered[round(0.95 * (len(ordered) - 1))]
    requests = statistics.median_low(count for _, count in values)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(p95, 2),
        "requests": requests,
    }


def large_inventory(system: str, directory: Path, count: int = MANY) -> Measured:
    """An inventory of many machines of others, each side in a process of its own."""
    with served(system, directory, machines=count) as (one, _):
        runs = [(side, _in_child(system, side, one)) for side in ("ours", "bare", "bare", "ours")]
    assert {told["machines"] for _, told in runs} == {count}
    measured: Measured = {"machines": count}
    for wanted in ("ours", "bare"):
        mine = [told for side, told in runs if side == wanted]
        took = [ms for told in mine for ms in told["took_ms"]]
        peak = max(mine, key=lambda told: float(told["peak_mib"]))
        measured[wanted] = {
            "p50_ms": round(statistics.median(took), 1),
            "max_ms": max(took),
            "before_mib": peak["before_mib"],
            "peak_mib": peak["peak_mib"],
        }
    ratio = measured["ours"]["p50_ms"] / measured["bare"]["p50_ms"]
    return {**measured, "ratio": round(ratio, 2)}


def _in_child(system: str, side: str, one: Served) -> Measured:
    argv = [sys.executable, "-m", "tests.bench.api_child", system, side, one.url]
    argv += [str(one.access.ca_file), str(one.access.work)]
    env = {**os.environ, "BENCH_PASSWORD": one.access.password}
    return dict(json.loads(proc.run(argv, timeout_s=SUITE_S, env=env).text))


def whole_suite(system: str, directory: Path) -> Measured:
    """`hypervouch suite compute` once: seconds, the most memory of its process, verdicts."""
    with served(system, directory) as (one, _):
        report, password = directory / "evidence.json", directory / "password"
        password.write_text(one.access.password)
        argv = [sys.executable, "-m", "ci.cli", "suite", "compute"]
        argv += ["--hypervisor", one.url, "--password-file", str(password)]
        argv += ["--ca-file", str(one.access.ca_file), "--grade", str(one.access.grade)]
        argv += ["--work", str(directory / "work"), "--report", str(report)]
        if one.second:
            argv += ["--second", one.second]
        seconds, peak = _watched(argv, directory / "suite.log")
        told = json.loads(report.read_text())
    return {"seconds": round(seconds, 1), "peak_rss_mib": peak, "verdicts": _verdicts(told)}


def _watched(argv: list[str], log: Path) -> tuple[float, float]:
    """Run to the end; seconds, and the most memory that the process had."""
    began, peak = time.monotonic(), 0.0
    with log.open("wb") as out:
        process = proc.spawn(argv, stdout=out)
        for _ in proc.wait_until(began + SUITE_S, every_s=0.1):
            peak = peak_mib(process.pid) or peak
            if process.poll() is not None:
                return time.monotonic() - began, peak
        proc.kill_group(process.pid)
        process.wait()
    raise TimeoutError(f"the suite has not ended in {SUITE_S:g} s: {log}")


def peak_mib(pid: int | str = "self") -> float:
    """The most memory that a process has had; 0 when it is gone."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", told)
    return round(int(found[1]) / 1024, 1) if found else 0.0


def _verdicts(told: Measured) -> dict[str, int]:
    """How many of the suite's tests showed what."""
    return dict(Counter(str(one["shown"]) for one in told["evidence"]))


@contextmanager
def _image(directory: Path, system: str) -> Iterator[GuestImage]:
    """A disk of 1 MiB, in the format that the system stores: converting is not compared."""
    disk = directory / "disk.raw"
    disk.write_bytes(b"hypervouch".ljust(1 << 20, b"\0"))
    raw = GuestImage(disk=disk, disk_format=DiskFormat.RAW)
    if system != "hyperv":
        yield raw
        return
    with libvirt_files.converted(raw, DiskFormat.VHDX) as made:
        yield GuestImage(disk=made, disk_format=DiskFormat.VHDX)


@contextmanager
def served(system: str, directory: Path, machines: int = 0) -> Iterator[tuple[Served, ExitStack]]:
    """A stand-in, with `machines` of others in it; what is held goes before it."""
    directory.mkdir(parents=True, exist_ok=True)
    with STAND_INS[system](directory, machines) as one, ExitStack() as held:
        yield one, held


@contextmanager
def _vcenter(directory: Path, machines: int) -> Iterator[Served]:
    from tests.kit import vcenter  # noqa: PLC0415 - each wants its own library

    with vcenter.simulator(directory, [f"-machines={machines}", "-autostart=false"]) as made:
        yield Served(url=made.url, access=made.access)


@contextmanager
def _xenserver(directory: Path, machines: int) -> Iterator[Served]:
    from tests.kit import xapi  # noqa: PLC0415

    with xapi.pool(directory, "--machines", str(machines)) as made:
        yield Served(url=made.url("host=xs1"), access=made.access(), second=made.url("host=xs2"))


@contextmanager
def _hyperv(directory: Path, machines: int) -> Iterator[Served]:
    from tests.kit import hyperv  # noqa: PLC0415

    with hyperv.hosts(directory, f"--machines={machines}") as made:
        way = "auth=ntlm"
        yield Served(url=made.url(way), access=made.access(), second=made.url(way, 1))


@contextmanager
def _ironic(directory: Path, machines: int) -> Iterator[Served]:
    from tests.kit import bare_metal  # noqa: PLC0415

    del machines
    with bare_metal.ironic(directory) as made:
        yield Served(url=made.url, access=made.access)


STAND_INS: dict[str, Callable[[Path, int], AbstractContextManager[Served]]] = {
    "vcenter": _vcenter,
    "xenserver": _xenserver,
    "hyperv": _hyperv,
    "ironic": _ironic,
}
