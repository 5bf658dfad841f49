# SPDX-License-Identifier: Apache-2.0
"""PCI hot-plug of POWER guests: events as QEMU sent them become calls of drmgr."""

import os
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from ci import proc

pytestmark = [pytest.mark.integration]

# As /proc/powerpc/rtas/error_log gave it in a guest of QEMU 7.2 when a disk was attached.
EVENT = bytes.fromhex(
    "02000000063460e50000006c86008e00000000000000000049424d00504800300000000020261123074743000000"
    "000000000000480000030000000000000000000000000100000000000000554800180000000080000000000000"
    "00000000000000000048500014010000000501020040000040"
).ljust(2048, b"\0")
REMOVAL = EVENT.replace(bytes.fromhex("05010200"), bytes.fromhex("05020200"))
MEMORY = EVENT.replace(bytes.fromhex("05010200"), bytes.fromhex("02010200"))
NOTHING = bytes(2048)


def test_events_of_pci_slots_become_calls(tmp_path: Path) -> None:
    told = tmp_path / "told"
    _program(tmp_path / "drmgr", f'echo "$@" >>{told}')
    # The kernel's file gives one event a read; here each read is the next file, at last nothing.
    _program(tmp_path / "dd", f'cd {tmp_path}; set -- event-*; cat "$1" && rm "$1"')
    for number, event in enumerate((EVENT, MEMORY, NOTHING, REMOVAL)):
        (tmp_path / f"event-{number}").write_bytes(event)
    path = f"{tmp_path}:{os.environ['PATH']}"
    with as_file(files("nodes.images") / "guest" / "tiny-hotplug") as script:
        argv = ["sh", str(script), str(tmp_path / "log")]
        proc.run(argv, env={**os.environ, "PATH": path}, timeout_s=50)
    assert told.read_text().splitlines() == [
        "-c pci -a -s 0x40000040 -n -V",
        "-c pci -r -s 0x40000040 -n -V",
    ]


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
