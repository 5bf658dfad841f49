# SPDX-License-Identifier: Apache-2.0
"""Which nodes this process may use, by the name that all processes know them by.

A node that only this machine reaches belongs to its process. Where several processes share a
database each has such nodes of its own, so that their names are NODE@PROCESS there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nodes.providers.base import Provider


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A node that this process may use.

    Attributes:
        name: As the database has it.
        local: As its provider calls it.
        label: What jobs ask for.
        provider: Who makes it.
        tags: What jobs may require.
        bound: Whether only this process reaches it.
    """

    name: str
    local: str
    label: str
    provider: Provider
    tags: tuple[str, ...]
    bound: bool

    @property
    def alone(self) -> bool:
        """Whether its machine stays, and no other slot shares it."""
        return not self.provider.disposable and len(self.provider.node_names()) == 1


class Inventory:
    """All nodes that this process may use.

    Args:
        providers: By label.
        worker: Name of this process.
        shared: Whether other processes use the same database.
        tags: By name of the provider.
    """

    def __init__(
        self,
        providers: Mapping[str, tuple[Provider, ...]],
        *,
        worker: str,
        shared: bool,
        tags: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._slots: dict[str, Slot] = {}
        for label, group in providers.items():
            for provider in group:
                bound = provider.machine_bound
                for local in provider.node_names():
                    name = f"{local}@{worker}" if bound and shared else local
                    self._slots[name] = Slot(
                        name=name,
                        local=local,
                        label=label,
                        provider=provider,
                        tags=tags.get(provider.name, ()),
                        bound=bound,
                    )

    def __contains__(self, name: object) -> bool:
        """Whether this process may use a node."""
        return name in self._slots

    def of(self, name: str) -> Slot:
        """The slot of a name."""
        return self._slots[name]

    def all(self) -> tuple[Slot, ...]:
        """Every slot."""
        return tuple(self._slots.values())

    def of_provider(self, provider: Provider) -> dict[str, Slot]:
        """The slots of a provider, by its own names for them."""
        return {s.local: s for s in self._slots.values() if s.provider.name == provider.name}

    def providers(self) -> tuple[Provider, ...]:
        """Every provider once."""
        return tuple({s.provider.name: s.provider for s in self._slots.values()}.values())
