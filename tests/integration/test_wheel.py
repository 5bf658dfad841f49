# SPDX-License-Identifier: Apache-2.0
"""The wheel holds the three packages and what they need at run time, and nothing else."""

import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    # The backend is in the lock: no isolated build, nothing is downloaded.
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", str(folder)], cwd=ROOT, check=True, timeout=50)
    (wheel,) = folder.glob("hypervouch-*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_it_holds_exactly_our_packages(members: list[str]):
    tops = {name.split("/", 1)[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ci", "nodes", "webui"}


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [
        ("webui/templates/", ".html"),
        ("webui/static/", ".css"),
        ("webui/static/", "gerrit-checks.js"),
        ("ci/templates/", ".j2"),
        ("ci/matrix/", "nova-2015.json"),
        ("ci/matrix/", ".j2"),
        ("ci/store/migrations/versions/", "v3_many_processes.py"),
        ("nodes/images/guest/", "node-init"),
        ("ci/sandbox/acme_virt/", "pytest.ini"),
    ],
)
def test_it_holds_the_files_that_are_not_python(members: list[str], folder: str, suffix: str):
    assert any(name.startswith(folder) and name.endswith(suffix) for name in members)


def test_it_holds_no_caches(members: list[str]):
    assert not [name for name in members if "__pycache__" in name or "_cache/" in name]


@pytest.mark.parametrize("package", ["ci", "nodes", "webui"])
def test_no_other_distribution_brings_a_package_of_that_name(package: str):
    assert set(packages_distributions().get(package, ["hypervouch"])) == {"hypervouch"}
