# SPDX-License-Identifier: Apache-2.0
"""From the endpoint of a node that we hold to the hypervisor on it."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ci.errors import ConfigError, NodeUnavailable
from ci.log import get
from ci.model.node import Endpoint, Transport
from nodes import api_login, daemons
from nodes.hypervisors.base import Access, Hypervisor

CALL_S = 30.0

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


def has_api(endpoint: Endpoint) -> bool:
    """Whether its hypervisor has an API of its own that we were given a password for."""
    named = bool(endpoint.hypervisor) and not daemons.asking(endpoint.hypervisor)
    return named and endpoint.password_file is not None


def place_of(endpoint: Endpoint) -> str:
    """Which API it is, whatever its URL picks there: `vcenter://HOST:PORT`; empty without one."""
    if not has_api(endpoint):
        return ""
    parts = urlsplit(endpoint.hypervisor)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"


def access_of(endpoint: Endpoint, work: Path) -> Access:
    """What it takes to connect.

    Args:
        endpoint: The node.
        work: Where what belongs to the connection is kept.

    Raises:
        NodeUnavailable: The file with the password cannot be read.
    """
    password = ""
    if endpoint.password_file is not None:
        try:
            password = endpoint.password_file.read_text().strip()
        except OSError as error:
            raise NodeUnavailable(
                f"{endpoint.password_file} cannot be read: {error.strerror}",
                hint="put the password for the hypervisor's API there",
            ) from error
    return Access(
        work=work,
        grade=endpoint.grade,
        key_file=endpoint.key_file,
        known_hosts=endpoint.known_hosts,
        password=password,
        ca_file=endpoint.ca_file,
        certificate=endpoint.certificate,
        timeout_s=CALL_S,
        marks=endpoint.marks,
    )


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
        url = endpoint.hypervisor if has_api(endpoint) else url_of(endpoint)
        if not url:
            return None
        try:
            return api_login.log_in(url, access_of(endpoint, work))
        except ConfigError as error:
            get("lease").warning(
                "no look into a hypervisor", action="health", url=url, reason=str(error)
            )
            return None

    return connect
