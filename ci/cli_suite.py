# SPDX-License-Identifier: Apache-2.0
"""`hypervouch suite`: our own suites, run by hand on somebody's own host."""

from collections.abc import Callable

import click

from ci.jobs.compute.command import compute


def add_suite(main: click.Group, begin: Callable[[click.Context], None]) -> None:
    """Add the verb `suite`; `begin` is called before it."""

    @main.group()
    @click.pass_context
    def suite(ctx: click.Context) -> None:
        """Run one of our own suites against a machine of yours."""
        begin(ctx)

    suite.add_command(compute)
