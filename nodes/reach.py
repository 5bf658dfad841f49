# SPDX-License-Identifier: Apache-2.0
"""From the endpoint of a node that we hold to the hypervisor on it."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ci.errors import ConfigError
from ci.log import get
from ci.model.node import Endpoint, Transport
from nodes import daemons
from nodes.hypervisors import table
from nodes.hypervisors.base import Access, Hypervisor

Connect = Callable[[Endpoint], Hypervisor | None]


def url_of(endpoint: Endpoint) -> str:
    """The URL by which we reach what the node itself reaches; empty where there is no daemon."""
    if not daemons.asking(endpoint.hypervisor):
        return ""
    if endpoint.transport is not Transport.SSH:
        return endpoint.hypervisor
    parts = urlsplit(endpoint.hypervisor)
    where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme.partition('+')[0]}+ssh://{where}{parts.path or '/'}{query}"


def connecting(work: Path) -> Connect:
    """A way to connect to nodes' hypervisors.

    Args:
        work: Where what belongs to the connections is kept.
    """

    def connect(endpoint: Endpoint) -> Hypervisor | None:
        """The node's hypervisor; None where it has none that we have an adapter for.

        Raises:
            NodeUnavailable: It has, and that does not answer.
        """
        url = url_of(endpoint)
        if not url:
            return None
        access = Access(
            work=work,
            grade=endpoint.grade,
            key_file=endpoint.key_file,
            known_hosts=endpoint.known_hosts,
            timeout_s=30.0,
        )
        try:
            return table.connect(url, access)
        except ConfigError as error:
            get("lease").warning(
                "no look into a hypervisor", action="health", url=url, reason=str(error)
            )
            return None

    return connect
