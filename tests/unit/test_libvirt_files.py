# SPDX-License-Identifier: Apache-2.0
"""How often a disk image is looked at: a look is a process, and launches of one image are many."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors.base import DiskFormat, GuestImage
from nodes.hypervisors.faults import CallerFault


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that qemu-img was asked of; it calls each raw."""
    asked: list[str] = []

    def run(argv: Sequence[str], **_more: Any) -> SimpleNamespace:
        asked.append(Path(argv[-1]).name)
        return SimpleNamespace(stdout=json.dumps({"format": "raw"}).encode())

    monkeypatch.setattr(files.proc, "run", run)
    return asked


def test_an_image_that_has_not_changed_is_looked_at_once(looks: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"one")
    image = GuestImage(disk=disk, disk_format=DiskFormat.RAW)
    for _ in range(3):
        with files.as_raw(image) as raw:
            assert raw == disk
    assert looks == ["disk"]
    disk.write_bytes(b"another")
    with files.as_raw(image):
        pass
    assert looks == ["disk", "disk"]


def test_one_that_is_gone_is_the_callers_fault(looks: list[str], tmp_path: Path) -> None:
    with pytest.raises(CallerFault, match="gone"):
        files.image_format(tmp_path / "gone")
    assert not looks
