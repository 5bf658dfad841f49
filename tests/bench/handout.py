# SPDX-License-Identifier: Apache-2.0
"""How long a disposable QEMU node takes from `start` until we are logged in."""

import shutil
import time
from pathlib import Path
from typing import Any

from nodes.images import machine
from nodes.providers.qemu import QemuOptions, QemuProvider
from tests.bench.runs import spread

COUNT = 10


def missing() -> str:
    """What this machine lacks for it; empty when nothing."""
    needed = (machine.BINARY, "qemu-img", "mke2fs")
    lacking = [name for name in needed if shutil.which(name) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


def hand_outs(directory: Path, *, snapshot: bool, count: int = COUNT) -> dict[str, Any]:
    """Hand out one node after the other.

    Args:
        directory: For the nodes' files.
        snapshot: Restored from RAM, or booted cold.
        count: How many.
    """
    options = QemuOptions(name="bench", slots=1, snapshot=snapshot)
    provider = QemuProvider(options, directory)
    began = time.monotonic()
    provider.prepare()
    prepared_s = time.monotonic() - began
    took, boots = [], set()
    node = provider.node_names()[0]
    for number in range(count):
        began = time.monotonic()
        try:
            endpoint = provider.start(node, f"bench-{number}")
            took.append(time.monotonic() - began)
            boots.add(endpoint.facts["boot"])
        finally:
            provider.stop(node)
    return {
        "count": count,
        "prepare_s": round(prepared_s, 1),
        "boot": ", ".join(sorted(boots)),
        "latency": spread(took),
    }
