# SPDX-License-Identifier: Apache-2.0
"""The further nodes of a job's set: made ready after the first, and told to its suite.

Nothing of ours runs on them. The suite finds in HYPERVOUCH_PEERS where they are; how it gets in
is a matter of the nodes' own set-up: see docs/how-to/test-on-several-nodes.md.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Lease
from nodes.pool import NodePool

PEERS = "HYPERVOUCH_PEERS"


class PeerUnavailable(NodeUnavailable):
    """A further node did not come up.

    Attributes:
        node: Which.
    """

    def __init__(self, node: str, error: NodeUnavailable) -> None:
        super().__init__(error.message, hint=error.hint, retryable=error.retryable)
        self.node = node


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A further node of a set that is ready."""

    name: str
    label: str
    endpoint: Endpoint


def start_peers(pool: NodePool, leases: Sequence[Lease], labels: Sequence[str]) -> list[Peer]:
    """Make the further nodes ready, all at once.

    Args:
        pool: Whose nodes they are.
        leases: Theirs, without the first node's.
        labels: Their node labels, in the same order.

    Returns:
        The nodes in the order of the leases.

    Raises:
        PeerUnavailable: One did not come up; the others' starts have ended, too.
    """
    if not leases:
        return []

    def start(lease: Lease) -> Endpoint:
        try:
            return pool.start(lease)
        except NodeUnavailable as error:
            raise PeerUnavailable(lease.node, error) from error

    with ThreadPoolExecutor(max_workers=len(leases), thread_name_prefix="peer") as starting:
        endpoints = list(starting.map(start, leases))
    return [
        Peer(name=lease.node, label=label, endpoint=endpoint)
        for lease, label, endpoint in zip(leases, labels, endpoints, strict=True)
    ]


def peers_env(peers: Sequence[Peer]) -> dict[str, str]:
    """What the suite is told of the further nodes; nothing for a job of one node."""
    if not peers:
        return {}
    told = [
        {
            "name": peer.name,
            "label": peer.label,
            "host": peer.endpoint.host,
            "port": peer.endpoint.port,
            "user": peer.endpoint.user,
        }
        for peer in peers
    ]
    return {PEERS: json.dumps(told)}
