# SPDX-License-Identifier: Apache-2.0
"""The suite `testinfra`, really run by pytest on the controller against a real sshd."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ci.cancel import CancelToken, Deadline
from ci.clock import SystemClock
from ci.collect import Collected, collect
from ci.errors import NodeUnavailable
from ci.jobs import trouble
from ci.jobs.base import Plan
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


ENDED = """
import socket, time

def test_before(host):
    assert host.system_info.type == "linux"

def test_in_the_middle(host):
    print("END THE SERVER", flush=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", PORT), 1).close()
        except OSError:
            break
        time.sleep(0.05)
    assert host.run("true").succeeded

def test_after(host):
    print("WENT ON", flush=True)
    assert host.file("/").exists
"""


def run_on(
    endpoint: Endpoint,
    tmp_path: Path,
    text: str = TESTS,
    options: str = "",
    on_output: Callable[[bytes], object] = len,
) -> tuple[int, bytes, Collected, Plan]:
    """Plan the suite, run its step on the controller, collect."""
    tests, results = tmp_path / "ops" / "test_node.py", tmp_path / "attempt"
    for folder in (tests.parent, results / "ci"):
        folder.mkdir(parents=True)
    # A folder named like our package must not be found instead of it.
    (results / "ci" / "__init__.py").write_text("raise SystemExit('shadowed')")
    tests.write_text(text)
    job = Job(name="j", suite=SuiteKind.TESTINFRA, node_label="x", run=f"{tests} {options}")
    plan = suite_for(job.suite).plan(job, endpoint, results)
    within = Deadline("test", 60, SystemClock())
    here = Endpoint(transport=Transport.LOCAL, workdir=str(results))
    session = runner_for(Transport.LOCAL).connect(here, within)
    output = bytearray()

    def hear(data: bytes) -> None:
        output.extend(data)
        on_output(bytes(output))

    status = session.run(
        plan.steps[0].command,
        directory=str(results),
        env=plan.env,
        sink=hear,
        deadline=within,
        cancel=CancelToken(),
    )
    return status, bytes(output), collect(session, plan, results, 1_000_000), plan


def test_over_ssh_with_stable_names(tmp_path: Path) -> None:
    try:
        with running(tmp_path / "sshd") as daemon:
            status, output, found, plan = run_on(daemon.endpoint(tmp_path / "node"), tmp_path)
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    assert status == 1, output.decode()
    assert {o.test_id: o.status for o in found.outcomes} == {
        "test_node::test_kernel[ssh://node]": Status.PASS,
        "test_node::test_fails[ssh://node]": Status.FAIL,
    }, output.decode()
    assert trouble.told(plan.trouble) is None, "it failed, but its node is there"


def test_a_node_that_dies_in_mid_run_is_infra_and_no_failed_test(tmp_path: Path) -> None:
    try:
        with running(tmp_path / "sshd") as daemon:

            def end(heard: bytes) -> None:
                if b"END THE SERVER" in heard and b"WENT ON" not in heard:
                    daemon.stop()

            status, output, _, plan = run_on(
                daemon.endpoint(tmp_path / "node"),
                tmp_path,
                ENDED.replace("PORT", str(daemon.port)),
                "-s -p no:randomly",
                end,
            )
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
    told = trouble.told(plan.trouble)
    assert isinstance(told, NodeUnavailable), output.decode()
    assert "Connection refused" in told.message
    assert status == trouble.NODE_STATUS
    assert b"WENT ON" not in output, "each further test would wait for a node that is gone"
