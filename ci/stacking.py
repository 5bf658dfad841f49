# SPDX-License-Identifier: Apache-2.0
"""Part of step 5, run: what a change depends on, asked once and kept with its buildset.

The first attempt of a buildset follows the `Depends-On:` lines; what it found is written down,
and every other attempt uses the same. A recheck is another buildset and asks anew.

A dependency's code runs as the change's own does. So a job that requires trust runs only when
each commit of the stack is trusted by the pipeline's rule, not only the one on top.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import sqlalchemy as sa

from ci import depends
from ci.checkout import Checkout
from ci.depends import HINT, Found, Lookup, Site
from ci.errors import DependencyError
from ci.layout import Layout
from ci.model.facts import ChangeFacts
from ci.model.stack import Dependency, stack_from_json, stack_to_json
from ci.store import schema
from ci.store.attempts import BuildOrder
from ci.store.database import Database
from ci.trees import root_of
from ci.trigger_filters import Refusal, check_trust


class Server(Lookup, Protocol):
    """A review server, as far as dependencies go."""

    def facts(self, project: str, number: int) -> ChangeFacts | None:
        """A change with its votes; None where we cannot see it.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """One connection, as far as dependencies go.

    Attributes:
        server: Who is asked.
        checkout: Knows the tips of its branches.
        bases: Base addresses of its server.
    """

    server: Server
    checkout: Checkout
    bases: Sequence[str]


class Stacking:
    """Finds and keeps what changes depend on. Thread-safe.

    Args:
        database: Where it is kept.
        layout: Gives the current layout.
        places: By connection.
    """

    def __init__(
        self, database: Database, layout: Callable[[], Layout], places: Mapping[str, Place]
    ) -> None:
        self._database = database
        self._layout = layout
        self._places = places

    def of(
        self, order: BuildOrder, message: Callable[[], str], check: Callable[[], None]
    ) -> tuple[Dependency, ...]:
        """The patch sets to stack below a build's change, lowest first.

        Args:
            order: The build.
            message: Reads the commit message.
            check: Called before each question; raises to end it.

        Raises:
            DependencyError: They cannot be followed, or are not trusted.
            ReviewServerError: The server did not say.
        """
        stack = self._kept(order)
        if stack is None:
            text = message()
            found = self._found(order, text, check) if depends.footers(text) else ()
            stack = self._keep(order, found)
        if order.job.requires_trust:
            for one in stack:
                check()
                self._require_trust(order, one)
        return stack

    def _found(
        self, order: BuildOrder, message: str, check: Callable[[], None]
    ) -> tuple[Dependency, ...]:
        place, root = self._places[order.connection], root_of(order)
        asked = _Asked(place.server, check)
        stack = depends.resolve(root, message, asked, self._site(order))
        tips: dict[str, str] = {}
        for project, some in depends.beside(stack, root):
            check()
            tips[project] = place.checkout.branch_tip(project, some[0].branch).tip
        return tuple(
            replace(one, tip=tips[one.project]) if depends.is_beside(one, root) else one
            for one in stack
        )

    def _require_trust(self, order: BuildOrder, one: Dependency) -> None:
        """Hold a dependency against the trust rule, by the votes that stand on its commit now."""
        facts = self._places[order.connection].server.facts(one.project, one.number)
        named = f"change {one.number},{one.patchset}, which is depended on,"
        if facts is None:
            raise DependencyError(f"{named} is gone or hidden from us", hint=HINT)
        if facts.change.status == "MERGED":
            return
        if facts.patchset.revision != one.revision:
            raise DependencyError(f"{named} has a newer patch set meanwhile", hint=HINT)
        pipeline = self._layout().effective(order.pipeline, order.project)
        try:
            check_trust(pipeline, [order.job], facts.change, facts.patchset, facts)
        except Refusal as refusal:
            raise DependencyError(f"{named} is not trusted: {refusal}", hint=HINT) from refusal

    def _site(self, order: BuildOrder) -> Site:
        """Which addresses are ours: also the one that the server itself gives its changes."""
        table = schema.change
        mine = (table.c.connection == order.connection, table.c.number == order.change_number)
        with self._database.read() as tx:
            page = tx.execute(sa.select(table.c.url).where(*mine)).scalar() or ""
        base, found, _ = page.partition("/c/")
        own = [*self._places[order.connection].bases, *([f"{base}/"] if found else [])]
        others = {n: p.bases for n, p in self._places.items() if n != order.connection}
        return Site(own=own, others=others)

    def _kept(self, order: BuildOrder) -> tuple[Dependency, ...] | None:
        with self._database.read() as tx:
            return _kept(tx, order)

    def _keep(self, order: BuildOrder, stack: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
        """Write it down; whoever was first wins."""
        with self._database.write() as tx:
            earlier = _kept(tx, order, lock=True)
            if earlier is not None:
                return earlier
            mine = schema.buildset.c.id == order.buildset_id
            values = {"depends": stack_to_json(stack)}
            tx.execute(sa.update(schema.buildset).where(mine).values(values))
        return stack


def _kept(
    tx: sa.Connection, order: BuildOrder, *, lock: bool = False
) -> tuple[Dependency, ...] | None:
    table = schema.buildset
    query = sa.select(table.c.depends).where(table.c.id == order.buildset_id)
    found = tx.execute(query.with_for_update() if lock else query).scalar()
    return None if found is None else stack_from_json(found)


class _Asked:
    """A lookup that can be ended between two questions."""

    def __init__(self, lookup: Lookup, check: Callable[[], None]) -> None:
        self._lookup = lookup
        self._check = check

    def by_number(self, number: int, project: str) -> Found | None:
        self._check()
        return self._lookup.by_number(number, project)

    def by_change_id(self, change_id: str) -> Sequence[Found]:
        self._check()
        return self._lookup.by_change_id(change_id)
