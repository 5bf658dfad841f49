# SPDX-License-Identifier: Apache-2.0
"""Fixtures around real counterparts: started once a session, stopped whatever happens."""

import shutil
from collections.abc import Iterator

import pytest

from ci.sandbox.real.jars import GerritMissing, require_tools
from ci.sandbox.real.server import RealGerrit
from tests.kit.require import require
from tests.kit.sandbox_host import SandboxHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts the server the time that fetching and starting it takes."""
    for item in items:
        if "real_gerrit" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def real_gerrit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGerrit]:
    """A seeded real Gerrit: a project per test keeps tests apart."""
    gerrit = RealGerrit(tmp_path_factory.mktemp("gerrit") / "site")
    try:
        require_tools()
        gerrit.start()
    except GerritMissing as missing:
        require("gerrit", present=False, why=str(missing))
    try:
        gerrit.seed()
        yield gerrit
    finally:
        gerrit.stop()


@pytest.fixture(scope="session")
def sandbox_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxHost]:
    """The sandbox, with an administrator and a CI account."""
    tools = [tool for tool in ("git", "ssh", "ssh-keygen") if shutil.which(tool) is None]
    require("sshd", present=not tools, why=f"{', '.join(tools)} (install git, openssh-client)")
    host = SandboxHost(tmp_path_factory.mktemp("sandbox"))
    host.start()
    yield host
    host.stop()
