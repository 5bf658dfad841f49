# SPDX-License-Identifier: Apache-2.0
"""The suite `testinfra`, really run by pytest on the controller against a real sshd."""

from pathlib import Path

import pytest

from ci.cancel import CancelToken, Deadline
from ci.clock import SystemClock
from ci.collect import Collected, collect
from ci.jobs.table import suite_for
from ci.layout import Job, SuiteKind
from ci.model.node import Endpoint, Transport
from ci.model.result import Status
from ci.runners.table import runner_for
from tests.kit.require import require
from tests.kit.sshd import SshdMissing, running

pytestmark = pytest.mark.integration
TESTS = """
import os

def test_kernel(host):
    assert host.system_info.type == "linux"
    assert host.run("echo $SSH_CONNECTION").stdout.strip()

def test_fails(host):
    assert not host.file("/").exists, os.getcwd()
"""


def run_on(endpoint: Endpoint, tmp_path: Path) -> tuple[int, bytes, Collected]:
    """Plan the suite, run its step on the controller, collect."""
    tests, results = tmp_path / "ops" / "test_node.py", tmp_path / "attempt"
    for folder in (tests.parent, results / "ci"):
        folder.mkdir(parents=True)
    # A folder named like our package must not be found instead of it.
    (results / "ci" / "__init__.py").write_text("raise SystemExit('shadowed')")
    tests.write_text(TESTS)
    job = Job(name="j", suite=SuiteKind.TESTINFRA, node_label="x", run=str(tests))
    plan = suite_for(job.suite).plan(job, endpoint, results)
    within = Deadline("test", 60, SystemClock())
    here = Endpoint(transport=Transport.LOCAL, workdir=str(results))
    session = runner_for(Transport.LOCAL).connect(here, within)
    output = bytearray()
    status = session.run(
        plan.steps[0].command,
        directory=str(results),
        env=plan.env,
        sink=output.extend,
        deadline=within,
        cancel=CancelToken(),
    )
    return status, bytes(output), collect(session, plan, results, 1_000_000)


def test_over_ssh_with_stable_names(tmp_path: Path) -> None:
    try:
        with running(tmp_path / "sshd") as daemon:
            status, output, found = run_on(daemon.endpoint(tmp_path / "node"), tmp_path)
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    assert status == 1, output.decode()
    assert {o.test_id: o.status for o in found.outcomes} == {
        "test_node::test_kernel[ssh://node]": Status.PASS,
        "test_node::test_fails[ssh://node]": Status.FAIL,
    }, output.decode()
