# SPDX-License-Identifier: Apache-2.0
"""Ports of this machine's loopback that lead through SSH to ports of a host.

Hypervisors put guests' screens on their own loopback, where nobody else can look. Each
connection to such a port of ours gets a channel of its own.
"""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import paramiko

from ci.errors import HypervouchError

HOST = "127.0.0.1"
_OPEN_S = 30.0
_CHUNK = 1 << 16


class Tunnels:
    """The tunnels of one connection; safe from any thread.

    Args:
        transport: Gives an SSH connection that lives; made anew where it has to be.
    """

    def __init__(self, transport: Callable[[], paramiko.Transport]) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._listeners: dict[tuple[str, int], socket.socket] = {}

    def port(self, host: str, port: int) -> int:
        """A port of HOST that leads to `host` and `port` as the other side sees them."""
        with self._lock:
            listener = self._listeners.get((host, port))
            if listener is None:
                listener = self._listeners[host, port] = socket.create_server((HOST, 0))
                threading.Thread(
                    target=self._serve,
                    args=(listener, (host, port)),
                    name=f"tunnel-{port}",
                    daemon=True,
                ).start()
            return int(listener.getsockname()[1])

    def close(self) -> None:
        """Take no more connections; repeatable, never raises."""
        with self._lock:
            listeners, self._listeners = tuple(self._listeners.values()), {}
        for listener in listeners:
            # Closing alone would not wake the thread that waits in accept.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, listener: socket.socket, target: tuple[str, int]) -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._carry, args=(line, target), name=f"tunnel-{target[1]}", daemon=True
            ).start()

    def _carry(self, line: socket.socket, target: tuple[str, int]) -> None:
        """Bytes both ways until one side ends; a port that nobody has is a line that ends."""
        with line:
            try:
                channel = self._transport().open_channel(
                    "direct-tcpip", target, (HOST, 0), timeout=_OPEN_S
                )
            except (HypervouchError, OSError, EOFError, paramiko.SSHException):
                return
            with closing(channel), suppress(OSError, EOFError):
                _both_ways(line, channel)


def _both_ways(line: socket.socket, channel: paramiko.Channel) -> None:
    """Copy until one side says nothing more."""
    ends: tuple[socket.socket | paramiko.Channel, ...] = (line, channel)
    while True:
        ready, _, _ = select.select(ends, [], [])
        for one in ready:
            data = one.recv(_CHUNK)
            if not data:
                return
            (channel if one is line else line).sendall(data)
