# SPDX-License-Identifier: Apache-2.0
"""Searches among the changes that somebody may see; a search's next page costs nothing."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from ci.sandbox.queries import parse
from ci.sandbox.records import ChangeRecord
from ci.sandbox.store import Store

REMEMBERED = 8


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found, newest activity first.

    Attributes:
        changes: All of it.
        limit: What the query itself asks for; None for the server's limit.
    """

    changes: tuple[ChangeRecord, ...]
    limit: int | None


class Search:
    """Answers queries. Thread-safe.

    Args:
        store: Where changes are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], tuple[int, Found]] = OrderedDict()

    def find(self, text: str, username: str) -> Found:
        """Run a query for somebody.

        Raises:
            BadQuery: It is not understood.
        """
        version, key = self._store.version, (text, username)
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[0] == version:
            return known[1]
        query = parse(text)
        matching = (one for one in self._store.changes() if query.matches(one))
        changes = tuple(one for one in matching if one.visible_to(username))
        found = Found(changes=changes, limit=query.limit)
        with self._lock:
            self._known[key] = (version, found)
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found
