# SPDX-License-Identifier: Apache-2.0
"""What the verbs `pause`, `resume` and `pauses` do."""

import difflib
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from ci import settings
from ci.errors import ConfigError
from ci.layout import Layout
from ci.listings import open_database, print_json, print_table
from ci.maintenance import OpenWindow, windows_now
from ci.store import pauses, schema
from ci.store.pauses import Pause, PauseKind


def pause(
    config: Path, kind: str, name: str, *, by: str, why: str, until: datetime | None, at: datetime
) -> str:
    """Pause something; returns a sentence for the operator.

    Raises:
        ConfigError: There is no such thing, or the pause would be over already.
    """
    if until is not None and until <= at:
        raise ConfigError(f"{until:%Y-%m-%d %H:%M} UTC is over", hint="give a time to come")
    wanted = PauseKind(kind)
    new = Pause(kind=wanted, name=name, by=by, why=why, since=at, until=until)
    layout = settings.load(config)
    with open_database(config).write() as tx:
        _require(tx, layout, wanted, name)
        pauses.pause(tx, new)
    return f"{new.words}; what runs goes on; `hypervouch resume {kind} {name}` ends it"


def resume(config: Path, kind: str, name: str, *, by: str, at: datetime) -> str:
    """End a pause; returns a sentence for the operator.

    Raises:
        ConfigError: It is not paused.
    """
    with open_database(config).write() as tx:
        if not pauses.resume(tx, kind=PauseKind(kind), name=name, by=by, at=at):
            raise ConfigError(f"{kind} {name} is not paused", hint="see `hypervouch pauses`")
    return f"{kind} {name} takes builds again"


def show(config: Path, *, at: datetime, as_json: bool) -> None:
    """Print what is paused, and what the configuration's windows close now."""
    found: list[Pause | OpenWindow] = []
    with open_database(config).read() as tx:
        found.extend(pauses.standing(tx, at=at))
    found.extend(windows_now(settings.load(config).maintenance, at))
    if as_json:
        print_json(found)
        return
    print_table(
        ("what", "name", "since", "until", "by", "why"),
        (
            (
                one.kind,
                one.name,
                f"{one.since:%Y-%m-%d %H:%MZ}",
                f"{one.until:%Y-%m-%d %H:%MZ}" if one.until else "resumed",
                one.by,
                one.why,
            )
            for one in found
        ),
    )


def _require(tx: sa.Connection, layout: Layout, kind: PauseKind, name: str) -> None:
    node = schema.node
    if kind is PauseKind.PIPELINE:
        known = [one.name for one in layout.pipelines]
    elif kind is PauseKind.LABEL:
        known = sorted({one.label for one in layout.providers})
    else:
        known = list(tx.execute(sa.select(node.c.name).where(node.c.state != "Retired")).scalars())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"there is no {kind} {name}",
            hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}",
        )
