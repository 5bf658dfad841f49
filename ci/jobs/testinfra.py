# SPDX-License-Identifier: Apache-2.0
"""The suite `testinfra`: a node's state as pytest, written by the operator.

The tests lie on the controller and run there; only their questions travel to the node. The
job's `run` is their path, absolute, and whatever else pytest shall be told. Code from a patch
is never among them. A node that dies under its tests is told apart, see `testinfra_node`.
"""

import shlex
import sys
from pathlib import Path, PurePath

from ci.errors import ConfigError
from ci.jobs import trouble
from ci.jobs.base import Plan, PlanStep, Where
from ci.jobs.shell import checkout_of
from ci.layout import Job
from ci.model.node import Endpoint, Transport

RESULTS = "testinfra.xml"
SSH_CONFIG = "ssh_config"
# pytest puts the host into a test's name: an alias keeps that the same on every node.
ALIAS = "node"
WATCH = "ci.jobs.testinfra_node"


class TestinfraSuite:
    """One step on the controller; it writes its own ssh configuration first."""

    __test__ = False

    def plan(self, job: Job, endpoint: Endpoint, results_dir: Path) -> Plan:
        """Run pytest over the operator's tests against `endpoint`, in `results_dir`.

        Raises:
            ConfigError: The tests' path is not absolute, or testinfra cannot reach the node.
        """
        arguments = shlex.split(job.run)
        if not arguments or not arguments[0].startswith("/"):
            raise ConfigError(
                f"job {job.name}: run must begin with the absolute path of its tests",
                hint="for instance run: /etc/hypervouch/testinfra/test_node.py",
            )
        results = results_dir / RESULTS
        command = _command(arguments, endpoint, results)
        return Plan(
            steps=(
                PlanStep(
                    phase="run",
                    command=command,
                    timeout_s=job.timeout_s,
                    where=Where.CONTROLLER,
                ),
            ),
            checkout=checkout_of(endpoint),
            # Started in a directory of ours, and without that on the path: a folder named
            # `ci` anywhere near never shadows this program.
            env={"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **job.env},
            artifacts=job.artifacts,
            local_results=(results,),
            trouble=results.with_name(trouble.FILE),
        )


def _command(arguments: list[str], endpoint: Endpoint, results: Path) -> str:
    pytest = [
        sys.executable,
        *("-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib"),
        f"--rootdir={_root(arguments[0])}",
        f"--junitxml={results}",
        *arguments,
    ]
    if endpoint.transport is Transport.LOCAL:
        return f"exec {shlex.join([*pytest, '--hosts=local://'])}"
    if endpoint.transport is not Transport.SSH:
        raise ConfigError(
            f"testinfra cannot reach a node by {endpoint.transport}",
            hint="give the job a node label whose nodes have ssh or local transport",
        )
    config = results.with_name(SSH_CONFIG)
    lines = shlex.join(_ssh_config(endpoint))
    hosts = [f"--hosts=ssh://{ALIAS}", f"--ssh-config={config}"]
    hosts += ["-p", WATCH, f"--trouble={results.with_name(trouble.FILE)}"]
    return (
        f"printf '%s\\n' {lines} >{shlex.quote(str(config))} && exec {shlex.join(pytest + hosts)}"
    )


def _root(tests: str) -> PurePath:
    """The folder that test ids are told from: never one that differs from build to build."""
    path = PurePath(tests.partition("::")[0])
    return path.parent if path.suffix else path


def _ssh_config(endpoint: Endpoint) -> list[str]:
    """Lines of an ssh configuration that trusts the pinned key and offers only ours."""
    return [
        f"Host {ALIAS}",
        f"HostName {endpoint.host}",
        f"HostKeyAlias {_host_key_name(endpoint)}",
        f"Port {endpoint.port}",
        f"User {endpoint.user}",
        f'IdentityFile "{endpoint.key_file}"',
        f'UserKnownHostsFile "{endpoint.known_hosts}"',
        "GlobalKnownHostsFile /dev/null",
        "IdentitiesOnly yes",
        "StrictHostKeyChecking yes",
        "BatchMode yes",
        "ConnectTimeout 15",
        "ServerAliveInterval 15",
    ]


def _host_key_name(endpoint: Endpoint) -> str:
    """The name under which known_hosts has the node's key."""
    return endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"  # noqa: PLR2004
