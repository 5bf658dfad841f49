# SPDX-License-Identifier: Apache-2.0
"""What the verbs below `hypervouch nodes` do: look at a node now, keep it, give it back."""

import difflib
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ci.app import load_layout
from ci.clock import SystemClock
from ci.errors import ConfigError
from ci.layout import Layout, ProviderConfig
from ci.listings import open_database
from ci.roles.work import care_of, examine_of
from ci.store import audit, holds, processes, schema
from ci.store.database import Database
from ci.store.holds import Hold
from ci.store.moment import moment
from nodes.health import preflight
from nodes.pool import NodePool
from nodes.providers.base import Provider
from nodes.providers.table import driver
from nodes.rounds import Rounds

LEASE_S = 900.0
"""Nobody renews the lease of a verb: so long may a look take."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a look at a node found."""

    node: str
    fit: bool
    trouble: str


def look(config: Path, name: str, *, full: bool, by: str) -> Looked:
    """Put a node through a probe or a full health job, now and from here.

    Args:
        config: Where the configuration is.
        name: Of the node.
        full: The health job, not only what comes before each hand-out.
        by: For the audit log.

    Raises:
        ConfigError: There is no such node, somebody has it, or only another machine reaches it.
    """
    layout, database = load_layout(config), open_database(config)
    row = _row(database, name)
    pool = _pool(layout, database, row)
    with database.write() as tx:
        action = "node-health" if full else "node-probe"
        audit.note(tx, by=by, action=action, subject=f"node {name}", at=SystemClock().now())
    rounds = Rounds(pool, examine_of(layout, _home(layout)))
    trouble = rounds.job(name) if full else rounds.probe(name)
    if trouble is None:
        busy = _row(database, name)
        who = f"held by {busy.held_by}" if busy.held_until else f"leased ({busy.holder})"
        raise ConfigError(f"{name} is {who}", hint="try again when it is free: `hypervouch nodes`")
    return Looked(node=name, fit=not trouble, trouble=trouble)


def hold(
    config: Path, name: str, *, length: timedelta, why: str, on_failure: bool, by: str
) -> Hold:
    """Keep a node with its machine as it is, from now on or from its next failing build on.

    Raises:
        ConfigError: There is no such node.
    """
    database = open_database(config)
    _row(database, name)
    with database.write() as tx:
        now = moment(tx, SystemClock())
        return holds.hold(tx, name, by=by, why=why, length=length, now=now, on_failure=on_failure)


def give_back(config: Path, name: str, *, by: str) -> str:
    """End a hold; returns a sentence for the operator.

    Raises:
        ConfigError: There is no such node, or nobody holds it.
    """
    database = open_database(config)
    _row(database, name)
    with database.write() as tx:
        if not holds.give_back(tx, name, by=by, now=moment(tx, SystemClock())):
            raise ConfigError(f"nobody holds {name}", hint="see `hypervouch nodes`")
    return f"{name} is given back: its machine is tidied or ended first, within seconds"


def held(config: Path) -> tuple[Hold, ...]:
    """The holds that stand, each with the line that logs in."""
    with open_database(config).read() as tx:
        return tuple(holds.of(tx, name) for name in sorted(holds.names(tx)))


def told(found: Hold) -> list[str]:
    """What an operator wants to know of a hold, a sentence a line."""
    if found.until is None:
        lines = [f"{found.node} is kept for {found.for_s // 60} min as soon as a build fails there"]
    else:
        lines = [f"{found.node} is held until {found.until:%Y-%m-%d %H:%M} UTC"]
        lines += ["its build goes on to its end, then all stays as it is"] * bool(found.attempt_id)
    if found.login and (found.until is not None or found.attempt_id):
        where = f" on the machine of {found.worker}" if found.worker else ""
        lines += [f"log in{where} with:", f"  {found.login}"]
    elif found.until is not None:
        lines += ["no machine of it runs that one could log in to"]
    return [*lines, f"`hypervouch nodes return {found.node}` ends it"]


def _row(database: Database, name: str) -> sa.Row[Any]:
    table = schema.node
    with database.read() as tx:
        known = tx.execute(sa.select(table).where(table.c.state != "Retired")).all()
    row = next((one for one in known if one.name == name), None)
    if row is None:
        names = [str(one.name) for one in known]
        near = difflib.get_close_matches(name, names, n=1)
        raise ConfigError(
            f"there is no node {name}",
            hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(names) or 'none'}",
        )
    return row


def _pool(layout: Layout, database: Database, row: sa.Row[Any]) -> NodePool:
    """A pool of the one provider, for this process alone; nothing is registered."""
    config = next((one for one in layout.providers if one.name == row.provider), None)
    if config is None:
        raise ConfigError(f"the configuration has no provider {row.provider} any more")
    if row.worker and database.shared:
        _require_here(database, str(row.name), str(row.worker))
    home = _home(layout)
    return NodePool(
        database,
        SystemClock(),
        {config.label: (_provider(config, home),)},
        preflight,
        term_s=LEASE_S,
        url=layout.service.url,
        worker=str(row.worker or "command-line"),
        care=care_of(layout, home),
    )


def _provider(config: ProviderConfig, home: Path) -> Provider:
    chosen = driver(config.driver)
    made = chosen(chosen.Options.model_validate(config.options), home / "nodes" / config.name)
    made.prepare()
    return made


def _require_here(database: Database, name: str, worker: str) -> None:
    """Only a process's own machine reaches what is bound to it."""
    with database.read() as tx:
        host = next((one.host for one in processes.listing(tx) if one.name == worker), "")
    if host and host != socket.gethostname():
        raise ConfigError(
            f"{name} belongs to {worker} and is reached from {host} alone",
            hint=f"run the command on {host}",
        )


def _home(layout: Layout) -> Path:
    """A place of the verb's own: the service keeps its machines elsewhere."""
    return layout.service.state_dir / "asked"
