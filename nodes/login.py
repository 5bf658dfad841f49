# SPDX-License-Identifier: Apache-2.0
"""Logging in to an SSH node whose host key is pinned; an unknown key is refused."""

import socket
from collections.abc import Callable

import paramiko
from paramiko.hostkeys import InvalidHostKey

from ci import proc
from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint

LOGIN_S = 15.0


def wait_for_banner(endpoint: Endpoint, timeout_s: float) -> bool:
    """Whether an SSH server says its name within `timeout_s`, tried once."""
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as link:
            return link.recv(4) == b"SSH-"
    except OSError:
        return False


def pinned(
    endpoint: Endpoint, timeout_s: float, transport: Callable[..., paramiko.Transport] | None = None
) -> paramiko.SSHClient:
    """A client that has logged in by the endpoint's key to the host with the pinned key.

    Args:
        endpoint: The node.
        timeout_s: Seconds for each of connection, banner and login.
        transport: Makes paramiko's transport; its own without one.

    Raises:
        ConfigError: The endpoint names no key or no pinned host key, or its file is none.
        paramiko.SSHException, OSError, EOFError: As paramiko says it.
    """
    if endpoint.key_file is None or endpoint.known_hosts is None:
        raise ConfigError(
            f"node {endpoint.host} has no key-file or no known-hosts",
            hint="set both on its provider",
        )
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.load_host_keys(str(endpoint.known_hosts))
        client.connect(
            endpoint.host,
            port=endpoint.port,
            username=endpoint.user,
            key_filename=str(endpoint.key_file),
            allow_agent=False,
            look_for_keys=False,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            transport_factory=transport,
        )
    except InvalidHostKey as error:
        client.close()
        raise ConfigError(
            f"{endpoint.known_hosts} is no known-hosts file", hint="ssh-keyscan makes its lines"
        ) from error
    except BaseException:
        client.close()
        raise
    return client


def log_in(endpoint: Endpoint, timeout_s: float) -> paramiko.SSHClient:
    """A connected client; the caller closes it.

    Raises:
        ConfigError: The endpoint names no key or no pinned host key.
        NodeUnavailable: It refused us, showed another host key, or did not answer in time.
    """
    try:
        return pinned(endpoint, timeout_s)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise NodeUnavailable(
            f"cannot log in to {endpoint.user}@{endpoint.host}:{endpoint.port}: {error}",
            hint="check its address, key and pinned host key",
            retryable=True,
        ) from error


def await_login(endpoint: Endpoint, deadline: float) -> None:
    """Prove that the node lets us in and is the one whose host key we chose.

    Args:
        endpoint: A node that has just booted.
        deadline: On the monotonic clock.

    Raises:
        NodeUnavailable: It refused us, showed another key, or did not answer in time.
    """
    # The guest says `up` a moment before its server listens.
    for _ in proc.wait_until(deadline, every_s=0.02):
        if wait_for_banner(endpoint, LOGIN_S):
            log_in(endpoint, LOGIN_S).close()
            return
    raise NodeUnavailable("the node booted but its SSH server does not answer", retryable=True)
