# SPDX-License-Identifier: Apache-2.0
"""Suites turn a job into a plan, and touch nothing."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import ConfigError
from ci.jobs.base import Where
from ci.jobs.table import suite_for
from ci.layout import Job, SuiteKind
from ci.model.node import Endpoint, Transport
from ci.runners.table import runner_for

NODE = Endpoint(
    transport=Transport.SSH,
    host="127.0.0.1",
    port=2222,
    user="root",
    key_file=Path("/keys/id with blank"),
    known_hosts=Path("/keys/hosts"),
    workdir="/var/tmp/build/",
    hypervisor="qemu:///system",
)
HERE = Path("/state/logs/b/a")


def job(suite: str, **more: Any) -> Job:
    if suite == "driver":
        more = {"results": ("r/*.xml",), **more}
    return Job(
        name="j", suite=SuiteKind(suite), node_label="x", timeout_s=60, **{"run": "x", **more}
    )


def plan(made: Job, endpoint: Endpoint = NODE) -> Any:
    return suite_for(made.suite).plan(made, endpoint, HERE)


def test_shell_has_an_exit_status_only():
    made = plan(job("shell", run="make check", artifacts=("*.log",), env={"A": "b"}))
    (step,) = made.steps
    assert (step.phase, step.command, step.timeout_s, step.where) == (
        "run",
        "make check",
        60,
        Where.NODE,
    )
    assert not made.has_results
    assert made.checkout == "/var/tmp/build/checkout"
    assert made.env == {"HYPERVOUCH_HYPERVISOR": "qemu:///system", "A": "b"}
    assert made.artifacts == ("*.log",)


def test_driver_reads_result_files():
    made = plan(job("driver", run="pytest"))
    assert made.has_results
    assert made.results == ("r/*.xml",)


def test_testinfra_runs_on_the_controller_against_the_node():
    made = plan(job("testinfra", run="/etc/ci/test_node.py -k 'not slow'"))
    (step,) = made.steps
    assert step.where is Where.CONTROLLER
    assert made.results == ()
    assert made.local_results == (HERE / "testinfra.xml",)
    assert made.env["PYTHONSAFEPATH"] == "1"
    for part in (
        sys.executable,
        "/etc/ci/test_node.py -k 'not slow'",
        "--hosts=ssh://node",
        "StrictHostKeyChecking yes",
        'UserKnownHostsFile "/keys/hosts"',
        'IdentityFile "/keys/id with blank"',
        "HostKeyAlias [127.0.0.1]:2222",
    ):
        assert part in step.command


def test_testinfra_on_this_machine():
    made = plan(job("testinfra", run="/t.py"), replace(NODE, transport=Transport.LOCAL))
    assert made.steps[0].command.endswith("/t.py --hosts=local://")


@pytest.mark.parametrize("run", ["tests/test_x.py", " "])
def test_testinfra_wants_an_absolute_path(run: str):
    with pytest.raises(ConfigError, match="absolute path"):
        plan(job("testinfra", run=run))


def test_testinfra_cannot_reach_a_dummy():
    with pytest.raises(ConfigError, match="by dummy"):
        plan(job("testinfra", run="/t.py"), replace(NODE, transport=Transport.DUMMY))


def test_every_kind_and_transport_is_served():
    assert {type(suite_for(kind)).__name__ for kind in SuiteKind} == {
        "ShellSuite",
        "DriverSuite",
        "TestinfraSuite",
        "ComputeSuite",
    }
    assert all(runner_for(transport) is runner_for(transport) for transport in Transport)
