# SPDX-License-Identifier: Apache-2.0
"""The demo's driver project: its suite tells a good change from one that breaks resume."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.sandbox import demo_patches
from ci.sandbox.demo_patches import RESUME_TEST, DemoPatch
from nodes.images.build import missing_tools
from nodes.login import log_in
from nodes.providers.qemu import QemuOptions, QemuProvider
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
PATCHES: dict[str, DemoPatch | None] = {
    "base": None,
    "good": demo_patches.good_patch(),
    "slow": demo_patches.slow_good_patch(watch_s=4),
    "breaks resume": demo_patches.breaks_resume(),
}


def tree(patch: DemoPatch | None) -> dict[str, str]:
    return {**demo_patches.project_files(), **(patch.files if patch else {})}


def suite(folder: Path, *, emulator: bool) -> tuple[int, list[str], str]:
    """Run the suite in a folder: exit status, failed tests, all output."""
    environment = {key: text for key, text in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**environment, "ACME_VIRT_EMULATOR": "1" if emulator else "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, failed(done.stdout), done.stdout + done.stderr


def failed(output: str) -> list[str]:
    lines = (line.split(" ") for line in output.splitlines() if line.startswith("FAILED "))
    return [words[1].rpartition("::")[2] for words in lines]


@pytest.mark.parametrize("emulator", [True, False], ids=["emulator", "qemu"])
@pytest.mark.parametrize("name", PATCHES)
def test_the_suite_fails_for_the_breaking_patch_alone(tmp_path: Path, name: str, *, emulator: bool):
    if not emulator:
        missing = missing_tools()
        require("qemu", present=not missing, why=f"apt-get install {' '.join(missing)}")
    for path, text in tree(PATCHES[name]).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    status, names, output = suite(tmp_path, emulator=emulator)
    assert names == ([RESUME_TEST] if name == "breaks resume" else []), output
    assert status == (1 if names else 0), output


@pytest.fixture
def node(tmp_path: Path) -> Iterator[QemuProvider]:
    missing = missing_tools()
    require("qemu", present=not missing, why=f"apt-get install {' '.join(missing)}")
    made = QemuProvider(QemuOptions(slots=1), tmp_path)
    made.prepare()
    yield made
    made.stop("qemu-1")


@pytest.mark.parametrize("name", ["base", "breaks resume"])
def test_the_suite_says_the_same_on_a_node(node: QemuProvider, name: str):
    endpoint = node.start("qemu-1", "test")
    with log_in(endpoint, 15) as client:
        stdin, stdout, _ = client.exec_command(
            f"mkdir -p {endpoint.workdir}/p && cd {endpoint.workdir}/p && tar -x && "
            "python3 -m pytest 2>&1",
            timeout=120,
        )
        stdin.write(packed(tree(PATCHES[name])))
        stdin.channel.shutdown_write()
        output = stdout.read().decode()
        status = stdout.channel.recv_exit_status()
    assert "hypervisor: qemu (tcg)" in output
    assert failed(output) == ([RESUME_TEST] if name == "breaks resume" else []), output
    assert status == (1 if name == "breaks resume" else 0), output


def packed(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()
