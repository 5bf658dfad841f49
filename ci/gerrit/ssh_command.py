# SPDX-License-Identifier: Apache-2.0
"""Gerrit's SSH commands, for what REST cannot do at the moment: `gerrit query`, `gerrit review`.

Each run opens a pinned connection of its own: these are the rare cases.
"""

import socket
import threading

import paramiko

from ci.errors import ReviewServerError
from ci.gerrit.aborting import reset_on_close
from ci.gerrit.fields import clean_line
from ci.gerrit.ssh import CONNECT_TIMEOUT_S, PinnedConnection
from ci.layout import Connection

REPLY_LIMIT_BYTES = 64 * 2**20
STDERR_BYTES = 4_096
TIMEOUT_S = 60.0


class CommandFailed(ReviewServerError):
    """The server took the command and refused it.

    Attributes:
        status: Its exit status.
        said: What it wrote to stderr, one line, cleaned.
    """

    def __init__(self, message: str, *, status: int, said: str = "") -> None:
        super().__init__(message, retryable=True)
        self.status = status
        self.said = said


class CommandLost(ReviewServerError):
    """The command was on its way when the line broke: it may have been done all the same.

    Attributes:
        slow: It was given up, and whoever has it may still be at it.
    """

    def __init__(self, message: str, *, slow: bool = False) -> None:
        super().__init__(message, retryable=True)
        self.slow = slow


def run(
    settings: Connection, command: str, stdin: bytes = b"", *, timeout_s: float = TIMEOUT_S
) -> bytes:
    """Run one command and return what it prints.

    Args:
        settings: The connection.
        command: Parsed by Gerrit, not by a shell. Never put foreign text into it: send that
            by `stdin`.
        stdin: What the command reads.
        timeout_s: The longest silence; all in all it may take twice as long.

    Raises:
        AccessError: The server does not let us in as configured.
        CommandFailed: It ended with another status than 0.
        CommandLost: The line broke, or the server is too slow or says too much; retryable.
        ReviewServerError: The server is away; retryable.
    """
    client = PinnedConnection(settings).connect()
    try:
        return _run(client, command, stdin, timeout_s)
    except (OSError, EOFError, paramiko.SSHException) as error:
        _abort(client)
        raise CommandLost(
            f"{settings.server} broke off `{' '.join(command.split(' ', 2)[:2])}`:"
            f" {str(error) or type(error).__name__}",
            slow=isinstance(error, TimeoutError),
        ) from error
    finally:
        client.close()


def _run(client: paramiko.SSHClient, command: str, stdin: bytes, timeout_s: float) -> bytes:
    transport = client.get_transport()
    if transport is None:
        raise paramiko.SSHException("the connection ended at once")
    channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
    channel.settimeout(timeout_s)
    # A server that trickles must not keep us for ever.
    limit = threading.Timer(2 * timeout_s, client.close)
    limit.start()
    try:
        channel.exec_command(command)
        channel.sendall(stdin)
        channel.shutdown_write()
        output = _all_of(channel)
        status = channel.recv_exit_status()
    finally:
        limit.cancel()
    if status < 0:
        raise paramiko.SSHException("it ended without an exit status")
    if status:
        text = channel.recv_stderr(STDERR_BYTES) if channel.recv_stderr_ready() else b""
        said = clean_line(text.decode("utf-8", "replace"))
        raise CommandFailed(
            f"`{command[:80]}` ended with {status}: {said}", status=status, said=said
        )
    return output


def _all_of(channel: paramiko.Channel) -> bytes:
    output = bytearray()
    while data := channel.recv(65_536):
        output += data
        if len(output) > REPLY_LIMIT_BYTES:
            raise CommandLost(f"a reply of more than {REPLY_LIMIT_BYTES} bytes")
    return bytes(output)


def _abort(client: paramiko.SSHClient) -> None:
    """Let nothing that is still unsent reach the server later, after its repeat."""
    transport = client.get_transport()
    connection = transport.sock if transport is not None else None
    if isinstance(connection, socket.socket):
        reset_on_close(connection)
