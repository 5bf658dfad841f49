# SPDX-License-Identifier: Apache-2.0
"""The suite `shell`: a command on the node, judged by its exit status alone."""

from pathlib import Path

from ci.jobs.base import Plan, PlanStep
from ci.layout import Job
from ci.model.node import Endpoint


def checkout_of(endpoint: Endpoint) -> str:
    """Directory on the node that holds the merged tree."""
    return f"{endpoint.workdir.rstrip('/')}/checkout"


def environment(job: Job, endpoint: Endpoint) -> dict[str, str]:
    """Variables of every step on the node: which hypervisor to test, then the job's own."""
    return {"HYPERVOUCH_HYPERVISOR": endpoint.hypervisor, **job.env}


class ShellSuite:
    """One step, no result files."""

    def plan(self, job: Job, endpoint: Endpoint, results_dir: Path) -> Plan:
        """The job's command in the checkout."""
        del results_dir
        return Plan(
            steps=(PlanStep(phase="run", command=job.run, timeout_s=job.timeout_s),),
            checkout=checkout_of(endpoint),
            env=environment(job, endpoint),
            artifacts=job.artifacts,
            has_results=False,
        )
