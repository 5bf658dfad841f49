# SPDX-License-Identifier: Apache-2.0
"""The login to a node over SSH, whatever runs there: pinned host key, key file, one connection."""

import socket

import paramiko

from ci.cancel import Deadline
from ci.errors import NodeUnavailable
from ci.model.node import Endpoint
from ci.runners import ssh_channel
from nodes.login import pinned

CONNECT_S = 15.0
KEEPALIVE_S = 15
# Sent bytes that nobody acknowledges for this long mean that the machine is gone.
UNACKNOWLEDGED_S = 45
# With these the cipher authenticates too: no second pass over every packet in Python.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")


class Link:
    """One connection to a node.

    Attributes:
        where: The node, for messages.
    """

    def __init__(
        self, client: paramiko.SSHClient, transport: paramiko.Transport, where: str
    ) -> None:
        self._client = client
        self._transport = transport
        self.where = where

    @property
    def is_active(self) -> bool:
        """Whether the connection stands, as far as we know."""
        return self._transport.is_active()

    def open(self, command: str) -> paramiko.Channel:
        """A channel on which the node runs a command.

        Raises:
            NodeUnavailable: It refuses, or is gone.
        """
        try:
            return ssh_channel.opened(self._transport, command)
        except ssh_channel.ON_THE_WAY as error:
            raise self.lost("before a command could start", error) from error

    def lost(self, when: str, error: Exception) -> NodeUnavailable:
        """The error of a connection that broke."""
        what = str(error) or type(error).__name__
        return NodeUnavailable(
            f"the connection to node {self.where} broke {when}: {what}",
            hint="check that the node is up",
            retryable=True,
        )

    def close(self) -> None:
        """Disconnect; repeatable."""
        self._client.close()


def login(endpoint: Endpoint, deadline: Deadline) -> Link:
    """Log in with the endpoint's key; its host key must be in `known_hosts`.

    Raises:
        NodeUnavailable: Refused, unreachable, or an unknown host key.
        ConfigError: The endpoint names no key or no known hosts.
    """
    where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
    limit = max(0.1, min(CONNECT_S, deadline.left_s))
    try:
        client = pinned(endpoint, limit, _transport)
    except (*ssh_channel.ON_THE_WAY, ValueError) as error:
        raise _refused(where, error) from error
    transport = client.get_transport()
    if transport is None:
        raise NodeUnavailable(f"node {where} closed the connection at once")
    transport.set_keepalive(KEEPALIVE_S)
    if deadline.passed:  # or cancelled, while we logged in
        client.close()
        raise deadline.error()
    return Link(client, transport, where)


class _PromptSocket(socket.socket):
    """A socket that acknowledges whatever it read at once.

    After the login the daemon says something unasked and then, by Nagle's rule, keeps its
    next answer back until that is acknowledged: 40 ms if it is left to the kernel. The
    kernel forgets the option, so it is renewed.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read, then acknowledge."""
        chunk = super().recv(bufsize, flags)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return chunk


def _transport(sock: socket.socket, **options: object) -> paramiko.Transport:
    """A transport whose socket notices a dead peer and that prefers the fast ciphers."""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000)
        timeout = sock.gettimeout()
        sock = _PromptSocket(fileno=sock.detach())
        sock.settimeout(timeout)
    transport = paramiko.Transport(sock, **options)  # type: ignore[arg-type]
    security = transport.get_security_options()
    offered = tuple(security.ciphers)
    fast = tuple(name for name in _CIPHERS if name in offered)
    security.ciphers = fast + tuple(name for name in offered if name not in fast)
    return transport


def _refused(where: str, error: Exception) -> NodeUnavailable:
    if isinstance(error, paramiko.BadHostKeyException):
        text, hint = "shows another host key than the pinned one", "check the node, then re-pin it"
    elif "not found in known_hosts" in str(error):
        text, hint = "has a host key that is not pinned", "add it to the node's known-hosts file"
    elif isinstance(error, paramiko.AuthenticationException):
        text, hint = "refuses our key", "add the public key to the node's authorized_keys"
    elif isinstance(error, FileNotFoundError):
        text, hint = f"cannot be tried: {error}", "check key-file and known-hosts"
    else:
        text, hint = f"does not answer: {str(error) or type(error).__name__}", "check that it is up"
    return NodeUnavailable(f"node {where} {text}", hint=hint)
