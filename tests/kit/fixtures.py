# SPDX-License-Identifier: Apache-2.0
"""Fixtures around real counterparts: started once a session, stopped whatever happens."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.sandbox.real.jars import GerritMissing, require_tools
from ci.sandbox.real.releases import DEFAULT, NEWEST, Release
from ci.sandbox.real.server import RealGerrit
from tests.kit.require import require
from tests.kit.s3 import PROGRAM, S3Server, s3_server
from tests.kit.sandbox_host import SandboxHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts the server the time that fetching and starting it takes."""
    for item in items:
        if {"real_gerrit", "real_gerrit_313"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def real_gerrit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGerrit]:
    """A seeded real Gerrit: a project per test keeps tests apart."""
    yield from _running(tmp_path_factory.mktemp("gerrit"), DEFAULT, "gerrit")


@pytest.fixture(scope="session")
def real_gerrit_313(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGerrit]:
    """The same, of the newest release."""
    yield from _running(tmp_path_factory.mktemp("gerrit313"), NEWEST, "gerrit313")


def _running(directory: Path, release: Release, part: str) -> Iterator[RealGerrit]:
    gerrit = RealGerrit(directory / "site", version=release.version)
    try:
        require_tools(release)
        gerrit.start()
    except GerritMissing as missing:
        require(part, present=False, why=str(missing))
    try:
        gerrit.seed()
        yield gerrit
    finally:
        gerrit.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server: a bucket per test keeps tests apart."""
    require("s3", present=PROGRAM.exists(), why=f"no {PROGRAM.name} (run scripts/setup test)")
    with s3_server(tmp_path_factory.mktemp("s3") / "moto.log") as server:
        yield server


@pytest.fixture(scope="session")
def sandbox_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxHost]:
    """The sandbox, with an administrator and a CI account."""
    tools = [tool for tool in ("git", "ssh", "ssh-keygen") if shutil.which(tool) is None]
    require("sshd", present=not tools, why=f"{', '.join(tools)} (install git, openssh-client)")
    host = SandboxHost(tmp_path_factory.mktemp("sandbox"))
    host.start()
    yield host
    host.stop()
