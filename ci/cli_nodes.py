# SPDX-License-Identifier: Apache-2.0
"""`hypervouch nodes` and its verbs: list, probe, health, hold, return, drain."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ci import plain
from ci.cli_pauses import Length

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def add_nodes(
    main: click.Group,
    config_option: Decorator,
    json_option: Decorator,
    operator: Callable[[], str],
) -> None:
    """Add the verbs to the program."""

    @main.group(invoke_without_command=True)
    @config_option
    @json_option
    @click.pass_context
    def nodes(ctx: click.Context, config: Path, *, as_json: bool) -> None:
        """List nodes: health, who holds them, why; or act on one."""
        if ctx.invoked_subcommand is None:
            _list(config, as_json=as_json)
        else:
            # What was given before the verb holds for it too.
            names = getattr(ctx.command, "commands", {})
            ctx.default_map = {name: {"config": config, "as_json": as_json} for name in names}

    @nodes.command("list")
    @config_option
    @json_option
    def list_nodes(config: Path, *, as_json: bool) -> None:
        """The same as without a verb."""
        _list(config, as_json=as_json)

    _add_looks(nodes, config_option, json_option, operator)
    _add_holds(nodes, config_option, json_option, operator)


def _list(config: Path, *, as_json: bool) -> None:
    from ci.listings import show_nodes  # noqa: PLC0415
    from ci.node_verbs import held  # noqa: PLC0415

    show_nodes(config, as_json=as_json)
    if not as_json:
        for one in held(config):
            click.echo(f"{one.node} is held by {one.by}; {one.login or 'nothing to log in to'}")


def _add_looks(
    nodes: click.Group,
    config_option: Decorator,
    json_option: Decorator,
    operator: Callable[[], str],
) -> None:
    def look(config: Path, name: str, *, full: bool, as_json: bool) -> None:
        from ci.node_verbs import look as do  # noqa: PLC0415

        found = do(config, name, full=full, by=operator())
        if as_json:
            click.echo(json.dumps(asdict(found)))
        else:
            click.echo(
                f"{name} is {'fit' if found.fit else f'not fit: {plain.text(found.trouble)}'}"
            )
        sys.exit(0 if found.fit else 1)

    @nodes.command()
    @config_option
    @json_option
    @click.argument("name")
    def probe(config: Path, name: str, *, as_json: bool) -> None:
        """Look at a node now, as before each hand-out; fit, it returns to work."""
        look(config, name, full=False, as_json=as_json)

    @nodes.command()
    @config_option
    @json_option
    @click.argument("name")
    def health(config: Path, name: str, *, as_json: bool) -> None:
        """Put a node through its full health job now."""
        look(config, name, full=True, as_json=as_json)


def _add_holds(
    nodes: click.Group,
    config_option: Decorator,
    json_option: Decorator,
    operator: Callable[[], str],
) -> None:
    @nodes.command()
    @config_option
    @json_option
    @click.argument("name")
    @click.option(
        "--for", "length", type=Length(), default="2h", show_default=True, help="So long."
    )
    @click.option("--why", required=True, help="For the pages and the audit log.")
    @click.option("--on-failure", is_flag=True, help="From its next failing build on.")
    def hold(
        config: Path, name: str, *, length: timedelta, why: str, on_failure: bool, as_json: bool
    ) -> None:
        """Keep a node with its machine as it is after the present build; prints how to log in."""
        from ci.node_verbs import hold as do  # noqa: PLC0415
        from ci.node_verbs import told  # noqa: PLC0415

        found = do(config, name, length=length, why=why, on_failure=on_failure, by=operator())
        if as_json:
            click.echo(json.dumps(asdict(found), default=str))
        else:
            click.echo("\n".join(told(found)))

    @nodes.command("return")
    @config_option
    @click.argument("name")
    def give_back(config: Path, name: str) -> None:
        """End a hold: the node is tidied, looked at and takes builds again."""
        from ci.node_verbs import give_back as do  # noqa: PLC0415

        click.echo(do(config, name, by=operator()))

    @nodes.command()
    @config_option
    @click.argument("name")
    @click.option("--why", required=True, help="For the pages, what waits and the audit log.")
    @click.option("--for", "length", type=Length(), help="So long; else until it is resumed.")
    def drain(config: Path, name: str, *, why: str, length: timedelta | None) -> None:
        """Start nothing new on a node: the same as `hypervouch pause node NAME`."""
        from ci.clock import SystemClock  # noqa: PLC0415
        from ci.pausing import pause  # noqa: PLC0415

        now = SystemClock().now()
        until = None if length is None else now + length
        click.echo(pause(config, "node", name, by=operator(), why=why, until=until, at=now))
