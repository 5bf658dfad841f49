# SPDX-License-Identifier: Apache-2.0
"""What pytest is given besides in the suite `testinfra`: it tells a dead node from a failed test.

A test whose node has died under it fails like any other. So when something failed, the node is
asked for a new login; one that does not answer is the node's trouble, told as `ci.jobs.trouble`
has it, and whatever the tests said counts for nothing. A run is not gone through to its end
against a node that is gone: what SSH itself could not do is looked into at once.

A node that answers again by then has its failures counted: a repeat and a baseline judge them.
"""

import shutil
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from ci import proc
from ci.errors import HarnessBroken, HypervouchError, NodeUnavailable
from ci.jobs import trouble

SSH_FAILED = 255
LOGIN_S = 30.0
AGAIN_AFTER_S = 1.0
"""A look comes twice: a server that is merely full refuses some."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where to tell of trouble."""
    parser.addoption("--trouble", type=Path, help="file for what kept the suite from testing")


def pytest_configure(config: pytest.Config) -> None:
    """Look after the node of this run."""
    ssh_config, told, hosts = (config.getoption(o) for o in ("ssh_config", "trouble", "hosts"))
    config.pluginmanager.register(_Watch(Path(ssh_config), hosts.removeprefix("ssh://"), told))


class _Watch:
    """Watches one node over one run.

    Args:
        ssh_config: How SSH gets there.
        node: Its name in there.
        told: Where to tell of trouble.
    """

    def __init__(self, ssh_config: Path, node: str, told: Path) -> None:
        self._ssh_config = ssh_config
        self._node = node
        self._told = told
        self._error: HypervouchError | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Without a client, each test would fail for its want."""
        if shutil.which("ssh") is None:
            self._error = HarnessBroken("ssh is not installed here", hint="install openssh-client")
            session.shouldstop = self._error.message

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """End the run where it is the connection that failed, and the node is gone."""
        report = yield
        # So testinfra says that ssh itself failed: there is no kind of its own for it.
        broke = call.excinfo is not None and call.excinfo.type is RuntimeError
        if report.failed and broke and self._error is None:
            self._error = self._look()
            if self._error is not None:
                item.session.shouldstop = self._error.message
        return report

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Whatever failed: is the node still there?"""
        if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            self._error = self._error or self._look()
        if self._error is not None:
            session.exitstatus = trouble.tell(self._told, self._error)

    def _look(self) -> HypervouchError | None:
        """What is wrong with the node; None where it lets us in."""
        said = ""
        for pause_s in (AGAIN_AFTER_S, 0.0):
            argv = ["ssh", "-F", str(self._ssh_config), self._node, "true"]
            try:
                done = proc.run(argv, timeout_s=LOGIN_S, check=False)
            except proc.CommandFailed as error:
                said = error.message
            else:
                if done.status != SSH_FAILED:
                    return None
                said = done.complaint
            time.sleep(pause_s)
        return NodeUnavailable(
            f"the node is gone in the middle of its tests: {said}",
            hint="see its console; the tests that failed say nothing of the change",
        )
