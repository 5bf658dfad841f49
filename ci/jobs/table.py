# SPDX-License-Identifier: Apache-2.0
"""Which suite makes the plan of which kind of job; each is imported when first asked for."""

from functools import cache
from importlib import import_module

from ci.errors import ConfigError
from ci.jobs.base import Suite
from ci.layout import SuiteKind

SUITES = {
    SuiteKind.SHELL: "ci.jobs.shell:ShellSuite",
    SuiteKind.DRIVER: "ci.jobs.driver:DriverSuite",
    SuiteKind.TESTINFRA: "ci.jobs.testinfra:TestinfraSuite",
    SuiteKind.COMPUTE: "ci.jobs.compute.suite:ComputeSuite",
}


@cache
def suite_for(kind: SuiteKind) -> Suite:
    """The suite of a kind, made once per process.

    Raises:
        ConfigError: There is none.
    """
    path = SUITES.get(kind)
    if path is None:
        raise ConfigError(f"no suite is named {kind}", hint=f"use one of {', '.join(SUITES)}")
    module, _, name = path.partition(":")
    suite: Suite = getattr(import_module(module), name)()
    return suite
