# SPDX-License-Identifier: Apache-2.0
"""One request to a User Mode Linux's management console, and its answer.

Spoken here and not by uml_mconsole(1), which gives no exit status for a refusal and cannot
reach a socket whose path is longer than 107 characters.

Source: the kernel's arch/um/drivers/mconsole.h.
"""

import contextlib
import os
import socket
import struct
from pathlib import Path

from nodes.hypervisors.faults import TransientFault

_MAGIC, _VERSION, _LONGEST = 0xCAFEBABE, 2, 511
_REQUEST = struct.Struct("<III512s")
_REPLY = struct.Struct("<iII")
_LIMIT_BYTES = 1 << 16


class Refused(Exception):
    """The console understood a request and said no.

    Args:
        status: Its number: an errno, negated, or 1.
        words: What it said.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words or f"status {status}")
        self.status = status
        self.words = words


def ask(path: Path, command: str, timeout_s: float) -> str:
    """Send one command and give the answer's text.

    Args:
        path: The socket, `UML_DIR/UMID/mconsole`, however long.
        command: `stop`, `go`, `cad`, `config ubdb=FILE`, `remove ubdb`, ...
        timeout_s: Seconds to wait for each part of the answer.

    Raises:
        Refused: It said no.
        TransientFault: Nobody listens, or nothing was answered in time.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            line = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            line.settimeout(timeout_s)
            line.bind("")  # the kernel gives a name of its own
            line.sendto(request(command), f"/proc/self/fd/{folder}/{path.name}")
            return _answer(line)
        except TimeoutError as error:
            raise TransientFault(
                f"the guest's management console did not answer {command!r}"
            ) from error
        except OSError as error:
            raise TransientFault(
                f"the guest's management console is not there: {error.strerror}",
                hint="it may be starting or ending",
            ) from error


def request(command: str) -> bytes:
    """One datagram."""
    data = command.encode()[:_LONGEST]
    return _REQUEST.pack(_MAGIC, _VERSION, len(data), data)


def _answer(line: socket.socket) -> str:
    words = b""
    while len(words) < _LIMIT_BYTES:
        data = line.recv(_LIMIT_BYTES)
        status, more, size = _REPLY.unpack_from(data)
        words += data[_REPLY.size : _REPLY.size + size].replace(b"\0", b"")
        if not more:
            break
    text = words.decode("utf-8", "replace").strip()
    if status:
        raise Refused(status, text)
    return text
