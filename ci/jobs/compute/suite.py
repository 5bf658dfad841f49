# SPDX-License-Identifier: Apache-2.0
"""The suite kind `compute`: our own tests on the controller against a leased node's hypervisor.

The node's hypervisor is talked to from here, over SSH where the node is another machine, with
the key and the pinned host key of the lease. No code of a patch runs on the controller. The
password of an API comes in a file that only we may read, never on the command line.
"""

import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

from ci.errors import ConfigError
from ci.jobs import trouble
from ci.jobs.base import Plan, PlanStep, Where
from ci.jobs.shell import checkout_of
from ci.layout import Job
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade

RESULTS, REPORT, WORK = "compute.xml", "compute.json", "compute"


class ComputeSuite:
    """One step on the controller: `python -m ci.jobs.compute`."""

    def plan(self, job: Job, endpoint: Endpoint, results_dir: Path) -> Plan:
        """Run the suite against the endpoint's hypervisor.

        Raises:
            ConfigError: The node says of no hypervisor.
        """
        if not endpoint.hypervisor:
            raise ConfigError(
                f"job {job.name}: the node does not say which hypervisor it has",
                hint="give its provider a hypervisor URL, for instance qemu:///system",
            )
        results, report = results_dir / RESULTS, results_dir / trouble.FILE
        command = shlex.join(_command(job, endpoint, results, report))
        step = PlanStep(
            phase="run",
            command=f"exec {command}",
            timeout_s=job.timeout_s,
            where=Where.CONTROLLER,
        )
        return Plan(
            steps=(step,),
            checkout=checkout_of(endpoint),
            # As for testinfra: a folder named `ci` anywhere near never shadows this program.
            env={"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **job.env},
            artifacts=job.artifacts,
            local_results=(results,),
            trouble=report,
        )


def _command(job: Job, endpoint: Endpoint, results: Path, report: Path) -> list[str]:
    command = [sys.executable, "-m", "ci.jobs.compute", f"--hypervisor={seen_from_here(endpoint)}"]
    if job.second_hypervisor:
        command.append(f"--second={job.second_hypervisor}")
    if job.features:
        command.append(f"--features={','.join(job.features)}")
    if endpoint.key_file is not None:
        command.append(f"--key-file={endpoint.key_file}")
    if endpoint.known_hosts is not None:
        command.append(f"--known-hosts={endpoint.known_hosts}")
    if endpoint.password_file is not None:
        command.append(f"--password-file={endpoint.password_file}")
    if endpoint.marks is not None:
        command.append(f"--marks={endpoint.marks}")
    if endpoint.ca_file is not None:
        command.append(f"--ca-file={endpoint.ca_file}")
    if endpoint.certificate:
        command.append(f"--certificate={endpoint.certificate}")
    if endpoint.grade is not Grade.NONE:
        command.append(f"--grade={endpoint.grade.value}")
    return [*command, f"--junit={results}", f"--trouble={report}"]


def seen_from_here(endpoint: Endpoint) -> str:
    """The hypervisor's URL for the controller: over SSH where it is the node's own word.

    A URL that names a transport (`xl+ssh://...`) or a host already leads there from anywhere.
    """
    parts = urlsplit(endpoint.hypervisor)
    own = "+" not in parts.scheme and not parts.netloc
    if endpoint.transport is not Transport.SSH or not own or parts.scheme == "dummy":
        return endpoint.hypervisor
    _, _, rest = endpoint.hypervisor.partition("://")
    return f"{parts.scheme}+ssh://{endpoint.user}@{endpoint.host}:{endpoint.port}{rest}"
