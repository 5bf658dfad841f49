# SPDX-License-Identifier: Apache-2.0
"""The seam to suites: a Suite turns a Job into a Plan, and judges nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ci.layout import Job
from ci.model.node import Endpoint


class Where(StrEnum):
    """On which machine a step runs. Code from a patch runs on the node only."""

    NODE = "node"
    CONTROLLER = "controller"


@dataclass(frozen=True, kw_only=True)
class PlanStep:
    """One command of a plan.

    Attributes:
        phase: `setup` or `run`; a deadline each.
        command: Shell command.
        timeout_s: Seconds for this step.
        where: The node, or the controller for suites that the operator wrote.
    """

    phase: str
    command: str
    timeout_s: float
    where: Where = Where.NODE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do on a node, in order, and what to bring home.

    Attributes:
        steps: Run in order; a `setup` step that fails is the harness's fault, not a test's.
        checkout: Directory on the node that holds the merged tree.
        env: Variables for every step.
        results: Globs of JUnit files, relative to `checkout`.
        artifacts: Globs of further files, relative to `checkout`.
        has_results: False for a suite that only has an exit status.
        local_results: JUnit files that steps on the controller write there, absolute paths.
        trouble: File on the controller into which a step there writes what kept it from
            testing, see `ci.jobs.trouble`.
    """

    steps: tuple[PlanStep, ...]
    checkout: str
    env: Mapping[str, str] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    has_results: bool = True
    local_results: tuple[Path, ...] = ()
    trouble: Path | None = None


class Suite(Protocol):
    """Makes plans of one kind. Pure: no I/O."""

    def plan(self, job: Job, endpoint: Endpoint, results_dir: Path) -> Plan:
        """The plan of `job` on `endpoint`.

        Args:
            job: As the layout has it.
            endpoint: The leased node.
            results_dir: Directory on the controller for suites that run there.
        """
        ...
