# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.api_child SYSTEM ours|bare URL CA-FILE WORK`: inventories, and our memory.

A process of its own for each side, so that its most memory is its own. The password comes by
$BENCH_PASSWORD; the result goes out as JSON.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from nodes.hypervisors.base import Access, Inventory
from nodes.hypervisors.table import connect
from tests.bench import api_bare
from tests.bench.api_hypervisors import peak_mib

TIMES = 5


def main(system: str, side: str, url: str, ca_file: str, work: str) -> None:
    """Connect, look at the memory, list everything, look again."""
    password = os.environ["BENCH_PASSWORD"]
    access = Access(work=Path(work), ca_file=Path(ca_file), password=password, timeout_s=600.0)
    kinds: dict[str, Any] = {
        "vcenter": api_bare.Vcenter,
        "xenserver": api_bare.XenServer,
        "hyperv": api_bare.HyperV,
    }
    opened: Any = connect(url, access) if side == "ours" else kinds[system](url, access)
    Path("/proc/self/clear_refs").write_text("5")  # the most from here on
    before, took, machines = peak_mib(), [], 0
    for _ in range(TIMES):
        began = time.perf_counter()
        machines = _count(opened.inventory())
        took.append((time.perf_counter() - began) * 1000)
    peak = peak_mib()
    told = {
        "machines": machines,
        "took_ms": [round(ms, 1) for ms in took],
        "before_mib": before,
        "peak_mib": peak,
    }
    sys.stdout.write(json.dumps(told) + "\n")
    opened.close()


def _count(told: Inventory | int) -> int:
    return told if isinstance(told, int) else len(told.guests)


if __name__ == "__main__":
    main(*sys.argv[1:])
