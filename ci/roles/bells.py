# SPDX-License-Identifier: Apache-2.0
"""The bells of one process by name, so that other processes can ring them, too."""

from collections.abc import Callable

from ci.bell import Bell
from ci.layout import Layout

QUEUED = "queued"

"""Name of the bell that rings when a build was queued, or room for one was made."""
Tell = Callable[[str], None]


def planned(connection: str) -> str:
    """Name of the bell that rings when an event of a connection was stored."""
    return f"planned:{connection}"


def owed(connection: str) -> str:
    """Name of the bell that rings when a review is owed to a connection."""
    return f"owed:{connection}"


def noticed(reporter: str) -> str:
    """Name of the bell that rings when a notice was written, for one reporter."""
    return f"noticed:{reporter}"


class Bells:
    """Every bell that a process of this layout may wait for or ring. Thread-safe.

    Args:
        layout: Names the connections and the reporters.
    """

    def __init__(self, layout: Layout) -> None:
        names = [
            QUEUED,
            *(planned(one.name) for one in layout.connections),
            *(owed(one.name) for one in layout.connections),
            *(noticed(one.name) for one in layout.reporters),
        ]
        self._bells = {name: Bell() for name in names}
        self._to_all = [n for n in names if n.startswith(("owed:", "noticed:"))]
        self.tell: Tell = _nobody
        """Tells the other processes; none by default."""

    def __getitem__(self, name: str) -> Bell:
        """The bell of that name, to wait for."""
        return self._bells[name]

    def ring(self, name: str) -> None:
        """Ring a bell here and in every other process."""
        self._bells[name].ring()
        self.tell(name)

    def ring_owed(self) -> None:
        """Ring for reviews and notices, whoever they are owed to."""
        for name in self._to_all:
            self.ring(name)

    def heard(self, name: str) -> None:
        """Another process rang; a name that this layout has not is passed over."""
        found = self._bells.get(name)
        if found is not None:
            found.ring()

    def heard_all(self) -> None:
        """Something may have been missed: wake everybody once."""
        for bell in self._bells.values():
            bell.ring()


def _nobody(_name: str) -> None:
    """There is no other process."""
