# SPDX-License-Identifier: Apache-2.0
"""The lock files hold what pyproject.toml asks for, and set-up installs what the code needs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from nodes.images import build

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = (*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"])
DEV = PROJECT["dependency-groups"]["dev"]
PIN = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)(?: ;[^\\]*)? \\\n((?:    --hash=sha256:.*\n)+)", re.MULTILINE
)


def _pins(name: str) -> dict[str, Version]:
    found = PIN.findall((ROOT / name).read_text())
    return {canonicalize_name(package): Version(version) for package, version, _ in found}


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        *[("requirements.lock", text) for text in RUNTIME],
        *[("requirements-dev.lock", text) for text in (*RUNTIME, *DEV)],
    ],
)
def test_a_dependency_is_pinned_as_asked(lock: str, wanted: str):
    asked = Requirement(wanted)
    pinned = _pins(lock).get(canonicalize_name(asked.name))
    assert pinned is not None, "run scripts/lock"
    assert pinned in asked.specifier, "run scripts/lock"


@pytest.mark.parametrize(
    "lock",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-moto.lock",
        "requirements-powervm.lock",
    ],
)
def test_every_pin_has_hashes(lock: str):
    text = (ROOT / lock).read_text()
    assert len(PIN.findall(text)) == len(re.findall(r"^\S", text, re.MULTILINE))


def test_the_tests_s3_server_has_a_lock_of_its_own():
    script = (ROOT / "scripts/lock").read_text()
    asked = [Requirement(text) for text in ("moto[s3]>=5", "flask", "flask-cors")]
    assert all(str(one).partition(">")[0] in script for one in asked)
    pinned = _pins("requirements-moto.lock")
    assert all(pinned[canonicalize_name(one.name)] in one.specifier for one in asked)
    assert "requirements-moto.lock" in (ROOT / "scripts/setup").read_text()
    hosts = re.findall(
        r"https?://|--(?:extra-)?index-url", (ROOT / "requirements-moto.lock").read_text()
    )
    assert hosts == []


def test_what_consoles_answered_is_one_package_that_nothing_needs():
    assert list(_pins("requirements-powervm.lock")) == ["pypowervm"]
    assert "requirements-powervm.lock" in (ROOT / "scripts/setup").read_text()
    assert "pypowervm" not in _pins("requirements-dev.lock")
    hosts = re.findall(
        r"https?://|--(?:extra-)?index-url", (ROOT / "requirements-powervm.lock").read_text()
    )
    assert hosts == []


def test_both_locks_agree():
    runtime, dev = _pins("requirements.lock"), _pins("requirements-dev.lock")
    assert runtime == {name: dev.get(name) for name in runtime}


def test_set_up_brings_what_a_disposable_node_needs():
    script = (ROOT / "scripts/setup").read_text()
    always_there = {"apt", "dpkg"}
    needed = {
        f"{tool}:{package}" for tool, package in build._TOOLS.items() if package not in always_there
    }
    assert not [pair for pair in needed if pair not in script]
