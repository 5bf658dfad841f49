# SPDX-License-Identifier: Apache-2.0
"""A container's terminal, both ways, over the engine's API socket.

The library hands out the raw stream too, but loses what came together with the answer's head.

Source: Docker's API reference, `POST /containers/{id}/attach`, "Hijacking".
"""

import socket
import time
from pathlib import Path

from nodes.hypervisors.faults import CallerFault, TransientFault

_AT_ONCE = 1 << 16
_HEAD_LIMIT = 1 << 16
_TAKEN = frozenset({200, 101})
_CONFLICT = 409


class ContainerConsole:
    """An attached terminal; see `nodes.hypervisors.base.Console`."""

    def __init__(self, path: Path, container: str, api_version: str, timeout_s: float) -> None:
        """Attach: what is said from now on is heard.

        Args:
            path: The engine's socket.
            container: Its id.
            api_version: As the engine speaks it.
            timeout_s: Seconds that attaching and writing may take.

        Raises:
            CallerFault: It does not run, or there is none.
            TransientFault: The engine does not answer.
        """
        self._timeout_s = timeout_s
        self._link = socket.socket(socket.AF_UNIX)
        self._early = b""
        try:
            self._link.settimeout(timeout_s)
            self._link.connect(str(path))
            self._link.sendall(request(container, api_version))
            head = self._head()
        except OSError as error:
            self._link.close()
            raise TransientFault(f"the console of {container[:12]}: {error}") from error
        status = int(head.split(None, 2)[1])
        if status not in _TAKEN:
            self._link.close()
            fault = CallerFault if status in {404, _CONFLICT} else TransientFault
            raise fault(f"the console of {container[:12]} was refused with status {status}")

    def write(self, data: bytes) -> None:
        """Send bytes to the terminal."""
        self._link.settimeout(self._timeout_s)
        try:
            self._link.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError("the container has ended") from error
        except TimeoutError as error:
            raise TransientFault("the container does not read its console") from error

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`; raises EOFError once the container has ended."""
        if self._early:
            early, self._early = self._early, b""
            return early
        self._link.settimeout(max(timeout_s, 0.001))
        try:
            data = self._link.recv(_AT_ONCE)
        except TimeoutError:
            return b""
        except OSError as error:
            raise EOFError("the container's console is closed") from error
        if not data:
            raise EOFError("the container has ended")
        return data

    def close(self) -> None:
        """Let go of it; the container goes on."""
        self._link.close()

    def _head(self) -> bytes:
        """The answer's head; what came after it is kept for the first read."""
        heard = b""
        deadline = time.monotonic() + self._timeout_s
        while b"\r\n\r\n" not in heard:
            data = self._link.recv(_AT_ONCE)
            heard += data
            if not data or len(heard) > _HEAD_LIMIT or time.monotonic() > deadline:
                raise ConnectionError("the engine did not answer")
        head, _, self._early = heard.partition(b"\r\n\r\n")
        return head


def request(container: str, api_version: str) -> bytes:
    """The request that turns the connection into a terminal."""
    query = "stream=1&stdin=1&stdout=1&stderr=1"
    head = (
        f"POST /v{api_version}/containers/{container}/attach?{query} HTTP/1.1\r\nHost: engine\r\n"
    )
    return f"{head}Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
