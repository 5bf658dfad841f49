# SPDX-License-Identifier: Apache-2.0
"""The suite `driver`: the project's own functional tests on the node, results as JUnit."""

from pathlib import Path

from ci.jobs.base import Plan, PlanStep
from ci.jobs.shell import checkout_of, environment
from ci.layout import Job
from ci.model.node import Endpoint


class DriverSuite:
    """One step; what it found is read from the JUnit files that the job's globs name."""

    def plan(self, job: Job, endpoint: Endpoint, results_dir: Path) -> Plan:
        """The job's command in the checkout, and where its results are."""
        del results_dir
        return Plan(
            steps=(PlanStep(phase="run", command=job.run, timeout_s=job.timeout_s),),
            checkout=checkout_of(endpoint),
            env=environment(job, endpoint),
            results=job.results,
            artifacts=job.artifacts,
        )
