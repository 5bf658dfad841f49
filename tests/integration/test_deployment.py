# SPDX-License-Identifier: Apache-2.0
"""What is given to run it as a service: units that systemd takes, an image that builds."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "config" / "systemd"
CONTAINERFILE = ROOT / "config" / "container" / "Containerfile"
IMAGE = os.environ.get("HYPERVOUCH_BASE_IMAGE", "debian:12-slim")
MOST_EXPOSED = 3.0


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that exists in place of ours, which is not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze (apt-get install systemd)")
    made = []
    for unit in sorted(UNITS.glob("*.service")):
        name = unit.name.replace("@.", "@work.")
        text = unit.read_text().replace("/opt/hypervouch/bin/hypervouch", "/bin/true")
        (tmp_path / name).write_text(text)
        made.append(tmp_path / name)
    return made


def analyze(*words: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *words], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_takes_the_units(units: list[Path]):
    assert [unit.name for unit in units] == ["hypervouch-serve.service", "hypervouch@work.service"]
    for unit in units:
        # What other units of the machine lack is none of ours.
        said = analyze("verify", "--man=no", "--recursive-errors=no", str(unit)).splitlines()
        assert not [line for line in said if "hypervouch" in line]


def test_a_unit_leaves_little_open(units: list[Path]):
    for unit in units:
        said = analyze("security", "--no-pager", "--offline=true", str(unit))
        found = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert found, said
        assert float(found.group(1)) <= MOST_EXPOSED


def test_a_stop_has_the_time_that_it_may_take():
    for unit in UNITS.glob("*.service"):
        text = unit.read_text()
        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
        assert int(seconds) >= 90
        assert "KillMode=mixed" in text
        assert "User=hypervouch" in text


def test_the_image_takes_nothing_without_a_hash_and_has_no_rights():
    text = CONTAINERFILE.read_text()
    installs = re.findall(r"pip install ([^\\\n]+)", text)
    assert installs
    for words in installs:
        assert "--require-hashes" in words or "--no-build-isolation" in words
        assert "--no-deps" in words
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001:10001"]
    assert all(line.endswith("${BASE}") or " AS " in line for line in _from(text))


def _from(text: str) -> list[str]:
    return re.findall(r"^FROM .*$", text, re.MULTILINE)


@pytest.mark.timeout(600)
def test_the_image_builds_and_runs():
    podman = shutil.which("podman")
    if podman is None:
        pytest.skip("no podman (apt-get install podman)")
    known = subprocess.run(
        [podman, "image", "exists", IMAGE], check=False, capture_output=True, timeout=30
    )
    if known.returncode:
        pytest.skip(f"no image {IMAGE} here (podman pull {IMAGE}, or HYPERVOUCH_BASE_IMAGE)")
    build = ["build", "-f", str(CONTAINERFILE), "--build-arg", f"BASE={IMAGE}", "-t", "hypervouch"]
    made = subprocess.run(
        [podman, *build, str(ROOT)], check=False, capture_output=True, text=True, timeout=500
    )
    assert made.returncode == 0, made.stderr[-3000:]
    said = subprocess.run(
        [podman, "run", "--rm", "--network=none", "hypervouch", "--version"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert "hypervouch" in said.stdout
