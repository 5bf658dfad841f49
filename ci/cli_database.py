# SPDX-License-Identifier: Apache-2.0
"""`hypervouch db`: look at the database, bring it to this version, copy it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
MIB = 1 << 20


def add_database(group: click.Group, config_option: Decorator) -> None:
    """Give a group the verbs of the database."""

    @click.group("db")
    def db() -> None:
        """Check, upgrade or back up the database."""

    @db.command("check")
    @config_option
    @click.pass_context
    def check(ctx: click.Context, config: Path) -> None:
        """Say whether the database is what this program needs; status 1 if not."""
        ctx.exit(_check(config))

    @db.command("upgrade")
    @config_option
    @click.option("--force", is_flag=True, help="Although processes of it seem to run.")
    def upgrade(config: Path, *, force: bool) -> None:
        """Bring the tables to this program's version, in one transaction."""
        _upgrade(config, force=force)

    @db.command("backup")
    @config_option
    @click.argument("file", type=click.Path(path_type=Path))
    def backup(config: Path, file: Path) -> None:
        """Copy the database into a new FILE while everything runs."""
        _backup(config, file)

    group.add_command(db)


def _check(config: Path) -> int:
    from ci import settings  # noqa: PLC0415 - each verb imports what it needs
    from ci.store.database import Database  # noqa: PLC0415
    from ci.store.schema import SCHEMA_VERSION  # noqa: PLC0415
    from ci.store.upgrade import differences  # noqa: PLC0415

    with closing(Database.of(settings.load(config).service)) as database:
        version = database.version()
        where = database.where
        if version is None:
            click.echo(f"{where} has no tables yet: the first start makes them")
            return 1
        if version != SCHEMA_VERSION:
            todo = (
                "stop its processes and run `hypervouch db upgrade`"
                if version < SCHEMA_VERSION
                else "a newer program has upgraded it, install that one here as well"
            )
            click.echo(
                f"{where} has schema version {version}, this program needs {SCHEMA_VERSION}: {todo}"
            )
            return 1
        found = differences(database)
    for one in found:
        click.echo(one)
    if found:
        click.echo(f"{where} is not what version {version} made: restore a backup")
        return 1
    click.echo(f"{where} is good: schema version {version}")
    return 0


def _upgrade(config: Path, *, force: bool) -> None:
    from ci import settings  # noqa: PLC0415
    from ci.clock import SystemClock  # noqa: PLC0415
    from ci.store.database import Database  # noqa: PLC0415
    from ci.store.upgrade import upgrade  # noqa: PLC0415

    with closing(Database.of(settings.load(config).service)) as database:
        before, after = upgrade(database, SystemClock(), force=force)
        where = database.where
    if before == after:
        click.echo(f"{where} has schema version {after} already")
    elif not before:
        click.echo(f"{where} was empty: made at schema version {after}")
    else:
        click.echo(f"{where}: schema version {before} -> {after}")


def _backup(config: Path, file: Path) -> None:
    from ci import settings  # noqa: PLC0415
    from ci.errors import ConfigError  # noqa: PLC0415
    from ci.store.backup import backup  # noqa: PLC0415
    from ci.store.database import Database  # noqa: PLC0415

    with closing(Database.of(settings.load(config).service)) as database:
        if database.version() is None:  # an older one is copied as well
            raise ConfigError(f"nothing was ever run in {database.where}", hint="nothing to copy")
        size = backup(database, file)
    click.echo(f"{file}: {max(1, size // MIB)} MiB")
