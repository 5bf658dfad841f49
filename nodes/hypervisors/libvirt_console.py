# SPDX-License-Identifier: Apache-2.0
"""A guest's serial line as a stream of libvirt's: both ways, also over SSH.

The stream does not block and the event loop's thread reads it: a blocking one that is read in
one thread and written in another was seen to hang in libvirt-python.
"""

import threading
import time
from contextlib import suppress
from typing import Any

import libvirt

from nodes.hypervisors.faults import TransientFault

WRITE_S = 20.0
_AGAIN = -2
_PIECE = 1 << 16
_LIMIT = 8 << 20


class StreamConsole:
    """One open console; see `nodes.hypervisors.base.Console`."""

    def __init__(
        self, conn: Any, domain: Any, flags: int = libvirt.VIR_DOMAIN_CONSOLE_FORCE
    ) -> None:
        """Open it, away from whoever has it, where the driver knows that flag.

        Raises:
            libvirtError: The guest does not run, or has no console.
        """
        self._stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._received = bytearray()
        self._over = False
        self._changed = threading.Condition()
        domain.openConsole(None, self._stream, flags)
        kinds = (
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_ERROR
            | libvirt.VIR_STREAM_EVENT_HANGUP
        )
        self._stream.eventAddCallback(kinds, self._take, None)

    def _take(self, stream: Any, events: int, _context: object) -> None:
        """Called by the event loop's thread."""
        over = bool(events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP))
        data: bytes | int = b""
        if events & libvirt.VIR_STREAM_EVENT_READABLE:
            try:
                data = stream.recv(_PIECE)
                over = over or data == b""
            except libvirt.libvirtError:
                over = True
        with self._changed:
            if isinstance(data, bytes):
                self._received += data
                del self._received[:-_LIMIT]
            if over and not self._over:
                self._over = True
                with suppress(libvirt.libvirtError):
                    stream.eventRemoveCallback()
            self._changed.notify_all()

    def write(self, data: bytes) -> None:
        """Send bytes to the guest.

        Raises:
            EOFError: The console is closed.
            TransientFault: It takes none.
        """
        ends = time.monotonic() + WRITE_S
        rest = data
        while rest:
            with self._changed:
                if self._over:
                    raise EOFError("the guest's console is closed")
            try:
                count = self._stream.send(rest)
            except libvirt.libvirtError as error:
                raise EOFError(f"the guest's console is closed: {error}") from error
            if count == _AGAIN:
                if time.monotonic() > ends:
                    raise TransientFault(
                        f"the guest's console took nothing for {WRITE_S:g} s", retryable=True
                    )
                with self._changed:
                    self._changed.wait(0.02)
                continue
            rest = rest[count:]

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`, perhaps nothing.

        Raises:
            EOFError: The guest ended, or the console was closed, and all was read.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._received or self._over, timeout_s)
            data = bytes(self._received)
            self._received.clear()
            if not data and self._over:
                raise EOFError("the guest's console is closed")
            return data

    def close(self) -> None:
        """Let go of it; repeatable."""
        with self._changed:
            if not self._over:
                self._over = True
                with suppress(libvirt.libvirtError):
                    self._stream.eventRemoveCallback()
            self._changed.notify_all()
        with suppress(libvirt.libvirtError):
            self._stream.abort()
