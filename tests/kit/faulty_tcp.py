# SPDX-License-Identifier: Apache-2.0
"""A TCP front that can go deaf, as a half-open link does, or be cut; for SSH or anything else."""

import socket
import threading
from collections.abc import Callable
from typing import Self

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 16


class Sockets:
    """Open connections, to cut them from another thread. Thread-safe."""

    def __init__(self) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def add(self, one: socket.socket) -> None:
        """Remember a connection."""
        with self._lock:
            self._open.add(one)

    def remove(self, one: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.discard(one)

    def cut(self) -> int:
        """Break every connection; how many there were."""
        with self._lock:
            found = list(self._open)
        for one in found:
            shut(one)
        return len(found)


def shut(one: socket.socket) -> None:
    """End both directions; whoever reads from it notices."""
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class TcpFront:
    """Forwards a port of its own to a server's. Thread-safe.

    Args:
        host: The server's address.
        port: The server's port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = threading.Event()
        self._sockets = Sockets()
        self._listener: socket.socket | None = None
        self._port = 0
        self._lock = threading.Lock()
        self._connections = 0

    def __enter__(self) -> Self:
        """Start."""
        self.up()
        return self

    def __exit__(self, *_raised: object) -> None:
        """Stop: refuse, and break what is open."""
        self._ended.set()
        self._flowing.set()
        self.down()

    @property
    def port(self) -> int:
        """Where it listens, the same after `down` and `up`."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections it has accepted so far."""
        with self._lock:
            return self._connections

    def freeze(self) -> None:
        """Keep every connection open, accept new ones, and forward nothing, either way."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again, first what lies waiting."""
        self._flowing.set()

    def cut(self) -> int:
        """Break every open connection; how many there were (each has two ends)."""
        return self._sockets.cut()

    def down(self) -> None:
        """Refuse connections, and break those that are open; repeatable."""
        listener, self._listener = self._listener, None
        if listener is not None:
            shut(listener)
            listener.close()
        self.cut()

    def up(self) -> None:
        """Accept connections, again at the same port; repeatable."""
        if self._listener is not None:
            return
        self._listener = socket.create_server((HOST, self._port))
        self._port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def _start(self, work: Callable[[socket.socket], None], given: socket.socket) -> None:
        threading.Thread(target=work, args=(given,), name="faulty-tcp", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections += 1
            self._start(self._join, client)

    def _join(self, client: socket.socket) -> None:
        """Connect a client to the server; a frozen front does not even get that far."""
        self._sockets.add(client)
        try:
            self._flowing.wait()
            with socket.create_connection(self._target, CONNECT_TIMEOUT_S) as server:
                server.settimeout(None)
                self._sockets.add(server)
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                self._pump(client, server)
                back.join()
                self._sockets.remove(server)
        except OSError:
            return
        finally:
            self._sockets.remove(client)
            client.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry bytes one way until either end closes."""
        try:
            while data := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                if self._ended.is_set():
                    break
                sink.sendall(data)
        except OSError:
            pass
        shut(sink)
        shut(source)
