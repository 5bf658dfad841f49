# SPDX-License-Identifier: Apache-2.0
"""The seam to node providers: who makes, knows and throws away machines.

Lifecycle of one node slot, driven by the pool while it holds the slot's lease:

1. `prepare()` once per process before anything else (build or find the base image). May be
   repeated; two processes at once are safe.
2. `start(node, holder)` gives an Endpoint that answers. For a disposable provider it boots a
   fresh machine; for a static one it only says where the machine is. It may be called
   again for a node whose previous holder died: whatever that left is thrown away first.
3. `stop(node)` ends what `start` made. Must succeed when repeated, when `start` failed
   half-way and when the machine is already gone.
4. `leaked()` lists machines that exist without a lease, from the machine's own state, not
   from memory; `stop` on each of them cleans up.

Thread-safety: calls for different nodes may run at once; calls for one node never do.
Errors: `start` raises NodeUnavailable (the operator's problem, retried on another node);
`prepare` raises ConfigError with the command that would mend it.
"""

from typing import Protocol, runtime_checkable

from ci.model.node import Endpoint


class Provider(Protocol):
    """A source of nodes; see the module's text for the contract."""

    @property
    def name(self) -> str:
        """The name the configuration gives it."""
        ...

    @property
    def machine_bound(self) -> bool:
        """Whether only a process on this machine reaches its nodes; constant.

        Nodes of other providers are leased by whichever process comes first, so `start` and
        `stop` of one node may be called by several processes, one after the other.
        """
        ...

    @property
    def disposable(self) -> bool:
        """Whether `stop` throws away the machine, with all that still ran on it."""
        ...

    def node_names(self) -> tuple[str, ...]:
        """Names of the slots it offers, stable over restarts."""
        ...

    def prepare(self) -> None:
        """Make ready what all nodes need; repeatable.

        Raises:
            ConfigError: Something is missing that only the operator can supply.
        """
        ...

    def start(self, node: str, holder: str) -> Endpoint:
        """Boot or find the machine of a slot.

        Raises:
            NodeUnavailable: It did not come up in time, or refused us.
        """
        ...

    def stop(self, node: str) -> None:
        """End and remove the machine of a slot; repeatable."""
        ...

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots whose machine runs although they are not in `held`."""
        ...


@runtime_checkable
class KeepsSpares(Protocol):
    """What a provider may offer besides: machines made ahead, so that `start` need not boot.

    A spare belongs to a slot that nobody holds, and to this process: its own spares are not
    leaked, those of a process that was killed are.
    """

    def keep_spares(self, waiting: int) -> None:
        """Make one more spare where one is due, or end one too many; call it again and again.

        Args:
            waiting: Builds in line that want such a node.
        """
        ...

    def end_spares(self) -> None:
        """End all spares, for good; repeatable."""
        ...
