# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of a run's own, and how it is hurt."""

from contextlib import ExitStack
from pathlib import Path

from tests.kit.postgres import Postgres, cluster

NAME = "chaos"


class PostgresServer:
    """One server with one database; see `tests.chaos.store.Hurt`.

    Args:
        directory: For its log.
        held: Ends it.
    """

    def __init__(self, directory: Path, held: ExitStack) -> None:
        self._server: Postgres = held.enter_context(cluster(directory))
        self.configured = self._server.make_database(NAME)
        self._up = True

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return self.configured.replace("postgresql://", "postgresql+psycopg://")

    def cut(self) -> None:
        """A crash and a start."""
        self.away()
        self.heal()

    def away(self) -> None:
        """A crash."""
        self._server.stop("immediate")
        self._up = False

    def freeze(self) -> None:
        """Every process of it stands still."""
        if self._up:
            self._server.freeze()

    def heal(self) -> None:
        """It works again; repeatable."""
        if self._up:
            self._server.thaw()
        else:
            self._server.start()
            self._up = True
