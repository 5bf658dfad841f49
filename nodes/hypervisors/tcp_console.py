# SPDX-License-Identifier: Apache-2.0
"""A guest's serial line over plain TCP, as virtual serial ports on the network give it."""

import socket

from nodes.hypervisors.faults import TransientFault

_CHUNK = 1 << 16


class TcpConsole:
    """One connection; see `nodes.hypervisors.base.Console`."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        """Connect.

        Raises:
            TransientFault: Nobody listens there.
        """
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise TransientFault(
                f"the serial line at {host}:{port} is not reached: {error.strerror or error}",
                hint="is the guest running, and does the host's firewall let its port through?",
                retryable=True,
            ) from error

    def write(self, data: bytes) -> None:
        """Send bytes to the guest.

        Raises:
            EOFError: The line is gone.
        """
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise EOFError(str(error)) from error

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`.

        Raises:
            EOFError: The line is gone.
        """
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            got = self._socket.recv(_CHUNK)
        except TimeoutError:
            return b""
        except OSError as error:
            raise EOFError(str(error)) from error
        if not got:
            raise EOFError("the other side closed the serial line")
        return got

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
