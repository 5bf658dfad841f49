# SPDX-License-Identifier: Apache-2.0
"""Which node is fit, by what builds, probes and health jobs found there.

The rules, all in one place:

- Three *different* changes that a node failed since it was last in order: `Bad`. One change that
  fails it again and again may be the reason itself, and takes it from nobody else.
- Handed out and failed again and again before a test ran (so no change had a say in it), or a
  health job that fails again and again: `Looping`.
- A build that comes to its end forgets all of it. A probe that passes returns the node to work
  but forgets no hand-out that failed before a test: what passes probes and fails builds loops.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ci import plain
from ci.clock import Clock
from ci.log import get
from ci.model.node import NodeState
from ci.notice_texts import quarantine_notice
from ci.store import node_health, notices
from ci.store.database import Database
from ci.store.moment import moment
from ci.store.node_health import Standing

QUARANTINE_AFTER = 3
LOOPING_AFTER = 3
PROBE_S = 60.0
LONGEST_PAUSE_S = 3600.0
_REASON = 4000  # characters


class HealthBook:
    """Writes down what is found of nodes, and decides who stays in work. Thread-safe.

    Args:
        database: Where it is written.
        clock: Where time comes from.
        url: Base URL of our pages, for notices.
        looping_after: Health jobs, or hand-outs without a test, that fail in a row before a
            node counts as looping.
    """

    def __init__(
        self, database: Database, clock: Clock, *, url: str = "", looping_after: int = LOOPING_AFTER
    ) -> None:
        self._database = database
        self._clock = clock
        self._url = url
        self._looping_after = looping_after
        self._log = get("lease")

    def failed(self, node: str, reason: str, *, change: str = "", tested: bool = False) -> None:
        """A build ended as this node's fault.

        Args:
            node: Which.
            reason: What was wrong.
            change: Whose build it was, as SERVER:NUMBER; empty: nobody's, it counts by itself.
            tested: Whether its suite had begun.
        """
        with self._database.write() as tx:
            found = node_health.standing(tx, node)
            if found is None:
                return
            blamed = (*found.blamed_by, {"change": change, "tested": tested})
            now = Standing(name=node, label=found.label, state=found.state, blamed_by=blamed)
            state = NodeState.UNKNOWN if found.fit else found.state
            if now.changes >= QUARANTINE_AFTER:
                state = NodeState.BAD if found.fit else found.state
            elif now.untested >= self._looping_after:
                state = NodeState.LOOPING
            self._write(tx, found, state, reason, failures=found.failures + 1, blamed_by=blamed)
        self._log.warning(
            "node failed", action="health", node=node, state=state.value, reason=reason
        )

    def succeeded(self, node: str) -> None:
        """A build came to its end there: it is good, whatever was counted before."""
        with self._database.write() as tx:
            found = node_health.standing(tx, node)
            if found is not None:
                self._write(tx, found, NodeState.GOOD, "", failures=0, blamed_by=())

    def quarantine(self, node: str, reason: str) -> None:
        """Take a node out of work until a probe finds it fit."""
        with self._database.write() as tx:
            found = node_health.standing(tx, node)
            if found is not None:
                state = NodeState.BAD if found.fit else found.state
                self._write(tx, found, state, reason, failures=max(found.failures, 1))

    def probed(self, node: str, trouble: str = "") -> None:
        """A node was tried; with trouble it leaves work, without it returns."""
        with self._database.write() as tx:
            found = node_health.standing(tx, node)
            if found is None:
                return
            if trouble:
                state = NodeState.BAD if found.fit else found.state
                self._write(tx, found, state, trouble, failures=found.failures + 1)
                return
            blamed = (*found.blamed_by, {"returned": True}) if found.blamed_by else ()
            self._write(tx, found, NodeState.GOOD, "", failures=0, blamed_by=blamed)

    def job_ended(self, node: str, trouble: str = "") -> None:
        """A health job ended; one that fails takes the node out of work at once."""
        with self._database.write() as tx:
            found = node_health.standing(tx, node)
            if found is None:
                return
            tries = found.health_tries + 1 if trouble else 0
            values: dict[str, Any] = {"health_tries": tries, "health_at": moment(tx, self._clock)}
            if not trouble:
                blamed = (*found.blamed_by, {"returned": True}) if found.blamed_by else ()
                values |= {"failures": 0, "blamed_by": blamed}
                self._write(tx, found, NodeState.GOOD, "", **values)
                return
            state = NodeState.LOOPING if tries >= self._looping_after else NodeState.BAD
            state = found.state if found.state is NodeState.LOOPING else state
            values["failures"] = found.failures + 1
            self._write(tx, found, state, f"its health job failed: {trouble}", **values)
        self._log.warning("health job failed", action="health", node=node, reason=trouble)

    def _write(
        self, tx: sa.Connection, found: Standing, state: NodeState, reason: str, **values: Any
    ) -> None:
        """Write a node's health; one that leaves work, or begins to loop, gets a notice."""
        now, reason = self._clock.now(), plain.text(reason, _REASON)
        node_health.put(tx, found.name, state=state.value, reason=reason, checked_at=now, **values)
        out = state in {NodeState.BAD, NodeState.LOOPING}
        if out and (found.fit or state is not found.state):
            notice = quarantine_notice(
                found.name,
                label=found.label,
                reason=reason,
                failures=values.get("failures", found.failures),
                url=self._url,
                at=now,
                looping=state is NodeState.LOOPING,
            )
            notices.add(tx, notice)


def probe_pause(found: Standing) -> timedelta:
    """How long after its last look a quarantined node is tried again: further apart if it loops."""
    if found.state is not NodeState.LOOPING:
        return timedelta(0)
    beyond = max(found.failures, found.untested, found.health_tries) - LOOPING_AFTER
    return timedelta(seconds=min(LONGEST_PAUSE_S, 2 * PROBE_S * 2.0 ** min(max(0, beyond), 10)))


def due_for_probe(found: Standing, now: datetime) -> bool:
    """Whether a quarantined node is to be tried now."""
    if found.held:
        return False
    return found.checked_at is None or found.checked_at + probe_pause(found) <= now


def facts_of(facts: Mapping[str, str], limit: int = 4000) -> dict[str, str]:
    """Facts of a hand-out as they are kept with the node: none of them endless."""
    return {name[:80]: value[:limit] for name, value in facts.items()}
