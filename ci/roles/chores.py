# SPDX-License-Identifier: Apache-2.0
"""The chores that one process does for all: whatever is true of the whole installation."""

from datetime import timedelta

import sqlalchemy as sa

from ci.engine import EngineRecords
from ci.janitor import Janitor
from ci.log_keeping import RETENTION_EVERY_S
from ci.reaper import Reaper
from ci.roles import bells
from ci.roles.core import Core
from ci.store import processes
from ci.store.moment import moment
from ci.waiting import Explainer

LEFTOVERS_EVERY_S = 30
RECORDS_EVERY_S = 600
EXPLAIN_EVERY_S = 2


CHORES = "chores"


class ChoresRole:
    """Does the chores of all, where this process leads.

    Args:
        core: What it shares with the roles.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        core.election.stand(CHORES, lambda _: Chores(core))

    def stop(self) -> None:
        """End, after the chore in hand."""
        self._core.election.resign(CHORES)


class Chores:
    """Clock-driven work on shared rows. `start` and `stop` once each.

    Args:
        core: What it shares with the roles.
    """

    def __init__(self, core: Core) -> None:
        self._janitor = Janitor(telemetry=core.telemetry, board=core.board)
        self._retention = core.keeping.retention
        self._reaper = _reaper(core)
        self._explainer = _explainer(core)
        self._reap_s = min(10.0, core.layout.service.lease_s / 6)
        self._leftovers = core.make_planner(skip=[c.name for c in core.layout.connections])

    def start(self) -> None:
        """Begin; returns at once."""
        # Events of connections that left the configuration are answered, too.
        self._janitor.every(LEFTOVERS_EVERY_S, "leftovers", self._leftovers.plan_pending)
        self._janitor.every(RETENTION_EVERY_S, "retention", self._retention.run)
        self._janitor.every(self._reap_s, "reap", self._reaper.run)
        self._janitor.every(EXPLAIN_EVERY_S, "explain", self._explainer.explain)
        self._janitor.every(RECORDS_EVERY_S, "records", self._reaper.clean)
        self._janitor.start()

    def stop(self) -> None:
        """End, after the event in hand."""
        self._leftovers.stop()
        self._janitor.stop()


def _explainer(core: Core) -> Explainer:
    term = timedelta(seconds=core.layout.service.lease_s)

    def workers(tx: sa.Connection) -> dict[str, int]:
        return processes.working(tx, since=moment(tx, core.clock) - term)

    def full(tx: sa.Connection) -> tuple[str, ...]:
        return processes.full(tx, since=moment(tx, core.clock) - term)

    return Explainer(core.database, core.clock, lambda: core.layout, workers, full)


def _reaper(core: Core) -> Reaper:
    url = core.database.full_url() if core.database.shared else ""
    return Reaper(
        core.database,
        core.clock,
        EngineRecords(core.home, url=url),
        term_s=core.layout.service.lease_s,
        on_queued=lambda: core.bells.ring(bells.QUEUED),
    )
