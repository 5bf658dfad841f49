# SPDX-License-Identifier: Apache-2.0
"""`hypervouch suite`: our own suites, run by hand on somebody's own host."""

import click

from ci.jobs.compute.command import compute


def add_suite(main: click.Group) -> None:
    """Add the verb `suite`."""

    @main.group()
    def suite() -> None:
        """Run one of our own suites against a machine of yours."""

    suite.add_command(compute)
