# SPDX-License-Identifier: Apache-2.0
"""`hypervouch drain`: let processes finish what they run, and take no more builds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def add_drain(group: click.Group, config_option: Decorator, operator: Callable[[], str]) -> None:
    """Add the verb to the program."""

    @group.command()
    @config_option
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @click.option("--all", "everything", is_flag=True, help="Every process there is.")
    def drain(config: Path, names: Sequence[str], *, everything: bool) -> None:
        """Let processes finish their builds and take no more; `work` alone then ends."""
        from ci.clock import SystemClock  # noqa: PLC0415
        from ci.listings import open_database  # noqa: PLC0415
        from ci.store import processes  # noqa: PLC0415

        if bool(names) is everything:
            raise click.UsageError("give the names of processes, or --all")
        found = processes.ask_to_drain(
            open_database(config),
            None if everything else names,
            by=operator(),
            at=SystemClock().now(),
        )
        click.echo(f"draining: {', '.join(found)}" if found else "no process runs")
