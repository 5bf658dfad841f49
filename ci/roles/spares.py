# SPDX-License-Identifier: Apache-2.0
"""Lets providers make machines ahead, as many as the queue asks for."""

import threading
from collections.abc import Mapping

from ci.board import turn
from ci.errors import HypervouchError, StorageError
from ci.log import get
from ci.store import queue
from ci.store.database import Database
from nodes.providers.base import KeepsSpares, Provider

EVERY_S = 2.0


class SpareKeeper:
    """Tells each provider that keeps spares how many builds wait for its label.

    Args:
        database: Where the line stands.
        providers: By label.
    """

    def __init__(self, database: Database, providers: Mapping[str, tuple[Provider, ...]]) -> None:
        self._database = database
        self._keeping = [
            (label, provider)
            for label, group in providers.items()
            for provider in group
            if isinstance(provider, KeepsSpares)
        ]
        self._ended = threading.Event()
        self._log = get("spares")

    def run(self) -> None:
        """Look until `stop`; the body of one thread."""
        while self._keeping and not self._ended.wait(EVERY_S):
            turn()
            self.look()

    def look(self) -> None:
        """One turn: at most one spare more or less for each provider."""
        try:
            with self._database.read() as tx:
                waiting = queue.waiting(tx)
        except StorageError as error:
            self._log.warning("the line cannot be read", action="spare", why=str(error))
            return
        for label, provider in self._keeping:
            if self._ended.is_set():
                return
            try:
                provider.keep_spares(waiting.get(label, 0))
            except HypervouchError as error:
                self._log.warning(
                    "no spare was made", action="spare", provider=label, why=str(error)
                )

    def stop(self) -> None:
        """No more turns; a provider that is just making a spare is waited for, then all end."""
        self._ended.set()
        for _, provider in self._keeping:
            provider.end_spares()
