# SPDX-License-Identifier: Apache-2.0
"""Let nothing of a request that was given up travel on after us.

The kernel goes on sending what a closed socket still holds; a vote that arrives a minute after
it was given up, and after its repeat, would be a second one. So a socket that failed is closed
by a reset, which throws away what is unsent.
"""

import contextlib
import socket
import struct
import threading
import weakref
from collections.abc import Mapping
from typing import Any

LINGER_NOT = struct.pack("ii", 1, 0)
OPENED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})


def reset_on_close(connection: socket.socket) -> None:
    """Make closing this socket a reset; nothing happens where it is closed already."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


class AbortFailed:
    """A trace function for httpx: once a request has failed, no socket is closed gently.

    It is not told which socket failed, so all that are open now are meant; those whose requests
    come to a good end lose nothing by it. Thread-safe.

    Source: https://www.encode.io/httpcore/extensions/#trace
    """

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __call__(self, event: str, seen: Mapping[str, Any]) -> None:
        """Take note of one step of a request."""
        if event in OPENED:
            connection = seen["return_value"].get_extra_info("socket")
            if isinstance(connection, socket.socket):
                with self._lock:
                    self._open.add(connection)
        elif event.endswith(".failed"):
            with self._lock:
                for connection in list(self._open):
                    reset_on_close(connection)
