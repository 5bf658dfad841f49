# SPDX-License-Identifier: Apache-2.0
"""`hypervouch matrix`: which features which hypervisor really supports, and what Nova says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FORMATS = ("table", "json", "csv", "ini", "html")
YEARS = ("2015", "2020", "2026")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="ini is Nova's own form.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
    click.option(
        "--against",
        type=click.Choice(YEARS),
        help="Nova's table to compare with; the newest that has the cell by default.",
    ),
    click.option("--system", "systems", multiple=True, help="Only this column, by its key."),
    click.option("--group", "features", help="Only these features: operation, storage, ..."),
    click.option("--differences", is_flag=True, help="Only where Nova says something else."),
    click.option("--all", "everything", is_flag=True, help="Systems without evidence as well."),
)


def add_matrix(group: click.Group, config_option: Decorator, operator: Callable[[], str]) -> None:
    """Add the verbs to the program."""

    @group.group(invoke_without_command=True)
    @config_option
    @_which_part
    @click.pass_context
    def matrix(ctx: click.Context, /, config: Path, **asked: Any) -> None:
        """Show which features work where, on the evidence of tests; `matrix add` reads it in."""
        if ctx.invoked_subcommand is not None:
            # What was given before the verb holds for it too.
            ctx.default_map = {ctx.invoked_subcommand: {"config": config}}
            return
        _show(config, **asked)

    @matrix.command("add")
    @config_option
    @click.argument("report", type=click.Path(path_type=Path))
    def matrix_add(config: Path, report: Path) -> None:
        """Read in a report of `hypervouch suite compute --report`; the same again is no mistake."""
        from ci.matrix_listing import add  # noqa: PLC0415

        click.echo(add(config, report, by=operator()))


def _which_part(function: Callable[..., None]) -> Callable[..., None]:
    """The options of `matrix`, in the order in which its help has them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _show(
    config: Path,
    *,
    form: str,
    as_json: bool,
    against: str | None,
    systems: tuple[str, ...],
    features: str | None,
    differences: bool,
    everything: bool,
) -> None:
    from ci.matrix_listing import Wanted, show  # noqa: PLC0415

    wanted = Wanted(
        against=int(against) if against else None,
        systems=systems,
        group=features or "",
        differences=differences,
        everything=everything,
    )
    show(config, "json" if as_json else form, wanted)
