# SPDX-License-Identifier: Apache-2.0
"""The base image is built whole or not at all, by one builder at a time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ci import proc
from ci.errors import ConfigError
from nodes.images import build
from nodes.images.build import Image, default_cache, image, missing_tools
from nodes.images.machine import Machine, Shape, command
from nodes.images.ready import create_overlay
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
BUILDER = "import sys; from pathlib import Path; from nodes.images.build import image; "
BUILDER += "image(Path(sys.argv[1]), progress=lambda said: print(said, flush=True))"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache that shares the downloaded packages with this user's own."""
    missing = missing_tools()
    require("qemu", present=not missing, why=f"apt-get install {' '.join(missing)}")
    packages = default_cache() / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    (tmp_path / "packages").symlink_to(packages)
    return tmp_path


def test_a_killed_build_leaves_nothing_and_two_builders_make_one_image(cache: Path):
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(cache)],
        stdout=subprocess.PIPE,
        cwd=Path(build.__file__).parents[2],
        start_new_session=True,
    ) as builder:
        assert builder.stdout is not None
        for line in builder.stdout:
            if line.startswith(b"unpacking"):
                break
        os.killpg(builder.pid, signal.SIGKILL)
    assert list((cache / "images").glob("[0-9a-f]*")) == []
    assert list((cache / "images").glob(".building-*"))

    found: list[Image] = []
    said: list[str] = []
    builders = [
        threading.Thread(target=lambda: found.append(image(cache, progress=said.append)))
        for _ in range(2)
    ]
    for thread in builders:
        thread.start()
    for thread in builders:
        thread.join()
    assert found[0] == found[1]
    assert "waiting for another builder" in said
    assert said.count("writing the disk image") == 1
    assert [path.name for path in (cache / "images").iterdir() if path.name != ".lock"] == [
        found[0].folder.name
    ]
    manifest = json.loads((found[0].folder / "manifest.json").read_text())
    assert manifest["facts"]["image"] == found[0].fingerprint
    assert found[0].disk.stat().st_size < 300 * 1024 * 1024
    boots_cold(found[0], cache / "slot")


def boots_cold(base: Image, folder: Path) -> None:
    folder.mkdir()
    create_overlay(base.disk, folder / "disk.qcow2")
    started = Machine(folder, command(base, Shape()), time.monotonic() + 120)
    try:
        started.wait_for("ready")
        assert started.ssh_port() > 0
    finally:
        started.kill()
        started.kill()


def test_a_missing_tool_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "_SYSTEM_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as failure:
        image(tmp_path)
    assert failure.value.hint.startswith("apt-get install --no-install-recommends ")
    assert {"qemu-utils", "qemu-system-x86", "e2fsprogs"} <= set(failure.value.hint.split())


def test_packages_that_do_not_exist_are_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(argv: list[str], **_: object) -> proc.Completed:
        raise proc.CommandFailed(
            "apt-get failed with status 100: E: Unable to locate package", status=100, stderr=""
        )

    monkeypatch.setattr(build, "require_tools", lambda: None)
    monkeypatch.setattr("nodes.images.packages.proc.run", refused)
    with pytest.raises(ConfigError, match="Unable to locate package"):
        image(tmp_path)
    assert list((tmp_path / "images").glob(".building-*")) == []
