# SPDX-License-Identifier: Apache-2.0
"""`hypervouch pause`, `resume` and `pauses`: where nothing new starts for a while."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

KINDS = ("pipeline", "label", "node")
_UNITS = {"m": 60, "h": 3600, "d": 86400}

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Moment(click.ParamType[datetime]):
    """A time in UTC as ISO 8601 writes it: `2026-12-01T06:00Z`."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The time; one without a zone is UTC."""
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time like 2026-12-01T06:00Z", param, ctx)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)


class Length(click.ParamType[timedelta]):
    """A length of time: `30m`, `2h`, `1d`."""

    name = "LENGTH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """The length."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})([mhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is not a length like 30m, 2h or 1d", param, ctx)
        return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def add_pauses(
    group: click.Group,
    config_option: Decorator,
    json_option: Decorator,
    operator: Callable[[], str],
) -> None:
    """Add the verbs to the program."""
    _add_pause(group, config_option, operator)

    @group.command()
    @config_option
    @_what
    def resume(config: Path, kind: str, name: str) -> None:
        """End a pause before its time."""
        from ci.clock import SystemClock  # noqa: PLC0415
        from ci.pausing import resume as do  # noqa: PLC0415

        click.echo(do(config, kind, name, by=operator(), at=SystemClock().now()))

    @group.command()
    @config_option
    @json_option
    def pauses(config: Path, *, as_json: bool) -> None:
        """List what is paused or in maintenance now."""
        from ci.clock import SystemClock  # noqa: PLC0415
        from ci.pausing import show  # noqa: PLC0415

        show(config, at=SystemClock().now(), as_json=as_json)


def _what(function: Callable[..., None]) -> Callable[..., None]:
    """What is paused: its kind, then its name."""
    named = click.argument("name")(function)
    return click.argument("kind", type=click.Choice(KINDS))(named)


def _add_pause(group: click.Group, config_option: Decorator, operator: Callable[[], str]) -> None:
    @group.command()
    @config_option
    @_what
    @click.option("--why", required=True, help="For the pages, what waits and the audit log.")
    @click.option("--until", type=Moment(), help="When it ends by itself, in UTC.")
    @click.option("--for", "length", type=Length(), help="The same as a length: 30m, 2h, 1d.")
    def pause(
        config: Path,
        kind: str,
        name: str,
        *,
        why: str,
        until: datetime | None,
        length: timedelta | None,
    ) -> None:
        """Start nothing new on a pipeline, a node label or a node; what runs goes on."""
        from ci.clock import SystemClock  # noqa: PLC0415
        from ci.pausing import pause as do  # noqa: PLC0415

        if until is not None and length is not None:
            raise click.UsageError("give --until or --for, not both")
        now = SystemClock().now()
        until = now + length if length is not None else until
        click.echo(do(config, kind, name, by=operator(), why=why, until=until, at=now))
