# SPDX-License-Identifier: Apache-2.0
"""The sandbox's SSH daemon: keys of known accounts, commands instead of shells."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from ci.errors import HypervouchError
from ci.sandbox.store import Store

HOST = "127.0.0.1"
HANDSHAKE_S = 30.0
# The library tells with a traceback of every client that hangs up early.
_QUIET = "ci.sandbox.ssh.transport"
logging.getLogger(_QUIET).setLevel(logging.CRITICAL)


class Session:
    """One command of one client.

    Attributes:
        username: Who runs it.
        command: What they asked for, undivided.
        git_protocol: Git's protocol version as the client sent it; may be empty.
    """

    def __init__(
        self, channel: paramiko.Channel, username: str, command: str, git_protocol: str
    ) -> None:
        self._channel = channel
        self.username = username
        self.command = command
        self.git_protocol = git_protocol

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        transport = self._channel.get_transport()
        return self._channel.closed or not transport.is_active()

    def read(self) -> bytes:
        """What the client sends; empty at its end."""
        with contextlib.suppress(OSError):
            return self._channel.recv(1 << 16)
        return b""

    def write(self, data: bytes) -> bool:
        """Send to the client's standard output; False when it has left."""
        try:
            self._channel.sendall(data)
        except OSError:
            return False
        return True

    def complain(self, text: str) -> None:
        """Send a line to the client's standard error."""
        with contextlib.suppress(OSError):
            self._channel.sendall_stderr(text.encode() + b"\n")

    def finish(self, status: int) -> None:
        """End the command."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.send_exit_status(status)
            self._channel.close()


Commands = Callable[[Session], int]


class _Transport(paramiko.Transport):
    """Starts a command only after the client was told that it was accepted.

    A command that ends at once would else close its channel before the answer, which a
    client takes for a refusal.
    """

    accepted: threading.Thread | None = None

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]
        command = self.accepted
        if command is not None and command.ident is None and threading.current_thread() is self:
            command.start()


class _Login(paramiko.ServerInterface):
    """Who may log in, and with what."""

    def __init__(self, store: Store, commands: Commands, transport: _Transport) -> None:
        self._store = store
        self._commands = commands
        self._transport = transport
        self._git_protocol: dict[int, str] = {}

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        """Keys only."""
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        """Whether this is the account's key; the signature is checked by the library."""
        account = self._store.account(username)
        offered = f"{key.get_name()} {key.get_base64()}"
        if account is not None and account.public_key and account.public_key == offered:
            return AUTH_SUCCESSFUL
        return AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        """Sessions only: no forwarding."""
        if kind == "session":
            return OPEN_SUCCEEDED
        return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_env_request(
        self, channel: paramiko.Channel, name: bytes, value: bytes
    ) -> bool:
        """Take git's protocol version, nothing else."""
        if name != b"GIT_PROTOCOL":
            return False
        self._git_protocol[channel.get_id()] = value.decode("ascii", "replace")[:100]
        return True

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """Accept a command and run it in a thread of its own."""
        session = Session(
            channel,
            self._transport.get_username() or "",
            command.decode("utf-8", "replace"),
            self._git_protocol.pop(channel.get_id(), ""),
        )
        self._transport.accepted = threading.Thread(
            target=self._run, args=(session,), name="sandbox-ssh-command", daemon=True
        )
        return True

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        """Greet and leave: there is no shell."""
        session = Session(channel, self._transport.get_username() or "", "", "")
        self._transport.accepted = threading.Thread(
            target=self._greet, args=(session,), name="sandbox-ssh-shell", daemon=True
        )
        return True

    def _greet(self, session: Session) -> None:
        session.complain("Unfortunately, interactive shells are disabled.")
        session.finish(127)

    def _run(self, session: Session) -> None:
        try:
            status = self._commands(session)
        except HypervouchError as error:
            session.complain(f"fatal: {error.message}")
            status = 1
        session.finish(status)


class SshServer:
    """Listens on the loopback address.

    Args:
        store: Knows the accounts.
        host_key: The server's key.
        commands: Runs one command; returns its exit status.
        port: The port wanted; 0 for any free one.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self, store: Store, host_key: paramiko.PKey, commands: Commands, port: int
    ) -> None:
        self._store = store
        self._host_key = host_key
        self._commands = commands
        self._socket = socket.create_server((HOST, port), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._transports: list[_Transport] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name="sandbox-ssh", daemon=True)

    def start(self) -> None:
        """Begin to take connections."""
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and give the port back."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        with self._lock:
            transports = list(self._transports)
        for transport in transports:
            transport.close()
            transport.join(timeout=5)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(connection,), name="sandbox-ssh-login", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = _Transport(connection)
        transport.set_log_channel(_QUIET)
        transport.local_version = "SSH-2.0-HypervouchSandbox"
        transport.add_server_key(self._host_key)
        with self._lock:
            self._transports = [one for one in self._transports if one.is_alive()]
            self._transports.append(transport)
        ready = threading.Event()
        transport.start_server(event=ready, server=_Login(self._store, self._commands, transport))
        # Whoever connects and says nothing would hold the thread for ever.
        deadline_passed = not _authenticated(transport, HANDSHAKE_S)
        if deadline_passed or self._stopping:
            transport.close()


def _authenticated(transport: paramiko.Transport, timeout_s: float) -> bool:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.25)):
        if not transport.is_alive() or transport.is_authenticated():
            return True
        pause.wait(0.25)
    return False


def load_host_key(path: Path) -> paramiko.PKey:
    """The server's key, made the first time."""
    if not path.exists():
        paramiko.ECDSAKey.generate(bits=256).write_private_key_file(str(path))
    return paramiko.ECDSAKey.from_private_key_file(str(path))
